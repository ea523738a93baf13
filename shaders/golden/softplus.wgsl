// Printed from `softplus` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn sl_sigmoid(x0: f32) -> f32 {
    let v2 = x0 < 0.0f;
    let v3 = abs(x0);
    let v4 = -v3;
    let v6 = v4 < -105.0f;
    let v7 = select(v4, -105.0f, v6);
    let v9 = v7 * 1.442695f;
    let v10 = round(v9);
    let v12 = v10 + 254.0f;
    let v13 = u32(v12);
    let v14 = v13 >> 1u;
    let v15 = v13 - v14;
    let v16 = v15 << 23u;
    let v17 = bitcast<f32>(v16);
    let v21 = fma(v10, -0.6933594f, v7);
    let v22 = sl_hold(v21);
    let v23 = fma(v10, 0.00021219444f, v22);
    let v26 = fma(v23, 0.0013869854f, 0.008366447f);
    let v28 = fma(v23, v26, 0.041667446f);
    let v30 = fma(v23, v28, 0.16666545f);
    let v32 = fma(v23, v30, 0.49999997f);
    let v33 = v23 * v23;
    let v34 = fma(v32, v33, v23);
    let v35 = sl_hold(v34);
    let v36 = 1.0f + v35;
    let v37 = v14 << 23u;
    let v38 = bitcast<f32>(v37);
    let v39 = v36 * v38;
    let v40 = v17 * v39;
    let v41 = select(1.0f, v40, v2);
    let v42 = 1.0f + v40;
    let v43 = v41 / v42;
    return v43;
}

fn sl_softplus(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = -v2;
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
    let v20 = fma(v9, -0.6933594f, v6);
    let v21 = sl_hold(v20);
    let v22 = fma(v9, 0.00021219444f, v21);
    let v25 = fma(v22, 0.0013869854f, 0.008366447f);
    let v27 = fma(v22, v25, 0.041667446f);
    let v29 = fma(v22, v27, 0.16666545f);
    let v31 = fma(v22, v29, 0.49999997f);
    let v32 = v22 * v22;
    let v33 = fma(v31, v32, v22);
    let v34 = sl_hold(v33);
    let v35 = 1.0f + v34;
    let v36 = v13 << 23u;
    let v37 = bitcast<f32>(v36);
    let v38 = v35 * v37;
    let v39 = v16 * v38;
    let v40 = 0.41421357f <= v39;
    let v42 = select(0.0f, 1.0f, v40);
    let v46 = fma(v39, 0.5f, -0.5f);
    let v47 = select(v39, v46, v40);
    let v49 = v47 * v47;
    let v52 = fma(v47, -0.07638335f, 0.12764828f);
    let v54 = fma(v47, v52, -0.13160181f);
    let v56 = fma(v47, v54, 0.14201269f);
    let v58 = fma(v47, v56, -0.16623315f);
    let v60 = fma(v47, v58, 0.2000125f);
    let v62 = fma(v47, v60, -0.25000823f);
    let v64 = fma(v47, v62, 0.3333333f);
    let v65 = fma(v47, v64, -0.5f);
    let v66 = v49 * v65;
    let v67 = fma(v42, -0.00021219444f, v66);
    let v68 = v47 + v67;
    let v69 = fma(v42, 0.6933594f, v68);
    let v70 = x0 < 0.0f;
    let v71 = select(x0, 0.0f, v70);
    let v72 = v69 + v71;
    return v72;
}

fn def_softplus(x0: f32, index: u32) -> f32 {
    let v1 = sl_softplus(x0);
    return v1;
}

fn def_softplus_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    return v1;
}
