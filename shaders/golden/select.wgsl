// Printed from `select` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_select(x0: f32, x1: f32, x2: f32, index: u32) -> f32 {
    let v2 = x0 == 0.0f;
    let v3 = !v2;
    let v6 = select(x2, x1, v3);
    return v6;
}

fn def_select_by_cond(index: u32) -> f32 {
    return 0.0f;
}

fn def_select_by_a(x0: f32, index: u32) -> f32 {
    let v2 = x0 == 0.0f;
    let v3 = !v2;
    let v5 = select(0.0f, 1.0f, v3);
    return v5;
}

fn def_select_by_b(x0: f32, index: u32) -> f32 {
    let v2 = x0 == 0.0f;
    let v3 = !v2;
    let v5 = select(1.0f, 0.0f, v3);
    return v5;
}
