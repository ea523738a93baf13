// Printed from `hardswish` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_hardswish(x0: f32, index: u32) -> f32 {
    let v2 = x0 + 3.0f;
    let v4 = v2 < 0.0f;
    let v6 = 6.0f < v2;
    let v7 = select(v2, 6.0f, v6);
    let v8 = select(v7, 0.0f, v4);
    let v10 = v8 * 0.16666667f;
    let v11 = x0 * v10;
    return v11;
}

fn def_hardswish_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 + 3.0f;
    let v4 = v2 < 0.0f;
    let v6 = 6.0f < v2;
    let v8 = select(1.0f, 0.0f, v6);
    let v9 = select(v8, 0.0f, v4);
    let v11 = v9 * 0.16666667f;
    let v12 = select(v2, 6.0f, v6);
    let v13 = select(v12, 0.0f, v4);
    let v14 = v13 * 0.16666667f;
    let v15 = fma(x0, v11, v14);
    return v15;
}
