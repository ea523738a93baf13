// Answers to what WGSL leaves open, from operands that no compiler knows. Each lane has its own
// copy of them: some drivers round otherwise where all lanes compute the same.

fn fused(first: u32, step: u32) -> u32 {
    return bitcast<u32>(fma(x_load(first), x_load(first + step), x_load(first + 2u * step)));
}

@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) lane: u32) {
    y_put(8u + lane, fused(8u + lane, 8u));
    if lane == 0u {
        let infinity = x_load(0u);
        let nan = x_load(1u);
        let tiny = x_load(2u);
        let half = x_load(3u);
        y_put(0u, bitcast<u32>(infinity * half - half));
        y_put(1u, bitcast<u32>(infinity - x_load(0u)));
        y_put(2u, bitcast<u32>(nan * half));
        y_put(3u, select(0u, 1u, nan < infinity || nan >= infinity || infinity <= half));
        y_put(4u, bitcast<u32>(tiny * half));
        y_put(5u, fused(8u, 8u));
        // Some drivers end loops early. The work in this one keeps it from being computed away.
        var turns = 0u;
        var work = bitcast<u32>(half);
        for (; turns < $turns; turns++) {
            work = work * 1664525u + 1013904223u;
        }
        y_put(6u, turns);
        y_put(7u, work);
    }
}
