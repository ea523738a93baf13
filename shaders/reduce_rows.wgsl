
// The invocations of a segment (part p of row o) reduce it: `value(j)` is step j of the row that
// `begin` chose. With STATES these are what a first stage left: `place(j)` the positions of ARG;
// for VAR `value` is the mean of `weight(j)` elements and `spread(j)` the sum of their squared
// distances from it. TAIL: the last four reach beyond the row.

fn masked(v: T, j: u32, other: f32) -> T {
//% if TAIL
    return select(T(other), v, 4u * TU(j) + TU(0u, 1u, 2u, 3u) < TU($n));
//% else
    return v;
//% end
}

//% if ORDER
var<workgroup> values: array<f32, WG>;
//% end

//% if TOP
// The best of a row, known to its first invocation.
fn row_best(lane: u32, best: T) -> f32 {
    var mine = best;
//% if FOUR
    mine = better(better(T(best.x), T(best.y)), better(T(best.z), T(best.w)));
//% end
//% if MANY
    values[lane] = one(mine);
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane % L < half {
            mine = better(mine, T(values[lane + half]));
            values[lane] = one(mine);
        }
    }
//% end
    return one(mine);
}
//% end

//% if ARG
var<workgroup> places: array<u32, WG>;

//% if STATES
//% else
fn place(j: u32) -> TU {
//% if FOUR
    let at = 4u * TU(j) + TU(0u, 1u, 2u, 3u);
//% else
    let at = j;
//% end
//% if TAIL
    return select(TU(NOWHERE), at, at < TU($n));
//% else
    return at;
//% end
}
//% end

fn row_best(lane: u32, best: Best) -> vec2<u32> {
    var mine = best;
//% if FOUR
    mine = Best(T(best.value.x), TU(best.at.x));
    mine = better(mine, Best(T(best.value.y), TU(best.at.y)));
    mine = better(mine, Best(T(best.value.z), TU(best.at.z)));
    mine = better(mine, Best(T(best.value.w), TU(best.at.w)));
//% end
//% if MANY
    values[lane] = one(mine.value);
    places[lane] = one_place(mine.at);
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane % L < half {
            mine = better(mine, Best(T(values[lane + half]), TU(places[lane + half])));
            values[lane] = one(mine.value);
            places[lane] = one_place(mine.at);
        }
    }
//% end
    return vec2<u32>(bitcast<u32>(one(mine.value)), one_place(mine.at));
}

fn one_place(v: TU) -> u32 {
//% if FOUR
    return v.x;
//% else
    return v;
//% end
}
//% end

//% if VAR
fn weighed(j: u32) -> T {
//% if STATES
    return value(j) * weight(j);
//% else
    return masked(value(j), j, 0.0);
//% end
}
//% end

fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let o = row / $parts;
    let start = (row % $parts) * $chunk;
    let end = min(start + $chunk, $items);
    begin(o);
    var j = start + mine;
//% if ADD
    var sum = T(0.0);
    while j < end {
        // Blocks keep chains of additions short.
        var part = T(0.0);
        let stop = min(j + $block, end);
        for (; j < stop; j += L) {
            part += masked(value(j), j, 0.0);
        }
        sum += part;
    }
    let out = row_sum(lane, total(sum));
    if stored && mine == 0u {
//% if PARTS
        a_store(a_at(row), out);
//% else
        y_store(y_at(o), finished(out));
//% end
    }
//% end
//% if TOP
    let worst = bitcast<f32>($worst);
    var best = T(worst);
    for (; j < end; j += L) {
        best = better(best, masked(value(j), j, worst));
    }
    let out = row_best(lane, best);
    if stored && mine == 0u {
//% if PARTS
        a_store(a_at(row), out);
//% else
        y_store(y_at(o), out);
//% end
    }
//% end
//% if ARG
    var best = Best(T(0.0), TU(NOWHERE));
    for (; j < end; j += L) {
        best = better(best, Best(value(j), place(j)));
    }
    let out = row_best(lane, best);
    if stored && mine == 0u {
//% if PARTS
        a_put(a_at(row), out.x);
        b_put(b_at(row), out.y);
//% else
        y_put(y_at(o), out.y);
//% end
    }
//% end
//% if VAR
    // Twice over the row: the mean, then distances from it, corrected by their own mean.
//% if STATES
    let count = f32($all);
//% else
    let count = f32(min(end * STEP, $n) - start * STEP);
//% end
    var sum = T(0.0);
    while j < end {
        var part = T(0.0);
        let stop = min(j + $block, end);
        for (; j < stop; j += L) {
            part += weighed(j);
        }
        sum += part;
    }
    let mean = row_sum(lane, total(sum)) / count;
    var distances = T(0.0);
    var squares = T(0.0);
    j = start + mine;
    while j < end {
        var part = T(0.0);
        let stop = min(j + $block, end);
        for (; j < stop; j += L) {
//% if STATES
            let d = value(j) - mean;
            distances += weight(j) * d;
            part += weight(j) * d * d + spread(j);
//% else
            let d = masked(value(j) - mean, j, 0.0);
            distances += d;
            part += d * d;
//% end
        }
        squares += part;
    }
    let rest = row_sum(lane, total(distances)) / count;
    let around = row_sum(lane, total(squares)) - rest * rest * count;
    let out = select(around, 0.0, around < 0.0);
    if stored && mine == 0u {
//% if PARTS
        a_store(a_at(row), mean + rest);
        b_store(b_at(row), out);
//% else
        y_store(y_at(o), finished(out));
//% end
    }
//% end
}
