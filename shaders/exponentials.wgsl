
// The largest element of a row of `x` and the sum of the exponentials of the distances to it.
fn exponentials(x: u32, lane: u32, mine: u32) -> vec2<f32> {
    var top = T(bitcast<f32>($lowest));
    for (var j = mine; j < $items; j += L) {
        top = max(top, x_get(x, j));
    }
    let largest = row_max(lane, most(top));
    var sum = T(0.0);
    var j = mine;
    while j < $items {
        // Blocks keep chains of additions short.
        var part = T(0.0);
        let stop = min(j + 16u * L, $items);
        for (; j < stop; j += L) {
            part += exps(x_get(x, j) - largest);
        }
        sum += part;
    }
    return vec2<f32>(largest, row_sum(lane, total(sum)));
}
