
// How elements are combined, T at a time: one of ADD, TOP (the largest), ARG (its position), VAR;
// with LEAST the smallest takes the place of the largest.

//% if FOUR
alias TB = vec4<bool>;

fn one(v: T) -> f32 {
    return v.x;
}
//% else
alias TB = bool;

fn one(v: T) -> f32 {
    return v;
}
//% end

//% if ORDER
fn is_nan(v: T) -> TB {
    return (bitcast<TU>(v) & TU(0x7fffffffu)) > TU(0x7f800000u);
}

// Never true of a NaN.
fn beats(a: T, b: T) -> TB {
//% if LEAST
    return a < b;
//% else
    return a > b;
//% end
}
//% end

//% if TOP
// The better of two; NaN when one is.
fn better(a: T, b: T) -> T {
    return select(b, a, is_nan(a) | beats(a, b));
}
//% end

//% if ARG
// The best so far and its position; what stands at NOWHERE is nothing.
struct Best {
    value: T,
    at: TU,
}

const NOWHERE = 0xffffffffu;

// `b` where it comes before `a`: a NaN before numbers, the better before the worse, among equals
// the first.
fn better(a: Best, b: Best) -> Best {
    let nan = is_nan(a.value);
    let ahead = (is_nan(b.value) & !nan) | beats(b.value, a.value);
    let level = (is_nan(b.value) & nan) | (b.value == a.value);
    let wins = (b.at != TU(NOWHERE)) & ((a.at == TU(NOWHERE)) | ahead | (level & (b.at < a.at)));
    return Best(select(a.value, b.value, wins), select(a.at, b.at, wins));
}
//% end

//% if ADD
fn finished(sum: f32) -> f32 {
//% if MEAN
    return sum / f32($all);
//% else
    return sum;
//% end
}
//% end

//% if VAR
fn finished(squares: f32) -> f32 {
    return squares / max(f32($all) - f32($correction), 0.0);
}
//% end
