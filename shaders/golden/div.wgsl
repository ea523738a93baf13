// Printed from `div` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_div(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 / x1;
    return v2;
}

fn def_div_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = 1.0f / x1;
    return v2;
}

fn def_div_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 / x1;
    let v3 = v2 / x1;
    let v4 = -v3;
    return v4;
}
