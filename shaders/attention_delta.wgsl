// Of each query its log-sum-exp, finite, and delta = sum(d_out * out): what both kernels of the
// gradient need, side by side in the workspace; with SIGHT also which keys it sees.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (w.y * n.x + w.x) * WG + lane;
    if row >= $rows {
        return;
    }
    let out = out_at(row);
    let d_out = d_out_at(row);
    var sum = 0.0;
    for (var c = 0u; c < $quads; c++) {
        sum += dot(out_part(out, c, $out_step), d_out_part(d_out, c, $d_out_step));
    }
    // The exponential of a score less this is 0, as it must be where a query sees nothing.
    let lse = max(lse_load(lse_at(row)), -1e30);
    rows_store(rows_at(ROW * row), select(lse, 1e38, lse <= -1e30));
    rows_store(rows_at(ROW * row + 1u), sum);
    //% if SIGHT
    save_sight(row, sight_of(row / $queries / $heads, row % $queries));
    //% end
}
