// Printed from `squared_error` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_squared_error(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = v2 * v2;
    return v3;
}

fn def_squared_error_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = v2 + v2;
    return v3;
}

fn def_squared_error_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v3 = x0 - x1;
    let v4 = -v3;
    let v5 = fma(-1.0f, v3, v4);
    return v5;
}
