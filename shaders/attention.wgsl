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
    // The most keys that a query of this workgroup sees: its last one's, or the head's last one's.
    let latest = select(last % $queries, $queries - 1u, first / $queries != last / $queries);
    let end = min($keys, latest + $diagonal);
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
    let limit = min($keys, inside % $queries + $diagonal);
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
    for (var j = 0u; j < end; j += KEYS) {
        //% for j in KEYS
        let j#j = min(j + #j, end - 1u);
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
        //% if MASKED
        let at#j = mask + j#j * $mask_step;
        let seen#j = j + #j < limit && keeps(at#j);
        s#j = select(LOW, max(LOW, s#j * scale + added(at#j)), seen#j);
        //% else
        let seen#j = j + #j < limit;
        s#j = select(LOW, s#j * scale, seen#j);
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
        //% end
        for (var c = 0u; c < $quads; c++) {
            var sum = o[c] * old;
            //% for j in KEYS
            // A weight of 0 times an infinite value would be NaN.
            sum += p#j * select(vec4<f32>(), v_part(v#j, c, $v_step), seen#j);
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
