// Printed from `hardswish` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_hardswish(x0: f32, index: u32) -> f32 {
    let v3 = x0 + 3.0f;
    let v5 = v3 < 0.0f;
    let v6 = select(v3, 0.0f, v5);
    let v7 = 6.0f < v6;
    let v8 = select(v6, 6.0f, v7);
    let v10 = v8 * 0.16666667f;
    let v11 = x0 * v10;
    return v11;
}

fn def_hardswish_by_x(x0: f32, index: u32) -> f32 {
    let v3 = x0 + 3.0f;
    let v5 = v3 < 0.0f;
    let v6 = select(v3, 0.0f, v5);
    let v7 = 6.0f < v6;
    let v9 = select(1.0f, 0.0f, v5);
    let v10 = select(v9, 0.0f, v7);
    let v12 = v10 * 0.16666667f;
    let v13 = select(v6, 6.0f, v7);
    let v14 = v13 * 0.16666667f;
    let v15 = fma(x0, v12, v14);
    return v15;
}
