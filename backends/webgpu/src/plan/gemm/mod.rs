//! Matrix products.
//!
//! A product is seen as `[batches, m, k] x [batches, k, n]`, transposed as a whole where its result
//! then lies in rows. Its operands reach the templates through functions made here: `a_four` and
//! `b_four` read four elements along the axis in which they lie together, `emit` scales four sums,
//! runs the epilogue and stores.

mod finish;
mod int8;
mod sides;

use super::scope::{LANES, Scope};
use crate::kernel::{Kernel, looped};
use crate::operand::Access;
use crate::template::{Template, template};
use finish::finish;
use sides::{Lies, Side};
use starling_contract::{DType, Error, Gemm, Layout, Result, Support, View};

const GEMM_LANES: Template = template!("gemm_lanes");
const GEMM_TILE: Template = template!("gemm_tile");
const GEMM_DOT: Template = template!("gemm_dot");
const GEMM_MATRIX: Template = template!("gemm_matrix");
const GEMM_SUM: Template = template!("gemm_sum");

/// What the templates compute with.
const REALS: &str = "alias Quad = vec4<f32>;
alias Sums = vec4<f32>;
fn with_term(x: f32, y: Quad, sums: Sums) -> Sums {
    return fma(vec4<f32>(x), y, sums);
}
";

/// The same for words of four i8.
const INTEGERS: &str = "alias Quad = vec4<u32>;
alias Sums = vec4<i32>;
fn with_term(x: u32, y: Quad, sums: Sums) -> Sums {
    return sums + vec4<i32>(
        dot4I8Packed(x, y.x),
        dot4I8Packed(x, y.y),
        dot4I8Packed(x, y.z),
        dot4I8Packed(x, y.w),
    );
}
";

/// Workgroup memory of the kernel on cooperative matrices.
const MATRIX_BYTES: usize = 2 * 2 * 1024 + 4 * 4096;

/// Sizes of a product as the kernels see it.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batches: usize,
    m: usize,
    n: usize,
    k: usize,
    /// The whole product is transposed: `c^T = b^T a^T`.
    swapped: bool,
    /// Parts along k that are summed up apart.
    slices: usize,
    /// Fours of k in a slice.
    per_slice: usize,
    /// Both matrices are i8.
    bytes: bool,
}

impl Sizes {
    fn of(v: &Gemm) -> Self {
        let rank = v.c.layout.rank();
        let (shape, strides) = (v.c.shape(), v.c.layout.strides());
        let (m, n, k) = (shape[rank - 2], shape[rank - 1], v.a.shape()[rank - 1]);
        let batches = shape[..rank - 2].iter().product();
        let in_columns = strides[rank - 1] != 1 && strides[rank - 2] == 1;
        let swapped = if n == 1 { m > 1 } else { m > 1 && in_columns };
        let (m, n) = if swapped { (n, m) } else { (m, n) };
        let bytes = v.a.dtype == DType::I8;
        // Words of bytes, lines padded to whole fours of them. Sums of integers are not split.
        let (k, wanted) =
            if bytes { (k.div_ceil(16) * 4, 1) } else { (k, slices(batches, m, n, k)) };
        let fours = k.div_ceil(4);
        // Whole steps of 16 along k.
        let per_slice = fours.div_ceil(wanted).next_multiple_of(4);
        let slices = fours.div_ceil(per_slice.max(1)).max(1);
        Self { batches, m, n, k, swapped, slices, per_slice, bytes }
    }

    /// Fours in a row of the result.
    fn wide(&self) -> usize {
        self.n.div_ceil(4)
    }
}

/// In how many slices k is summed up: more than one where k is deep and the result has too few
/// tiles to keep a GPU busy. A function of the sizes alone, because it decides the rounding.
fn slices(batches: usize, m: usize, n: usize, k: usize) -> usize {
    const TILES: usize = 64;
    const DEPTH: usize = 256;
    let tiles = (batches * m.div_ceil(64) * n.div_ceil(64)).max(1);
    (TILES / tiles).min(k / DEPTH).max(1)
}

/// How a product is run.
pub fn supports(v: &Gemm) -> Support {
    let real = [&v.a, &v.b, &v.c].iter().all(|x| x.dtype.is_float());
    let bytes = v.a.dtype == DType::I8 && v.b.dtype == DType::I8 && int8::supports(v);
    if real || bytes { Support::Native } else { Support::No }
}

