// Product without workgroup memory: each invocation owns R rows and four columns of c. Rows of a
// are shared by all invocations of a workgroup; with SG each reads a part of them and the subgroup
// passes it on, which pays where a load costs more than a broadcast.
//
// AM: fours of a lie along m, else along k. BK: fours of b lie along k, else along n.
// `a_four`, `b_four` and `emit` come from plan/gemm; rows and columns beyond the edge are computed
// from the last ones and not stored.

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
//% if SG
    @builtin(subgroup_invocation_id) part: u32,
//% end
) {
    let group = w.y * n.x + w.x;
    let tall = group / $across;
    let job = tall / $down;
    let z = job % $batches;
    let row0 = (tall - job * $down) * R;
    let q_n = (group - tall * $across) * WG + lane;
    let column = min(q_n, ($n - 1u) / 4u);
    let last_row = $m - 1u;
    let a0 = a_at(z);
    let b0 = b_at(z);
    let first = (job / $batches) * $per_slice;
    let last = min(first + $per_slice, ($k + 3u) / 4u);
    var acc = array<Sums, R>();
    for (var q = first; q < last; q++) {
//% if SG
        var x: array<Quad, LOADS>;
//% for u in LOADS
//% if AM
        x[#u] = a_four(
            a0,
            4u * q + #u * KPL + (part / QUADS) % KPL,
            min(row0 / 4u + part % QUADS, last_row / 4u),
        );
//% else
        x[#u] = a_four(a0, min(row0 + 8u * #u + part % min(R, 8u), last_row), q);
//% end
//% end
//% else
//% if AM
        var x: array<Quad, R>;
//% for t in FOUR
//% for u in QUADS
        x[#u * 4 + #t] = a_four(a0, 4u * q + #t, min(row0 / 4u + #u, last_row / 4u));
//% end
//% end
//% else
        var x: array<Quad, R>;
//% for u in R
        x[#u] = a_four(a0, min(row0 + #u, last_row), q);
//% end
//% end
//% end
        var b: array<Quad, 4>;
//% if BK
        var y: array<Quad, 4>;
//% for v in FOUR
        y[#v] = b_four(b0, min(4u * q_n + #v, $n - 1u), q);
//% end
//% for t in FOUR
        b[#t] = Quad(y[0][#t], y[1][#t], y[2][#t], y[3][#t]);
//% end
//% else
//% for t in FOUR
        b[#t] = b_four(b0, 4u * q + #t, column);
//% end
//% end
        // A row at a time: its sums stay in registers while four terms are added.
//% for r in R
//% for t in FOUR
//% if SG
//% if AM
        acc[#r] = with_term(
            subgroupBroadcast(x[#t / KPL][#r % 4], #t % KPL * QUADS + #r / 4u),
            b[#t],
            acc[#r],
        );
//% else
        acc[#r] = with_term(
            subgroupBroadcast(x[#r / 8][#t], #r % 8u),
            b[#t],
            acc[#r],
        );
//% end
//% else
//% if AM
        acc[#r] = with_term(x[#r / 4 * 4 + #t][#r % 4], b[#t], acc[#r]);
//% else
        acc[#r] = with_term(x[#r][#t], b[#t], acc[#r]);
//% end
//% end
//% end
//% end
    }
    if 4u * q_n >= $n || job >= $jobs {
        return;
    }
//% if LONG
    // One copy of a long epilogue, not R of them.
    for (var r = 0u; r < min(R, $m - row0); r++) {
        var sum = acc[0];
//% for s in R
        sum = select(sum, acc[#s], r == #s);
//% end
        emit(job, z, row0 + r, q_n, sum);
    }
//% else
//% for r in R
    if row0 + #r < $m {
        emit(job, z, row0 + #r, q_n, acc[#r]);
    }
//% end
//% end
}
