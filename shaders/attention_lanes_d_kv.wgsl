// attention_d_kv.wgsl for a driver on the processor: the lanes of a subgroup load tiles of q and
// d_out together, as in attention_lanes.wgsl, and each holds a key, its value and their gradients.
//
// What a query does not see has weight 0, which spoils the result where it is infinite: where
// anything is hidden, attention_d_kv.wgsl computes again what is not finite.

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
    let kv_head = group / $blocks;
    let first = (group % $blocks) * L;
    let key = min(first + lane, $keys - 1u);
    let begin = max(first + 1u, $diagonal) - $diagonal;
    let row = kv_head * $keys + key;
    let k_first = k_at(row) / 4u;
    let v_first = v_at(row) / 4u;
    //% for i in LOADS
    let query#i = (#i * L + lane) / QUADS;
    let part#i = (#i * L + lane) % QUADS;
    //% end
    //% for c in QUADS
    var k#c: vec4<f32>;
    var v#c: vec4<f32>;
    var dk#c = vec4<f32>();
    var dv#c = vec4<f32>();
    //% end
    for (var c = 0u; c < $quads; c++) {
        let x = k_load4(k_first + c);
        let y = v_load4(v_first + c);
        //% for c in QUADS
        k#c = select(k#c, x, c == #c);
        v#c = select(v#c, y, c == #c);
        //% end
    }
    let scale = bitcast<f32>($scale);
    for (var h = 0u; h < $heads_per_kv_head; h++) {
        let head = kv_head * $heads_per_kv_head + h;
        let q_first = q_at(head);
        let g_first = d_out_at(head);
        //% if MASKED
        let mask = mask_at(head) + key * $mask_step;
        //% end
        for (var i = begin; i < $queries; i += QUERIES) {
            var q: array<vec4<f32>, LOADS>;
            var g: array<vec4<f32>, LOADS>;
            //% for i in LOADS
            let from#i = min(i + query#i, $queries - 1u);
            q[#i] = q_load4((q_first + from#i * $q_row) / 4u + part#i);
            g[#i] = d_out_load4((g_first + from#i * $d_out_row) / 4u + part#i);
            //% end
            // The log-sum-exp and delta of each query.
            let which = min(2u * i + lane % (2u * QUERIES), 2u * $queries - 1u);
            let saved = rows_load(rows_at(2u * head * $queries + which));
            //% for i in QUERIES
            var s#i = 0.0;
            var t#i = 0.0;
            //% end
            //% for c in QUADS
            //% for i in QUERIES
            {
                let x = subgroupBroadcast(q[(#i * QUADS + #c) / L], (#i * QUADS + #c) % L);
                let y = subgroupBroadcast(g[(#i * QUADS + #c) / L], (#i * QUADS + #c) % L);
                s#i += dot(k#c, x);
                t#i += dot(v#c, y);
            }
            //% end
            //% end
            //% for i in QUERIES
            let lse#i = subgroupBroadcast(saved, 2u * #i);
            let delta#i = subgroupBroadcast(saved, 2u * #i + 1u);
            //% if MASKED
            let at#i = mask + min(i + #i, $queries - 1u) * $mask_row;
            let seen#i = i + #i < $queries && key < i + #i + $diagonal && keeps(at#i);
            let x#i = s#i * scale + added(at#i) - lse#i;
            //% else
            let seen#i = i + #i < $queries && key < i + #i + $diagonal;
            let x#i = s#i * scale - lse#i;
            //% end
            let p#i = select(0.0, exp1(x#i, 0u), seen#i);
            let e#i = select(0.0, scale * (p#i * (t#i - delta#i)), seen#i);
            //% end
            //% for c in QUADS
            //% for i in QUERIES
            {
                let x = subgroupBroadcast(q[(#i * QUADS + #c) / L], (#i * QUADS + #c) % L);
                let y = subgroupBroadcast(g[(#i * QUADS + #c) / L], (#i * QUADS + #c) % L);
                dv#c += p#i * y;
                dk#c += e#i * x;
            }
            //% end
            //% end
        }
    }
    for (var c = 0u; c < $quads; c++) {
        if first + lane < $keys {
            var x = vec4<f32>();
            var y = vec4<f32>();
            //% for c in QUADS
            x = select(x, dk#c, c == #c);
            y = select(y, dv#c, c == #c);
            //% end
            d_k_store4(d_k_at(row) / 4u + c, x, 4u);
            d_v_store4(d_v_at(row) / 4u + c, y, 4u);
        }
    }
}
