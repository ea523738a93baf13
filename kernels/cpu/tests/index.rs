//! Gather and scatter_add against loops, in every layout.

mod views;

use starling_contract::{DType, Error, Gather, Kind, Layout, ScatterAdd, Verb, View};
use starling_kernels_cpu::{Isa, index};
use views::{
    EMULATED, Random, array, bits, close, dense, filled, get, golden, integers, isas, layouts, put,
    same_with_any_threads, tensor, view,
};

fn run(isa: Isa, verb: impl Into<Verb>) -> Result<(), Error> {
    let verb = verb.into().check()?;
    match verb.kind() {
        Kind::Gather(v) => index::gather(isa, v),
        Kind::ScatterAdd(v) => index::scatter_add(isa, v),
        _ => unreachable!("another verb"),
    }
}

/// For each element of a `part`, the position in a row-major `whole` that its index names.
fn named(whole: &[usize], part: &[usize], axis: usize, index: &[i64]) -> Vec<usize> {
    let (whole, part) = (Layout::contiguous(whole), Layout::contiguous(part));
    let mut strides = whole.strides().to_vec();
    strides[axis] = 0;
    let fixed = Layout::new(part.shape(), &strides, 0);
    let step = whole.strides()[axis] as usize;
    (0..part.len()).map(|i| fixed.position(i) + index[i] as usize * step).collect()
}

/// Whole shape, axis, number of picked positions.
fn cases() -> Vec<(Vec<usize>, usize, usize)> {
    vec![
        (vec![7], 0, 12),
        (vec![1], 0, 1),
        (vec![5, 1], 0, 9),
        (vec![9, 16], 0, 4),
        (vec![9, 37], 0, 20),
        (vec![6, 5], 1, 3),
        (vec![3, 8, 4], 1, 11),
        (vec![2, 3, 5, 7], 2, 6),
        (vec![4, 3], 0, 0),
        (vec![4, 0], 0, 5),
        (vec![300, 140], 0, if EMULATED { 70 } else { 900 }),
    ]
}

/// An index view and its logical elements: one number per element, or repeated along the axes
/// other than `axis` as an embedding's rows are, or along those behind it.
fn index_views(
    random: &mut Random,
    part: &[usize],
    axis: usize,
    bound: usize,
) -> Vec<(View, Vec<i64>)> {
    let mut all = Vec::new();
    for kind in 0..4 {
        let varies = |i: usize| match kind {
            0 | 3 => true,
            1 => i == axis,
            _ => i <= axis,
        };
        let shape: Vec<usize> =
            part.iter().enumerate().map(|(i, &n)| if varies(i) { n } else { 1 }).collect();
        let len: usize = shape.iter().product();
        let values: Vec<i32> = (0..len).map(|_| random.below(bound) as i32).collect();
        let layout = if kind == 3 { layouts(&shape)[4] } else { Layout::contiguous(&shape) };
        let dtype = if kind == 2 { DType::U32 } else { DType::I32 };
        let small = filled(dtype, layout, &values);
        let wide = small.with(layout.broadcast_to(part).unwrap());
        let elements = get::<i32>(&wide).iter().map(|&i| i.into()).collect();
        all.push((wide, elements));
    }
    all
}

#[test]
fn gather_in_any_layout() {
    let mut random = Random(11);
    for (whole, axis, count) in cases() {
        let mut part = whole.clone();
        part[axis] = count;
        let len: usize = whole.iter().product();
        let x: Vec<u32> = (0..len).map(|_| random.word()).collect();
        for (index, elements) in index_views(&mut random, &part, axis, whole[axis]) {
            let at = named(&whole, &part, axis, &elements);
            for (i, isa) in (0..5).flat_map(|i| isas().into_iter().map(move |isa| (i, isa))) {
                let (from, to) = (layouts(&whole)[i], layouts(&part)[(i + i / 3) % 5]);
                let what = format!("{isa} {from:?} -> {to:?}");
                let v = |dtype| Gather {
                    x: view(dtype, from),
                    index: index.clone(),
                    axis,
                    out: view(dtype, to),
                };
                let words = v(DType::F32);
                put(&words.x, &x);
                run(isa, words.clone()).unwrap();
                let want: Vec<u32> = at.iter().map(|&p| x[p]).collect();
                assert_eq!(get::<u32>(&words.out), want, "{what}");
                let halves = v(DType::BF16);
                put(&halves.x, &x.iter().map(|&x| x as u16).collect::<Vec<_>>());
                run(isa, halves.clone()).unwrap();
                let want: Vec<u16> = at.iter().map(|&p| x[p] as u16).collect();
                assert_eq!(get::<u16>(&halves.out), want, "{what}");
                let bytes = v(DType::I8);
                put(&bytes.x, &x.iter().map(|&x| x as u8).collect::<Vec<_>>());
                run(isa, bytes.clone()).unwrap();
                let want: Vec<u8> = at.iter().map(|&p| x[p] as u8).collect();
                assert_eq!(get::<u8>(&bytes.out), want, "{what}");
            }
        }
    }
}

