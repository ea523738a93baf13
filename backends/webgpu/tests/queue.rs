//! What a queue hands to the driver, and when: submissions, uploads, answers nobody waited for.

use starling_contract::{
    Attention, Backend, Checked, DType, Error, Fill, Gather, Lengths, Sight, Stream, Verb, View,
};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn open() -> Arc<WebGpuBackend> {
    WebGpuBackend::with(0, "plain".parse::<Options>().unwrap()).unwrap()
}

fn checked(verb: impl Into<Verb>) -> Checked {
    verb.into().check().unwrap()
}

fn memory(backend: &WebGpuBackend, dtype: DType, shape: &[usize]) -> View {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    View::contiguous(backend.alloc(bytes).unwrap(), dtype, shape)
}

fn sync(stream: &dyn Stream) -> Result<(), Error> {
    pollster::block_on(stream.sync())
}

#[test]
fn uploads_are_submitted_every_64_mib() {
    let backend = open();
    let stream = backend.stream().unwrap();
    let x = memory(&backend, DType::U8, &[160 * MIB]);
    let bytes = vec![1; 160 * MIB];
    let part = |mib| x.with(starling_contract::Layout::contiguous(&[mib * MIB]));
    let submissions = || stream.counters().submissions;
    stream.upload(&bytes[..40 * MIB], &part(40)).unwrap();
    assert_eq!(submissions(), 0, "a small upload waits for what comes");
    stream.upload(&bytes[..30 * MIB], &part(30)).unwrap();
    assert_eq!(submissions(), 1);
    sync(&*stream).unwrap();
    let before = submissions();
    stream.upload(&bytes, &x).unwrap();
    assert_eq!(submissions(), before + 2, "a large upload is submitted in parts");
}

/// A `gather` whose second index is `index` of a table of 3.
fn gather(backend: &WebGpuBackend, stream: &dyn Stream, index: i32) -> (Checked, View) {
    let (x, out) = (memory(backend, DType::F32, &[3]), memory(backend, DType::F32, &[2]));
    let ids = memory(backend, DType::I32, &[2]);
    stream.upload(bytemuck::cast_slice(&[1f32, 2.0, 3.0]), &x).unwrap();
    stream.upload(bytemuck::cast_slice(&[0, index]), &ids).unwrap();
    (checked(Gather { x, index: ids, axis: 0, out: out.clone() }), out)
}

#[test]
fn a_dropped_download_leaves_its_error_to_the_next_answer() {
    let backend = open();
    let stream = backend.stream().unwrap();
    let (wrong, out) = gather(&backend, &*stream, 7);
    let (right, other) = gather(&backend, &*stream, 1);
    let mut bytes = [0; 8];
    let is_wrong = |result| assert!(matches!(result, Err(Error::Index { index: 7, bound: 3, .. })));
    stream.submit(&wrong).unwrap();
    drop(stream.download(&out, &mut bytes));
    is_wrong(sync(&*stream));
    assert!(sync(&*stream).is_ok(), "it is reported once");
    // Another verb and another download in between.
    stream.submit(&wrong).unwrap();
    drop(stream.download(&out, &mut bytes));
    stream.submit(&right).unwrap();
    is_wrong(pollster::block_on(stream.download(&other, &mut bytes)));
    assert!(pollster::block_on(stream.download(&other, &mut bytes)).is_ok());
    assert_eq!(bytemuck::pod_read_unaligned::<[f32; 2]>(&bytes), [1.0, 2.0]);
}

/// An attention of 2^36 operations by its shapes, and of none by the lengths in memory.
fn heavy(backend: &WebGpuBackend, stream: &dyn Stream) -> Checked {
    let (heads, queries, keys, dim) = (8, 1 << 16, 1 << 12, 8);
    let lengths = memory(backend, DType::I32, &[1]);
    stream.upload(&[0; 4], &lengths).unwrap();
    let row = |n| memory(backend, DType::F32, &[1, heads, n, dim]);
    checked(Attention {
        q: row(queries),
        k: row(keys),
        v: row(keys),
        mask: None,
        sight: Sight { lengths: Lengths::Keys(lengths), ..Sight::default() },
        scale: 1.0,
        score: None,
        dropout: None,
        out: row(queries),
        lse: memory(backend, DType::F32, &[1, heads, queries]),
    })
}

#[test]
fn a_submission_ends_where_its_work_is_enough_for_a_watchdog() {
    let backend = open();
    let stream = backend.stream().unwrap();
    let small = checked(Fill { dst: memory(&backend, DType::F32, &[64]), value: 1.0 });
    let heavy = heavy(&backend, &*stream);
    sync(&*stream).unwrap();
    let counted = |run: &dyn Fn()| {
        let before = stream.counters();
        run();
        sync(&*stream).unwrap();
        let after = stream.counters();
        (after.submissions - before.submissions, after.dispatches - before.dispatches)
    };
    let list = |verb: &Checked| vec![verb.clone(), verb.clone(), verb.clone()];
    let eager = |verb: &Checked| list(verb).iter().for_each(|v| stream.submit(v).unwrap());
    assert_eq!(counted(&|| eager(&small)), (1, 3));
    assert_eq!(counted(&|| eager(&heavy)), (3, 3));
    for (verb, submissions) in [(&small, 1), (&heavy, 3)] {
        let replay = stream.compile(list(verb)).unwrap();
        assert_eq!(counted(&|| replay.run(&*stream).unwrap()), (submissions, 3));
    }
}

#[test]
fn a_queue_counts_its_own_work() {
    let backend = open();
    let (one, two) = (backend.stream().unwrap(), backend.stream().unwrap());
    one.submit(&checked(Fill { dst: memory(&backend, DType::F32, &[64]), value: 1.0 })).unwrap();
    sync(&*one).unwrap();
    let (one, two) = (one.counters(), two.counters());
    assert_eq!((one.submissions, one.dispatches, one.compilations), (1, 1, 1));
    assert_eq!((two.submissions, two.dispatches, two.compilations), (0, 0, 0));
}
