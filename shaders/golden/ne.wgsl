// Printed from `ne` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

fn def_ne(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 == x1;
    let v3 = !v2;
    let v6 = select(0.0f, 1.0f, v3);
    return v6;
}
