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
    let v12 = v10 + 8388862.0f;
    let v13 = bitcast<u32>(v12);
    let v15 = v13 - 0x4b000000u;
    let v16 = v15 >> 1u;
    let v17 = v15 - v16;
    let v18 = v17 << 23u;
    let v19 = bitcast<f32>(v18);
    let v23 = fma(v10, -0.6933594f, v7);
    let v24 = sl_hold(v23);
    let v25 = fma(v10, 0.00021219444f, v24);
    let v26 = v25 * v25;
    let v30 = fma(v25, 0.008366447f, 0.041667446f);
    let v31 = fma(v26, 0.0013869854f, v30);
    let v34 = fma(v25, 0.16666545f, 0.49999997f);
    let v35 = fma(v26, v31, v34);
    let v36 = fma(v26, v35, v25);
    let v37 = sl_hold(v36);
    let v38 = 1.0f + v37;
    let v39 = v16 << 23u;
    let v40 = bitcast<f32>(v39);
    let v41 = v38 * v40;
    let v42 = v19 * v41;
    let v43 = select(1.0f, v42, v2);
    let v44 = 1.0f + v42;
    let v45 = v43 / v44;
    return v45;
}

fn sl_softplus(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = -v2;
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
    let v22 = fma(v9, -0.6933594f, v6);
    let v23 = sl_hold(v22);
    let v24 = fma(v9, 0.00021219444f, v23);
    let v25 = v24 * v24;
    let v29 = fma(v24, 0.008366447f, 0.041667446f);
    let v30 = fma(v25, 0.0013869854f, v29);
    let v33 = fma(v24, 0.16666545f, 0.49999997f);
    let v34 = fma(v25, v30, v33);
    let v35 = fma(v25, v34, v24);
    let v36 = sl_hold(v35);
    let v37 = 1.0f + v36;
    let v38 = v15 << 23u;
    let v39 = bitcast<f32>(v38);
    let v40 = v37 * v39;
    let v41 = v18 * v40;
    let v42 = 0.41421357f <= v41;
    let v44 = select(0.0f, 1.0f, v42);
    let v48 = fma(v41, 0.5f, -0.5f);
    let v49 = select(v41, v48, v42);
    let v51 = v49 * v49;
    let v54 = fma(v49, -0.07638335f, 0.12764828f);
    let v56 = fma(v49, v54, -0.13160181f);
    let v58 = fma(v49, v56, 0.14201269f);
    let v60 = fma(v49, v58, -0.16623315f);
    let v62 = fma(v49, v60, 0.2000125f);
    let v64 = fma(v49, v62, -0.25000823f);
    let v66 = fma(v49, v64, 0.3333333f);
    let v67 = fma(v49, v66, -0.5f);
    let v68 = v51 * v67;
    let v69 = fma(v44, -0.00021219444f, v68);
    let v70 = v49 + v69;
    let v71 = fma(v44, 0.6933594f, v70);
    let v72 = x0 < 0.0f;
    let v73 = select(x0, 0.0f, v72);
    let v74 = v71 + v73;
    return v74;
}

fn def_softplus(x0: f32, index: u32) -> f32 {
    let v1 = sl_softplus(x0);
    return v1;
}

fn def_softplus_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    return v1;
}
