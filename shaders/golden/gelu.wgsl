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

fn sl_erf(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = 3.93f < v2;
    let v4 = select(v2, 3.93f, v3);
    let v5 = v4 * v4;
    let v6 = v5 * v5;
    let v10 = fma(v4, 0.00011886157f, -0.0006373641f);
    let v13 = fma(v4, 0.0016756771f, -0.00016950452f);
    let v14 = fma(v5, v10, v13);
    let v15 = fma(v6, -9.387994e-6f, v14);
    let v18 = fma(v4, -0.019147823f, 0.102776304f);
    let v21 = fma(v4, 0.63661957f, 0.12837917f);
    let v22 = fma(v5, v18, v21);
    let v23 = fma(v6, v15, v22);
    let v24 = fma(v4, v23, v4);
    let v25 = -v24;
    let v27 = v25 * 1.442695f;
    let v28 = round(v27);
    let v31 = fma(v28, -0.6933594f, v25);
    let v32 = sl_hold(v31);
    let v33 = fma(v28, 0.00021219444f, v32);
    let v34 = v33 * v33;
    let v38 = fma(v33, 0.008366447f, 0.041667446f);
    let v39 = fma(v34, 0.0013869854f, v38);
    let v42 = fma(v33, 0.16666545f, 0.49999997f);
    let v43 = fma(v34, v39, v42);
    let v44 = fma(v34, v43, v33);
    let v46 = v28 + 8388734.0f;
    let v47 = bitcast<u32>(v46);
    let v48 = v47 << 23u;
    let v49 = bitcast<f32>(v48);
    let v51 = v49 - 0.5f;
    let v52 = fma(v44, v49, v51);
    let v53 = v52 + v52;
    let v54 = bitcast<u32>(v53);
    let v56 = v54 & 0x7fffffffu;
    let v58 = bitcast<u32>(x0);
    let v59 = 0x80000000u & v58;
    let v60 = v56 | v59;
    let v61 = bitcast<f32>(v60);
    return v61;
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
