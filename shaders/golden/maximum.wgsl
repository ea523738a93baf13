// Printed from `maximum` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// By the bits: a compiler may take x != x to be false.
fn sl_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// NaN when either is NaN, unlike max(); the first of two equal arguments.
fn sl_max(a: f32, b: f32) -> f32 {
    return select(b, a, sl_is_nan(a) | ((a >= b) & !sl_is_nan(b)));
}

fn def_maximum(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = sl_max(x0, x1);
    return v2;
}

fn def_maximum_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 == x1;
    let v4 = x1 < x0;
    let v7 = select(0.0f, 1.0f, v4);
    let v8 = select(v7, 0.5f, v2);
    return v8;
}

fn def_maximum_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 == x1;
    let v4 = x1 < x0;
    let v7 = select(1.0f, 0.0f, v4);
    let v8 = select(v7, 0.5f, v2);
    return v8;
}
