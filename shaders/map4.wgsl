// Operands without gaps, four elements at a time: `quad` computes or moves four elements, of which
// the first `count` are stored. With EXACT no invocation lies beyond the end, with WHOLE no four
// does: a branch for them would be taken by masked lanes every time.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (w.y * n.x + w.x) * WG * REPEAT + lane;
    //% for r in REPEAT
    {
        let q = first + #r * WG;
        //% if EXACT
        quad(q, 4u);
        //% else
        if 4u * q < $len {
            //% if WHOLE
            quad(q, 4u);
            //% else
            quad(q, $len - 4u * q);
            //% end
        }
        //% end
    }
    //% end
}
