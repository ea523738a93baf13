
// losses = lse - logits[target], lse = log(sum(exp(logits))).
fn rows_of(row: u32, stored: bool, lane: u32, mine: u32) {
    let x = x_row(row);
    let e = exponentials(x, lane, mine);
    if stored && mine == 0u {
        let log_sum = ln(e.y, 0u);
        let wanted = targets_bits(targets_at(row));
        var loss = 0.0;
        if $ignores == 0u || wanted != $ignored {
            if wanted < $n {
                loss = log_sum - (x_pick(x, wanted) - e.x);
            } else {
                misplaced(wanted, $n);
            }
        }
        losses_store(losses_at(row), loss);
        lse_store(lse_at(row), e.x + log_sum);
    }
}
