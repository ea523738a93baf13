//! Every row of the machine computes what `Scalar<f32>` computes, bit for bit.
//!
//! With `STARLING_ISA` set only that row runs, and its absence is a failure.

use half::{bf16, f16};
use starling_kernels_cpu::{Isa, Kernel, Simd};
use starling_ops::{Key, Math, Scalar};
use std::sync::OnceLock;

/// Random arguments of each test; an emulator gets few.
const COUNT: usize = if cfg!(target_arch = "aarch64") { 1 << 12 } else { 1 << 18 };

fn rows() -> Vec<Isa> {
    static ROWS: OnceLock<Vec<Isa>> = OnceLock::new();
    let find = || {
        let rows = Isa::under_test().unwrap_or_else(|e| panic!("{e}"));
        println!("rows: {:?}", rows.iter().map(|isa| isa.name()).collect::<Vec<_>>());
        rows
    };
    ROWS.get_or_init(find).clone()
}

struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }
}

const SPECIALS: [u32; 26] = [
    0x0000_0000, // 0
    0x8000_0000,
    0x0000_0001, // subnormal
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000, // the smallest normal number
    0x3f80_0000, // 1
    0xbf80_0000,
    0x3f00_0000, // 1/2, -1/2, 3/2, 5/2
    0xbf00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x4b00_0001, // 2^23 + 1
    0xcb00_0001,
    0x4b7f_ffff, // 2^24 - 1
    0x7f7f_ffff, // the largest number
    0xff7f_ffff,
    0x7f80_0000, // infinity
    0xff80_0000,
    0x7fc0_0000, // NaN
    0xffc0_0000,
    0x7fa0_0000, // signalling NaN
    0x42b2_0000, // 89
    0xc2d0_0000, // -104
    0x3f7f_ffff, // 1 - 2^-24
];

/// Triples: all pairs of special values, random bits, and numbers of ordinary size.
fn arguments() -> [Vec<f32>; 3] {
    let mut random = Random(1);
    let mut columns = [vec![], vec![], vec![]];
    for a in SPECIALS {
        for b in SPECIALS {
            let c = SPECIALS[random.word() as usize % SPECIALS.len()];
            for (column, bits) in columns.iter_mut().zip([a, b, c]) {
                column.push(f32::from_bits(bits));
            }
        }
    }
    for i in 0..COUNT {
        for column in &mut columns {
            let word = random.word();
            column.push(match i % 2 {
                0 => f32::from_bits(word),
                _ => (word as i32) as f32 / 2f32.powi(24 + (word & 7) as i32),
            });
        }
    }
    let whole = columns[0].len() / 16 * 16;
    columns.map(|mut column| {
        column.truncate(whole);
        column
    })
}

/// A formula over three numbers, with its result as bits.
trait Formula: Copy {
    /// NaN may have any bits.
    const REAL: bool;
    fn eval<M: Math>(self, m: M, a: M::V, b: M::V, c: M::V) -> M::U;
}

struct Map<'a, F> {
    formula: F,
    columns: &'a [Vec<f32>; 3],
}

impl<F: Formula> Kernel for Map<'_, F> {
    type Out = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let [a, b, c] = self.columns;
        let mut out = vec![0; a.len()];
        assert!(a.len() % S::LANES == 0 && b.len() == a.len() && c.len() == a.len());
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: `i + LANES <= len`, as the lengths were just checked.
            unsafe {
                let [a, b, c] = [a, b, c].map(
                    #[inline(always)]
                    |column| s.load(column.as_ptr().add(i)),
                );
                s.ustore(out.as_mut_ptr().add(i), self.formula.eval(s, a, b, c));
            }
        }
        out
    }
}

fn check<F: Formula>(name: &str, formula: F) {
    let columns = &arguments();
    let want = Map { formula, columns }.run(Scalar::<f32>::NEW);
    for isa in rows() {
        let got = isa.run(Map { formula, columns });
        for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
            let both_nan = f32::from_bits(g).is_nan() && f32::from_bits(w).is_nan();
            let [a, b, c] = [0, 1, 2].map(|k| columns[k][i]);
            assert!(
                g == w || (F::REAL && both_nan),
                "{isa}: {name} of {a:e}, {b:e}, {c:e} is {g:#x}, not {w:#x}"
            );
        }
    }
}

/// `name(m, a, b, c) formula;` by test; the number says whether the results are real.
macro_rules! formulas {
    ($($test:ident: $real:literal {
        $($name:ident($m:ident, $a:ident, $b:ident, $c:ident) $body:expr;)*
    })*) => {$(
        #[test]
        fn $test() {
            $({
                #[derive(Clone, Copy)]
                struct Case;
                impl Formula for Case {
                    const REAL: bool = $real;
                    #[inline(always)]
                    fn eval<M: Math>(self, $m: M, $a: M::V, $b: M::V, $c: M::V) -> M::U {
                        $body
                    }
                }
                check(stringify!($name), Case);
            })*
        }
    )*};
}

