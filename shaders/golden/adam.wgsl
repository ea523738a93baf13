// Printed from `adam` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_adam(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32, x6: f32, x7: f32, index: u32) -> array<f32, 3> {
    let v6 = x1 * x5;
    let v7 = fma(x0, 0.01f, v6);
    let v9 = v7 * 0.1f;
    let v10 = fma(x2, 0.9f, v9);
    let v13 = x4 * x6;
    let v14 = v10 * v13;
    let v20 = v7 * v7;
    let v21 = 0.001f * v20;
    let v22 = fma(x3, 0.999f, v21);
    let v23 = x7 * v22;
    let v24 = sqrt(v23);
    let v25 = 1e-8f + v24;
    let v26 = v14 / v25;
    let v27 = x0 - v26;
    return array<f32, 3>(v27, v10, v22);
}
