
// The gradient that reaches the normalised value.
fn inner(dy: u32, j: u32) -> T {
//% if WEIGHT
    return dy_get(dy, j) * weight_get(weight_row(0u), j);
//% else
    return dy_get(dy, j);
//% end
}

// dx = rstd (g - mean(g) - normal mean(g normal)), g = dy weight; LAYER has means.
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let dy = dy_row(row);
    let dx = dx_row(row);
    let rstd = rstd_load(rstd_at(row));
    var mean = 0.0;
//% if LAYER
    mean = mean_load(mean_at(row));
//% end
    var along = T(0.0);
    var shift = T(0.0);
    var j = mine;
    while j < $items {
        var along_part = T(0.0);
        var shift_part = T(0.0);
        let stop = min(j + 16u * L, $items);
        for (; j < stop; j += L) {
            let g = inner(dy, j);
            along_part += g * ((x_get(x, j) - mean) * rstd);
//% if LAYER
            shift_part += g;
//% end
        }
        along += along_part;
        shift += shift_part;
    }
    let slope = row_sum(lane, total(along)) / f32($n);
    var level = 0.0;
//% if LAYER
    level = row_sum(lane, total(shift)) / f32($n);
//% end
    if stored {
        for (j = mine; j < $items; j += L) {
            let normal = (x_get(x, j) - mean) * rstd;
            dx_set(dx, j, rstd * (inner(dy, j) - level - normal * slope));
        }
    }
}