/// Bytes for the sums of the slices, rows padded to whole fours, or for packed copies of i8.
pub fn workspace_bytes(v: &Gemm) -> usize {
    if v.c.is_empty() || supports(v) != Support::Native {
        return 0;
    }
    let s = Sizes::of(v);
    match s.slices {
        _ if s.bytes => int8::workspace_bytes(v, &s),
        1 => 0,
        slices => slices * s.batches * s.m * s.wide() * 16,
    }
}

/// Adds the kernels of a product.
///
/// # Errors
/// [`Error::Shape`] when the working memory that it needs is missing.
pub fn gemm(v: &Gemm, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    if v.c.is_empty() {
        return Ok(());
    }
    let s = Sizes::of(v);
    let (a, b) = if s.bytes { int8::sides(v, &s, kernels)? } else { sides(v, &s) };
    let mut k = if on_matrices(&s, [&a, &b], scope) {
        matrix(&s, [&a, &b], scope)
    } else if s.m > 4 && !scope.software {
        tile(&s, [&a, &b], scope)
    } else if !scope.software && [&a, &b].iter().all(|x| x.lies == Lies::AlongK) {
        dot(&s)
    } else {
        lanes(&s, [&a, &b], scope)
    };
    k.constant("BYTES", s.bytes);
    k.glue(if s.bytes { INTEGERS } else { REALS });
    for (name, value) in [
        ("m", s.m),
        ("n", s.n),
        ("k", s.k),
        ("batches", s.batches),
        ("jobs", s.batches * s.slices),
        ("per_slice", s.per_slice),
    ] {
        k.word(name, value);
    }
    a.reads(&mut k, "a", ["a_step", "a_inner"]);
    b.reads(&mut k, "b", ["b_step", "b_inner"]);
    if s.slices == 1 {
        let long = finish(&mut k, v, &s);
        k.constant("LONG", long);
        kernels.push(k);
        return Ok(());
    }
    let elements = s.slices * s.batches * s.m * s.wide() * 4;
    let layout = Layout::contiguous(&[elements]);
    let storage = workspace(v, elements * 4)?.storage.clone();
    let parts = View { storage, dtype: DType::F32, layout };
    k.word("wide", s.wide()).fours("part", &parts, Access::Write).constant("LONG", 0u32);
    k.glue(
        "fn emit(job: u32, z: u32, row: u32, q: u32, sum: vec4<f32>) {\n    \
         part_store4((job * $m + row) * $wide + q, sum, 4u);\n}\n",
    );
    kernels.push(k);
    let mut k = Kernel::new(GEMM_SUM);
    k.constant("WG", LANES as u32).turns(looped(s.slices, 0));
    for (name, value) in [("m", s.m), ("n", s.n), ("batches", s.batches), ("slices", s.slices)] {
        k.word(name, value);
    }
    k.fours("part", &parts, Access::Read);
    finish(&mut k, v, &s);
    k.groups((s.batches * s.m * s.wide()).div_ceil(LANES));
    kernels.push(k);
    Ok(())
}

/// The working memory, of which `bytes` are needed.
fn workspace(v: &Gemm, bytes: usize) -> Result<&View> {
    let fits = |w: &&View| {
        w.layout.is_contiguous() && w.layout.offset() == 0 && w.len() * w.dtype.size() >= bytes
    };
    v.workspace.as_ref().filter(fits).ok_or_else(|| {
        let message =
            format!("it needs a contiguous workspace of {bytes} bytes at its storage's start");
        Error::shape("gemm", message)
    })
}

/// The matrices on the left and on the right.
fn sides(v: &Gemm, s: &Sizes) -> (Side, Side) {
    let (left, right) = if s.swapped { (&v.b, &v.a) } else { (&v.a, &v.b) };
    let left = Side::new(left, !s.swapped, Lies::AlongK);
    (left, Side::new(right, s.swapped, Lies::Across))
}

/// The number of workgroups for a grid of tiles.
fn spread(k: &mut Kernel, s: &Sizes, rows: usize, columns: usize) {
    let (down, across) = (s.m.div_ceil(rows), s.n.div_ceil(columns));
    k.word("down", down).word("across", across).groups(s.batches * s.slices * down * across);
}

