// Printed from `sub` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_sub(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 - x1;
    return v2;
}

fn def_sub_by_a(index: u32) -> f32 {
    return 1.0f;
}

fn def_sub_by_b(index: u32) -> f32 {
    return -1.0f;
}
