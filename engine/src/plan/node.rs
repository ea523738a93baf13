//! Values: stored, or expressions that can be computed when they are needed.

use super::fusion::Fusion;
use super::parts::{Bytes, Part};
use super::watch::{self, MadeIn};
use crate::device::{Device, Random};
use crate::error::{Error, Result};
use smallvec::SmallVec;
use starling_contract::{DType, Fill, Layout, MAX_RANK, View};
use starling_ops::Definition;
use starling_ops::program::MAX_IMMEDIATES;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Program nodes after which a chain is computed rather than put off further.
const MAX_COST: usize = 64;
/// Expressions within expressions, views and casts too, after which one is computed: they are gone
/// through, and dropped, by recursion.
const MAX_DEPTH: usize = 128;
/// Distinct stored operands of one program: WebGPU's baseline binds 8 buffers, one is the output.
const MAX_LEAVES: usize = 6;
/// A small operand that costs more than this is computed before it is repeated over a larger one.
const REPEAT_COST: usize = 8;

/// Device memory that nodes share, with what must happen before it is overwritten.
pub(crate) struct Memory {
    pub(super) bytes: Bytes,
    pub(super) version: AtomicU64,
    pub(super) nodes: Mutex<Known>,
    pub(super) parts: Mutex<Vec<Part>>,
}

/// The bytes of a tensor of `shape`; an error where its axes are too many, or its positions more
/// than an address can tell, also those that an axis of extent 0 hides from the number of elements.
pub(crate) fn check_shape(op: &'static str, dtype: DType, shape: &[usize]) -> Result<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |b, &n| b.checked_mul(n.max(1)));
    match bytes {
        Some(bytes) if bytes <= isize::MAX as usize && shape.len() <= MAX_RANK => {
            Ok(if shape.contains(&0) { 0 } else { bytes })
        }
        _ => Err(Error::shape(
            op,
            format!("{shape:?} has more than {MAX_RANK} axes or more elements than addresses"),
        )),
    }
}

/// Where a stored value lies.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(super) memory: Arc<Memory>,
    pub(crate) layout: Layout,
}

impl Stored {
    /// Fresh memory for a row-major tensor; its contents are arbitrary.
    pub(crate) fn new(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = check_shape("tensor", dtype, shape)?;
        let memory = Arc::new(Memory::new(Bytes::Own(device.allocate(bytes)?), 0));
        watch::written(device, &memory);
        Ok(Self { memory, layout: Layout::contiguous(shape) })
    }

    /// The operand that backends see.
    pub(crate) fn view(&self, dtype: DType) -> View {
        View { storage: self.memory.buffer().storage().clone(), dtype, layout: self.layout }
    }

    /// The same memory through another layout.
    pub(crate) fn with(&self, layout: Layout) -> Self {
        Self { memory: self.memory.clone(), layout }
    }

    pub(crate) fn version(&self) -> u64 {
        self.memory.version.load(Ordering::Acquire)
    }

    /// To be called before every write in place: see [`Memory::before_write`].
    pub(crate) fn before_write(&self, device: &Device) -> Result<()> {
        self.overlapping().iter().try_for_each(|memory| {
            watch::written(device, memory);
            memory.before_write()
        })
    }
}

impl Memory {
    pub(super) fn new(bytes: Bytes, version: u64) -> Self {
        let version = AtomicU64::new(version);
        Self { bytes, version, nodes: Mutex::default(), parts: Mutex::default() }
    }

