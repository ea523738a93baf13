// Printed from `swiglu` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_swiglu(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = sl_sigmoid(x0);
    let v3 = x0 * v2;
    let v4 = x1 * v3;
    return v4;
}

fn def_swiglu_by_gate(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = sl_sigmoid(x0);
    let v4 = 1.0f - v2;
    let v5 = v2 * v4;
    let v6 = fma(x0, v5, v2);
    let v7 = x1 * v6;
    return v7;
}

fn def_swiglu_by_up(x0: f32, index: u32) -> f32 {
    let v1 = sl_sigmoid(x0);
    let v2 = x0 * v1;
    return v2;
}
