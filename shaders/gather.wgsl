// out[.., i, ..] = x[.., index[.., i, ..], ..]: `x_at` is the position but for the index.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (w.y * n.x + w.x) * WG + lane;
    if i < $len {
        let picked = index_bits(index_at(i));
        var bits = 0u;
        if picked < $bound {
            bits = x_bits(x_at(i) + picked * $step);
        } else {
            misplaced(picked, $bound);
        }
        y_put(y_at(i), bits);
    }
}