formulas! {
    arithmetic: true {
        lit(m, _a, _b, _c) m.bits(m.lit(0.1));
        add(m, a, b, _c) m.bits(m.add(a, b));
        sub(m, a, b, _c) m.bits(m.sub(a, b));
        mul(m, a, b, _c) m.bits(m.mul(a, b));
        div(m, a, b, _c) m.bits(m.div(a, b));
        fma(m, a, b, c) m.bits(m.fma(a, b, c));
        neg(m, a, _b, _c) m.bits(m.neg(a));
        abs(m, a, _b, _c) m.bits(m.abs(a));
        min(m, a, b, _c) m.bits(m.min(a, b));
        max(m, a, b, _c) m.bits(m.max(a, b));
        floor(m, a, _b, _c) m.bits(m.floor(a));
        round(m, a, _b, _c) m.bits(m.round(a));
        sqrt(m, a, _b, _c) m.bits(m.sqrt(a));
    }
    transcendentals: true {
        rsqrt(m, a, _b, _c) m.bits(m.rsqrt(a));
        exp(m, a, _b, _c) m.bits(m.exp(a));
        expm1(m, a, _b, _c) m.bits(m.expm1(a));
        log(m, a, _b, _c) m.bits(m.log(a));
        log1p(m, a, _b, _c) m.bits(m.log1p(a));
        sin(m, a, _b, _c) m.bits(m.sin(a));
        cos(m, a, _b, _c) m.bits(m.cos(a));
        tanh(m, a, _b, _c) m.bits(m.tanh(a));
        erf(m, a, _b, _c) m.bits(m.erf(a));
        sigmoid(m, a, _b, _c) m.bits(m.sigmoid(a));
        softplus(m, a, _b, _c) m.bits(m.softplus(a));
        pow(m, a, b, _c) m.bits(m.pow(a, b));
        pow_abs(m, a, b, _c) m.bits(m.pow(m.abs(a), b));
    }
    comparisons: false {
        lt(m, a, b, _c) m.uselect(m.lt(a, b), m.ulit(1), m.ulit(0));
        le(m, a, b, _c) m.uselect(m.le(a, b), m.ulit(1), m.ulit(0));
        eq(m, a, b, _c) m.uselect(m.eq(a, b), m.ulit(1), m.ulit(0));
        gt(m, a, b, _c) m.uselect(m.gt(a, b), m.ulit(1), m.ulit(0));
        ge(m, a, b, _c) m.uselect(m.ge(a, b), m.ulit(1), m.ulit(0));
        ne(m, a, b, _c) m.uselect(m.ne(a, b), m.ulit(1), m.ulit(0));
        and(m, a, b, c) m.uselect(m.and(m.lt(a, b), m.lt(b, c)), m.ulit(1), m.ulit(0));
        or(m, a, b, c) m.uselect(m.or(m.lt(a, b), m.lt(b, c)), m.ulit(1), m.ulit(0));
        not(m, a, b, _c) m.uselect(m.not(m.lt(a, b)), m.ulit(1), m.ulit(0));
        select(m, a, b, c) m.bits(m.select(m.lt(a, b), c, a));
    }
    integers: false {
        ulit(m, _a, _b, _c) m.ulit(0xdead_beef);
        uadd(m, a, b, _c) m.uadd(m.bits(a), m.bits(b));
        usub(m, a, b, _c) m.usub(m.bits(a), m.bits(b));
        umul(m, a, b, _c) m.umul(m.bits(a), m.bits(b));
        umulhi(m, a, b, _c) m.umulhi(m.bits(a), m.bits(b));
        uand(m, a, b, _c) m.uand(m.bits(a), m.bits(b));
        uor(m, a, b, _c) m.uor(m.bits(a), m.bits(b));
        uxor(m, a, b, _c) m.uxor(m.bits(a), m.bits(b));
        ushl_0(m, a, _b, _c) m.ushl(m.bits(a), 0);
        ushl_5(m, a, _b, _c) m.ushl(m.bits(a), 5);
        ushl_31(m, a, _b, _c) m.ushl(m.bits(a), 31);
        ushr_0(m, a, _b, _c) m.ushr(m.bits(a), 0);
        ushr_5(m, a, _b, _c) m.ushr(m.bits(a), 5);
        ushr_31(m, a, _b, _c) m.ushr(m.bits(a), 31);
        ueq(m, a, b, _c) m.uselect(m.ueq(m.bits(a), m.bits(b)), m.ulit(1), m.ulit(0));
        uselect(m, a, b, c) m.uselect(m.lt(a, b), m.bits(b), m.bits(c));
        to_real(m, a, _b, _c) m.bits(m.to_real(m.bits(a)));
        to_uint(m, a, _b, _c) {
            let small = m.and(m.ge(a, m.lit(0.0)), m.lt(a, m.lit(2_147_483_648.0)));
            m.to_uint(m.select(small, a, m.lit(2.75)))
        };
        uniform(m, a, b, c) {
            let [instance, step, node] = [1, 2, 3].map(|k| m.uxor(m.bits(c), m.ulit(k)));
            let (seed_lo, seed_hi) = (m.bits(b), m.bits(c));
            m.bits(m.uniform(m.bits(a), Key { seed_lo, seed_hi, instance, step, node }))
        };
    }
}

