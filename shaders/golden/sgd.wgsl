// Printed from `sgd` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_sgd(x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, index: u32) -> array<f32, 2> {
    let v6 = x1 * x4;
    let v7 = fma(x0, 0.01f, v6);
    let v8 = fma(x2, 0.9f, v7);
    let v10 = -x3;
    let v11 = fma(v8, v10, x0);
    return array<f32, 2>(v11, v8);
}
