// Printed from `absolute_error` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn def_absolute_error(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = abs(v2);
    return v3;
}

fn def_absolute_error_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v4 = v2 < 0.0f;
    let v6 = 0.0f < v2;
    let v8 = sl_hold(v2) * sl_hold(0.0f);
    let v9 = select(v8, 1.0f, v6);
    let v10 = select(v9, -1.0f, v4);
    return v10;
}

fn def_absolute_error_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v4 = v2 < 0.0f;
    let v6 = 0.0f < v2;
    let v8 = sl_hold(v2) * sl_hold(0.0f);
    let v9 = select(v8, 1.0f, v6);
    let v10 = select(v9, -1.0f, v4);
    let v11 = -v10;
    return v11;
}
