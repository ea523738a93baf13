
// losses = lse - logits[target], lse = log(sum(exp(logits))); no loss where the target is ignored
// or no column.
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let top = largest(x, lane, mine);
    let log_sum = ln(exponentials(x, 0u, top, lane, mine, false), 0u);
    if !stored || mine != 0u {
        return;
    }
    let wanted = targets_bits(targets_at(row));
    var loss = 0.0;
    if $ignores == 0u || wanted != $ignored {
        if wanted < $n {
            loss = log_sum - (x_pick(x, wanted) - top);
        } else {
            misplaced(wanted, $n);
        }
    }
    losses_store(losses_at(row), loss);
    lse_store(lse_at(row), top + log_sum);
}
