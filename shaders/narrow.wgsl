// Conversions between f32 and the 16-bit types by their bits: built-in ones may round either way.

// Every f16 as an f32, infinities and NaN included.
fn sl_from_f16(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let e = (h >> 10u) & 0x1fu;
    let m = h & 0x3ffu;
    let normal = sign | ((e + 112u) << 23u) | (m << 13u);
    let special = sign | 0x7f800000u | (m << 13u);
    // Subnormal: m * 2^-24 is exact.
    let small = sign | bitcast<u32>(f32(m) * 5.9604644775390625e-8);
    return bitcast<f32>(select(select(normal, special, e == 31u), small, e == 0u));
}

// The nearest f16, halves to even; beyond the largest, infinity.
fn sl_to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let a = bits & 0x7fffffffu;
    // Normal: drop 13 bits, round, move the exponent's bias.
    let normal = (a + 0xfffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u;
    // Subnormal: adding 0.5 leaves the result in the low bits, rounded by the addition.
    let small = bitcast<u32>(bitcast<f32>(a) + 0.5) - 0x3f000000u;
    let nan = select(0x7c00u, 0x7e00u, a > 0x7f800000u);
    let finite = select(normal, small, a < 0x38800000u);
    return sign | select(finite, nan, a >= 0x477ff000u);
}

// The nearest bf16, halves to even; NaN stays NaN.
fn sl_to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    let nan = (bits >> 16u) | 0x40u;
    return select(rounded, nan, (bits & 0x7fffffffu) > 0x7f800000u);
}
