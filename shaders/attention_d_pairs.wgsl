// The gradient of what is added to scores, d_s = p (factor * d_out . v - delta), or of an input of
// their program, d_s times the slope by it. An invocation adds up one element of the result over
// the axes along which the result has extent 1.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let element = (w.y * n.x + w.x) * WG + lane;
    if element >= $len {
        return;
    }
    let first_key = element % $d_keys;
    let first_query = element / $d_keys % $d_queries;
    let first_head = element / $d_keys / $d_queries % $d_heads;
    let first_batch = element / $d_keys / $d_queries / $d_heads;
    let scale = bitcast<f32>($scale);
    var sum = 0.0;
    for (var b = first_batch; b < $batches; b += $d_batches) {
        for (var h = first_head; h < $heads; h += $d_heads) {
            let head = b * $heads + h;
            let place = place_of(head);
            let kv_head = b * $kv_heads + h / $heads_per_kv_head;
            let q_first = q_at(head);
            let g_first = d_out_at(head);
            let k_first = k_at(kv_head);
            let v_first = v_at(kv_head);
            //% if MASKED
            let mask = mask_at(head);
            //% end
            // Sums of sums keep chains of additions short.
            var over_queries = 0.0;
            for (var i = first_query; i < $queries; i += $d_queries) {
                let row = head * $queries + i;
                let sight = saved_sight(row);
                let lse = rows_load(rows_at(ROW * row));
                let delta = rows_load(rows_at(ROW * row + 1u));
                let q = q_first + i * $q_row;
                let g = g_first + i * $d_out_row;
                var over_keys = 0.0;
                for (
                    var j = select(first_key, sight.begin, $d_keys == 1u);
                    j < sight.end;
                    j += $d_keys
                ) {
                    var seen = j >= sight.begin;
                    //% if MASKED
                    let at = mask + i * $mask_row + j * $mask_step;
                    seen = seen && keeps(at);
                    //% end
                    //% if BLOCKED
                    seen = seen && in_block(place, i, j);
                    //% end
                    if !seen {
                        continue;
                    }
                    let k = k_first + j * $k_row;
                    let v = v_first + j * $v_row;
                    var s = 0.0;
                    var t = 0.0;
                    for (var c = 0u; c < $quads; c++) {
                        s += dot(q_part(q, c, $q_step), k_part(k, c, $k_step));
                        t += dot(d_out_part(g, c, $d_out_step), v_part(v, c, $v_step));
                    }
                    s *= scale;
                    //% if SCORED
                    let x = s;
                    s = scored(x, place, i, j, sight.query, position(j, sight.origin));
                    seen = bitcast<u32>(s) != $nothing;
                    //% end
                    //% if MASKED
                    s += added(at);
                    //% end
                    //% if DROPPED
                    let kept_by = factor(place, i, j);
                    t = select(0.0, kept_by * t, kept_by != 0.0);
                    //% end
                    var e = exp1(s - lse, 0u) * (t - delta);
                    //% if OF_INPUT
                    e *= slope(x, place, i, j, sight.query, position(j, sight.origin));
                    //% end
                    over_keys += select(0.0, e, seen);
                }
                over_queries += over_keys;
            }
            sum += over_queries;
        }
    }
    d_store(d_at(element), sum);
}
