// Printed from `leaky_relu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_leaky_relu(x0: f32, index: u32) -> f32 {
    let v2 = 0.0f < x0;
    let v4 = x0 * 0.01f;
    let v5 = select(v4, x0, v2);
    return v5;
}

fn def_leaky_relu_by_x(x0: f32, index: u32) -> f32 {
    let v2 = 0.0f < x0;
    let v5 = select(0.01f, 1.0f, v2);
    return v5;
}
