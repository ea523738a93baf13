// What kernels over rows begin with: T is what one step moves, an element or four of them (FOUR),
// and the L invocations of a row combine what each of them found. L is a power of two; a workgroup
// of WG holds ROWS = WG / L rows. Rows beyond the last one are computed again, so that barriers
// are met by all, and not stored.

//% if FOUR
alias T = vec4<f32>;
alias TU = vec4<u32>;

fn total(v: T) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn most(v: T) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}
//% else
alias T = f32;
alias TU = u32;

fn total(v: T) -> f32 {
    return v;
}

fn most(v: T) -> f32 {
    return v;
}
//% end

//% if EXPS
fn exps(v: T) -> T {
//% if FOUR
    return T(ex(v.x, 0u), ex(v.y, 0u), ex(v.z, 0u), ex(v.w, 0u));
//% else
    return ex(v, 0u);
//% end
}
//% end

//% if TREE
var<workgroup> cells: array<f32, WG>;

// Every invocation of a row gets the sum of the row's `v`.
fn row_sum(lane: u32, v: f32) -> f32 {
    let first = lane - lane % L;
    workgroupBarrier();
    cells[lane] = v;
    workgroupBarrier();
//% if WIDE
    // Sixteen invocations add L / 16 cells each, then all add sixteen.
    let mine = lane % L;
    var part = 0.0;
    if mine < 16u {
        for (var k = mine; k < L; k += 16u) {
            part += cells[first + k];
        }
    }
    workgroupBarrier();
    if mine < 16u {
        cells[lane] = part;
    }
    workgroupBarrier();
//% end
    var sum = vec4<f32>(0.0);
    for (var k = first; k < first + CELLS; k += 4u) {
        sum += vec4<f32>(cells[k], cells[k + 1u], cells[k + 2u], cells[k + 3u]);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// Every invocation of a row gets the largest of the row's `v`.
fn row_max(lane: u32, v: f32) -> f32 {
    let first = lane - lane % L;
    workgroupBarrier();
    cells[lane] = v;
    workgroupBarrier();
//% if WIDE
    let mine = lane % L;
    var part = v;
    if mine < 16u {
        for (var k = mine; k < L; k += 16u) {
            part = max(part, cells[first + k]);
        }
    }
    workgroupBarrier();
    if mine < 16u {
        cells[lane] = part;
    }
    workgroupBarrier();
//% end
    var top = cells[first];
    for (var k = first + 1u; k < first + CELLS; k++) {
        top = max(top, cells[k]);
    }
    return top;
}
//% else
//% if SUB
//% if ALONE
// The workgroup is one subgroup.
fn row_sum(lane: u32, v: f32) -> f32 {
    return subgroupAdd(v);
}

fn row_max(lane: u32, v: f32) -> f32 {
    return subgroupMax(v);
}
//% else
// Subgroup, invocation in it, number of subgroups: set by `main`.
var<private> who: vec3<u32>;
var<workgroup> cells: array<f32, WG>;

fn row_sum(lane: u32, v: f32) -> f32 {
    let part = subgroupAdd(v);
    workgroupBarrier();
    if who.y == 0u {
        cells[who.x] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var k = 0u; k < who.z; k++) {
        sum += cells[k];
    }
    return sum;
}

fn row_max(lane: u32, v: f32) -> f32 {
    let part = subgroupMax(v);
    workgroupBarrier();
    if who.y == 0u {
        cells[who.x] = part;
    }
    workgroupBarrier();
    var top = part;
    for (var k = 0u; k < who.z; k++) {
        top = max(top, cells[k]);
    }
    return top;
}
//% end
//% else
// An invocation has its row alone.
fn row_sum(lane: u32, v: f32) -> f32 {
    return v;
}

fn row_max(lane: u32, v: f32) -> f32 {
    return v;
}
//% end
//% end
