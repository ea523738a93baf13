// Printed from `silu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_silu(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    let v2 = x0 * v1;
    return v2;
}

fn def_silu_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    let v3 = 1.0f - v1;
    let v4 = v1 * v3;
    let v5 = fma(x0, v4, v1);
    return v5;
}
