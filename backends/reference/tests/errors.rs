//! What the reference refuses, and in which words.

use starling_contract::{
    Backend, CrossEntropy, DType, DeviceId, Error, Gather, HostStorage, Storage, Verb, View,
};
use starling_reference::{ReferenceBackend, evaluate, memory};
use std::sync::Arc;

fn view(dtype: DType, shape: &[usize], values: &[f64]) -> View {
    let len = shape.iter().product::<usize>() * dtype.size();
    let view = View::contiguous(HostStorage::new(len).unwrap(), dtype, shape);
    memory::write(&view, values).unwrap();
    view
}

fn gather(index: View) -> Verb {
    let x = view(DType::F32, &[3], &[1.0, 2.0, 3.0]);
    let out = view(DType::F32, &[2], &[0.0; 2]);
    Gather { x, index, axis: 0, out }.into()
}

#[test]
fn an_index_outside_the_table_is_named() {
    let run = |dtype, values: &[f64]| evaluate(&gather(view(dtype, &[2], values)));
    assert_eq!(run(DType::I32, &[2.0, 0.0]).unwrap(), [[3.0, 1.0]]);
    let beyond = run(DType::U32, &[0.0, 3.0]).unwrap_err();
    assert!(matches!(beyond, Error::Index { index: 3, bound: 3, op: "gather" }), "{beyond}");
    let negative = run(DType::I32, &[-1.0, 0.0]).unwrap_err();
    assert!(matches!(negative, Error::Index { index: -1, .. }), "{negative}");
}

#[test]
fn a_target_outside_the_classes_is_named_unless_it_is_ignored() {
    let loss = |ignore_index| {
        let verb = CrossEntropy {
            logits: view(DType::F32, &[1, 2], &[0.0; 2]),
            targets: view(DType::I32, &[1], &[-100.0]),
            ignore_index,
            losses: view(DType::F32, &[1], &[0.0]),
            lse: view(DType::F32, &[1], &[0.0]),
        };
        evaluate(&verb.into())
    };
    assert_eq!(loss(Some(-100)).unwrap(), [[0.0], [2f64.ln()]]);
    assert!(matches!(loss(None), Err(Error::Index { index: -100, bound: 2, .. })));
}

/// Memory of some other backend.
struct Foreign;

impl Storage for Foreign {
    fn bytes(&self) -> usize {
        8
    }
    fn device(&self) -> DeviceId {
        DeviceId::named("foreign")
    }
}

#[test]
fn foreign_memory_and_wrong_sizes_are_errors() {
    let foreign = View::contiguous(Arc::new(Foreign), DType::I32, &[2]);
    assert!(matches!(evaluate(&gather(foreign)), Err(Error::Devices { .. })));
    let backend = ReferenceBackend::new();
    let stream = backend.stream().unwrap();
    let host = view(DType::F32, &[2], &[0.0; 2]);
    assert!(matches!(stream.upload(&[0; 8], &host), Err(Error::Devices { .. })));
    let two = View::contiguous(backend.alloc(8).unwrap(), DType::F32, &[2]);
    assert!(stream.upload(&[0; 7], &two).is_err());
    assert!(stream.upload(&[0; 8], &two).is_ok());
    assert!(ready(stream.download(&two, &mut [0; 12])).is_err());
}

/// The reference's futures are ready at once.
fn ready<T>(mut future: std::pin::Pin<Box<dyn Future<Output = T> + Send + '_>>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(x) => x,
        std::task::Poll::Pending => panic!("the reference never waits"),
    }
}
