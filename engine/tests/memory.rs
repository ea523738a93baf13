//! Memory that a device has given back only when what used it is done.

use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Error, Pending, Result, Storage, Stream,
    Support, Verb, View,
};
use starling_engine::{Device, Tensor};
use std::sync::{Arc, Mutex, Weak};

/// The storages of a device, alive or not, with their sizes.
type Books = Arc<Mutex<Vec<(Weak<dyn Storage>, usize)>>>;

/// A device of `limit` bytes, which frees memory at a wait only: as a GPU does, whose driver keeps
/// what submitted work may use.
struct Late {
    inner: Arc<dyn Backend>,
    limit: usize,
    books: Books,
}

impl Backend for Late {
    fn name(&self) -> &str {
        "late"
    }
    fn device(&self) -> DeviceId {
        self.inner.device()
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn supports(&self, verb: &Verb) -> Support {
        self.inner.supports(verb)
    }
    fn workspace_bytes(&self, verb: &Verb) -> usize {
        self.inner.workspace_bytes(verb)
    }
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        let mut books = self.books.lock().unwrap();
        let in_use_bytes = books.iter().map(|b| b.1).sum::<usize>();
        if in_use_bytes + bytes > self.limit {
            let device = "late".into();
            return Err(Error::OutOfMemory { requested_bytes: bytes, in_use_bytes, device });
        }
        let storage = self.inner.alloc(bytes)?;
        books.push((Arc::downgrade(&storage), bytes));
        Ok(storage)
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(LateStream(self.inner.stream()?, self.books.clone())))
    }
}

struct LateStream(Box<dyn Stream>, Books);

impl Stream for LateStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        self.0.submit(verb)
    }
    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.0.upload(bytes, to)
    }
    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        self.0.download(from, bytes)
    }
    fn sync(&self) -> Pending<'_, ()> {
        self.1.lock().unwrap().retain(|(storage, _)| storage.strong_count() > 0);
        self.0.sync()
    }
}

#[test]
fn memory_that_is_still_in_use_on_the_device_is_waited_for() {
    let late = Late {
        inner: starling_cpu::CpuBackend::detect().unwrap(),
        limit: 64 << 20,
        books: Books::default(),
    };
    let device = Device::from_backend(Arc::new(late)).unwrap();
    let ones = |n: usize| Tensor::from_slice(&device, &vec![1f32; n], &[n]);
    // Of another size each time, so that nothing is used again as it is.
    for mib in [9, 11, 13, 15, 17, 19, 21, 23] {
        let x = ones(mib << 18).unwrap().add_scalar(1.0).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap()[0], 2.0, "{mib} MiB");
    }
    let error = ones(70 << 18).err().unwrap().to_string();
    assert!(error.contains("out of memory on late"), "{error}");
    let x = ones(1 << 18).unwrap().add_scalar(1.0).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap()[0], 2.0, "the process works on");
}

/// A write that fails for want of memory leaves all values that wait to read what it would have
/// overwritten: the next one computes them first.
#[test]
fn a_write_that_fails_forgets_no_value_that_waits() {
    const N: usize = 1 << 18;
    let backend = Device::new("cpu").unwrap().backend().clone();
    let device = Device::with_memory_limit(backend, 5 * N * 4).unwrap();
    let filled = |x: f32| Tensor::from_slice(&device, &vec![x; N], &[N]).unwrap();
    let x = filled(1.0);
    let hogs = [(); 3].map(|()| filled(0.0));
    let waiting: Vec<Tensor> = (1..4).map(|i| x.add_scalar(f64::from(i)).unwrap()).collect();
    // There is room for one of the three.
    let full = x.copy_from_slice(&vec![100f32; N]);
    assert!(full.is_err());
    drop(hogs);
    x.copy_from_slice(&vec![100f32; N]).unwrap();
    let found: Vec<f32> = waiting.iter().map(|t| t.to_vec::<f32>().unwrap()[7]).collect();
    assert_eq!(found, [2.0, 3.0, 4.0]);
}
