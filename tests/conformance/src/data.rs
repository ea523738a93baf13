//! What a case is made of: arrays in host memory, in every kind of layout.

use starling_contract::{DType, HostStorage, Layout, Result, Storage, Stream, Verb, View};
use starling_ops::philox::HostStream;
use starling_reference::memory::encode;
use std::sync::Arc;

/// How an array's elements lie in its storage. Around and between them stand guard elements: NaN
/// where the type has one, so that reading one spoils the result, and checked to be untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Row-major from the start of the storage.
    Contiguous,
    /// Row-major from a position that no vector is aligned to.
    Offset,
    /// A part of each row of a wider matrix.
    Gaps,
    /// Every other element.
    Step,
    /// Column-major: the axes in the opposite order.
    Transposed,
    /// Every axis runs backwards.
    Reversed,
    /// The axes whose bits are set repeat with stride 0 (inputs only).
    Repeat(u32),
    /// Every stride is 1, so that axes overlap (inputs only).
    Overlap,
}

impl Place {
    /// The places that outputs may have.
    pub const OUTPUTS: [Place; 6] = [
        Place::Contiguous,
        Place::Offset,
        Place::Gaps,
        Place::Step,
        Place::Transposed,
        Place::Reversed,
    ];

    /// A layout of this kind.
    pub fn layout(self, shape: &[usize]) -> Layout {
        // `pitch[i]` is how many elements axis i occupies.
        let rowwise = |pitch: &dyn Fn(usize) -> usize, step: isize| {
            let mut strides = vec![0isize; shape.len()];
            let mut next = step;
            for axis in (0..shape.len()).rev() {
                strides[axis] = next;
                next *= pitch(axis).max(1) as isize;
            }
            strides
        };
        let last = shape.len().wrapping_sub(1);
        let tight = rowwise(&|axis| shape[axis], 1);
        match self {
            Place::Contiguous => Layout::contiguous(shape),
            Place::Offset => Layout::new(shape, &tight, 3),
            Place::Gaps => {
                let wide = |axis| shape[axis] + if axis == last { 3 } else { 1 };
                Layout::new(shape, &rowwise(&wide, 1), 2)
            }
            Place::Step => Layout::new(shape, &rowwise(&|axis| shape[axis], 2), 1),
            Place::Transposed => {
                let axes: Vec<usize> = (0..shape.len()).rev().collect();
                let stored: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
                Layout::contiguous(&stored).permute(&axes)
            }
            Place::Reversed => {
                let strides: Vec<isize> = tight.iter().map(|s| -s).collect();
                let first = shape.iter().product::<usize>().max(1) - 1;
                Layout::new(shape, &strides, first + 1)
            }
            Place::Repeat(axes) => {
                let repeated = |axis: usize| axes >> axis & 1 == 1;
                let mut strides = rowwise(&|axis| if repeated(axis) { 1 } else { shape[axis] }, 1);
                for (axis, stride) in strides.iter_mut().enumerate() {
                    if repeated(axis) {
                        *stride = 0;
                    }
                }
                Layout::new(shape, &strides, 0)
            }
            Place::Overlap => Layout::new(shape, &vec![1; shape.len()], 0),
        }
    }
}

/// An array before it is uploaded: all bytes of its storage and where the elements lie.
#[derive(Clone)]
pub struct Array {
    /// The type of an element.
    pub dtype: DType,
    /// The whole storage, guards included.
    pub bytes: Vec<u8>,
    /// Where the elements lie.
    pub layout: Layout,
}

impl Array {
    /// An array of guards only: what an output holds before it is written.
    pub fn guards(dtype: DType, shape: &[usize], place: Place) -> Self {
        let layout = place.layout(shape);
        let high = layout.extent().map_or(0, |(_, high)| high as usize + 1);
        // At least one guard follows; storages are a whole number of vectors long.
        let len = ((high + 1) * dtype.size()).next_multiple_of(64) / dtype.size();
        let guard: [u8; 4] = match dtype {
            DType::F32 => 0x7fc5_a5a5_u32.to_ne_bytes(),
            DType::F16 => [0xa5, 0x7e, 0, 0],
            DType::BF16 => [0xa5, 0x7f, 0, 0],
            _ => [0x5a; 4],
        };
        Self { dtype, bytes: guard[..dtype.size()].repeat(len), layout }
    }

    /// An array with these elements in row-major order.
    pub fn new(
        dtype: DType,
        shape: &[usize],
        place: Place,
        mut value: impl FnMut(usize) -> f64,
    ) -> Self {
        let mut array = Self::guards(dtype, shape, place);
        let size = dtype.size();
        for (i, at) in array.layout.positions().enumerate() {
            let bytes = encode(dtype, value(i));
            array.bytes[at * size..][..size].copy_from_slice(&bytes[..size]);
        }
        array
    }

    fn view(&self, storage: Arc<dyn Storage>) -> View {
        View { storage, dtype: self.dtype, layout: self.layout }
    }

