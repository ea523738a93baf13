// Printed from `exp` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_exp(x0: f32, index: u32) -> f32 {
    let v1 = sl_exp(x0);
    return v1;
}

fn def_exp_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_exp(x0);
    return v1;
}
