
// y = exp(x - max) / sum(exp(x - max)), or its logarithm (LOG).
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let y = y_row(row);
    let e = exponentials(x, lane, mine);
//% if LOG
    let log_sum = ln(e.y, 0u);
//% else
    let scale = 1.0 / e.y;
//% end
    if stored {
        for (var j = mine; j < $items; j += L) {
//% if LOG
            y_set(y, j, (x_get(x, j) - e.x) - log_sum);
//% else
            y_set(y, j, exps(x_get(x, j) - e.x) * scale);
//% end
        }
    }
}
