
// dx = dlosses (exp(logits - lse) - (column == target)), 0 in ignored rows.
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let dx = dx_row(row);
    let wanted = targets_bits(targets_at(row));
    let counts = wanted < $n && ($ignores == 0u || wanted != $ignored);
    if $ignores == 0u || wanted != $ignored {
        if wanted >= $n {
            misplaced(wanted, $n);
        }
    }
    if !stored {
        return;
    }
    if !counts {
        for (var j = mine; j < $items; j += L) {
            dx_set(dx, j, T(0.0));
        }
        return;
    }
    let lse = lse_load(lse_at(row));
    let scale = dlosses_load(dlosses_at(row));
    for (var j = mine; j < $items; j += L) {
        let p = exps(x_get(x, j) - lse);
//% if FOUR
        let here = 4u * TU(j) + TU(0u, 1u, 2u, 3u);
//% else
        let here = j;
//% end
        dx_set(dx, j, scale * (p - select(T(0.0), T(1.0), here == TU(wanted))));
    }
}
