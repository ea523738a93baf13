
// dx = y (dy - sum(dy y)), or dx = dy - exp(y) sum(dy) for the logarithm (LOG).
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let y = y_row(row);
    let dy = dy_row(row);
    let dx = dx_row(row);
    var sum = T(0.0);
    var j = mine;
    while j < $items {
        var part = T(0.0);
        let stop = min(j + 16u * L, $items);
        for (; j < stop; j += L) {
//% if LOG
            part += dy_get(dy, j);
//% else
            part += dy_get(dy, j) * y_get(y, j);
//% end
        }
        sum += part;
    }
    let along = row_sum(lane, total(sum));
    if stored {
        for (j = mine; j < $items; j += L) {
//% if LOG
            dx_set(dx, j, dy_get(dy, j) - exps(y_get(y, j)) * along);
//% else
            dx_set(dx, j, y_get(y, j) * (dy_get(dy, j) - along));
//% end
        }
    }
}
