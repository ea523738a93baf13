
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
//% if WHO
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) member: u32,
    @builtin(num_subgroups) subgroups: u32,
//% end
) {
//% if WHO
    who = vec3<u32>(subgroup, member, subgroups);
//% end
    let group = w.y * n.x + w.x;
//% if SEVERAL
    let row = group * ROWS + lane / L;
    rows_of(min(row, $rows - 1u), row < $rows, lane, lane % L);
//% else
    if group < $rows {
        rows_of(group, true, lane, lane);
    }
//% end
}