    /// Computes everything that still waits to read this memory, then marks it as changed.
    pub(super) fn before_write(&self) -> Result<()> {
        let mut nodes: Vec<_> = lock(&self.nodes).iter().filter_map(Weak::upgrade).collect();
        while let Some(node) = nodes.pop() {
            let waiting = std::mem::take(&mut *lock(&node.consumers));
            for (at, consumer) in waiting.iter().enumerate() {
                let Some(consumer) = consumer.upgrade() else { continue };
                let stored = consumer.stored().inspect_err(|_| {
                    // They still wait, for the next one who writes.
                    lock(&node.consumers).extend(waiting[at..].iter().cloned());
                })?;
                // A view shares the memory, so what waits to read the view must be computed too.
                if std::ptr::eq(Arc::as_ptr(&stored.memory), self) {
                    nodes.push(consumer);
                }
            }
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its data consistent at each step.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values that may be alive still.
pub(super) type Known = SmallVec<[Weak<Node>; 2]>;

/// Adds to a list of weak handles and now and then drops the dead ones.
pub(super) fn remember(list: &Mutex<Known>, node: &Arc<Node>) {
    let mut list = lock(list);
    if list.len() >= 16 && list.len().is_power_of_two() {
        list.retain(|w| w.strong_count() > 0);
    }
    list.push(Arc::downgrade(node));
}

/// What an unevaluated node is.
pub(crate) enum Lazy {
    /// The same number everywhere.
    Literal(f64),
    /// Result `output` of a definition.
    Apply { def: &'static Definition, scalars: Vec<f64>, output: usize },
    /// The derivative of a definition's only result by tensor argument `by`.
    Derivative { def: &'static Definition, scalars: Vec<f64>, by: usize },
    /// Uniform numbers in [0, 1).
    Uniform { random: Random, instance: u32 },
    /// The argument, repeated or in another type.
    Repeat,
    /// The argument's elements in other places.
    View(Rearrange),
}

/// How a view names the elements of what it is taken from.
pub(crate) enum Rearrange {
    /// In row-major order under another shape.
    Reshape(Layout),
    /// Axis `i` is axis `axes[i]`.
    Permute(Vec<usize>),
    /// Every `step`th element of an axis.
    Slice { axis: usize, start: usize, len: usize, step: isize },
}

impl Rearrange {
    /// The view of what lies as `layout` says; `None` where strides cannot express it.
    pub(crate) fn of(&self, layout: &Layout) -> Option<Layout> {
        match self {
            Rearrange::Reshape(to) => layout.reshape(to.shape()),
            Rearrange::Permute(axes) => Some(layout.permute(axes)),
            &Rearrange::Slice { axis, start, len, step } => {
                Some(layout.slice(axis, start, len, step))
            }
        }
    }
}

impl Lazy {
    /// About how many program nodes it adds.
    fn cost(&self) -> usize {
        match self {
            Lazy::Literal(_) | Lazy::Repeat | Lazy::View(_) => 0,
            Lazy::Apply { .. } => 4,
            Lazy::Derivative { .. } => 8,
            Lazy::Uniform { .. } => 6,
        }
    }

    /// The most immediates that it adds: its numbers, and as many made of them.
    fn numbers(&self) -> usize {
        match self {
            Lazy::Literal(_) => 1,
            Lazy::Apply { scalars, .. } | Lazy::Derivative { scalars, .. } => 2 * scalars.len(),
            Lazy::Uniform { .. } | Lazy::Repeat | Lazy::View(_) => 0,
        }
    }
}

pub(super) struct Expression {
    pub(super) lazy: Lazy,
    pub(super) args: Vec<Arc<Node>>,
    /// What a program over it would hold at most: shared parts may count more than once.
    size: Size,
}

pub(super) enum State {
    Stored(Stored),
    Lazy(Arc<Expression>),
}

/// A value: stored, or an expression that can be computed when it is needed.
pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    shape: Layout,
    pub(super) state: Mutex<State>,
    consumers: Mutex<Known>,
    /// Grows from node to node.
    pub(super) number: u64,
    /// The capture that it was made in.
    made_in: Option<MadeIn>,
}

impl Node {
    pub(crate) fn shape(&self) -> &[usize] {
        self.shape.shape()
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.len()
    }

    /// A value that lies in memory.
    pub(crate) fn from_stored(device: &Device, dtype: DType, stored: Stored) -> Arc<Self> {
        let shape = Layout::contiguous(stored.layout.shape());
        let node = Arc::new(Self {
            device: device.clone(),
            dtype,
            shape,
            state: Mutex::new(State::Stored(stored.clone())),
            consumers: Mutex::default(),
            number: watch::number(),
            made_in: None,
        });
        remember(&stored.memory.nodes, &node);
        node
    }

    /// An expression. `args` broadcast to `shape`; the caller has checked that they do.
    pub(crate) fn lazy(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        lazy: Lazy,
        args: Vec<Arc<Node>>,
    ) -> Result<Arc<Self>> {
        let len = check_shape("tensor", dtype, shape)? / dtype.size();
        for arg in &args {
            let repeated = arg.len() > 0 && len / arg.len() >= 4;
            if (repeated && arg.cost() > REPEAT_COST) || (arg.shape() != shape && arg.positional())
            {
                arg.stored()?;
            }
        }
        let mut size = bound(&args);
        while !size.takes(&lazy) {
            size = measure(&args);
            if size.takes(&lazy) {
                break;
            }
            // The most expensive argument is computed first; at the end all are stored.
            let put_off = args.iter().filter(|a| !a.is_stored());
            let Some(largest) = put_off.max_by_key(|a| a.cost()) else { break };
            largest.stored()?;
        }
        let expression = Arc::new(Expression { size: size.plus(&lazy), lazy, args });
        let node = Arc::new(Self {
            device: device.clone(),
            dtype,
            shape: Layout::contiguous(shape),
            state: Mutex::new(State::Lazy(expression.clone())),
            consumers: Mutex::default(),
            number: watch::number(),
            made_in: watch::current(device),
        });
        for arg in &expression.args {
            remember(&arg.consumers, &node);
        }
        watch::made(&node);
        Ok(node)
    }

    pub(super) fn expression(&self) -> Option<Arc<Expression>> {
        match &*lock(&self.state) {
            State::Stored(_) => None,
            State::Lazy(e) => Some(e.clone()),
        }
    }

    /// Program nodes that this value adds to its consumer; 0 when it is stored.
    fn cost(self: &Arc<Self>) -> usize {
        measure([self]).cost
    }

    /// True when the value depends on the element's position, so that it cannot be repeated
    /// inside another iteration space.
    pub(crate) fn positional(&self) -> bool {
        self.expression().is_some_and(|e| {
            matches!(e.lazy, Lazy::Uniform { .. }) || e.args.iter().any(|a| a.positional())
        })
    }

    /// The value in memory, computed now if it was not.
    pub(crate) fn stored(self: &Arc<Self>) -> Result<Stored> {
        let Some(expression) = self.expression() else {
            return match &*lock(&self.state) {
                State::Stored(s) => Ok(s.clone()),
                State::Lazy(_) => Err(Error::invalid("a value was computed twice at once")),
            };
        };
        if self.made_in.as_ref().is_some_and(MadeIn::is_open_elsewhere) {
            return Err(Error::invalid(
                "the value is an expression of a step that another thread is capturing, and the \
                 list would lack what computes it: use it once the capture has ended",
            ));
        }
        if watch::is_older(self) {
            return self.device.queue().outside(|| self.compute(&expression));
        }
        self.compute(&expression)
    }

    fn compute(self: &Arc<Self>, expression: &Expression) -> Result<Stored> {
        let out = match (&expression.lazy, &expression.args[..]) {
            (Lazy::View(rearrange), [base]) => {
                let base = base.stored()?;
                let layout = rearrange.of(&base.layout).ok_or_else(|| {
                    Error::shape("view", format!("{:?} cannot be seen so", base.layout))
                })?;
                base.with(layout)
            }
            (Lazy::Literal(value), _) => {
                let out = Stored::new(&self.device, self.dtype, self.shape())?;
                let (dst, value) = (out.view(self.dtype), *value);
                self.device.run(Fill { dst, value })?;
                out
            }
            _ => {
                let out = Stored::new(&self.device, self.dtype, self.shape())?;
                let mut fusion = Fusion::new(self.shape());
                let root = fusion.unrounded(self)?;
                self.device.run(fusion.map(&[root], vec![out.view(self.dtype)]))?;
                out
            }
        };
        let mut state = lock(&self.state);
        if let State::Stored(s) = &*state {
            return Ok(s.clone());
        }
        *state = State::Stored(out.clone());
        drop(state);
        remember(&out.memory.nodes, self);
        Ok(out)
    }

    /// The value as an operand.
    pub(crate) fn view(self: &Arc<Self>) -> Result<View> {
        Ok(self.stored()?.view(self.dtype))
    }

    /// True when the value lies in memory that nothing but this one handle refers to, so that it
    /// may be overwritten unseen.
    pub(crate) fn is_exclusive(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && match &*lock(&self.state) {
                State::Stored(s) => {
                    Arc::strong_count(&s.memory) == 1 && !s.layout.may_overlap_itself()
                }
                State::Lazy(_) => false,
            }
    }

    /// True when it is an expression that rearranges another one's elements.
    pub(crate) fn is_view(&self) -> bool {
        self.expression().is_some_and(|e| matches!(e.lazy, Lazy::View(_)))
    }

    /// True for a number that is not in memory.
    pub(crate) fn is_same_everywhere(&self) -> bool {
        self.expression().is_some_and(|e| matches!(e.lazy, Lazy::Literal(_)))
    }

    /// True when the value lies in memory.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(*lock(&self.state), State::Stored(_))
    }
}

/// What a program would hold.
#[derive(Clone, Copy, Default)]
struct Size {
    /// About how many nodes.
    cost: usize,
    /// Distinct stored operands.
    leaves: usize,
    /// At most how many immediates.
    numbers: usize,
    /// At most how many expressions one within another.
    depth: usize,
}

impl Size {
    fn plus(mut self, lazy: &Lazy) -> Self {
        self.cost += lazy.cost();
        self.numbers += lazy.numbers();
        self.depth += 1;
        self
    }

    /// True when an expression over it may be put off.
    fn takes(&self, lazy: &Lazy) -> bool {
        let numbers = self.numbers + lazy.numbers();
        let small = self.cost <= MAX_COST && self.depth < MAX_DEPTH;
        small && self.leaves <= MAX_LEAVES && numbers <= MAX_IMMEDIATES
    }
}

/// The sizes of `roots` together, without looking for what they share.
fn bound(roots: &[Arc<Node>]) -> Size {
    let add = |mut all: Size, node: &Arc<Node>| {
        let size = match &*lock(&node.state) {
            State::Stored(_) => Size { leaves: 1, ..Size::default() },
            State::Lazy(e) => e.size,
        };
        all.cost += size.cost;
        all.leaves += size.leaves;
        all.numbers += size.numbers;
        all.depth = all.depth.max(size.depth);
        all
    };
    roots.iter().fold(Size::default(), add)
}

/// True when a program over the node has no operand.
pub(super) fn reads_nothing(node: &Arc<Node>) -> bool {
    // A stored operand that was counted once stays one; others may have been stored since.
    node.expression().is_some_and(|e| e.size.leaves == 0) && measure([node]).leaves == 0
}

/// What a program over `roots` would hold, each distinct expression and operand counted once.
fn measure<'a>(roots: impl IntoIterator<Item = &'a Arc<Node>>) -> Size {
    let (mut size, mut seen, mut leaves) = (Size::default(), HashSet::new(), HashSet::new());
    let mut pending: Vec<Arc<Node>> = roots.into_iter().cloned().collect();
    size.depth = bound(&pending).depth;
    while let Some(node) = pending.pop() {
        if !seen.insert(Arc::as_ptr(&node)) {
            continue;
        }
        match &*lock(&node.state) {
            State::Stored(s) => {
                leaves.insert(Arc::as_ptr(&s.memory));
            }
            State::Lazy(e) => {
                size.cost += e.lazy.cost();
                size.numbers += e.lazy.numbers();
                pending.extend(e.args.iter().cloned());
            }
        }
    }
    size.leaves = leaves.len();
    size
}
