// Printed from `gelu_tanh` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn sl_tanh(x0: f32) -> f32 {
    let v2 = abs(x0);
    let v3 = 10.0f < v2;
    let v4 = select(v2, 10.0f, v3);
    let v5 = v4 + v4;
    let v7 = v5 * 1.442695f;
    let v8 = round(v7);
    let v11 = fma(v8, -0.6933594f, v5);
    let v12 = sl_hold(v11);
    let v13 = fma(v8, 0.00021219444f, v12);
    let v14 = v13 * v13;
    let v18 = fma(v13, 0.008366447f, 0.041667446f);
    let v19 = fma(v14, 0.0013869854f, v18);
    let v22 = fma(v13, 0.16666545f, 0.49999997f);
    let v23 = fma(v14, v19, v22);
    let v24 = fma(v14, v23, v13);
    let v26 = v8 + 8388734.0f;
    let v27 = bitcast<u32>(v26);
    let v28 = v27 << 23u;
    let v29 = bitcast<f32>(v28);
    let v31 = v29 - 0.5f;
    let v32 = fma(v24, v29, v31);
    let v34 = v32 + 1.0f;
    let v35 = v32 / v34;
    let v36 = bitcast<u32>(v35);
    let v38 = v36 & 0x7fffffffu;
    let v40 = bitcast<u32>(x0);
    let v41 = 0x80000000u & v40;
    let v42 = v38 | v41;
    let v43 = bitcast<f32>(v42);
    return v43;
}

fn def_gelu_tanh(x0: f32, index: u32) -> f32 {
    let v3 = x0 < -16.0f;
    let v4 = select(x0, -16.0f, v3);
    let v5 = 16.0f < v4;
    let v6 = select(v4, 16.0f, v5);
    let v7 = v6 * v6;
    let v10 = fma(v7, 0.035677407f, 0.7978846f);
    let v11 = v6 * v10;
    let v12 = sl_tanh(v11);
    let v14 = fma(v12, 0.5f, 0.5f);
    let v15 = x0 * v14;
    return v15;
}

fn def_gelu_tanh_by_x(x0: f32, index: u32) -> f32 {
    let v3 = x0 < -16.0f;
    let v4 = select(x0, -16.0f, v3);
    let v5 = 16.0f < v4;
    let v6 = select(v4, 16.0f, v5);
    let v9 = select(1.0f, 0.0f, v3);
    let v10 = select(v9, 0.0f, v5);
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
