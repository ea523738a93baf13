//! The device itself: how it is made, and what it says when it is used wrongly.

use starling_contract::{
    Backend, Copy, DType, DeviceId, Error, Fill, Gemm, HostStorage, Layout, Softmax, Support, Verb,
    View,
};
use starling_cpu::{CpuBackend, Isa};

fn view(backend: &CpuBackend, dtype: DType, shape: &[usize]) -> View {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    View::contiguous(backend.alloc(bytes).unwrap(), dtype, shape)
}

#[test]
fn the_device_says_what_it_is() {
    let backend = CpuBackend::new(Isa::best(), Some(3)).unwrap();
    let c = backend.capabilities();
    assert_eq!((backend.name(), c.threads), ("cpu", Some(3)));
    assert_eq!(c.variant, Isa::best().name());
    assert!(!c.description.is_empty() && c.special_values && c.subnormals);
}

#[test]
fn no_threads_are_an_error() {
    let error = CpuBackend::new(Isa::best(), Some(0)).err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[test]
fn bytes_make_the_round_trip_and_must_be_as_many_as_the_view_has() {
    let backend = CpuBackend::new(Isa::best(), None).unwrap();
    let stream = backend.stream().unwrap();
    let x = view(&backend, DType::I32, &[2, 3]);
    let bytes: Vec<u8> = (0..24).collect();
    stream.upload(&bytes, &x).unwrap();
    let mut back = vec![0; 24];
    pollster::block_on(stream.download(&x, &mut back)).unwrap();
    assert_eq!(bytes, back);
    assert!(matches!(stream.upload(&bytes[1..], &x), Err(Error::Shape { .. })));
    let transposed = x.with(x.layout.permute(&[1, 0]));
    assert!(pollster::block_on(stream.download(&transposed, &mut back)).is_err());
}

#[test]
fn a_dtype_that_is_not_computed_on_is_a_typed_error() {
    let backend = CpuBackend::new(Isa::best(), None).unwrap();
    let stream = backend.stream().unwrap();
    let x = view(&backend, DType::F16, &[4, 4]);
    let y = view(&backend, DType::F16, &[4, 4]);
    let z = view(&backend, DType::F16, &[4, 4]);
    let verbs: [Verb; 2] = [
        Softmax { x: x.clone(), y: y.clone(), log: false }.into(),
        Gemm {
            a: x.clone(),
            b: y.clone(),
            c: z,
            alpha: 1.0,
            beta: 0.0,
            epilogue: None,
            workspace: None,
        }
        .into(),
    ];
    for verb in verbs {
        assert_eq!(backend.supports(&verb), Support::No);
        let verb = verb.check().unwrap();
        assert!(matches!(stream.submit(&verb), Err(Error::Unsupported { dtype: DType::F16, .. })));
    }
    let cast: Verb = Copy { src: x, dst: view(&backend, DType::F32, &[4, 4]) }.into();
    assert_eq!(backend.supports(&cast), Support::Native);
    stream.submit(&cast.check().unwrap()).unwrap();
}

#[test]
fn memory_of_another_device_is_refused_by_the_stream() {
    let backend = CpuBackend::new(Isa::best(), None).unwrap();
    let stream = backend.stream().unwrap();
    let elsewhere = HostStorage::on(DeviceId::named("elsewhere"), 16).unwrap();
    let x = View::contiguous(elsewhere, DType::F32, &[4]);
    let is_refused = |error: Error| {
        let text = error.to_string();
        assert!(matches!(error, Error::Devices { .. }) && text.contains("elsewhere"), "{text}");
    };
    let fill = Verb::from(Fill { dst: x.clone(), value: 1.0 }).check().unwrap();
    is_refused(stream.submit(&fill).unwrap_err());
    is_refused(stream.upload(&[0; 16], &x).unwrap_err());
    is_refused(pollster::block_on(stream.download(&x, &mut [0; 16])).unwrap_err());
    // Another opening of the processor is the same device.
    let other = CpuBackend::new(Isa::best(), Some(1)).unwrap();
    let y = view(&other, DType::F32, &[4]);
    stream.submit(&Verb::from(Fill { dst: y, value: 1.0 }).check().unwrap()).unwrap();
}

#[test]
fn transfers_outside_a_storage_are_refused() {
    let backend = CpuBackend::new(Isa::best(), None).unwrap();
    let stream = backend.stream().unwrap();
    let x = view(&backend, DType::F32, &[4]);
    for offset in [1, usize::MAX, usize::MAX / 4 + 1, 1 << 62] {
        let x = x.with(Layout::new(&[4], &[1], offset));
        assert!(matches!(stream.upload(&[0; 16], &x), Err(Error::Shape { .. })), "{offset}");
        let back = pollster::block_on(stream.download(&x, &mut [0; 16]));
        assert!(matches!(back, Err(Error::Shape { .. })), "{offset}");
    }
}
