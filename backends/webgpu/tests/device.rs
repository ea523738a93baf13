//! What a device does at its limits: large and empty operands, exhausted memory, its own end.

use starling_contract::{
    Backend, Checked, Copy, DType, Error, Fill, Gather, Gemm, Layout, Map, Program, Reduce,
    ReduceKind, Softmax, Stream, Verb, View,
};
use starling_ops::program::{Builder, Op};
use starling_webgpu::{Options, WebGpuBackend, adapters};
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn checked(verb: impl Into<Verb>) -> Checked {
    verb.into().check().unwrap()
}

fn open(variant: &str) -> Result<Arc<WebGpuBackend>, Error> {
    WebGpuBackend::with(0, Options { variant: Some(variant.parse()?), ..Options::default() })
}

fn memory(backend: &WebGpuBackend, dtype: DType, shape: &[usize]) -> View {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    View::contiguous(backend.alloc(bytes).unwrap(), dtype, shape)
}

fn upload<T: bytemuck::Pod>(stream: &dyn Stream, values: &[T], to: &View) {
    stream.upload(bytemuck::cast_slice(values), to).unwrap();
}

fn download(stream: &dyn Stream, from: &View) -> Result<Vec<f32>, Error> {
    let mut bytes = vec![0; from.len() * from.dtype.size()];
    pollster::block_on(stream.download(from, &mut bytes))?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// Part of a view without gaps.
fn part(view: &View, first: usize, len: usize) -> View {
    view.with(Layout::new(&[len], &[1], first))
}

fn square() -> Arc<Program> {
    let put = |b: &mut Builder| {
        let x = b.put(Op::Input(0), &[]);
        vec![b.put(Op::Mul, &[x, x])]
    };
    Arc::new(Program::build(put))
}

/// 300 MiB, more than one binding may see: every 1024th element holds its row's number.
fn weight(backend: &WebGpuBackend, stream: &dyn Stream) -> (View, usize) {
    let rows = 300 * MIB / 4096;
    let table = memory(backend, DType::F32, &[rows, 1024]);
    let numbers: Vec<f32> = (0..rows).map(|row| row as f32).collect();
    let source = memory(backend, DType::F32, &[rows]);
    upload(stream, &numbers, &source);
    stream.submit(&checked(Fill { dst: table.clone(), value: 0.5 })).unwrap();
    let first = table.with(Layout::new(&[rows], &[1024], 0));
    stream.submit(&checked(Copy { src: source, dst: first })).unwrap();
    (table, rows)
}

#[test]
fn a_weight_of_300_mib_is_read_and_written_in_every_part() {
    for variant in ["plain", "subgroup"] {
        let backend = open(variant).unwrap();
        let stream = backend.stream().unwrap();
        let (table, rows) = weight(&backend, &*stream);
        let wanted = [0, rows / 3, 2 * rows / 3, rows - 1];
        let ids = memory(&backend, DType::U32, &[4]);
        upload(&*stream, &wanted.map(|row| row as u32), &ids);
        let index = View { layout: Layout::new(&[4, 1024], &[1, 0], 0), ..ids };
        let picked = memory(&backend, DType::F32, &[4, 1024]);
        let gather = Gather { x: table.clone(), index, axis: 0, out: picked.clone() };
        stream.submit(&checked(gather)).unwrap();
        let squares = memory(&backend, DType::F32, &[rows * 1024]);
        let flat = table.with(Layout::contiguous(&[rows * 1024]));
        let (inputs, outputs) = (vec![flat], vec![squares.clone()]);
        let map = Map {
            program: square(),
            params: Vec::new(),
            immediates: Default::default(),
            inputs,
            outputs,
        };
        stream.submit(&checked(map)).unwrap();
        let found = download(&*stream, &picked).unwrap();
        for (place, row) in wanted.into_iter().enumerate() {
            assert_eq!(found[place * 1024..][..2], [row as f32, 0.5], "{variant}: row {row}");
            let at = download(&*stream, &part(&squares, row * 1024, 2)).unwrap();
            assert_eq!(at, [(row * row) as f32, 0.25], "{variant}: the square of row {row}");
        }
    }
}

#[test]
fn a_product_with_a_weight_of_300_mib_picks_its_rows() {
    for options in ["plain", "subgroup", "plain+hardware"] {
        let backend = WebGpuBackend::with(0, options.parse().unwrap()).unwrap();
        let stream = backend.stream().unwrap();
        let (table, rows) = weight(&backend, &*stream);
        let wanted = [0, rows / 3, 2 * rows / 3, rows - 1];
        let mut one_hot = vec![0f32; 4 * rows];
        wanted.iter().enumerate().for_each(|(i, row)| one_hot[i * rows + row] = 1.0);
        let a = memory(&backend, DType::F32, &[4, rows]);
        upload(&*stream, &one_hot, &a);
        let c = memory(&backend, DType::F32, &[4, 1024]);
        let (alpha, beta, epilogue) = (1.0, 0.0, None);
        let mut verb: Verb =
            Gemm { a, b: table, c: c.clone(), alpha, beta, epilogue, workspace: None }.into();
        let bytes = backend.workspace_bytes(&verb);
        if let (true, Some(slot)) = (bytes > 0, verb.workspace_mut()) {
            *slot = Some(memory(&backend, DType::F32, &[bytes.div_ceil(4)]));
        }
        stream.submit(&checked(verb)).unwrap();
        let found = download(&*stream, &c).unwrap();
        for (place, row) in wanted.into_iter().enumerate() {
            assert_eq!(found[place * 1024..][..2], [row as f32, 0.5], "{options}: row {row}");
        }
    }
}

#[test]
fn seventy_thousand_rows_are_more_than_one_side_of_a_dispatch() {
    for options in ["plain", "subgroup", "plain+hardware"] {
        let backend = WebGpuBackend::with(0, options.parse().unwrap()).unwrap();
        let stream = backend.stream().unwrap();
        let (rows, n) = (70_000, 12);
        let x = memory(&backend, DType::F32, &[rows, n]);
        let y = memory(&backend, DType::F32, &[rows, n]);
        let values: Vec<f32> = (0..rows * n).map(|i| ((i / n + i % n * 7) % 23) as f32).collect();
        upload(&*stream, &values, &x);
        stream.submit(&checked(Softmax { x, y: y.clone(), log: false })).unwrap();
        let found = download(&*stream, &y).unwrap();
        for (row, (x, y)) in values.chunks(n).zip(found.chunks(n)).enumerate() {
            let largest = x.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = x.iter().map(|x| f64::from(x - largest).exp()).sum();
            for (x, y) in x.iter().zip(y) {
                let want = f64::from(x - largest).exp() / sum;
                assert!((f64::from(*y) - want).abs() < 1e-5 * want, "{options}: row {row}");
            }
        }
    }
}

#[test]
fn memory_that_is_not_there_is_a_typed_error_and_nothing_else_suffers() {
    let backend = open("plain").unwrap();
    let Err(error) = backend.alloc(8 << 30) else { panic!("8 GiB were had") };
    assert!(
        matches!(error, Error::OutOfMemory { requested_bytes, .. } if requested_bytes == 8 << 30),
        "{error}"
    );
    let stream = backend.stream().unwrap();
    let x = memory(&backend, DType::F32, &[5]);
    upload(&*stream, &[1f32, 2.0, 3.0, 4.0, 5.0], &x);
    assert_eq!(download(&*stream, &x).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn what_lies_outside_a_storage_or_counts_beyond_32_bits_is_refused() {
    let backend = open("plain").unwrap();
    for bytes in [usize::MAX, usize::MAX - 15, usize::MAX - 31] {
        assert!(matches!(backend.alloc(bytes), Err(Error::OutOfMemory { .. })), "{bytes}");
    }
    let stream = backend.stream().unwrap();
    let x = memory(&backend, DType::U8, &[16]);
    let far = x.with(Layout::new(&[1], &[1], 1_000_001));
    assert!(matches!(stream.upload(&[1], &far), Err(Error::Shape { .. })));
    // One element repeated 2^32 times takes no memory, and a count of it no word.
    let one = memory(&backend, DType::F32, &[1]);
    let many = one.with(Layout::new(&[1 << 16, 1 << 16], &[0, 0], 0));
    let output = memory(&backend, DType::F32, &[1, 1]);
    let mut verb: Verb = Reduce {
        kind: ReduceKind::Sum,
        program: Arc::new(Program::identity()),
        params: Vec::new(),
        immediates: Default::default(),
        inputs: vec![many],
        axes: 0b11,
        output,
        workspace: None,
    }
    .into();
    let bytes = backend.workspace_bytes(&verb);
    if let (true, Some(slot)) = (bytes > 0, verb.workspace_mut()) {
        *slot = Some(memory(&backend, DType::F32, &[bytes.div_ceil(4)]));
    }
    assert!(matches!(stream.submit(&checked(verb)), Err(Error::Shape { .. })));
}

#[test]
fn notes_of_two_streams_are_kept_apart_and_a_dropped_stream_finishes() {
    let backend = open("plain").unwrap();
    let (one, two) = (backend.stream().unwrap(), backend.stream().unwrap());
    let (x, out) = (memory(&backend, DType::F32, &[3]), memory(&backend, DType::F32, &[2]));
    let index = memory(&backend, DType::I32, &[2]);
    upload(&*one, &[1f32, 2.0, 3.0], &x);
    upload(&*one, &[0, 7], &index);
    let gather = Gather { x: x.clone(), index, axis: 0, out };
    one.submit(&checked(gather)).unwrap();
    assert!(download(&*two, &x).is_ok(), "another stream's index is not its business");
    assert!(matches!(pollster::block_on(one.sync()), Err(Error::Index { index: 7, .. })));
    one.submit(&checked(Fill { dst: x.clone(), value: 5.0 })).unwrap();
    drop(one);
    assert_eq!(download(&*two, &x).unwrap(), [5.0; 3]);
}

#[test]
fn nothing_is_moved_for_empty_tensors() {
    let backend = open("plain").unwrap();
    let stream = backend.stream().unwrap();
    let x = memory(&backend, DType::F32, &[3, 0]);
    upload::<f32>(&*stream, &[], &x);
    let (inputs, outputs) = (vec![x.clone()], vec![x.clone()]);
    stream
        .submit(&checked(Map {
            program: square(),
            params: Vec::new(),
            immediates: Default::default(),
            inputs,
            outputs,
        }))
        .unwrap();
    stream.submit(&checked(Fill { dst: x.clone(), value: 1.0 })).unwrap();
    assert!(download(&*stream, &x).unwrap().is_empty());
    assert_eq!(stream.counters().dispatches, 0);
}

#[test]
fn an_index_outside_its_table_is_reported_at_the_next_wait() {
    let backend = open("plain").unwrap();
    let stream = backend.stream().unwrap();
    let (x, out) = (memory(&backend, DType::F32, &[3]), memory(&backend, DType::F32, &[2]));
    let index = memory(&backend, DType::I32, &[2]);
    upload(&*stream, &[1f32, 2.0, 3.0], &x);
    for (ids, wrong) in [([1, 3], 3), ([-1, 2], -1)] {
        upload(&*stream, &ids, &index);
        let gather = Gather { x: x.clone(), index: index.clone(), axis: 0, out: out.clone() };
        stream.submit(&checked(gather)).unwrap();
        let error = download(&*stream, &out).unwrap_err();
        assert!(
            matches!(error, Error::Index { op: "gather", index, bound: 3 } if index == wrong),
            "{error}"
        );
    }
    upload(&*stream, &[0, 2], &index);
    let gather = Gather { x, index: index.clone(), axis: 0, out: out.clone() };
    stream.submit(&checked(gather.clone())).unwrap();
    assert_eq!(download(&*stream, &out).unwrap(), [1.0, 3.0], "the stream works on");
    upload(&*stream, &[0, 5], &index);
    stream.submit(&checked(gather)).unwrap();
    assert!(matches!(pollster::block_on(stream.sync()), Err(Error::Index { index: 5, .. })));
    assert!(pollster::block_on(stream.sync()).is_ok(), "it is reported once");
}

#[test]
fn a_device_that_is_lost_says_so_and_others_work_on() {
    let (lost, other) = (open("plain").unwrap(), open("plain").unwrap());
    let streams = [lost.stream().unwrap(), other.stream().unwrap()];
    let x = memory(&lost, DType::F32, &[4]);
    let y = memory(&other, DType::F32, &[4]);
    upload(&*streams[0], &[1f32; 4], &x);
    upload(&*streams[1], &[2f32; 4], &y);
    let verb = |v: &View| {
        let (inputs, outputs) = (vec![v.clone()], vec![v.clone()]);
        Map {
            program: square(),
            params: Vec::new(),
            immediates: Default::default(),
            inputs,
            outputs,
        }
    };
    streams[0].submit(&checked(verb(&x))).unwrap();
    lost.destroy();
    let is_lost = |e: Error| assert!(matches!(e, Error::DeviceLost(_)), "{e}");
    is_lost(streams[0].submit(&checked(verb(&x))).unwrap_err());
    is_lost(pollster::block_on(streams[0].sync()).unwrap_err());
    is_lost(streams[0].upload(&[0; 16], &x).unwrap_err());
    is_lost(download(&*streams[0], &x).unwrap_err());
    is_lost(lost.alloc(4).err().unwrap());
    streams[1].submit(&checked(verb(&y))).unwrap();
    assert_eq!(download(&*streams[1], &y).unwrap(), [4.0; 4]);
}

#[test]
fn operands_of_another_device_and_variants_that_are_not_there_are_refused() {
    let (one, other) = (open("plain").unwrap(), open("plain").unwrap());
    if !adapters()[0].variant.matrix {
        assert!(matches!(open("matrix"), Err(Error::Unavailable { .. })));
    }
    assert!(matches!(open("wide"), Err(Error::Unavailable { .. })));
    assert!(matches!(WebGpuBackend::with(99, Options::default()), Err(Error::Unavailable { .. })));
    let host = View::contiguous(starling_contract::HostStorage::new(16).unwrap(), DType::F32, &[4]);
    let stream = one.stream().unwrap();
    let x = memory(&one, DType::F32, &[4]);
    let is_elsewhere = |result: Result<(), Error>| {
        assert!(matches!(result.unwrap_err(), Error::Devices { .. }));
    };
    is_elsewhere(Verb::from(Copy { src: host, dst: x }).check().map(|_| ()));
    // One adapter opened twice is two devices: neither can reach the other's memory.
    let theirs = memory(&other, DType::F32, &[4]);
    is_elsewhere(stream.submit(&checked(Fill { dst: theirs.clone(), value: 1.0 })));
    is_elsewhere(stream.upload(&[0; 16], &theirs));
    is_elsewhere(download(&*stream, &theirs).map(|_| ()));
    is_elsewhere(stream.compile(vec![checked(Fill { dst: theirs, value: 1.0 })]).map(|_| ()));
}