/// True when cooperative matrices pay and hold the operands exactly.
fn on_matrices(s: &Sizes, [a, b]: [&Side; 2], scope: Scope<'_>) -> bool {
    let half = [a, b].iter().all(|x| x.dtype() == DType::F16);
    let room = scope.limits.workgroup_bytes >= MATRIX_BYTES && scope.limits.invocations >= 128;
    scope.variant.matrix
        && matches!(scope.limits.matrix, 8 | 16)
        && half
        && room
        && s.m.min(s.n) >= 16
}

/// Cooperative matrices: four subgroups, 32 x 32 elements each.
fn matrix(s: &Sizes, [a, b]: [&Side; 2], scope: Scope<'_>) -> Kernel {
    let size = scope.limits.matrix;
    let mut k = Kernel::new(GEMM_MATRIX);
    k.enable("f16").enable("wgpu_cooperative_matrix");
    k.constant("SIZE", size as u32).constant("WIDE", size == 16);
    k.constant("PARTS", 32 / size as u32).constant("STEPS", 16 / size as u32);
    k.constant("AM", a.lies == Lies::Across).constant("BK", b.lies == Lies::AlongK);
    k.constant("FOUR", 4u32);
    k.turns(looped(s.per_slice / 4, looped(2, 0)) + looped(8, 0));
    spread(&mut k, s, 64, 64);
    k
}

/// Tiles of workgroup memory.
fn tile(s: &Sizes, [a, b]: [&Side; 2], scope: Scope<'_>) -> Kernel {
    let side = 8;
    let mut k = Kernel::new(GEMM_TILE);
    k.constant("SIDE", side as u32).constant("TILE", 8 * side as u32);
    k.constant("AM", a.lies == Lies::Across).constant("BK", b.lies == Lies::AlongK);
    k.constant("TWO", 2u32).constant("FOUR", 4u32).constant("EIGHT", 8u32);
    k.constant("SIXTEEN", 16u32);
    // Tiles of f16 hold f16 exactly in half the memory.
    if s.bytes {
        k.glue("alias ELEMENT = u32;\n");
    } else if scope.variant.f16 && [a, b].iter().all(|x| x.dtype() == DType::F16) {
        k.enable("f16").glue("alias ELEMENT = f16;\n");
    } else {
        k.glue("alias ELEMENT = f32;\n");
    }
    let loads = 8 * side * 4 / (side * side);
    k.turns(looped(s.per_slice / 4, looped(loads, 0) + looped(4, 0)) + looped(16, 0));
    spread(&mut k, s, 8 * side, 8 * side);
    k
}

/// Few rows by columns along k: the lanes of a workgroup share a line.
fn dot(s: &Sizes) -> Kernel {
    let rows = if s.m == 1 { 1 } else { 4 };
    let mut k = Kernel::new(GEMM_DOT);
    k.constant("WG", LANES as u32).constant("R", rows as u32).constant("FOUR", 4u32);
    k.turns(looped(s.per_slice.div_ceil(LANES), 0) + 2 * looped(LANES, 0));
    spread(&mut k, s, rows, 4);
    k
}

/// Rows in registers, nothing in workgroup memory.
fn lanes(s: &Sizes, [a, b]: [&Side; 2], scope: Scope<'_>) -> Kernel {
    // A software device has no cheap loads, not even of one address for all lanes.
    let shared = scope.software && scope.variant.subgroups && scope.limits.lanes >= 8 && s.m > 1;
    // Elements read one by one are four times as much text to compile.
    let most = if shared {
        16
    } else if a.fours {
        8
    } else {
        4
    };
    let rows = most.min(match s.m {
        1 => 1,
        2..=4 => 4,
        5..=8 => 8,
        _ => 16,
    });
    let width = if scope.software { 8 } else { LANES };
    let quads = (rows / 4).max(1);
    let mut k = Kernel::new(GEMM_LANES);
    k.constant("WG", width as u32).constant("R", rows as u32).constant("FOUR", 4u32);
    k.constant("SG", shared).constant("QUADS", quads as u32);
    k.constant("LOADS", (rows / 8).max(1) as u32).constant("KPL", (8 / quads).min(4) as u32);
    k.constant("AM", a.lies == Lies::Across).constant("BK", b.lies == Lies::AlongK);
    k.turns(looped(s.per_slice, 0) + looped(rows, 0));
    spread(&mut k, s, rows, 4 * width);
    k
}
