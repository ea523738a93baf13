// out[.., index[.., i, ..], ..] += x[.., i, ..], in the order of i: a line of the axis and a part
// of the table for each invocation.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = (w.y * n.x + w.x) * WG + lane;
    if job >= $lines * $parts {
        return;
    }
    let line = job % $lines;
    let first = (job / $lines) * $rows;
    let x = x_at(line);
    let index = index_at(line);
    let y = y_at(line);
    for (var i = 0u; i < $len; i++) {
        let row = index_bits(index + i * $index_step);
        if row - first < $rows && row < $bound {
            let place = y + row * $y_step;
            y_store(place, y_load(place) + x_load(x + i * $x_step));
        } else if row >= $bound {
            misplaced(row, $bound);
        }
    }
}
