// Printed from `mish` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_tanh(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = 10.0f < v2;
    let v4 = select(v2, 10.0f, v3);
    let v5 = v4 + v4;
    let v7 = v5 * 1.442695f;
    let v8 = round(v7);
    let v11 = fma(v8, -0.6933594f, v5);
    let v12 = fma(v8, 0.00021219444f, v11);
    let v15 = fma(v12, 0.0013869854f, 0.008366447f);
    let v17 = fma(v12, v15, 0.041667446f);
    let v19 = fma(v12, v17, 0.16666545f);
    let v21 = fma(v12, v19, 0.49999997f);
    let v22 = v12 * v12;
    let v23 = fma(v21, v22, v12);
    let v25 = v8 + 126.0f;
    let v26 = u32(v25);
    let v27 = v26 << 23u;
    let v28 = bitcast<f32>(v27);
    let v30 = v28 - 0.5f;
    let v31 = fma(v23, v28, v30);
    let v33 = v31 + 1.0f;
    let v34 = v31 / v33;
    let v35 = bitcast<u32>(v34);
    let v37 = v35 & 0x7fffffffu;
    let v39 = bitcast<u32>(x0);
    let v40 = 0x80000000u & v39;
    let v41 = v37 | v40;
    let v42 = bitcast<f32>(v41);
    return v42;
}

fn sl_sigmoid(x0: f32) -> f32 {
    let v2 = x0 < 0.0f;
    let v3 = abs(x0);
    let v4 = -v3;
    let v6 = v4 < -104.0f;
    let v7 = select(v4, -104.0f, v6);
    let v9 = v7 * 1.442695f;
    let v10 = round(v9);
    let v12 = v10 + 254.0f;
    let v13 = u32(v12);
    let v14 = v13 >> 1u;
    let v15 = v13 - v14;
    let v16 = v15 << 23u;
    let v17 = bitcast<f32>(v16);
    let v21 = fma(v10, -0.6933594f, v7);
    let v22 = fma(v10, 0.00021219444f, v21);
    let v25 = fma(v22, 0.0013869854f, 0.008366447f);
    let v27 = fma(v22, v25, 0.041667446f);
    let v29 = fma(v22, v27, 0.16666545f);
    let v31 = fma(v22, v29, 0.49999997f);
    let v32 = v22 * v22;
    let v33 = fma(v31, v32, v22);
    let v34 = 1.0f + v33;
    let v35 = v14 << 23u;
    let v36 = bitcast<f32>(v35);
    let v37 = v34 * v36;
    let v38 = v17 * v37;
    let v39 = select(1.0f, v38, v2);
    let v40 = 1.0f + v38;
    let v41 = v39 / v40;
    return v41;
}

fn sl_softplus(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = -v2;
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
    let v20 = fma(v9, -0.6933594f, v6);
    let v21 = fma(v9, 0.00021219444f, v20);
    let v24 = fma(v21, 0.0013869854f, 0.008366447f);
    let v26 = fma(v21, v24, 0.041667446f);
    let v28 = fma(v21, v26, 0.16666545f);
    let v30 = fma(v21, v28, 0.49999997f);
    let v31 = v21 * v21;
    let v32 = fma(v30, v31, v21);
    let v33 = 1.0f + v32;
    let v34 = v13 << 23u;
    let v35 = bitcast<f32>(v34);
    let v36 = v33 * v35;
    let v37 = v16 * v36;
    let v38 = 0.41421357f <= v37;
    let v40 = select(0.0f, 1.0f, v38);
    let v44 = fma(v37, 0.5f, -0.5f);
    let v45 = select(v37, v44, v38);
    let v47 = v45 * v45;
    let v50 = fma(v45, -0.07638335f, 0.12764828f);
    let v52 = fma(v45, v50, -0.13160181f);
    let v54 = fma(v45, v52, 0.14201269f);
    let v56 = fma(v45, v54, -0.16623315f);
    let v58 = fma(v45, v56, 0.2000125f);
    let v60 = fma(v45, v58, -0.25000823f);
    let v62 = fma(v45, v60, 0.3333333f);
    let v63 = fma(v45, v62, -0.5f);
    let v64 = v47 * v63;
    let v65 = fma(v40, -0.00021219444f, v64);
    let v66 = v45 + v65;
    let v67 = fma(v40, 0.6933594f, v66);
    let v68 = x0 < 0.0f;
    let v69 = select(x0, 0.0f, v68);
    let v70 = v67 + v69;
    return v70;
}

fn def_mish(x0: f32, index: u32) -> f32 {
    let v1 = sl_softplus(x0);
    let v2 = sl_tanh(v1);
    let v3 = x0 * v2;
    return v3;
}

fn def_mish_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    let v2 = sl_softplus(x0);
    let v3 = sl_tanh(v2);
    let v4 = -v3;
    let v6 = fma(v3, v4, 1.0f);
    let v7 = v1 * v6;
    let v8 = fma(x0, v7, v3);
    return v8;
}
