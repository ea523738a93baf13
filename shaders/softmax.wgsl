
// y = exp(x - max) / sum(exp(x - max)), or its logarithm (LOG). With KEEP the exponentials wait in
// y for the sum, else they are computed again.
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let y = y_row(row);
    let top = largest(x, lane, mine);
    let sum = exponentials(x, y, top, lane, mine, stored);
    if !stored {
        return;
    }
//% if LOG
    let log_sum = ln(sum, 0u);
    for (var j = mine; j < $items; j += L) {
        y_set(y, j, (x_get(x, j) - top) - log_sum);
    }
//% else
    let scale = 1.0 / sum;
    for (var j = mine; j < $items; j += L) {
//% if KEEP
        y_set(y, j, y_get(y, j) * scale);
//% else
        y_set(y, j, exps(x_get(x, j) - top) * scale);
//% end
    }
//% end
}
