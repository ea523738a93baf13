// Printed from `advance` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// By the bits: a compiler may take x != x to be false.
fn sl_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// NaN when either is NaN, unlike max(); the first of two equal arguments.
fn sl_max(a: f32, b: f32) -> f32 {
    return select(b, a, sl_is_nan(a) | ((a >= b) & !sl_is_nan(b)));
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn sl_expm1(x0: f32) -> f32 {
    let v1 = abs(x0);
    let v3 = v1 < 1e-8f;
    let v5 = 89.0f < x0;
    let v6 = select(x0, 89.0f, v5);
    let v8 = v6 < -30.0f;
    let v9 = select(v6, -30.0f, v8);
    let v11 = v9 * 1.442695f;
    let v12 = round(v11);
    let v15 = fma(v12, -0.6933594f, v9);
    let v16 = sl_hold(v15);
    let v17 = fma(v12, 0.00021219444f, v16);
    let v18 = v17 * v17;
    let v22 = fma(v17, 0.008366447f, 0.041667446f);
    let v23 = fma(v18, 0.0013869854f, v22);
    let v26 = fma(v17, 0.16666545f, 0.49999997f);
    let v27 = fma(v18, v23, v26);
    let v28 = fma(v18, v27, v17);
    let v30 = v12 + 8388734.0f;
    let v31 = bitcast<u32>(v30);
    let v32 = v31 << 23u;
    let v33 = bitcast<f32>(v32);
    let v35 = v33 - 0.5f;
    let v36 = fma(v28, v33, v35);
    let v37 = v36 + v36;
    let v38 = select(v37, x0, v3);
    return v38;
}

fn def_advance(x0: f32, x1: f32, x2: f32, index: u32) -> array<f32, 4> {
    let v3 = 0.0f < x2;
    let v5 = select(0.0f, 1.0f, v3);
    let v6 = x0 + v5;
    let v8 = 1.0f - v5;
    let v9 = x1 + v8;
    let v12 = sl_max(v6, 1.0f);
    let v13 = -0.125f * v12;
    let v14 = sl_expm1(v13);
    let v15 = -1.0f / v14;
    let v17 = -0.0078125f * v12;
    let v18 = sl_expm1(v17);
    let v19 = -1.0f / v18;
    return array<f32, 4>(v6, v9, v15, v19);
}
