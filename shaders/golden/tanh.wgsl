// Printed from `tanh` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_tanh(x0: f32, index: u32) -> f32 {
    let v1 = sl_tanh(x0);
    return v1;
}

fn def_tanh_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_tanh(x0);
    let v2 = -v1;
    let v4 = fma(v1, v2, 1.0f);
    return v4;
}
