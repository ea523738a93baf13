// Few rows by a matrix whose columns lie along k: a workgroup owns R rows and four columns of c.
// Its lanes read a line together and their sums are added in a tree.
//
// `a_four`, `b_four`, `with_term` and `emit` come from plan/gemm.

var<workgroup> sums: array<array<Sums, R>, WG>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = w.y * n.x + w.x;
    let tall = group / $across;
    let job = tall / $down;
    let z = job % $batches;
    let row0 = (tall - job * $down) * R;
    let q_n = group - tall * $across;
    let a0 = a_at(z);
    let b0 = b_at(z);
    let first = (job / $batches) * $per_slice;
    let last = min(first + $per_slice, ($k + 3u) / 4u);
    var acc = array<Sums, R>();
    for (var q = first + lane; q < last; q += WG) {
        var y: array<Quad, 4>;
//% for v in FOUR
        y[#v] = b_four(b0, min(4u * q_n + #v, $n - 1u), q);
//% end
//% for r in R
        let x#r = a_four(a0, min(row0 + #r, $m - 1u), q);
//% for t in FOUR
        acc[#r] = with_term(x#r[#t], Quad(y[0][#t], y[1][#t], y[2][#t], y[3][#t]), acc[#r]);
//% end
//% end
    }
    sums[lane] = acc;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
//% for r in R
            sums[lane][#r] += sums[lane + half][#r];
//% end
        }
    }
    if lane == 0u && job < $jobs {
        for (var r = 0u; r < min(R, $m - row0); r++) {
            emit(job, z, row0 + r, q_n, sums[0][r]);
        }
    }
}
