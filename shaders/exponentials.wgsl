
// The largest element of a row of `x`.
fn largest(x: u32, lane: u32, mine: u32) -> f32 {
    var top = T(bitcast<f32>($lowest));
    for (var j = mine; j < $items; j += L) {
        top = max(top, x_get(x, j));
    }
    return row_max(lane, most(top));
}

// The sum of the exponentials of the distances of a row of `x` to its largest element.
fn exponentials(x: u32, row: u32, top: f32, lane: u32, mine: u32, stored: bool) -> f32 {
    var sum = T(0.0);
    var j = mine;
    while j < $items {
        // Blocks keep chains of additions short.
        var part = T(0.0);
        let stop = min(j + $block, $items);
        for (; j < stop; j += L) {
            let e = exps(x_get(x, j) - top);
            part += e;
//% if KEEP
            if stored {
                y_set(row, j, e);
            }
//% end
        }
        sum += part;
    }
    return row_sum(lane, total(sum));
}
