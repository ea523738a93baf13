// Product on cooperative matrices of SIZE x SIZE, f16 in and f32 out: four subgroups own 64 x 64
// elements of c, 32 x 32 each, in steps of 16 along k. Sums leave through workgroup memory, where
// the epilogue finds four neighbours in a row.
//
// AM: fours of a lie along m, else along k. BK: fours of b lie along k, else along n. `a_four`,
// `b_four` and `emit` come from plan/gemm.

//% if WIDE
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
//% else
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
//% end

// [row][k], [k][column], [row][column]
var<workgroup> a_tile: array<f16, 1024>;
var<workgroup> b_tile: array<f16, 1024>;
var<workgroup> c_tile: array<f32, 4096>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) part: u32,
) {
    let group = w.y * n.x + w.x;
    let tall = group / $across;
    let job = tall / $down;
    let z = job % $batches;
    let row0 = (tall - job * $down) * 64u;
    let column0 = (group - tall * $across) * 64u;
    let last_row = $m - 1u;
    let last_column = $n - 1u;
    let a0 = a_at(z);
    let b0 = b_at(z);
    let first = (job / $batches) * $per_slice;
    let last = min(first + $per_slice, ($k + 3u) / 4u);
    // The subgroup's quarter.
    let down = part / 2u * 32u;
    let right = part % 2u * 32u;
//% for i in PARTS
//% for j in PARTS
    var c#i#j = Sum();
//% end
//% end
    for (var q = first; q < last; q += 4u) {
        for (var i = lane; i < 256u; i += 128u) {
//% if AM
            let la = i / 16u;
            let ra = 4u * (i % 16u);
            let va = a_four(a0, min(4u * q + la, 4u * last - 1u), min(row0 + ra, last_row) / 4u);
            let xa = select(vec4<f16>(), vec4<f16>(va), q + la / 4u < last);
//% for v in FOUR
            a_tile[(ra + #v) * 16u + la] = xa[#v];
//% end
//% else
            let ra = i / 4u;
            let qa = i % 4u;
            let va = a_four(a0, min(row0 + ra, last_row), min(q + qa, last - 1u));
            let xa = select(vec4<f16>(), vec4<f16>(va), q + qa < last);
//% for v in FOUR
            a_tile[ra * 16u + 4u * qa + #v] = xa[#v];
//% end
//% end
//% if BK
            let cb = i / 4u;
            let qb = i % 4u;
            let vb = b_four(b0, min(column0 + cb, last_column), min(q + qb, last - 1u));
            let xb = select(vec4<f16>(), vec4<f16>(vb), q + qb < last);
//% for v in FOUR
            b_tile[(4u * qb + #v) * 64u + cb] = xb[#v];
//% end
//% else
            let lb = i / 16u;
            let cb = 4u * (i % 16u);
            let column = min(column0 + cb, last_column) / 4u;
            let vb = b_four(b0, min(4u * q + lb, 4u * last - 1u), column);
            let xb = select(vec4<f16>(), vec4<f16>(vb), q + lb / 4u < last);
//% for v in FOUR
            b_tile[lb * 64u + cb + #v] = xb[#v];
//% end
//% end
        }
        workgroupBarrier();
//% for s in STEPS
//% for i in PARTS
        let a#s#i = coopLoadT<Left>(&a_tile[(down + #i * SIZE) * 16u + #s * SIZE], 16u);
//% end
//% for j in PARTS
        let b#s#j = coopLoadT<Right>(&b_tile[#s * SIZE * 64u + right + #j * SIZE], 64u);
//% end
//% for i in PARTS
//% for j in PARTS
        c#i#j = coopMultiplyAdd(a#s#i, b#s#j, c#i#j);
//% end
//% end
//% end
        workgroupBarrier();
    }
//% for i in PARTS
//% for j in PARTS
    coopStoreT(c#i#j, &c_tile[(down + #i * SIZE) * 64u + right + #j * SIZE], 64u);
//% end
//% end
    workgroupBarrier();
    for (var i = lane; i < 1024u; i += 128u) {
        let row = i / 16u;
        let q = i % 16u;
        if row0 + row < $m && column0 + 4u * q < $n && job < $jobs {
            let at = row * 64u + 4u * q;
            let sum = vec4<f32>(c_tile[at], c_tile[at + 1u], c_tile[at + 2u], c_tile[at + 3u]);
            emit(job, z, row0 + row, column0 / 4u + q, sum);
        }
    }
}
