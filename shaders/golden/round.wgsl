// Printed from `round` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_round(x0: f32, index: u32) -> f32 {
    let v1 = round(x0);
    return v1;
}

fn def_round_by_x(index: u32) -> f32 {
    return 0.0f;
}
