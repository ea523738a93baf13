// Printed from `mul` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_mul(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 * x1;
    return v2;
}

fn def_mul_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    return x1;
}

fn def_mul_by_b(x0: f32, index: u32) -> f32 {
    return x0;
}
