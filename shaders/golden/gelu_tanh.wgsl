// Printed from `gelu_tanh` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_gelu_tanh(x0: f32, index: u32) -> f32 {
    let v2 = x0 < -16.0f;
    let v4 = 16.0f < x0;
    let v5 = select(x0, 16.0f, v4);
    let v6 = select(v5, -16.0f, v2);
    let v7 = v6 * v6;
    let v10 = fma(v7, 0.035677407f, 0.7978846f);
    let v11 = v6 * v10;
    let v12 = sl_tanh(v11);
    let v14 = fma(v12, 0.5f, 0.5f);
    let v15 = x0 * v14;
    return v15;
}

fn def_gelu_tanh_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 < -16.0f;
    let v4 = 16.0f < x0;
    let v5 = select(x0, 16.0f, v4);
    let v6 = select(v5, -16.0f, v2);
    let v9 = select(1.0f, 0.0f, v4);
    let v10 = select(v9, 0.0f, v2);
    let v11 = v10 * v6;
    let v12 = fma(v10, v6, v11);
    let v14 = v12 * 0.035677407f;
    let v15 = v6 * v6;
    let v17 = fma(v15, 0.035677407f, 0.7978846f);
    let v18 = v10 * v17;
    let v19 = fma(v6, v14, v18);
    let v20 = v6 * v17;
    let v21 = sl_tanh(v20);
    let v22 = -v21;
    let v23 = fma(v21, v22, 1.0f);
    let v24 = v19 * v23;
    let v26 = v24 * 0.5f;
    let v27 = fma(v21, 0.5f, 0.5f);
    let v28 = fma(x0, v26, v27);
    return v28;
}
