// The gradients of keys and values: d_v = sum over queries of p d_out and
// d_k = scale * sum over queries of p (d_out . v - delta) q, with p = exp(score - lse).
// An invocation holds one key, its value and both gradients, and walks the queries of every head
// that uses them, QUERIES at a time; all invocations of a workgroup read the same queries.

//% if REDO
fn is_finite(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u));
}

//% end
@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = w.y * n.x + w.x;
    if group >= $groups {
        return;
    }
    let kv_head = group / $blocks;
    let first = (group % $blocks) * WG;
    let key = min(first + lane, $keys - 1u);
    //% if SIGHT
    let begin = 0u;
    //% else
    // The first query that sees the workgroup's first key.
    let begin = max(first + 1u, $diagonal) - $diagonal;
    //% end
    let row = kv_head * $keys + key;
    let d_k = d_k_at(row);
    let d_v = d_v_at(row);
    //% if REDO
    // Only the keys whose gradients another kernel may have spoiled.
    var whole = true;
    for (var c = 0u; c < $quads; c++) {
        whole &= is_finite(d_k_part(d_k, c, $d_k_step)) && is_finite(d_v_part(d_v, c, $d_v_step));
    }
    if whole {
        return;
    }
    //% end
    let k_first = k_at(row);
    let v_first = v_at(row);
    var k: array<vec4<f32>, QUADS>;
    var v: array<vec4<f32>, QUADS>;
    var dk: array<vec4<f32>, QUADS>;
    var dv: array<vec4<f32>, QUADS>;
    for (var c = 0u; c < $quads; c++) {
        k[c] = k_part(k_first, c, $k_step);
        v[c] = v_part(v_first, c, $v_step);
        dk[c] = vec4<f32>();
        dv[c] = vec4<f32>();
    }
    let scale = bitcast<f32>($scale);
    for (var h = 0u; h < $heads_per_kv_head; h++) {
        let head = kv_head * $heads_per_kv_head + h;
        let q_first = q_at(head);
        let g_first = d_out_at(head);
        //% if SIGHT
        let place = place_of(head);
        //% end
        //% if MASKED
        let mask = mask_at(head) + key * $mask_step;
        //% end
        for (var i = begin; i < $queries; i += QUERIES) {
            //% for i in QUERIES
            let i#i = min(i + #i, $queries - 1u);
            //% if SIGHT
            let sight#i = saved_sight(head * $queries + i#i);
            var seen#i = i + #i < $queries && key >= sight#i.begin && key < sight#i.end;
            //% else
            var seen#i = i + #i < $queries && key < i + #i + $diagonal;
            //% end
            //% if MASKED
            let at#i = mask + i#i * $mask_row;
            seen#i = seen#i && keeps(at#i);
            //% end
            //% if BLOCKED
            seen#i = seen#i && in_block(place, i#i, key);
            //% end
            //% end
            //% if SIGHT
            var some = false;
            //% for i in QUERIES
            some |= seen#i;
            //% end
            if !some {
                continue;
            }
            //% end
            //% for i in QUERIES
            let q#i = q_first + i#i * $q_row;
            let g#i = g_first + i#i * $d_out_row;
            var s#i = 0.0;
            var t#i = 0.0;
            //% end
            for (var c = 0u; c < $quads; c++) {
                let k_c = k[c];
                let v_c = v[c];
                //% for i in QUERIES
                s#i += dot(k_c, q_part(q#i, c, $q_step));
                t#i += dot(v_c, d_out_part(g#i, c, $d_out_step));
                //% end
            }
            //% for i in QUERIES
            let saved#i = rows_at(ROW * (head * $queries + i#i));
            s#i *= scale;
            //% if SCORED
            let x#i = s#i;
            let at_key#i = position(key, sight#i.origin);
            s#i = scored(x#i, place, i#i, key, sight#i.query, at_key#i);
            seen#i = seen#i && bitcast<u32>(s#i) != $nothing;
            //% end
            //% if MASKED
            s#i += added(at#i);
            //% end
            let p#i = select(0.0, exp1(s#i - rows_load(saved#i), 0u), seen#i);
            //% if DROPPED
            let factor#i = factor(place, i#i, key);
            t#i = select(0.0, factor#i * t#i, factor#i != 0.0);
            let w#i = p#i * factor#i;
            let counts#i = seen#i && factor#i != 0.0;
            //% else
            let w#i = p#i;
            let counts#i = seen#i;
            //% end
            var e#i = scale * (p#i * (t#i - rows_load(saved#i + 1u)));
            //% if SCORED
            e#i *= slope(x#i, place, i#i, key, sight#i.query, at_key#i);
            //% end
            e#i = select(0.0, e#i, seen#i);
            //% end
            for (var c = 0u; c < $quads; c++) {
                var sum_v = dv[c];
                var sum_k = dk[c];
                //% for i in QUERIES
                // 0 times what an unseeing query holds, if it is infinite, would be NaN.
                sum_v += select(vec4<f32>(), w#i * d_out_part(g#i, c, $d_out_step), counts#i);
                sum_k += select(vec4<f32>(), e#i * q_part(q#i, c, $q_step), seen#i);
                //% end
                dv[c] = sum_v;
                dk[c] = sum_k;
            }
        }
    }
    if first + lane < $keys {
        for (var c = 0u; c < $quads; c++) {
            d_k_fill(d_k, c, $d_k_step, dk[c]);
            d_v_fill(d_v, c, $d_v_step, dv[c]);
        }
    }
}
