// Four bytes along k to a word, lines padded with zeros: how dot4I8Packed wants them.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (w.y * n.x + w.x) * WG + lane;
    let line = i / $words;
    let z = line / $lines;
    if z >= $batches {
        return;
    }
    let at = x_at(z) + (line - z * $lines) * $step;
    let first = 4u * (i - line * $words);
    var word = 0u;
    for (var byte = 0u; byte < 4u; byte++) {
        if first + byte < $k {
            word |= x_bits(at + (first + byte) * $inner) << (8u * byte);
        }
    }
    y_put(y_at(0u) + i, word);
}
