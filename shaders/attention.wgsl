// Flash attention (Dao et al. 2022): an invocation holds one query and its result and walks the
// keys, KEYS at a time, with a running maximum and sum (online softmax). All invocations of a
// workgroup read the same keys and values at the same time.
//
// Row r of a key head is query r % $queries of the r / $queries-th query head that uses it.

// Below every score that counts.
const LOW: f32 = -3.4028234663852886e38f;

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
    // The most keys that a query of this workgroup sees: its last one's, or the head's last one's.
    let latest = select(last % $queries, $queries - 1u, first / $queries != last / $queries);
    let begin = 0u;
    let end = min($keys, latest + $diagonal);
    //% end
    let k_first = k_at(head);
    let v_first = v_at(head);
    let scale = bitcast<f32>($scale);
    // Invocations beyond the rows repeat the last one and store nothing.
    let inside = min(first + lane, $rows - 1u);
    let row = head * $rows + inside;
    //% if REDO
    // Only the rows that another kernel left.
    if lse_bits(lse_at(row)) != AGAIN {
        return;
    }
    //% end
    //% if SIGHT
    let query = inside % $queries;
    let place = place_of(row / $queries);
    let sight = sight_of(row / $queries / $heads, query);
    let begin = sight.begin;
    let end = sight.end;
    let limit = end;
    //% else
    let limit = min($keys, inside % $queries + $diagonal);
    //% end
    let q_first = q_at(row);
    var q: array<vec4<f32>, QUADS>;
    var o: array<vec4<f32>, QUADS>;
    for (var c = 0u; c < $quads; c++) {
        q[c] = q_part(q_first, c, $q_step);
        o[c] = vec4<f32>();
    }
    var m = LOW;
    var l = 0.0;
    var any_seen = false;
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
        //% end
        for (var c = 0u; c < $quads; c++) {
            let part = q[c];
            //% for j in KEYS
            s#j += dot(part, k_part(k#j, c, $k_step));
            //% end
        }
        var top = m;
        //% for j in KEYS
        s#j *= scale;
        //% if SCORED
        s#j = scored(s#j, place, query, j#j, sight.query, position(j#j, sight.origin));
        seen#j = seen#j && bitcast<u32>(s#j) != $nothing;
        //% end
        //% if MASKED
        s#j = select(LOW, max(LOW, s#j + added(at#j)), seen#j);
        //% else
        s#j = select(LOW, s#j, seen#j);
        //% end
        any_seen |= seen#j;
        top = max(top, s#j);
        //% end
        let old = exp1(m - top, 0u);
        m = top;
        l *= old;
        //% for j in KEYS
        let p#j = select(0.0, exp1(s#j - top, 0u), seen#j);
        l += p#j;
        //% if DROPPED
        let factor#j = factor(place, query, j#j);
        let w#j = p#j * factor#j;
        let counts#j = seen#j && factor#j != 0.0;
        //% else
        let w#j = p#j;
        let counts#j = seen#j;
        //% end
        //% end
        for (var c = 0u; c < $quads; c++) {
            var sum = o[c] * old;
            //% for j in KEYS
            // A weight of 0 times an infinite value would be NaN.
            sum += w#j * select(vec4<f32>(), v_part(v#j, c, $v_step), counts#j);
            //% end
            o[c] = sum;
        }
    }
    if first + lane < $rows {
        let inverse = select(0.0, 1.0 / l, any_seen);
        let out = out_at(row);
        for (var c = 0u; c < $quads; c++) {
            out_fill(out, c, $out_step, o[c] * inverse);
        }
        lse_store(lse_at(row), select(bitcast<f32>($nothing), m + log1(l, 0u), any_seen));
    }
}
