// Printed from `rsqrt` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn sl_rsqrt(x0: f32) -> f32 {
    let v2 = sqrt(x0);
    let v3 = 1.0f / v2;
    return v3;
}

fn def_rsqrt(x0: f32, index: u32) -> f32 {
    let v1 = sl_rsqrt(x0);
    return v1;
}

fn def_rsqrt_by_x(x0: f32, index: u32) -> f32 {
    let v2 = sl_rsqrt(x0);
    let v3 = v2 / x0;
    let v4 = -0.5f * v3;
    return v4;
}
