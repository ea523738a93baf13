// Printed from `elu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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
    let v11 = v9 + 8388862.0f;
    let v12 = bitcast<u32>(v11);
    let v14 = v12 - 0x4b000000u;
    let v15 = v14 >> 1u;
    let v16 = v14 - v15;
    let v17 = v16 << 23u;
    let v18 = bitcast<f32>(v17);
    let v21 = fma(v9, -0.6933594f, v6);
    let v22 = sl_hold(v21);
    let v23 = fma(v9, 0.00021219444f, v22);
    let v24 = v23 * v23;
    let v28 = fma(v23, 0.008366447f, 0.041667446f);
    let v29 = fma(v24, 0.0013869854f, v28);
    let v32 = fma(v23, 0.16666545f, 0.49999997f);
    let v33 = fma(v24, v29, v32);
    let v34 = fma(v24, v33, v23);
    let v35 = sl_hold(v34);
    let v37 = v35 + 1.0f;
    let v38 = v15 << 23u;
    let v39 = bitcast<f32>(v38);
    let v40 = v37 * v39;
    let v41 = v18 * v40;
    return v41;
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

fn def_elu(x0: f32, index: u32) -> f32 {
    let v2 = 0.0f < x0;
    let v3 = sl_expm1(x0);
    let v4 = select(v3, x0, v2);
    return v4;
}

fn def_elu_by_x(x0: f32, index: u32) -> f32 {
    let v2 = 0.0f < x0;
    let v4 = sl_exp(x0);
    let v5 = select(v4, 1.0f, v2);
    return v5;
}
