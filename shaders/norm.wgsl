
fn weighted(x: T, j: u32) -> T {
    var y = x;
//% if WEIGHT
    y *= weight_get(weight_row(0u), j);
//% end
//% if BIAS
    y += bias_get(bias_row(0u), j);
//% end
    return y;
}

// y = (x - mean) rstd weight + bias; LAYER has a mean. The variance is taken from the distances to
// the rounded mean, corrected by their own mean (Chan, Golub, LeVeque 1983).
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let y = y_row(row);
    let count = f32($n);
    var mean = 0.0;
//% if LAYER
    mean = row_mean(x, lane, mine) / count;
//% end
    var distances = T(0.0);
    var squares = T(0.0);
    var j = mine;
    while j < $items {
        var part = T(0.0);
        let stop = min(j + 16u * L, $items);
        for (; j < stop; j += L) {
            let d = x_get(x, j) - mean;
            part += d * d;
//% if LAYER
            distances += d;
//% end
        }
        squares += part;
    }
    var square = row_sum(lane, total(squares));
//% if LAYER
    let rest = row_sum(lane, total(distances)) / count;
    square -= rest * rest * count;
    square = select(square, 0.0, square < 0.0);
    mean += rest;
//% end
    let rstd = 1.0 / sqrt(square / count + bitcast<f32>($eps));
    if stored {
        for (j = mine; j < $items; j += L) {
            y_set(y, j, weighted((x_get(x, j) - mean) * rstd, j));
        }
        if mine == 0u {
            rstd_store(rstd_at(row), rstd);
//% if LAYER
            mean_store(mean_at(row), mean);
//% end
        }
    }
}

//% if LAYER
fn row_mean(x: u32, lane: u32, mine: u32) -> f32 {
    var sum = T(0.0);
    var j = mine;
    while j < $items {
        var part = T(0.0);
        let stop = min(j + 16u * L, $items);
        for (; j < stop; j += L) {
            part += x_get(x, j);
        }
        sum += part;
    }
    return row_sum(lane, total(sum));
}
//% end
