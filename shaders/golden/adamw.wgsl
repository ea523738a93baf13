// Printed from `adamw` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_adamw(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32, x6: f32, x7: f32, index: u32) -> array<f32, 3> {
    let v2 = 0.0f < x5;
    let v6 = x4 * 0.01f;
    let v7 = -v6;
    let v8 = fma(x0, v7, x0);
    let v12 = x1 * x5;
    let v14 = v12 * 0.1f;
    let v15 = fma(x2, 0.9f, v14);
    let v17 = x4 * x6;
    let v18 = v15 * v17;
    let v24 = v12 * v12;
    let v25 = 0.001f * v24;
    let v26 = fma(x3, 0.999f, v25);
    let v27 = x7 * v26;
    let v28 = sqrt(v27);
    let v29 = 1e-8f + v28;
    let v30 = v18 / v29;
    let v31 = v8 - v30;
    let v32 = select(x0, v31, v2);
    let v33 = select(x2, v15, v2);
    let v34 = select(x3, v26, v2);
    return array<f32, 3>(v32, v33, v34);
}
