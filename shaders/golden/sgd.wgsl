// Printed from `sgd` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_sgd(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, index: u32) -> array<f32, 2> {
    let v2 = 0.0f < x4;
    let v8 = x1 * x4;
    let v9 = fma(x0, 0.01f, v8);
    let v10 = fma(x2, 0.9f, v9);
    let v12 = -x3;
    let v13 = fma(v10, v12, x0);
    let v14 = select(x0, v13, v2);
    let v15 = select(x2, v10, v2);
    return array<f32, 2>(v14, v15);
}