/// Runs a test body that is generic over the token.
macro_rules! kernel_test {
    ($test:ident, $s:ident: $token:ident $body:block) => {
        #[test]
        fn $test() {
            struct Body;
            impl Kernel for Body {
                type Out = ();
                #[inline(always)]
                fn run<$token: Simd>(self, $s: $token) $body
            }
            rows().into_iter().for_each(|isa| isa.run(Body));
        }
    };
}

/// The lanes of `v`.
#[inline(always)]
fn lanes<S: Simd>(s: S, v: S::V) -> Vec<f32> {
    let mut out = vec![0.0; S::LANES];
    // SAFETY: `out` has `LANES` numbers.
    unsafe { s.store(out.as_mut_ptr(), v) };
    out
}

#[inline(always)]
fn words<S: Simd>(s: S, u: S::U) -> Vec<u32> {
    let mut out = vec![0; S::LANES];
    // SAFETY: `out` has `LANES` words.
    unsafe { s.ustore(out.as_mut_ptr(), u) };
    out
}

kernel_test!(partial_loads_and_stores_stop_at_n, s: S {
    const FREE: f32 = -7.0;
    for n in 0..=S::LANES {
        // Exactly `n` numbers on the heap: a sanitiser or Miri sees a read beyond them.
        let source: Vec<f32> = (1..=n).map(|i| i as f32).collect();
        // SAFETY: `source` has `n` numbers.
        let v = unsafe { s.load_first(source.as_ptr(), n) };
        let mut want = source.clone();
        want.resize(S::LANES, 0.0);
        assert_eq!(lanes(s, v), want);

        let mut target = vec![FREE; S::LANES + 1];
        // SAFETY: `target` has room for `n <= LANES` numbers.
        unsafe { s.store_first(target.as_mut_ptr(), n, s.lit(3.0)) };
        assert!(target[..n].iter().all(|&x| x == 3.0) && target[n..].iter().all(|&x| x == FREE));
    }
});

kernel_test!(lanes_and_masks, s: S {
    let n = S::LANES;
    let index = s.iota(5);
    assert_eq!(words(s, index), (5..5 + n as u32).collect::<Vec<_>>());
    let mask = s.lt(s.to_real(index), s.lit(7.0));
    let want: Vec<u32> = (0..n).map(|i| if i < 2 { u32::MAX } else { 0 }).collect();
    assert_eq!(words(s, s.mask_to_word(mask)), want);
    assert_eq!(words(s, s.mask_to_word(s.word_to_mask(s.mask_to_word(mask)))), want);
    // Any bit that is set counts, the lowest as well as the highest.
    for bit in [0, 13, 31] {
        let word = s.ushl(s.uand(index, s.ulit(1)), bit);
        let got = words(s, s.mask_to_word(s.word_to_mask(word)));
        let want: Vec<u32> = (0..n).map(|i| if i % 2 == 0 { u32::MAX } else { 0 }).collect();
        assert_eq!(got, want);
    }
    let bytes: Vec<u8> = (0..n).map(|i| (255 - 9 * i) as u8).collect();
    // SAFETY: `bytes` has `LANES` bytes.
    let v = unsafe { s.load_u8(bytes.as_ptr()) };
    assert_eq!(lanes(s, v), bytes.iter().map(|&b| f32::from(b)).collect::<Vec<_>>());
});

