
// An invocation reduces part p of column o, or of four columns beside each other (FOUR):
// `value(r)` is row r of the columns that `begin` chose.

fn put(column: u32, part: u32, v: f32, extra: f32, at: u32) {
//% if PARTS
    let place = part * $columns + column;
    a_store(a_at(0u) + place, v);
//% if ARG
    b_put(b_at(0u) + place, at);
//% end
//% if VAR
    b_store(b_at(0u) + place, extra);
//% end
//% else
//% if ARG
    y_put(y_at(column), at);
//% end
//% if TOP
    y_store(y_at(column), v);
//% end
//% if ADD
    y_store(y_at(column), finished(v));
//% end
//% if VAR
    y_store(y_at(column), finished(extra));
//% end
//% end
}

fn put_all(o: u32, part: u32, v: T, extra: T, at: TU) {
//% if FOUR
    for (var k = 0u; k < 4u; k++) {
        put(4u * o + k, part, v[k], extra[k], at[k]);
    }
//% else
    put(o, part, v, extra, at);
//% end
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = (w.y * n.x + w.x) * WG + lane;
    let p = job / $items;
    let o = job % $items;
    if p >= $parts {
        return;
    }
    begin(o * STEP);
    let start = p * $chunk;
    let end = min(start + $chunk, $n);
    var r = start;
//% if ADD
    var sum = T(0.0);
    while r < end {
        var part = T(0.0);
        let stop = min(r + $block, end);
        for (; r < stop; r++) {
            part += value(r);
        }
        sum += part;
    }
    put_all(o, p, sum, T(0.0), TU(0u));
//% end
//% if TOP
    var best = T(bitcast<f32>($worst));
    for (; r < end; r++) {
        best = better(best, value(r));
    }
    put_all(o, p, best, T(0.0), TU(0u));
//% end
//% if ARG
    var best = Best(T(0.0), TU(NOWHERE));
    for (; r < end; r++) {
        best = better(best, Best(value(r), TU(r)));
    }
    put_all(o, p, best.value, T(0.0), best.at);
//% end
//% if VAR
    var sum = T(0.0);
    while r < end {
        var part = T(0.0);
        let stop = min(r + $block, end);
        for (; r < stop; r++) {
            part += value(r);
        }
        sum += part;
    }
    let count = f32(end - start);
    let mean = sum / count;
    var distances = T(0.0);
    var squares = T(0.0);
    r = start;
    while r < end {
        var part = T(0.0);
        let stop = min(r + $block, end);
        for (; r < stop; r++) {
            let d = value(r) - mean;
            distances += d;
            part += d * d;
        }
        squares += part;
    }
    let rest = distances / count;
    let around = squares - rest * rest * count;
    put_all(o, p, mean + rest, select(around, T(0.0), around < T(0.0)), TU(0u));
//% end
}
