// Printed from `log` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}

fn sl_log(x0: f32) -> f32 {
    let v2 = x0 == 0.0f;
    let v4 = bitcast<f32>(sl_word(0x7f800000u));
    let v5 = -v4;
    let v6 = x0 < 0.0f;
    let v8 = bitcast<f32>(sl_word(0x7fc00000u));
    let v9 = x0 < v4;
    let v11 = x0 < 1.1754944e-38f;
    let v13 = x0 * 8388608.0f;
    let v14 = select(x0, v13, v11);
    let v15 = bitcast<u32>(v14);
    let v17 = v15 + 0x4afb0du;
    let v18 = v17 >> 23u;
    let v20 = v18 | 0x4b000000u;
    let v21 = bitcast<f32>(v20);
    let v23 = v21 - 8388735.0f;
    let v25 = select(0.0f, 23.0f, v11);
    let v26 = v23 - v25;
    let v29 = v17 & 0x7fffffu;
    let v31 = v29 + 0x3f3504f3u;
    let v32 = bitcast<f32>(v31);
    let v34 = v32 - 1.0f;
    let v36 = v34 * v34;
    let v39 = fma(v34, -0.07638335f, 0.12764828f);
    let v41 = fma(v34, v39, -0.13160181f);
    let v43 = fma(v34, v41, 0.14201269f);
    let v45 = fma(v34, v43, -0.16623315f);
    let v47 = fma(v34, v45, 0.2000125f);
    let v49 = fma(v34, v47, -0.25000823f);
    let v51 = fma(v34, v49, 0.3333333f);
    let v53 = fma(v34, v51, -0.5f);
    let v54 = v36 * v53;
    let v55 = fma(v26, -0.00021219444f, v54);
    let v56 = v34 + v55;
    let v57 = fma(v26, 0.6933594f, v56);
    let v58 = select(x0, v57, v9);
    let v59 = select(v58, v8, v6);
    let v60 = select(v59, v5, v2);
    return v60;
}

fn def_log(x0: f32, index: u32) -> f32 {
    let v1 = sl_log(x0);
    return v1;
}

fn def_log_by_x(x0: f32, index: u32) -> f32 {
    let v2 = 1.0f / x0;
    return v2;
}
