// The gradient of queries: d_q = scale * sum over keys of p (d_out . v - delta) k, with
// p = exp(score - lse). An invocation holds one query, as in attention.wgsl.

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
    let head = group / $blocks;
    let first = (group % $blocks) * WG;
    let last = min(first + WG, $rows) - 1u;
    //% if PLAIN
    let latest = select(last % $queries, $queries - 1u, first / $queries != last / $queries);
    let begin = 0u;
    let end = min($keys, latest + $diagonal);
    //% end
    let k_first = k_at(head);
    let v_first = v_at(head);
    let scale = bitcast<f32>($scale);
    let inside = min(first + lane, $rows - 1u);
    let row = head * $rows + inside;
    let d_q = d_q_at(row);
    //% if REDO
    // Only the rows that another kernel may have spoiled.
    var whole = true;
    for (var c = 0u; c < $quads; c++) {
        whole &= is_finite(d_q_part(d_q, c, $d_q_step));
    }
    if whole {
        return;
    }
    //% end
    //% if SIGHT
    let query = inside % $queries;
    let place = place_of(row / $queries);
    let sight = saved_sight(row);
    let begin = sight.begin;
    let end = sight.end;
    let limit = end;
    //% else
    let limit = min($keys, inside % $queries + $diagonal);
    //% end
    let q_first = q_at(row);
    let g_first = d_out_at(row);
    var q: array<vec4<f32>, QUADS>;
    var g: array<vec4<f32>, QUADS>;
    var d: array<vec4<f32>, QUADS>;
    for (var c = 0u; c < $quads; c++) {
        q[c] = q_part(q_first, c, $q_step);
        g[c] = d_out_part(g_first, c, $d_out_step);
        d[c] = vec4<f32>();
    }
    let lse = rows_load(rows_at(ROW * row));
    let delta = rows_load(rows_at(ROW * row + 1u));
    //% if MASKED
    let mask = mask_at(row);
    //% end
    for (var j = begin; j < end; j += KEYS) {
        //% for j in KEYS
        let j#j = min(j + #j, end - 1u);
        var seen#j = j + #j < limit;
        //% if MASKED
        let at#j = mask + j#j * $mask_step;
        seen#j = seen#j && keeps(at#j);
        //% end
        //% if BLOCKED
        seen#j = seen#j && in_block(place, query, j#j);
        //% end
        //% end
        //% if BLOCKED
        var some = false;
        //% for j in KEYS
        some |= seen#j;
        //% end
        if !some {
            continue;
        }
        //% end
        //% for j in KEYS
        let k#j = k_first + j#j * $k_row;
        let v#j = v_first + j#j * $v_row;
        var s#j = 0.0;
        var t#j = 0.0;
        //% end
        for (var c = 0u; c < $quads; c++) {
            let q_c = q[c];
            let g_c = g[c];
            //% for j in KEYS
            s#j += dot(q_c, k_part(k#j, c, $k_step));
            t#j += dot(g_c, v_part(v#j, c, $v_step));
            //% end
        }
        //% for j in KEYS
        s#j *= scale;
        //% if SCORED
        let x#j = s#j;
        s#j = scored(x#j, place, query, j#j, sight.query, position(j#j, sight.origin));
        seen#j = seen#j && bitcast<u32>(s#j) != $nothing;
        //% end
        //% if MASKED
        s#j += added(at#j);
        //% end
        let p#j = exp1(s#j - lse, 0u);
        //% if DROPPED
        let factor#j = factor(place, query, j#j);
        t#j = select(0.0, factor#j * t#j, factor#j != 0.0);
        //% end
        var e#j = scale * (p#j * (t#j - delta));
        //% if SCORED
        e#j *= slope(x#j, place, query, j#j, sight.query, position(j#j, sight.origin));
        //% end
        e#j = select(0.0, e#j, seen#j);
        //% end
        for (var c = 0u; c < $quads; c++) {
            var sum = d[c];
            //% for j in KEYS
            // 0 times an infinite key would be NaN.
            sum += select(vec4<f32>(), e#j * k_part(k#j, c, $k_step), seen#j);
            //% end
            d[c] = sum;
        }
    }
    if first + lane < $rows {
        for (var c = 0u; c < $quads; c++) {
            d_q_fill(d_q, c, $d_q_step, d[c]);
        }
    }
}
