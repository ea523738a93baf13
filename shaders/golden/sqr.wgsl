// Printed from `sqr` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_sqr(x0: f32, index: u32) -> f32 {
    let v1 = x0 * x0;
    return v1;
}

fn def_sqr_by_x(x0: f32, index: u32) -> f32 {
    let v1 = x0 + x0;
    return v1;
}
