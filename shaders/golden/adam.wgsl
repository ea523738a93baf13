// Printed from `adam` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_adam(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32, x6: f32, x7: f32, index: u32) -> array<f32, 3> {
    let v2 = 0.0f < x5;
    let v8 = x1 * x5;
    let v9 = fma(x0, 0.01f, v8);
    let v11 = v9 * 0.1f;
    let v12 = fma(x2, 0.9f, v11);
    let v15 = x4 * x6;
    let v16 = v12 * v15;
    let v22 = v9 * v9;
    let v23 = 0.001f * v22;
    let v24 = fma(x3, 0.999f, v23);
    let v25 = x7 * v24;
    let v26 = sqrt(v25);
    let v27 = 1e-8f + v26;
    let v28 = v16 / v27;
    let v29 = x0 - v28;
    let v30 = select(x0, v29, v2);
    let v31 = select(x2, v12, v2);
    let v32 = select(x3, v24, v2);
    return array<f32, 3>(v30, v31, v32);
}
