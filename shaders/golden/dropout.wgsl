// Printed from `dropout` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_dropout(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = 0.25f <= x1;
    let v5 = x0 * 1.3333334f;
    let v7 = select(0.0f, v5, v2);
    return v7;
}

fn def_dropout_by_x(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = 0.25f <= x1;
    let v5 = select(0.0f, 1.3333334f, v2);
    return v5;
}

fn def_dropout_by_u(index: u32) -> f32 {
    return 0.0f;
}
