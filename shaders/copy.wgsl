// Strided copy: `converted` gives the bits of element i of the target, as Rust's `as` would.

// The float as an integer between two that floats hold: truncated, NaN is 0.
fn to_int(x: f32, low: f32, high: f32) -> i32 {
    if (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u {
        return 0;
    }
    if x >= 2147483648.0 && high > 2147483000.0 {
        return 2147483647;
    }
    return i32(clamp(x, low, high));
}

fn to_word(x: f32) -> u32 {
    if (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u || x <= 0.0 {
        return 0u;
    }
    if x >= 4294967296.0 {
        return 0xffffffffu;
    }
    return u32(x);
}

// An integer as a float, rounded to odd: rounding that to a narrower type rounds once.
fn select_real(bits: u32, signed: bool) -> f32 {
    let negative = signed && (bits >> 31u) == 1u;
    let size = select(bits, 0u - bits, negative);
    let drop = 8u - min(countLeadingZeros(size), 8u);
    let lost = (size & ((1u << drop) - 1u)) != 0u;
    let kept = ((size >> drop) | select(0u, 1u, lost)) << drop;
    return select(f32(kept), -f32(kept), negative);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (w.y * n.x + w.x) * WG + lane;
    if i < $len {
        y_put(y_at(i), converted(x_at(i)));
    }
}
