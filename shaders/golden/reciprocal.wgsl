// Printed from `reciprocal` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_reciprocal(x0: f32, index: u32) -> f32 {
    let v2 = 1.0f / x0;
    return v2;
}

fn def_reciprocal_by_x(x0: f32, index: u32) -> f32 {
    let v2 = 1.0f / x0;
    let v3 = v2 / x0;
    let v4 = -v3;
    return v4;
}
