// Printed from `fma` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn def_fma(x0: f32, x1: f32, x2: f32, index: u32) -> f32 {
    let v3 = fma(x0, x1, x2);
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
