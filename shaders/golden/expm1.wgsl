// Printed from `expm1` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn sl_exp(x0: f32) -> f32 {
    let v2 = 89.0f < x0;
    let v3 = select(x0, 89.0f, v2);
    let v5 = v3 < -105.0f;
    let v6 = select(v3, -105.0f, v5);
    let v8 = v6 * 1.442695f;
    let v9 = round(v8);
    let v11 = v9 + 254.0f;
    let v12 = u32(v11);
    let v13 = v12 >> 1u;
    let v14 = v12 - v13;
    let v15 = v14 << 23u;
    let v16 = bitcast<f32>(v15);
    let v19 = fma(v9, -0.6933594f, v6);
    let v20 = sl_hold(v19);
    let v21 = fma(v9, 0.00021219444f, v20);
    let v24 = fma(v21, 0.0013869854f, 0.008366447f);
    let v26 = fma(v21, v24, 0.041667446f);
    let v28 = fma(v21, v26, 0.16666545f);
    let v30 = fma(v21, v28, 0.49999997f);
    let v31 = v21 * v21;
    let v32 = fma(v30, v31, v21);
    let v33 = sl_hold(v32);
    let v35 = v33 + 1.0f;
    let v36 = v13 << 23u;
    let v37 = bitcast<f32>(v36);
    let v38 = v35 * v37;
    let v39 = v16 * v38;
    return v39;
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
    let v20 = fma(v17, 0.0013869854f, 0.008366447f);
    let v22 = fma(v17, v20, 0.041667446f);
    let v24 = fma(v17, v22, 0.16666545f);
    let v26 = fma(v17, v24, 0.49999997f);
    let v27 = v17 * v17;
    let v28 = fma(v26, v27, v17);
    let v30 = v12 + 126.0f;
    let v31 = u32(v30);
    let v32 = v31 << 23u;
    let v33 = bitcast<f32>(v32);
    let v35 = v33 - 0.5f;
    let v36 = fma(v28, v33, v35);
    let v37 = v36 + v36;
    let v38 = select(v37, x0, v3);
    return v38;
}

fn def_expm1(x0: f32, index: u32) -> f32 {
    let v1 = sl_expm1(x0);
    return v1;
}

fn def_expm1_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_exp(x0);
    return v1;
}
