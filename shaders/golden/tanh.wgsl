// Printed from `tanh` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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
