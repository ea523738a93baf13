// Product through workgroup memory: a workgroup of SIDE x SIDE invocations owns TILE x TILE
// elements of c, each invocation eight rows and eight columns of them, in steps of 16 along k.
//
// AM: fours of a lie along m, else along k. BK: fours of b lie along k, else along n. `a_four`,
// `b_four` and `emit` come from plan/gemm; rows and columns beyond the edge are computed from the
// last ones and not stored.

alias Four = vec4<ELEMENT>;

// Along k: [row][4 quads]; along m: [16][row quads]. A quad of padding for every four rows keeps
// neighbours in different banks.
var<workgroup> a_tile: array<Four, TILE * 4u + TILE / 4u>;
var<workgroup> b_tile: array<Four, TILE * 4u + TILE / 4u>;

fn beside_k(line: u32, q: u32) -> u32 {
    return line * 4u + q + line / 4u;
}

@compute @workgroup_size(SIDE * SIDE)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = w.y * n.x + w.x;
    let tall = group / $across;
    let job = tall / $down;
    let z = min(job, $jobs - 1u) % $batches;
    let row0 = (tall - job * $down) * TILE;
    let column0 = (group - tall * $across) * TILE;
    let tx = lane % SIDE;
    let ty = lane / SIDE;
    let last_row = $m - 1u;
    let last_column = $n - 1u;
    let a0 = a_at(z);
    let b0 = b_at(z);
    let first = (job / $batches) * $per_slice;
    let last = min(first + $per_slice, ($k + 3u) / 4u);
    var acc = array<Sums, 16>();
    for (var q = first; q < last; q += 4u) {
        for (var i = lane; i < TILE * 4u; i += SIDE * SIDE) {
//% if AM
            let la = i / (TILE / 4u);
            let ra = min((row0 + 4u * (i % (TILE / 4u))), last_row) / 4u;
            let va = a_four(a0, min(4u * q + la, 4u * last - 1u), ra);
            a_tile[i] = select(Four(), Four(va), q + la / 4u < last);
//% else
            let va = a_four(a0, min(row0 + i / 4u, last_row), min(q + i % 4u, last - 1u));
            a_tile[beside_k(i / 4u, i % 4u)] = select(Four(), Four(va), q + i % 4u < last);
//% end
//% if BK
            let vb = b_four(b0, min(column0 + i / 4u, last_column), min(q + i % 4u, last - 1u));
            b_tile[beside_k(i / 4u, i % 4u)] = select(Four(), Four(vb), q + i % 4u < last);
//% else
            let lb = i / (TILE / 4u);
            let cb = min((column0 + 4u * (i % (TILE / 4u))), last_column) / 4u;
            let vb = b_four(b0, min(4u * q + lb, 4u * last - 1u), cb);
            b_tile[i] = select(Four(), Four(vb), q + lb / 4u < last);
//% end
        }
        workgroupBarrier();
        for (var s = 0u; s < 4u; s++) {
            var x: array<Quad, 8>;
//% if AM
//% for t in FOUR
            x[#t] = Quad(a_tile[(4u * s + #t) * (TILE / 4u) + 2u * ty]);
            x[4 + #t] = Quad(a_tile[(4u * s + #t) * (TILE / 4u) + 2u * ty + 1u]);
//% end
//% else
//% for r in EIGHT
            x[#r] = Quad(a_tile[beside_k(8u * ty + #r, s)]);
//% end
//% end
            var b: array<Quad, 8>;
//% if BK
            var y: array<Quad, 8>;
//% end
//% for h in TWO
//% if BK
//% for v in FOUR
            y[#h * 4 + #v] = Quad(b_tile[beside_k(TILE / 2u * #h + 4u * tx + #v, s)]);
//% end
//% for t in FOUR
            b[#h * 4 + #t] = Quad(
                y[#h * 4][#t], y[#h * 4 + 1][#t], y[#h * 4 + 2][#t], y[#h * 4 + 3][#t],
            );
//% end
//% else
//% for t in FOUR
            b[#h * 4 + #t] = Quad(b_tile[(4u * s + #t) * (TILE / 4u) + SIDE * #h + tx]);
//% end
//% end
//% end
//% for r in EIGHT
//% for h in TWO
//% for t in FOUR
//% if AM
            acc[#r * 2 + #h] = with_term(
                x[#r / 4 * 4 + #t][#r % 4],
                b[#h * 4 + #t],
                acc[#r * 2 + #h],
            );
//% else
            acc[#r * 2 + #h] = with_term(
                x[#r][#t],
                b[#h * 4 + #t],
                acc[#r * 2 + #h],
            );
//% end
//% end
//% end
//% end
        }
        workgroupBarrier();
    }
    if job >= $jobs {
        return;
    }
//% if LONG
    // One copy of a long epilogue, not sixteen of them.
    for (var r = 0u; r < 16u; r++) {
        var sum = acc[0];
//% for s in SIXTEEN
        sum = select(sum, acc[#s], r == #s);
//% end
        let row = row0 + 8u * ty + r / 2u;
        let q_n = column0 / 4u + SIDE * (r % 2u) + tx;
        if row < $m && 4u * q_n < $n {
            emit(job, z, row, q_n, sum);
        }
    }
//% else
//% for r in EIGHT
//% for h in TWO
    if row0 + 8u * ty + #r < $m && column0 + 4u * (SIDE * #h + tx) < $n {
        emit(job, z, row0 + 8u * ty + #r, column0 / 4u + SIDE * #h + tx, acc[#r * 2 + #h]);
    }
//% end
//% end
//% end
}
