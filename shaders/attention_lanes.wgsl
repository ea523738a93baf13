// attention.wgsl for a driver on the processor, where each load costs a dozen instructions and a
// broadcast one: the L lanes of a subgroup load a tile of KEYS rows of k (then of v) together and
// pass its quads around. Each lane holds R queries and their results in registers, so the head
// dimension, QUADS fours, is unrolled; a tile is LOADS quads for each lane.
//
// A key that a query does not see has weight 0, which spoils the result where the key's value is
// infinite. MAY_REDO: such a row notes AGAIN as its log-sum-exp, and attention.wgsl computes it.

const LOW: f32 = -3.4028234663852886e38f;

fn is_finite(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(L)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let group = w.y * n.x + w.x;
    if group >= $groups {
        return;
    }
    let head = group / $blocks;
    let first = (group % $blocks) * (L * R);
    let last = min(first + L * R, $rows) - 1u;
    let latest = select(last % $queries, $queries - 1u, first / $queries != last / $queries);
    let end = min($keys, latest + $diagonal);
    let k_first = k_at(head);
    let v_first = v_at(head);
    let scale = bitcast<f32>($scale);
    //% for i in LOADS
    let key#i = (#i * L + lane) / QUADS;
    let part#i = (#i * L + lane) % QUADS;
    //% end
    //% for r in R
    let inside#r = min(first + #r * L + lane, $rows - 1u);
    let row#r = head * $rows + inside#r;
    let limit#r = min($keys, inside#r % $queries + $diagonal);
    let at#r = q_at(row#r) / 4u;
    var m#r = LOW;
    var l#r = 0.0;
    //% if MASKED
    let mask#r = mask_at(row#r);
    var any_seen#r = false;
    //% else
    let any_seen#r = limit#r > 0u;
    //% end
    //% for c in QUADS
    var q#r#c: vec4<f32>;
    var o#r#c = vec4<f32>();
    //% end
    //% end
    // One load in a loop for all quads: a compiler's time grows with the loads in the text.
    for (var c = 0u; c < $quads; c++) {
        //% for r in R
        {
            let x = q_load4(at#r + c);
            //% for c in QUADS
            q#r#c = select(q#r#c, x, c == #c);
            //% end
        }
        //% end
    }
    for (var j = 0u; j < end; j += KEYS) {
        var k: array<vec4<f32>, LOADS>;
        var v: array<vec4<f32>, LOADS>;
        //% for i in LOADS
        let from#i = min(j + key#i, end - 1u);
        k[#i] = k_load4((k_first + from#i * $k_row) / 4u + part#i);
        //% end
        //% for r in R
        //% for j in KEYS
        var s#r#j = 0.0;
        //% end
        //% end
        //% for c in QUADS
        //% for j in KEYS
        {
            let x = subgroupBroadcast(k[(#j * QUADS + #c) / L], (#j * QUADS + #c) % L);
            //% for r in R
            s#r#j += dot(q#r#c, x);
            //% end
        }
        //% end
        //% end
        //% for i in LOADS
        // Nothing beyond the keys, of weight 0, may be infinite.
        v[#i] = v_load4((v_first + from#i * $v_row) / 4u + part#i);
        //% if ENDS
        v[#i] = select(vec4<f32>(), v[#i], j + key#i < end);
        //% end
        //% end
        //% for r in R
        var top#r = m#r;
        //% for j in KEYS
        //% if MASKED
        let at#r#j = mask#r + min(j + #j, end - 1u) * $mask_step;
        let seen#r#j = j + #j < limit#r && keeps(at#r#j);
        s#r#j = select(LOW, max(LOW, s#r#j * scale + added(at#r#j)), seen#r#j);
        any_seen#r |= seen#r#j;
        //% else
        let seen#r#j = j + #j < limit#r;
        s#r#j = select(LOW, s#r#j * scale, seen#r#j);
        //% end
        top#r = max(top#r, s#r#j);
        //% end
        let old#r = exp1(m#r - top#r, 0u);
        m#r = top#r;
        l#r *= old#r;
        //% for j in KEYS
        let p#r#j = select(0.0, exp1(s#r#j - top#r, 0u), seen#r#j);
        l#r += p#r#j;
        //% end
        //% end
        //% for c in QUADS
        {
            //% for r in R
            o#r#c *= old#r;
            //% end
            //% for j in KEYS
            {
                let x = subgroupBroadcast(v[(#j * QUADS + #c) / L], (#j * QUADS + #c) % L);
                //% for r in R
                o#r#c += p#r#j * x;
                //% end
            }
            //% end
        }
        //% end
    }
    //% for r in R
    let inverse#r = select(0.0, 1.0 / l#r, any_seen#r);
    //% if MAY_REDO
    var sum#r = vec4<f32>();
    //% for c in QUADS
    sum#r += o#r#c;
    //% end
    let again#r = !is_finite(sum#r);
    //% end
    //% end
    for (var c = 0u; c < $quads; c++) {
        //% for r in R
        if first + #r * L + lane < $rows {
            var x = vec4<f32>();
            //% for c in QUADS
            x = select(x, o#r#c, c == #c);
            //% end
            out_store4(out_at(row#r) / 4u + c, x * inverse#r, 4u);
        }
        //% end
    }
    //% for r in R
    if first + #r * L + lane < $rows {
        let lse = select(bitcast<f32>($nothing), m#r + log1(l#r, 0u), any_seen#r);
        //% if MAY_REDO
        lse_put(lse_at(row#r), select(bitcast<u32>(lse), AGAIN, again#r));
        //% else
        lse_store(lse_at(row#r), lse);
        //% end
    }
    //% end
}
