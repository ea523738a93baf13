// dweight = sum over rows of dy normal, dbias = sum over rows of dy: an invocation for each column
// (four of them with FOUR) and part of the rows. Sums of parts go to memory for a second stage.

//% if FOUR
alias T = vec4<f32>;
//% else
alias T = f32;
//% end

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = (w.y * n.x + w.x) * WG + lane;
    let j = job % $items;
    let part = job / $items;
    if part >= $parts {
        return;
    }
    var weight = T(0.0);
    var bias = T(0.0);
    var row = part * $chunk;
    let end = min(row + $chunk, $rows);
    while row < end {
        var weight_block = T(0.0);
        var bias_block = T(0.0);
        let stop = min(row + 16u, end);
        for (; row < stop; row++) {
            let dy = dy_get(dy_row(row), j);
//% if WEIGHT
            var mean = 0.0;
//% if LAYER
            mean = mean_load(mean_at(row));
//% end
            let rstd = rstd_load(rstd_at(row));
            weight_block += dy * ((x_get(x_row(row), j) - mean) * rstd);
//% end
            bias_block += dy;
        }
        weight += weight_block;
        bias += bias_block;
    }
//% if WEIGHT
    dw_set(dw_row(part), j, weight);
//% end
//% if BIAS
    db_set(db_row(part), j, bias);
//% end
}
