//! The plan: elementwise work is put off and fused into the verb that needs its result.
//!
//! A [`Node`] is a value that is either stored or still an expression over other nodes. An
//! expression is computed when a verb that is no map needs it, when it is downloaded, when memory
//! that it reads is about to be overwritten, or when it has grown past [`MAX_COST`] program nodes
//! or [`MAX_LEAVES`] operands. A fused chain computes in f32 and rounds once, at its output.

mod watch;

pub(crate) use watch::{Watching, Written};

use crate::device::{Device, Random};
use crate::error::{Error, Result};
use starling_contract::{Buffer, DType, Layout, MAX_RANK, Map, Reduce, ReduceKind, View};
use starling_ops::program::{Builder, MAX_IMMEDIATES, NodeId, Op};
use starling_ops::trace::Trace;
use starling_ops::{Definition, Key, Math};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Program nodes after which a chain is computed rather than put off further.
const MAX_COST: usize = 64;
/// Distinct stored operands of one program: WebGPU's baseline binds 8 buffers, one is the output.
const MAX_LEAVES: usize = 6;
/// A small operand that costs more than this is computed before it is repeated over a larger one.
const REPEAT_COST: usize = 8;

/// Device memory that nodes share, with what must happen before it is overwritten.
pub(crate) struct Memory {
    buffer: Buffer,
    version: AtomicU64,
    nodes: Mutex<Vec<Weak<Node>>>,
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
    memory: Arc<Memory>,
    pub(crate) layout: Layout,
}

impl Stored {
    /// Fresh memory for a row-major tensor; its contents are arbitrary.
    pub(crate) fn new(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = check_shape("tensor", dtype, shape)?;
        let memory = Memory {
            buffer: device.allocate(bytes)?,
            version: AtomicU64::new(0),
            nodes: Mutex::default(),
        };
        let memory = Arc::new(memory);
        watch::written(device, &memory);
        Ok(Self { memory, layout: Layout::contiguous(shape) })
    }

    /// The operand that backends see.
    pub(crate) fn view(&self, dtype: DType) -> View {
        View { storage: self.memory.buffer.storage().clone(), dtype, layout: self.layout }
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
        watch::written(device, &self.memory);
        self.memory.before_write()
    }
}

