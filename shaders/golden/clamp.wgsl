// Printed from `clamp` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_clamp(x0: f32, index: u32) -> f32 {
    let v3 = x0 < -1.0f;
    let v4 = select(x0, -1.0f, v3);
    let v5 = 1.0f < v4;
    let v6 = select(v4, 1.0f, v5);
    return v6;
}

fn def_clamp_by_x(x0: f32, index: u32) -> f32 {
    let v3 = x0 < -1.0f;
    let v4 = select(x0, -1.0f, v3);
    let v5 = 1.0f < v4;
    let v7 = select(1.0f, 0.0f, v3);
    let v8 = select(v7, 0.0f, v5);
    return v8;
}