    /// The array in host memory.
    ///
    /// # Errors
    /// [`starling_contract::Error::OutOfMemory`].
    pub fn on_host(&self) -> Result<View> {
        let storage = HostStorage::new(self.bytes.len())?;
        // SAFETY: the storage has just been made, of this very length.
        unsafe {
            let to = storage.pointer();
            std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), to, self.bytes.len());
        }
        Ok(self.view(storage))
    }

    /// The array in a backend's memory.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn upload(
        &self,
        backend: &dyn starling_contract::Backend,
        stream: &dyn Stream,
    ) -> Result<View> {
        let view = self.view(backend.alloc(self.bytes.len())?);
        stream.upload(&self.bytes, &whole(&view, self.bytes.len()))?;
        Ok(view)
    }
}

/// The first `bytes` bytes of a view's storage.
pub fn whole(view: &View, bytes: usize) -> View {
    View::contiguous(view.storage.clone(), DType::U8, &[bytes])
}

type MakeVerb = Box<dyn Fn(&[View]) -> Verb>;

/// The arrays of a case and the verb over them.
pub struct Problem {
    /// Inputs, parameters and outputs.
    pub arrays: Vec<Array>,
    verb: MakeVerb,
    random: HostStream,
}

impl Problem {
    /// A problem without arrays whose random numbers come from `name`.
    pub fn new(name: &str) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let verb: MakeVerb = Box::new(|_| unreachable!("a case without a verb"));
        Self { arrays: Vec::new(), verb, random: HostStream::seeded(seed, 0) }
    }

    /// The source of random numbers.
    pub fn random(&mut self) -> &mut HostStream {
        &mut self.random
    }

    /// Adds an array; returns its number.
    pub fn put(&mut self, array: Array) -> usize {
        self.arrays.push(array);
        self.arrays.len() - 1
    }

    /// Adds an array of the given elements.
    pub fn values(
        &mut self,
        dtype: DType,
        shape: &[usize],
        place: Place,
        values: impl Fn(usize) -> f64,
    ) -> usize {
        self.put(Array::new(dtype, shape, place, values))
    }

    /// Adds an array of numbers drawn by `draw`.
    pub fn drawn(
        &mut self,
        dtype: DType,
        shape: &[usize],
        place: Place,
        draw: impl Fn(&mut HostStream) -> f64,
    ) -> usize {
        let random = &mut self.random;
        let array = Array::new(dtype, shape, place, |_| draw(random));
        self.put(array)
    }

    /// Adds an f32 array of uniform numbers in [-1, 1).
    pub fn uniform(&mut self, shape: &[usize], place: Place) -> usize {
        self.drawn(DType::F32, shape, place, |r| f64::from(2.0 * r.uniform() - 1.0))
    }

    /// Adds an array of guards for an output.
    pub fn output(&mut self, dtype: DType, shape: &[usize], place: Place) -> usize {
        self.put(Array::guards(dtype, shape, place))
    }

    /// Sets the verb, as a function of the arrays' views.
    pub fn verb(mut self, verb: impl Fn(&[View]) -> Verb + 'static) -> Self {
        self.verb = Box::new(verb);
        self
    }

    /// The verb over these views of the arrays.
    pub fn over(&self, views: &[View]) -> Verb {
        (self.verb)(views)
    }

    /// The arrays in host memory.
    ///
    /// # Errors
    /// [`starling_contract::Error::OutOfMemory`].
    pub fn on_host(&self) -> Result<Vec<View>> {
        self.arrays.iter().map(Array::on_host).collect()
    }

    /// Runs `verb` over the arrays on the host and keeps its results in them: how the inputs of a
    /// backward verb come about.
    ///
    /// # Panics
    /// When the verb is malformed: the table is wrong then.
    pub fn forward(&mut self, verb: impl Fn(&[View]) -> Verb) {
        let views = self.on_host().expect("host memory");
        starling_reference::execute(&verb(&views)).expect("a forward verb of the table");
        for (array, view) in self.arrays.iter_mut().zip(&views) {
            let start = HostStorage::of(view).expect("host memory");
            // SAFETY: the storage was made by `on_host` with this very length.
            let bytes = unsafe { std::slice::from_raw_parts(start, array.bytes.len()) };
            array.bytes.copy_from_slice(bytes);
        }
    }
}

/// One row of the table.
pub struct Case {
    /// The definition for elementwise work (`gelu`, `gelu'` for its derivatives), else the verb.
    pub op: String,
    /// Shape, element types and layouts in words.
    pub name: String,
    /// It holds infinities, NaN or numbers that become them: run only where the backend keeps
    /// special values.
    pub special: bool,
    /// The result must be the true value rounded once.
    pub exact: bool,
    build: Box<dyn Fn(&str) -> Problem + Send + Sync>,
}

impl Case {
    /// A case whose problem is made, when it is needed, from its full name.
    pub fn new(
        op: impl Into<String>,
        name: impl Into<String>,
        build: impl Fn(&str) -> Problem + Send + Sync + 'static,
    ) -> Self {
        let (op, name) = (op.into(), name.into());
        Self { op, name, special: false, exact: false, build: Box::new(build) }
    }

    /// Marks that special values occur.
    pub fn special(self) -> Self {
        Self { special: true, ..self }
    }

    /// Marks that only the true value, rounded once, is right.
    pub fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// Operation and name.
    pub fn title(&self) -> String {
        format!("{} {}", self.op, self.name)
    }

    /// Makes the arrays and the verb; the same ones each time.
    pub fn problem(&self) -> Problem {
        (self.build)(&self.title())
    }
}