impl Memory {
    /// Computes everything that still waits to read this memory, then marks it as changed.
    fn before_write(&self) -> Result<()> {
        let nodes: Vec<_> = lock(&self.nodes).iter().filter_map(Weak::upgrade).collect();
        for node in nodes {
            let consumers: Vec<_> =
                lock(&node.consumers).drain(..).filter_map(|c| c.upgrade()).collect();
            for consumer in consumers {
                consumer.stored()?;
            }
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its data consistent at each step.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds to a list of weak handles and now and then drops the dead ones.
fn remember(list: &Mutex<Vec<Weak<Node>>>, node: &Arc<Node>) {
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
    /// The argument, repeated.
    Repeat,
}

impl Lazy {
    /// About how many program nodes it adds.
    fn cost(&self) -> usize {
        match self {
            Lazy::Literal(_) | Lazy::Repeat => 0,
            Lazy::Apply { .. } => 4,
            Lazy::Derivative { .. } => 8,
            Lazy::Uniform { .. } => 6,
        }
    }
}

impl Lazy {
    /// The most immediates that it adds: its numbers, and as many made of them.
    fn numbers(&self) -> usize {
        match self {
            Lazy::Literal(_) => 1,
            Lazy::Apply { scalars, .. } | Lazy::Derivative { scalars, .. } => 2 * scalars.len(),
            Lazy::Uniform { .. } | Lazy::Repeat => 0,
        }
    }
}

struct Expression {
    lazy: Lazy,
    args: Vec<Arc<Node>>,
}

enum State {
    Stored(Stored),
    Lazy(Arc<Expression>),
}

/// A value: stored, or an expression that can be computed when it is needed.
pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    shape: Layout,
    state: Mutex<State>,
    consumers: Mutex<Vec<Weak<Node>>>,
    /// Grows from node to node.
    number: u64,
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
        while !measure(&args).plus(&lazy).fits() {
            // The most expensive argument is computed first; at the end all are stored.
            let put_off = args.iter().filter(|a| !a.is_stored());
            let Some(largest) = put_off.max_by_key(|a| a.cost()) else { break };
            largest.stored()?;
        }
        let expression = Arc::new(Expression { lazy, args });
        let node = Arc::new(Self {
            device: device.clone(),
            dtype,
            shape: Layout::contiguous(shape),
            state: Mutex::new(State::Lazy(expression.clone())),
            consumers: Mutex::default(),
            number: watch::number(),
        });
        for arg in &expression.args {
            remember(&arg.consumers, &node);
        }
        watch::made(&node);
        Ok(node)
    }

    fn expression(&self) -> Option<Arc<Expression>> {
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
    fn positional(&self) -> bool {
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
        if watch::is_older(self) {
            return self.device.queue().outside(|| self.compute(&expression));
        }
        self.compute(&expression)
    }

    fn compute(self: &Arc<Self>, expression: &Expression) -> Result<Stored> {
        let out = Stored::new(&self.device, self.dtype, self.shape())?;
        if let Lazy::Literal(value) = expression.lazy {
            let dst = out.view(self.dtype);
            self.device.run(starling_contract::Fill { dst, value })?;
        } else {
            let mut fusion = Fusion::new(self.shape());
            let root = fusion.visit(self)?;
            let outputs = vec![out.view(self.dtype)];
            self.device.run(fusion.map(&[root], outputs))?;
        }
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

    /// True when the value lies in memory.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(*lock(&self.state), State::Stored(_))
    }
}

/// What a program would hold.
#[derive(Default)]
struct Size {
    /// About how many nodes.
    cost: usize,
    /// Distinct stored operands.
    leaves: usize,
    /// At most how many immediates.
    numbers: usize,
}

impl Size {
    fn plus(mut self, lazy: &Lazy) -> Self {
        self.numbers += lazy.numbers();
        self
    }

    fn fits(&self) -> bool {
        self.cost <= MAX_COST && self.leaves <= MAX_LEAVES && self.numbers <= MAX_IMMEDIATES
    }
}

/// What a program over `roots` would hold, each distinct expression and operand counted once.
fn measure<'a>(roots: impl IntoIterator<Item = &'a Arc<Node>>) -> Size {
    let (mut size, mut seen, mut leaves) = (Size::default(), HashSet::new(), HashSet::new());
    let mut pending: Vec<Arc<Node>> = roots.into_iter().cloned().collect();
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

/// Builds one program out of expressions.
struct Fusion {
    shape: Vec<usize>,
    builder: RefCell<Builder>,
    inputs: Vec<View>,
    params: Vec<View>,
    done: HashMap<*const Node, NodeId>,
    /// The expressions in the program. Another thread may compute one meanwhile, which then lets
    /// its operands go: their memory must not be used again before the verb is submitted.
    held: Vec<Arc<Expression>>,
}

impl Fusion {
    fn new(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            builder: RefCell::default(),
            inputs: Vec::new(),
            params: Vec::new(),
            done: HashMap::new(),
            held: Vec::new(),
        }
    }

    /// The node's value as a node of the program.
    fn visit(&mut self, node: &Arc<Node>) -> Result<NodeId> {
        if let Some(&id) = self.done.get(&Arc::as_ptr(node)) {
            return Ok(id);
        }
        let id = match node.expression() {
            None => {
                let view = node.view()?;
                self.input(view)?
            }
            // Computed once, not again by every replay: see `watch`.
            Some(_) if watch::is_older(node) => {
                let view = node.view()?;
                self.input(view)?
            }
            Some(e) => {
                let id = self.expression(&e)?;
                self.held.push(e);
                id
            }
        };
        self.done.insert(Arc::as_ptr(node), id);
        Ok(id)
    }

    fn expression(&mut self, e: &Expression) -> Result<NodeId> {
        let args: Vec<NodeId> = e.args.iter().map(|a| self.visit(a)).collect::<Result<_>>()?;
        Ok(match &e.lazy {
            Lazy::Literal(x) => self.number(x),
            Lazy::Apply { def, scalars, output } => {
                let scalars = self.numbers(scalars);
                def.put(&self.builder, &args, &scalars)[*output]
            }
            Lazy::Derivative { def, scalars, by } => {
                let scalars = self.numbers(scalars);
                def.put_derivative(&self.builder, &args, &scalars, *by)[0]
            }
            Lazy::Uniform { random, instance } => {
                let key: Key<usize> = random.key(*instance)?.map(|view| self.param(view));
                let t = Trace(&self.builder);
                t.uniform(t.index(), key.map(|i| t.param_word(i))).0
            }
            Lazy::Repeat => args[0],
        })
    }

    /// A stored operand, repeated to the iteration space; equal operands are one input.
    fn input(&mut self, view: View) -> Result<NodeId> {
        let layout = view.layout.broadcast_to(&self.shape).ok_or_else(|| {
            Error::shape("map", format!("{:?} does not broadcast to {:?}", view, self.shape))
        })?;
        let view = view.with(layout);
        let known = self.inputs.iter().position(|v| same_view(v, &view));
        let at = known.unwrap_or_else(|| {
            self.inputs.push(view);
            self.inputs.len() - 1
        });
        Ok(self.builder.borrow_mut().put(Op::Input(at as u16), &[]))
    }

    fn param(&mut self, view: View) -> usize {
        let known = self.params.iter().position(|v| same_view(v, &view));
        known.unwrap_or_else(|| {
            self.params.push(view);
            self.params.len() - 1
        })
    }

    /// A number that a user passed: no part of the program.
    fn number(&self, x: &f64) -> NodeId {
        self.builder.borrow_mut().immediate(*x)
    }

    fn numbers(&self, all: &[f64]) -> Vec<NodeId> {
        all.iter().map(|x| self.number(x)).collect()
    }

    /// The program as a map, whose operands are alive as long as `self` is.
    fn map(&mut self, roots: &[NodeId], outputs: Vec<View>) -> Map {
        let (program, immediates) = self.builder.take().finish_with_immediates(roots);
        let (params, inputs) = (mem::take(&mut self.params), mem::take(&mut self.inputs));
        Map { program: Arc::new(program), params, immediates, inputs, outputs }
    }
}

fn same_view(a: &View, b: &View) -> bool {
    a.same_storage(b) && a.layout == b.layout && a.dtype == b.dtype
}

/// Reduces `node` over the axes in `axes` (a bit each) with its expression fused into the verb;
/// the result keeps the reduced axes with extent 1.
pub(crate) fn reduce(node: &Arc<Node>, kind: ReduceKind, axes: u32) -> Result<Arc<Node>> {
    let shape: Vec<usize> = node
        .shape()
        .iter()
        .enumerate()
        .map(|(i, &n)| if axes >> i & 1 == 1 { 1 } else { n })
        .collect();
    let dtype = match kind {
        ReduceKind::ArgMax | ReduceKind::ArgMin => DType::I32,
        _ => DType::F32,
    };
    let out = Stored::new(&node.device, dtype, &shape)?;
    let mut fusion = Fusion::new(node.shape());
    if measure([node]).leaves == 0 {
        // Nothing to read: the iteration space needs an operand that carries its shape.
        node.stored()?;
    }
    let root = fusion.visit(node)?;
    let Map { program, params, immediates, inputs, .. } = fusion.map(&[root], Vec::new());
    let (output, workspace) = (out.view(dtype), None);
    node.device.run(Reduce {
        kind,
        program,
        params,
        immediates,
        inputs,
        axes,
        output,
        workspace,
    })?;
    Ok(Node::from_stored(&node.device, dtype, out))
}

/// Runs a definition in place: result `i` replaces `outputs[i]`. Inputs with one element where the
/// outputs have more are read as parameters, so their values may change under a captured step.
pub(crate) fn update(
    def: &'static Definition,
    scalars: &[f64],
    inputs: &[Arc<Node>],
    outputs: &[Arc<Node>],
) -> Result<()> {
    if inputs.len() != def.tensors.len() || outputs.len() != def.outputs || outputs.is_empty() {
        return Err(Error::invalid(format!("{} has other inputs or outputs", def.name)));
    }
    let shape = outputs[0].shape().to_vec();
    let mut fusion = Fusion::new(&shape);
    let mut args = Vec::new();
    for node in inputs {
        let scalar = node.len() == 1 && node.shape() != shape && node.dtype == DType::F32;
        args.push(if scalar {
            let stored = node.stored()?;
            let layout = Layout::new(&[], &[], stored.layout.offset());
            let at = fusion.param(stored.with(layout).view(node.dtype));
            fusion.builder.borrow_mut().put(Op::Param(at as u16), &[])
        } else {
            fusion.visit(node)?
        });
    }
    let scalars = fusion.numbers(scalars);
    let roots = def.put(&fusion.builder, &args, &scalars);
    let mut views = Vec::new();
    for node in outputs {
        let stored = node.stored()?;
        stored.before_write(&node.device)?;
        views.push(stored.view(node.dtype));
    }
    let device = &outputs[0].device;
    device.run(fusion.map(&roots, views))
}