kernel_test!(reductions, s: S {
    let mut random = Random(3);
    for _ in 0..100 {
        let mut x: Vec<f32> =
            (0..S::LANES).map(|_| (random.word() as i32) as f32 / 65536.0).collect();
        // SAFETY: `x` has `LANES` numbers.
        let v = unsafe { s.load(x.as_ptr()) };
        let mut folded = x.clone();
        while folded.len() > 1 {
            let half = folded.len() / 2;
            folded = (0..half).map(|i| folded[i] + folded[i + half]).collect();
        }
        assert_eq!(s.sum(v), folded[0]);
        assert_eq!(s.max_lane(v), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        assert_eq!(s.min_lane(v), x.iter().copied().fold(f32::INFINITY, f32::min));
        x[random.word() as usize % S::LANES] = f32::NAN;
        // SAFETY: as above.
        let v = unsafe { s.load(x.as_ptr()) };
        assert!(s.sum(v).is_nan() && s.max_lane(v).is_nan() && s.min_lane(v).is_nan());
    }
});

fn same(got: f32, want: f32) -> bool {
    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
}

/// Every 16-bit pattern widens to what the `half` crate says and comes back; random numbers narrow
/// to what it says.
macro_rules! conversion_test {
    ($test:ident, $half:ty, $load:ident, $store:ident) => {
        kernel_test!($test, s: S {
            let all: Vec<$half> = (0..=u16::MAX).map(<$half>::from_bits).collect();
            let mut back = vec![<$half>::ZERO; S::LANES];
            for chunk in all.chunks_exact(S::LANES) {
                // SAFETY: `chunk` and `back` have `LANES` numbers.
                let wide = unsafe {
                    let v = s.$load(chunk.as_ptr());
                    s.$store(back.as_mut_ptr(), v);
                    lanes(s, v)
                };
                for i in 0..S::LANES {
                    assert!(same(wide[i], chunk[i].to_f32()), "{:#x}", chunk[i].to_bits());
                    assert!(same(back[i].to_f32(), chunk[i].to_f32()), "{:#x}", chunk[i].to_bits());
                }
            }
            let [numbers, ..] = arguments();
            for chunk in numbers.chunks_exact(S::LANES) {
                // SAFETY: `chunk` and `back` have `LANES` numbers.
                unsafe { s.$store(back.as_mut_ptr(), s.load(chunk.as_ptr())) };
                for (&x, y) in chunk.iter().zip(&back) {
                    let want = <$half>::from_f32(x).to_f32();
                    assert!(same(y.to_f32(), want), "{x:e} ({:#x}) becomes {y}", x.to_bits());
                }
            }
        });
    };
}
conversion_test!(f16_conversions, f16, load_f16, store_f16);
conversion_test!(bf16_conversions, bf16, load_bf16, store_bf16);

#[test]
fn halfway_cases_of_narrow_types_go_to_even() {
    for isa in rows() {
        struct Narrow(Vec<f32>);
        impl Kernel for Narrow {
            type Out = (Vec<f16>, Vec<bf16>);
            #[inline(always)]
            fn run<S: Simd>(mut self, s: S) -> Self::Out {
                let n = self.0.len();
                self.0.resize(n.next_multiple_of(S::LANES), 0.0);
                let mut out = (vec![f16::ZERO; self.0.len()], vec![bf16::ZERO; self.0.len()]);
                for i in (0..self.0.len()).step_by(S::LANES) {
                    // SAFETY: all three lengths are the same multiple of `LANES`.
                    unsafe {
                        let v = s.load(self.0.as_ptr().add(i));
                        s.store_f16(out.0.as_mut_ptr().add(i), v);
                        s.store_bf16(out.1.as_mut_ptr().add(i), v);
                    }
                }
                out.0.truncate(n);
                out.1.truncate(n);
                out
            }
        }
        // Around each half between neighbours, and around the subnormal and overflow thresholds.
        let mut numbers = vec![65519.0, 65520.0, 65521.0, 6.0e-8, 2.98e-8, 2.9802322e-8, 2.99e-8];
        for bits in (0..=u16::MAX).step_by(31) {
            for wide in
                [f16::from_bits(bits).to_f32().to_bits() | 0x1000, u32::from(bits) << 16 | 0x8000]
            {
                numbers.extend([wide - 1, wide, wide + 1].map(f32::from_bits));
            }
        }
        let (half, brain) = isa.run(Narrow(numbers.clone()));
        for ((x, h), b) in numbers.into_iter().zip(half).zip(brain) {
            assert!(same(h.to_f32(), f16::from_f32(x).to_f32()), "{isa}: {x:e} becomes {h}");
            assert!(same(b.to_f32(), bf16::from_f32(x).to_f32()), "{isa}: {x:e} becomes {b}");
        }
    }
}

#[test]
fn names_choose_rows_or_say_what_there_is() {
    for isa in Isa::available() {
        assert_eq!(isa.name().parse(), Ok(isa));
    }
    assert_eq!(Isa::available().last(), Some(&Isa::best()));
    let unknown = "sse9".parse::<Isa>().unwrap_err().to_string();
    assert!(unknown.contains("sse9") && unknown.contains("scalar"), "{unknown}");
    let absent = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    let missing = absent.parse::<Isa>().unwrap_err().to_string();
    assert!(missing.contains("does not have") && missing.contains("scalar"), "{missing}");
}
