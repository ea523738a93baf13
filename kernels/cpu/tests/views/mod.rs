//! Views on host memory for the tests of verbs: random contents, every kind of layout, golden
//! cases.
#![allow(dead_code, reason = "each test uses a part")]

use serde_json::Value;
use starling_contract::{DType, HostStorage, Layout, View};
use starling_kernels_cpu::{Isa, Team};

/// The instruction sets under test: all that the machine has, or the one that `STARLING_ISA`
/// forces, whose absence is a failure.
pub fn isas() -> Vec<Isa> {
    Isa::under_test().unwrap_or_else(|e| panic!("{e}"))
}

/// An emulator gets smaller cases.
pub const EMULATED: bool = cfg!(target_arch = "aarch64");

/// Knuth's linear congruential generator.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        self.word() as f32 / 2147483648.0 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// The storage's bytes. The tests use one view at a time.
fn pointer(view: &View) -> *mut u8 {
    HostStorage::of(view).expect("host memory")
}

/// A view of fresh memory that is large enough for `layout`; every byte is 0xa5.
pub fn view(dtype: DType, layout: Layout) -> View {
    let end = layout.extent().map_or(0, |(low, high)| {
        assert!(low >= 0, "a layout that starts before its storage");
        high as usize + 1
    });
    let storage = HostStorage::new(end * dtype.size()).unwrap();
    let view = View { storage, dtype, layout };
    // SAFETY: the storage has these bytes and nobody else uses it.
    unsafe { pointer(&view).write_bytes(0xa5, end * dtype.size()) };
    view
}

/// Writes `values` to the view's elements in row-major order.
pub fn put<T: Copy>(view: &View, values: &[T]) {
    assert_eq!((view.len(), view.dtype.size()), (values.len(), size_of::<T>()));
    for (i, &v) in values.iter().enumerate() {
        // SAFETY: `view` made room for every element.
        unsafe { pointer(view).cast::<T>().add(view.layout.position(i)).write(v) };
    }
}

/// The view's elements in row-major order.
pub fn get<T: Copy>(view: &View) -> Vec<T> {
    assert_eq!(view.dtype.size(), size_of::<T>());
    // SAFETY: `view` made room for every element and set every byte.
    let at = |i| unsafe { pointer(view).cast::<T>().add(view.layout.position(i)).read() };
    (0..view.len()).map(at).collect()
}

pub fn filled<T: Copy>(dtype: DType, layout: Layout, values: &[T]) -> View {
    let view = view(dtype, layout);
    put(&view, values);
    view
}

/// Row-major f32.
pub fn dense(shape: &[usize], values: &[f32]) -> View {
    filled(DType::F32, Layout::contiguous(shape), values)
}

/// Row-major i32.
pub fn integers(shape: &[usize], values: &[i32]) -> View {
    filled(DType::I32, Layout::contiguous(shape), values)
}

/// Layouts of one shape that do not overlap themselves: row-major, padded rows with an offset,
/// the axes in reverse order in memory, every axis backwards, every second element.
pub fn layouts(shape: &[usize]) -> Vec<Layout> {
    let rank = shape.len();
    let steps = |order: &[usize], pad: usize, first: usize| {
        let (mut strides, mut step) = (vec![0isize; rank], first as isize);
        for &axis in order {
            strides[axis] = step;
            step = step * shape[axis].max(1) as isize + pad as isize;
        }
        strides
    };
    let backwards: Vec<usize> = (0..rank).rev().collect();
    let forwards: Vec<usize> = (0..rank).collect();
    let flipped: Vec<isize> = steps(&backwards, 0, 1).iter().map(|s| -s).collect();
    let len: usize = shape.iter().product();
    vec![
        Layout::contiguous(shape),
        Layout::new(shape, &steps(&backwards, 3, 1), 5),
        Layout::new(shape, &steps(&forwards, 0, 1), 0),
        Layout::new(shape, &flipped, len.saturating_sub(1)),
        Layout::new(shape, &steps(&backwards, 0, 2), 1),
    ]
}

/// Runs `f` with 1, 2 and 3 threads; the results must be equal.
pub fn same_with_any_threads<T: PartialEq + Send>(what: &str, f: impl Fn() -> T + Sync) {
    let with = |n| Team::new(n).unwrap().install(&f);
    let one = with(1);
    assert!(one == with(2), "{what}: 2 threads change the bits");
    assert!(one == with(3), "{what}: 3 threads change the bits");
}

pub fn bits(view: &View) -> Vec<u32> {
    get::<u32>(view)
}

/// The cases of tests/golden/verbs.json with one of these names; there must be some.
pub fn golden(op: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/verbs.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let cases = file["cases"].as_array().expect("cases").iter();
    let found: Vec<Value> = cases.filter(|c| c["op"] == op).cloned().collect();
    assert!(!found.is_empty(), "no golden case of {op}");
    found
}

/// Shape and numbers of an array of a golden case.
pub fn array(v: &Value) -> (Vec<usize>, Vec<f64>) {
    let shape = v["shape"].as_array().expect("a shape").iter();
    let data = v["data"].as_array().expect("data").iter();
    let number = |x: &Value| match x.as_str() {
        Some(text) => text.parse().expect("nan, inf or -inf"),
        None => x.as_f64().expect("a number"),
    };
    (shape.map(|n| n.as_u64().unwrap() as usize).collect(), data.map(number).collect())
}

/// An f32 view of an array of a golden case.
pub fn tensor(v: &Value) -> View {
    let (shape, data) = array(v);
    let data: Vec<f32> = data.into_iter().map(|x| x as f32).collect();
    dense(&shape, &data)
}

/// Compares with `|got - want| <= absolute + relative * |want|`; NaN equals NaN.
pub fn close(what: &str, got: &[f32], want: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let g = f64::from(g);
        let same = g == w || (g.is_nan() && w.is_nan());
        let near = (g - w).abs() <= absolute + relative * w.abs();
        assert!(same || near, "{what}: element {i} is {g:e}, not {w:e}");
    }
}
