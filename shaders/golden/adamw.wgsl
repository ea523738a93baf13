// Printed from `adamw` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_adamw(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32, x6: f32, x7: f32, index: u32) -> array<f32, 3> {
    let v3 = x4 * 0.01f;
    let v4 = -v3;
    let v5 = fma(x0, v4, x0);
    let v10 = x1 * x5;
    let v12 = v10 * 0.1f;
    let v13 = fma(x2, 0.9f, v12);
    let v15 = x4 * x6;
    let v16 = v13 * v15;
    let v22 = v10 * v10;
    let v23 = 0.001f * v22;
    let v24 = fma(x3, 0.999f, v23);
    let v25 = x7 * v24;
    let v26 = sqrt(v25);
    let v27 = 1e-8f + v26;
    let v28 = v16 / v27;
    let v29 = v5 - v28;
    return array<f32, 3>(v29, v13, v24);
}