#[test]
fn scatter_add_in_any_layout() {
    let mut random = Random(12);
    for (whole, axis, count) in cases() {
        let mut part = whole.clone();
        part[axis] = count;
        let (len, part_len) = (whole.iter().product(), part.iter().product());
        let (start, x) = (random.units(len), random.units(part_len));
        for (index, elements) in index_views(&mut random, &part, axis, whole[axis]) {
            // In f32 and in the order of the verb's contract: equal, not close.
            let mut want = start.clone();
            for (i, at) in named(&whole, &part, axis, &elements).into_iter().enumerate() {
                want[at] += x[i];
            }
            for (i, isa) in (0..5).flat_map(|i| isas().into_iter().map(move |isa| (i, isa))) {
                let (to, from) = (layouts(&whole)[i], layouts(&part)[(i + i / 3) % 5]);
                let out = filled(DType::F32, to, &start);
                let x = filled(DType::F32, from, &x);
                let (index, copy) = (index.clone(), out.clone());
                run(isa, ScatterAdd { x, index, axis, out, workspace: None }).unwrap();
                assert_eq!(get::<f32>(&copy), want, "{isa} {from:?} -> {to:?}");
            }
        }
    }
}

#[test]
fn indices_outside_the_axis_are_errors() {
    for (isa, bad) in isas().into_iter().flat_map(|isa| [4, -1, i32::MIN].map(|bad| (isa, bad))) {
        let rows = integers(&[3], &[0, bad, 1]);
        let layout = Layout::new(&[3, 2], &[1, 0], 0);
        let index = rows.with(layout);
        let (x, out) = (dense(&[4, 2], &[1.0; 8]), dense(&[3, 2], &[2.0; 6]));
        let gather = Gather { x: x.clone(), index: index.clone(), axis: 0, out: out.clone() };
        let (from, to) = (out.clone(), x.clone());
        let scatter = ScatterAdd { x: from, index, axis: 0, out: to, workspace: None };
        for result in [run(isa, gather), run(isa, scatter)] {
            let Err(Error::Index { index, bound: 4, .. }) = result else { panic!("{result:?}") };
            assert_eq!(index, i64::from(bad));
        }
        assert_eq!(get::<f32>(&out), [2.0; 6], "nothing is written");
        assert_eq!(get::<f32>(&x), [1.0; 8], "nothing is written");
    }
    // u32 beyond i32, and a table without rows.
    let index = filled(DType::U32, Layout::contiguous(&[1]), &[u32::MAX]);
    let verb = |n| Gather {
        x: dense(&[n], &vec![0.0; n]),
        index: index.clone(),
        axis: 0,
        out: dense(&[1], &[0.0]),
    };
    for n in [0, 3] {
        let result = run(Isa::from_env().unwrap(), verb(n));
        assert!(matches!(result, Err(Error::Index { index: 4294967295, .. })), "{result:?}");
    }
}

#[test]
fn threads_do_not_change_the_bits() {
    let mut random = Random(13);
    for (rows, n) in [(64, 192), (200, 96), (3, 20_000), (500, 8)] {
        let count = (if EMULATED { 1 << 14 } else { 1 << 19 }) / n;
        let words: Vec<i32> = (0..count).map(|_| random.below(rows) as i32).collect();
        let index = integers(&[count], &words).with(Layout::new(&[count, n], &[1, 0], 0));
        let x = dense(&[count, n], &random.units(count * n));
        for isa in isas() {
            same_with_any_threads(&format!("{isa} {rows} {n}"), || {
                let out = dense(&[rows, n], &vec![0.5; rows * n]);
                let picked = view(DType::F32, Layout::contiguous(&[count, n]));
                let (index, x) = (index.clone(), x.clone());
                let axis = 0;
                run(
                    isa,
                    ScatterAdd { x, index: index.clone(), axis, out: out.clone(), workspace: None },
                )
                .unwrap();
                run(isa, Gather { x: out.clone(), index, axis, out: picked.clone() }).unwrap();
                (bits(&out), bits(&picked))
            });
        }
    }
}

#[test]
fn rows_by_number_agree_with_pytorch() {
    for isa in isas() {
        for case in golden("gather") {
            let table = tensor(&case["inputs"]["table"]);
            let (ids, out) = (rows_of(&case), array(&case["outputs"]["out"]));
            let (count, n) = (ids.len(), table.shape()[1]);
            let index = integers(&[count], &ids).with(Layout::new(&[count, n], &[1, 0], 0));
            let picked = view(DType::F32, Layout::contiguous(&[count, n]));
            let shape = table.shape().to_vec();
            run(isa, Gather { x: table, index: index.clone(), axis: 0, out: picked.clone() })
                .unwrap();
            close("gather", &get(&picked), &out.1, 0.0, 0.0);
            // The gradient of the table scatters the upstream rows.
            let (_, upstream) = array(&case["upstream"]["out"]);
            let upstream: Vec<f32> = upstream.iter().map(|&x| x as f32).collect();
            let x = dense(&[count, n], &upstream);
            let out = dense(&shape, &vec![0.0; shape.iter().product()]);
            run(isa, ScatterAdd { x, index, axis: 0, out: out.clone(), workspace: None }).unwrap();
            close("d_table", &get(&out), &array(&case["gradients"]["table"]).1, 1e-6, 0.0);
        }
        for case in golden("scatter_add") {
            let (ids, out) = (rows_of(&case), tensor(&case["inputs"]["table"]));
            let (count, n) = (ids.len(), out.shape()[1]);
            let index = integers(&[count], &ids).with(Layout::new(&[count, n], &[1, 0], 0));
            let (_, rows) = array(&case["inputs"]["rows"]);
            let rows: Vec<f32> = rows.iter().map(|&x| x as f32).collect();
            let x = dense(&[count, n], &rows);
            run(isa, ScatterAdd { x, index, axis: 0, out: out.clone(), workspace: None }).unwrap();
            close("scatter_add", &get(&out), &array(&case["outputs"]["out"]).1, 1e-6, 0.0);
        }
    }
}

fn rows_of(case: &serde_json::Value) -> Vec<i32> {
    array(&case["inputs"]["ids"]).1.iter().map(|&i| i as i32).collect()
}
