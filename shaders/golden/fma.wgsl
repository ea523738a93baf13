// Printed from `fma` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

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

fn def_fma(x0: f32, x1: f32, x2: f32, index: u32) -> f32 {
    let v3 = sl_fma(x0, x1, x2);
    return v3;
}

fn def_fma_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    return x1;
}

fn def_fma_by_b(x0: f32, index: u32) -> f32 {
    return x0;
}

fn def_fma_by_c(index: u32) -> f32 {
    return 1.0f;
}
