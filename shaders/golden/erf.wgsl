// Printed from `erf` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_exp(x0: f32) -> f32 {
    let v2 = 89.0f < x0;
    let v3 = select(x0, 89.0f, v2);
    let v5 = v3 < -104.0f;
    let v6 = select(v3, -104.0f, v5);
    let v8 = v6 * 1.442695f;
    let v9 = round(v8);
    let v11 = v9 + 254.0f;
    let v12 = u32(v11);
    let v13 = v12 >> 1u;
    let v14 = v12 - v13;
    let v15 = v14 << 23u;
    let v16 = bitcast<f32>(v15);
    let v19 = fma(v9, -0.6933594f, v6);
    let v20 = fma(v9, 0.00021219444f, v19);
    let v23 = fma(v20, 0.0013869854f, 0.008366447f);
    let v25 = fma(v20, v23, 0.041667446f);
    let v27 = fma(v20, v25, 0.16666545f);
    let v29 = fma(v20, v27, 0.49999997f);
    let v30 = v20 * v20;
    let v31 = fma(v29, v30, v20);
    let v33 = v31 + 1.0f;
    let v34 = v13 << 23u;
    let v35 = bitcast<f32>(v34);
    let v36 = v33 * v35;
    let v37 = v16 * v36;
    return v37;
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
    let v30 = fma(v26, 0.00021219444f, v29);
    let v33 = fma(v30, 0.0013869854f, 0.008366447f);
    let v35 = fma(v30, v33, 0.041667446f);
    let v37 = fma(v30, v35, 0.16666545f);
    let v39 = fma(v30, v37, 0.49999997f);
    let v40 = v30 * v30;
    let v41 = fma(v39, v40, v30);
    let v43 = v26 + 126.0f;
    let v44 = u32(v43);
    let v45 = v44 << 23u;
    let v46 = bitcast<f32>(v45);
    let v48 = v46 - 0.5f;
    let v49 = fma(v41, v46, v48);
    let v50 = v49 + v49;
    let v51 = bitcast<u32>(v50);
    let v53 = v51 & 0x7fffffffu;
    let v55 = bitcast<u32>(x0);
    let v56 = 0x80000000u & v55;
    let v57 = v53 | v56;
    let v58 = bitcast<f32>(v57);
    return v58;
}

fn def_erf(x0: f32, index: u32) -> f32 {
    let v1 = sl_erf(x0);
    return v1;
}

fn def_erf_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 * x0;
    let v3 = -v2;
    let v4 = sl_exp(v3);
    let v5 = 1.1283792f * v4;
    return v5;
}
