//! Memory knows its device, and nothing else passes for it.

use starling_contract::{Copy, DType, DeviceId, Error, HostStorage, Storage, Verb, View};
use std::sync::Arc;

/// Claims more memory than the storage within has.
struct Liar(Arc<HostStorage>);

impl Storage for Liar {
    fn bytes(&self) -> usize {
        1 << 40
    }
    fn device(&self) -> DeviceId {
        self.0.device()
    }
}

fn view(storage: Arc<dyn Storage>) -> View {
    View::contiguous(storage, DType::F32, &[4])
}

#[test]
fn operands_on_two_devices_are_an_error_that_names_both() {
    let other = HostStorage::on(DeviceId::named("other:0"), 16).unwrap();
    let src = view(HostStorage::new(16).unwrap());
    let verb = Verb::from(Copy { src: src.clone(), dst: view(other) });
    let error = verb.check().unwrap_err();
    assert!(matches!(error, Error::Devices { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("cpu") && text.contains("other:0"), "{text}");
    // Memory that was taken by another handle of the same device.
    let same = view(HostStorage::on(DeviceId::named("cpu"), 16).unwrap());
    assert!(Verb::from(Copy { src, dst: same }).check().is_ok());
}

#[test]
fn a_storage_around_host_memory_is_not_host_memory() {
    let liar = view(Arc::new(Liar(HostStorage::new(16).unwrap())));
    assert!(HostStorage::of(&liar).is_none());
    assert!(liar.storage.downcast_ref::<Liar>().is_some());
}
