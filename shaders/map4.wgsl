// Operands without gaps, four elements at a time: `quad` computes or moves four elements, of which
// the first `count` are stored.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Several fours for each invocation where there are many: starting one costs as much.
    let first = (w.y * n.x + w.x) * WG * $repeat + lane;
    for (var j = 0u; j < $repeat; j++) {
        let q = first + j * WG;
        if 4u * q < $len {
            //% if WHOLE
            quad(q, 4u);
            //% else
            quad(q, $len - 4u * q);
            //% end
        }
    }
}
