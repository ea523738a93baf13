// Printed from `expm1` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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
    let v16 = fma(v12, 0.00021219444f, v15);
    let v19 = fma(v16, 0.0013869854f, 0.008366447f);
    let v21 = fma(v16, v19, 0.041667446f);
    let v23 = fma(v16, v21, 0.16666545f);
    let v25 = fma(v16, v23, 0.49999997f);
    let v26 = v16 * v16;
    let v27 = fma(v25, v26, v16);
    let v29 = v12 + 126.0f;
    let v30 = u32(v29);
    let v31 = v30 << 23u;
    let v32 = bitcast<f32>(v31);
    let v34 = v32 - 0.5f;
    let v35 = fma(v27, v32, v34);
    let v36 = v35 + v35;
    let v37 = select(v36, x0, v3);
    return v37;
}

fn def_expm1(x0: f32, index: u32) -> f32 {
    let v1 = sl_expm1(x0);
    return v1;
}

fn def_expm1_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_exp(x0);
    return v1;
}
