// Printed from `huber_error` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn def_huber_error(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = abs(v2);
    let v5 = v3 <= 1.0f;
    let v7 = v3 * v3;
    let v8 = 0.5f * v7;
    let v9 = v3 - 0.5f;
    let v10 = select(v9, v8, v5);
    return v10;
}

fn def_huber_error_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = abs(v2);
    let v5 = v3 <= 1.0f;
    let v8 = v2 < 0.0f;
    let v10 = 0.0f < v2;
    let v11 = sl_hold(v2) * sl_hold(0.0f);
    let v12 = select(v11, 1.0f, v10);
    let v13 = select(v12, -1.0f, v8);
    let v14 = v3 * v13;
    let v15 = fma(v3, v13, v14);
    let v16 = 0.5f * v15;
    let v17 = select(v13, v16, v5);
    return v17;
}

fn def_huber_error_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    let v3 = abs(v2);
    let v5 = v3 <= 1.0f;
    let v8 = v2 < 0.0f;
    let v10 = 0.0f < v2;
    let v11 = sl_hold(v2) * sl_hold(0.0f);
    let v12 = select(v11, 1.0f, v10);
    let v13 = select(v12, -1.0f, v8);
    let v14 = -v13;
    let v15 = v3 * v14;
    let v16 = fma(v3, v14, v15);
    let v17 = 0.5f * v16;
    let v18 = select(v14, v17, v5);
    return v18;
}
