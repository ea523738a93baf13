// Printed from `cos` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

// a * b + c, rounded once.
fn sl_fma(a: f32, b: f32, c: f32) -> f32 {
    return sl_hold(fma(a, b, c));
}

fn sl_sin(x0: f32) -> f32 {
    let v1 = bitcast<u32>(x0);
    let v2 = abs(x0);
    let v4 = v2 <= 4194304.0f;
    let v5 = sl_hold(v2) - v2;
    let v6 = select(v5, v2, v4);
    let v8 = v6 * 0.63661975f;
    let v9 = round(v8);
    let v10 = u32(v9);
    let v11 = v10 << 30u;
    let v12 = v1 ^ v11;
    let v14 = v12 & 0x80000000u;
    let v16 = v10 & 0x1u;
    let v18 = v16 == 0x0u;
    let v22 = sl_fma(v9, -1.5707963f, v6);
    let v23 = sl_fma(v9, -7.5497894e-8f, v22);
    let v24 = sl_fma(v9, -5.3903025e-15f, v23);
    let v25 = v24 * v24;
    let v28 = fma(v25, -0.00019495051f, 0.008332011f);
    let v30 = fma(v25, v28, -0.16666652f);
    let v31 = v25 * v30;
    let v32 = fma(v24, v31, v24);
    let v35 = fma(v25, 2.4411222e-5f, -0.0013887126f);
    let v37 = fma(v25, v35, 0.04166664f);
    let v38 = v25 * v37;
    let v41 = fma(v25, -0.5f, 1.0f);
    let v42 = fma(v25, v38, v41);
    let v43 = select(v42, v32, v18);
    let v44 = bitcast<u32>(v43);
    let v45 = v14 ^ v44;
    let v46 = bitcast<f32>(v45);
    return v46;
}

fn sl_cos(x0: f32) -> f32 {
    let v1 = abs(x0);
    let v3 = v1 <= 4194304.0f;
    let v4 = sl_hold(v1) - v1;
    let v5 = select(v4, v1, v3);
    let v7 = v5 * 0.63661975f;
    let v8 = round(v7);
    let v9 = u32(v8);
    let v11 = v9 + 0x1u;
    let v12 = v11 << 30u;
    let v14 = v12 & 0x80000000u;
    let v15 = 0x1u & v11;
    let v17 = v15 == 0x0u;
    let v21 = sl_fma(v8, -1.5707963f, v5);
    let v22 = sl_fma(v8, -7.5497894e-8f, v21);
    let v23 = sl_fma(v8, -5.3903025e-15f, v22);
    let v24 = v23 * v23;
    let v27 = fma(v24, -0.00019495051f, 0.008332011f);
    let v29 = fma(v24, v27, -0.16666652f);
    let v30 = v24 * v29;
    let v31 = fma(v23, v30, v23);
    let v34 = fma(v24, 2.4411222e-5f, -0.0013887126f);
    let v36 = fma(v24, v34, 0.04166664f);
    let v37 = v24 * v36;
    let v40 = fma(v24, -0.5f, 1.0f);
    let v41 = fma(v24, v37, v40);
    let v42 = select(v41, v31, v17);
    let v43 = bitcast<u32>(v42);
    let v44 = v14 ^ v43;
    let v45 = bitcast<f32>(v44);
    return v45;
}

fn def_cos(x0: f32, index: u32) -> f32 {
    let v1 = sl_cos(x0);
    return v1;
}

fn def_cos_by_x(x0: f32, index: u32) -> f32 {
    let v1 = sl_sin(x0);
    let v2 = -v1;
    return v2;
}
