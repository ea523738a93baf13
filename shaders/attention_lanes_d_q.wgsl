// attention_d_q.wgsl for a driver on the processor: the lanes of a subgroup load tiles of k and v
// together, as in attention_lanes.wgsl, and each holds R queries, their d_out and d_q.
//
// What a query does not see has weight 0, which spoils the result where it is infinite: where
// anything is hidden, attention_d_q.wgsl computes again what is not finite.

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
    let q#r = q_at(row#r) / 4u;
    let g#r = d_out_at(row#r) / 4u;
    let lse#r = rows_load(rows_at(2u * row#r));
    let delta#r = rows_load(rows_at(2u * row#r + 1u));
    //% if MASKED
    let mask#r = mask_at(row#r);
    //% end
    //% for c in QUADS
    var q#r#c: vec4<f32>;
    var g#r#c: vec4<f32>;
    var d#r#c = vec4<f32>();
    //% end
    //% end
    for (var c = 0u; c < $quads; c++) {
        //% for r in R
        {
            let x = q_load4(q#r + c);
            let y = d_out_load4(g#r + c);
            //% for c in QUADS
            q#r#c = select(q#r#c, x, c == #c);
            g#r#c = select(g#r#c, y, c == #c);
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
        v[#i] = v_load4((v_first + from#i * $v_row) / 4u + part#i);
        //% end
        //% for r in R
        //% for j in KEYS
        var s#r#j = 0.0;
        var t#r#j = 0.0;
        //% end
        //% end
        //% for c in QUADS
        //% for j in KEYS
        {
            let x = subgroupBroadcast(k[(#j * QUADS + #c) / L], (#j * QUADS + #c) % L);
            let y = subgroupBroadcast(v[(#j * QUADS + #c) / L], (#j * QUADS + #c) % L);
            //% for r in R
            s#r#j += dot(q#r#c, x);
            t#r#j += dot(g#r#c, y);
            //% end
        }
        //% end
        //% end
        //% for r in R
        //% for j in KEYS
        //% if MASKED
        let at#r#j = mask#r + min(j + #j, end - 1u) * $mask_step;
        let seen#r#j = j + #j < limit#r && keeps(at#r#j);
        let p#r#j = exp1(s#r#j * scale + added(at#r#j) - lse#r, 0u);
        //% else
        let seen#r#j = j + #j < limit#r;
        let p#r#j = exp1(s#r#j * scale - lse#r, 0u);
        //% end
        let e#r#j = select(0.0, scale * (p#r#j * (t#r#j - delta#r)), seen#r#j);
        //% end
        //% end
        //% for c in QUADS
        //% for j in KEYS
        {
            let x = subgroupBroadcast(k[(#j * QUADS + #c) / L], (#j * QUADS + #c) % L);
            //% for r in R
            d#r#c += e#r#j * x;
            //% end
        }
        //% end
        //% end
    }
    for (var c = 0u; c < $quads; c++) {
        //% for r in R
        if first + #r * L + lane < $rows {
            var x = vec4<f32>();
            //% for c in QUADS
            x = select(x, d#r#c, c == #c);
            //% end
            d_q_store4(d_q_at(row#r) / 4u + c, x, 4u);
        }
        //% end
    }
}
