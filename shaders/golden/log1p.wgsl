// Printed from `log1p` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn sl_log1p(x0: f32) -> f32 {
    let v1 = abs(x0);
    let v3 = v1 < 1e-8f;
    let v5 = x0 + 1.0f;
    let v7 = v5 == 0.0f;
    let v9 = bitcast<f32>(sl_word(0x7f800000u));
    let v10 = -v9;
    let v11 = v5 < 0.0f;
    let v13 = bitcast<f32>(sl_word(0x7fc00000u));
    let v14 = v5 < v9;
    let v15 = bitcast<u32>(v5);
    let v17 = v15 + 0x4afb0du;
    let v18 = v17 >> 23u;
    let v20 = v18 | 0x4b000000u;
    let v21 = bitcast<f32>(v20);
    let v23 = v21 - 8388735.0f;
    let v27 = v17 & 0xff800000u;
    let v28 = 0x80000000u - v27;
    let v29 = bitcast<f32>(v28);
    let v31 = x0 * 0.25f;
    let v33 = fma(v29, 0.25f, -1.0f);
    let v34 = sl_hold(v33);
    let v35 = fma(v29, v31, v34);
    let v37 = v35 * v35;
    let v40 = fma(v35, -0.07638335f, 0.12764828f);
    let v42 = fma(v35, v40, -0.13160181f);
    let v44 = fma(v35, v42, 0.14201269f);
    let v46 = fma(v35, v44, -0.16623315f);
    let v48 = fma(v35, v46, 0.2000125f);
    let v50 = fma(v35, v48, -0.25000823f);
    let v52 = fma(v35, v50, 0.3333333f);
    let v54 = fma(v35, v52, -0.5f);
    let v55 = v37 * v54;
    let v56 = fma(v23, -0.00021219444f, v55);
    let v57 = v35 + v56;
    let v58 = fma(v23, 0.6933594f, v57);
    let v59 = select(x0, v58, v14);
    let v60 = select(v59, v13, v11);
    let v61 = select(v60, v10, v7);
    let v62 = select(v61, x0, v3);
    return v62;
}

fn def_log1p(x0: f32, index: u32) -> f32 {
    let v1 = sl_log1p(x0);
    return v1;
}

fn def_log1p_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 + 1.0f;
    let v3 = 1.0f / v2;
    return v3;
}
