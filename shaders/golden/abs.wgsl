// Printed from `abs` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

fn def_abs(x0: f32, index: u32) -> f32 {
    let v1 = abs(x0);
    return v1;
}

fn def_abs_by_x(x0: f32, index: u32) -> f32 {
    let v2 = x0 < 0.0f;
    let v4 = 0.0f < x0;
    let v6 = sl_hold(x0) * sl_hold(0.0f);
    let v7 = select(v6, 1.0f, v4);
    let v8 = select(v7, -1.0f, v2);
    return v8;
}
