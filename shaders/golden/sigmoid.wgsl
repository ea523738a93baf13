// Printed from `sigmoid` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_sigmoid(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    return v1;
}

fn def_sigmoid_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    let v3 = 1.0f - v1;
    let v4 = v1 * v3;
    return v4;
}
