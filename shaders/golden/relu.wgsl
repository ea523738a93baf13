// Printed from `relu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_relu(x0: f32, index: u32) -> f32 {
    let v2 = x0 <= 0.0f;
    let v3 = select(x0, 0.0f, v2);
    return v3;
}

fn def_relu_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 <= 0.0f;
    let v4 = select(1.0f, 0.0f, v2);
    return v4;
}
