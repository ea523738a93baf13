// Printed from `gelu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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
    let v26 = fma(v23, 0.0013869854f, 0.008366447f);
    let v28 = fma(v23, v26, 0.041667446f);
    let v30 = fma(v23, v28, 0.16666545f);
    let v32 = fma(v23, v30, 0.49999997f);
    let v33 = v23 * v23;
    let v34 = fma(v32, v33, v23);
    let v35 = sl_hold(v34);
    let v37 = v35 + 1.0f;
    let v38 = v15 << 23u;
    let v39 = bitcast<f32>(v38);
    let v40 = v37 * v39;
    let v41 = v18 * v40;
    return v41;
}

fn sl_erf(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = 3.93f < v2;
    let v4 = select(v2, 3.93f, v3);
    let v7 = fma(v4, -9.387994e-6f, 0.00011886157f);
    let v9 = fma(v4, v7, -0.0006373641f);
    let v11 = fma(v4, v9, 0.0016756771f);
    let v13 = fma(v4, v11, -0.00016950452f);
    let v15 = fma(v4, v13, -0.019147823f);
    let v17 = fma(v4, v15, 0.102776304f);
    let v19 = fma(v4, v17, 0.63661957f);
    let v21 = fma(v4, v19, 0.12837917f);
    let v22 = fma(v4, v21, v4);
    let v23 = -v22;
    let v25 = v23 * 1.442695f;
    let v26 = round(v25);
    let v29 = fma(v26, -0.6933594f, v23);
    let v30 = sl_hold(v29);
    let v31 = fma(v26, 0.00021219444f, v30);
    let v34 = fma(v31, 0.0013869854f, 0.008366447f);
    let v36 = fma(v31, v34, 0.041667446f);
    let v38 = fma(v31, v36, 0.16666545f);
    let v40 = fma(v31, v38, 0.49999997f);
    let v41 = v31 * v31;
    let v42 = fma(v40, v41, v31);
    let v44 = v26 + 8388734.0f;
    let v45 = bitcast<u32>(v44);
    let v46 = v45 << 23u;
    let v47 = bitcast<f32>(v46);
    let v49 = v47 - 0.5f;
    let v50 = fma(v42, v47, v49);
    let v51 = v50 + v50;
    let v52 = bitcast<u32>(v51);
    let v54 = v52 & 0x7fffffffu;
    let v56 = bitcast<u32>(x0);
    let v57 = 0x80000000u & v56;
    let v58 = v54 | v57;
    let v59 = bitcast<f32>(v58);
    return v59;
}

fn def_gelu(x0: f32, index: u32) -> f32 {
    let v2 = x0 * 0.70710677f;
    let v3 = sl_erf(v2);
    let v5 = fma(v3, 0.5f, 0.5f);
    let v6 = x0 * v5;
    return v6;
}

fn def_gelu_by_x(x0: f32, index: u32) -> f32 {
    let v3 = x0 * 0.70710677f;
    let v4 = v3 * v3;
    let v5 = -v4;
    let v6 = sl_exp(v5);
    let v7 = 1.1283792f * v6;
    let v8 = 0.70710677f * v7;
    let v10 = v8 * 0.5f;
    let v11 = sl_erf(v3);
    let v12 = fma(v11, 0.5f, 0.5f);
    let v13 = fma(x0, v10, v12);
    return v13;
}
