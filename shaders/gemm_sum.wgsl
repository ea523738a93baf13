// The slices of a product that was split along k, added in order.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (w.y * n.x + w.x) * WG + lane;
    let wide = ($n + 3u) / 4u;
    let quads = $batches * $m * wide;
    if i >= quads {
        return;
    }
    var sum = part_load4(i);
    for (var s = 1u; s < $slices; s++) {
        sum += part_load4(s * quads + i);
    }
    let row = i / wide;
    let z = row / $m;
    emit(z, z, row - z * $m, i - row * wide, sum);
}
