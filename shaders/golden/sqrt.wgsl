// Printed from `sqrt` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_sqrt(x0: f32, index: u32) -> f32 {
    let v1 = sqrt(x0);
    return v1;
}

fn def_sqrt_by_x(x0: f32, index: u32) -> f32 {
    let v2 = sqrt(x0);
    let v3 = 0.5f / v2;
    return v3;
}
