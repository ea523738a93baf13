//! Maps that become one.

use super::World;
use super::list::{
    can_be_bound, commute, may_move_down, may_move_up, reshaped, same_elements, uses,
};
use starling_contract::{Checked, DType, Immediates, Kind, Map, Verb, View};
use starling_ops::program::{Builder, MAX_IMMEDIATES, NodeId, Op, Program};
use std::fmt;
use std::sync::Arc;

/// Nodes of a joined program: registers of a kernel and rows of a block are bounded.
const MAX_NODES: usize = 256;

/// Why a map runs on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody holds the result after the step.
    Result,
    /// The reader is no map.
    Reader(usize),
    /// More than one verb reads it: computing it once and storing it is the lesser work.
    Readers(Vec<usize>),
    /// The reader sees the elements elsewhere: repeated, transposed, in part.
    Places(usize),
    /// The joined program would have too many steps, numbers or operands.
    Size(usize),
    /// What it reads is overwritten before its reader runs.
    Order(usize),
    /// The memory's type is none that a program can round to.
    Type(DType),
    /// It computes more than one result.
    Results,
    /// Nothing but that the pass was off.
    Off(usize),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Result => write!(f, "its result is kept after the step"),
            Stop::Reader(i) => write!(f, "#{i} reads it and is no map"),
            Stop::Readers(all) => {
                let all: Vec<String> = all.iter().map(|i| format!("#{i}")).collect();
                write!(f, "{} read it", all.join(", "))
            }
            Stop::Places(i) => write!(f, "#{i} reads its elements in other places"),
            Stop::Size(i) => write!(f, "with #{i} it would be too long or have too many operands"),
            Stop::Order(i) => write!(f, "what it reads is overwritten before #{i}"),
            Stop::Type(dtype) => write!(f, "its result is {dtype}"),
            Stop::Results => write!(f, "it has several results"),
            Stop::Off(i) => write!(f, "joining it with #{i} is off: see Passes"),
        }
    }
}

fn as_map(verb: &Checked) -> Option<&Map> {
    match verb.kind() {
        Kind::Map(map) => Some(map.get()),
        _ => None,
    }
}

/// The rounding that storing an element does.
fn stored(b: &mut Builder, id: NodeId, dtype: DType) -> Option<NodeId> {
    match dtype {
        DType::F32 => Some(id),
        DType::F16 => Some(b.put(Op::RoundF16, &[id])),
        DType::BF16 => Some(b.put(Op::RoundBf16, &[id])),
        _ => None,
    }
}

/// Operands of a joined program.
#[derive(Default)]
struct Operands(Vec<View>);

impl Operands {
    fn place(&mut self, view: &View) -> u16 {
        let known = self
            .0
            .iter()
            .position(|v| v.same_storage(view) && v.layout == view.layout && v.dtype == view.dtype);
        let at = known.unwrap_or_else(|| {
            self.0.push(view.clone());
            self.0.len() - 1
        });
        at as u16
    }

    fn places(&mut self, views: &[View]) -> Vec<u16> {
        views.iter().map(|v| self.place(v)).collect()
    }
}

/// A program under construction, with its operands.
#[derive(Default)]
pub(super) struct Joined {
    builder: Builder,
    inputs: Operands,
    params: Operands,
}

impl Joined {
    /// The first operands, which keep their numbers.
    pub fn with_inputs(inputs: &[View]) -> Self {
        Self { inputs: Operands(inputs.to_vec()), ..Self::default() }
    }

    /// Adds a program. `known` says which of its inputs are values that are here already.
    pub fn add(
        &mut self,
        (program, immediates): (&Program, &Immediates),
        inputs: &[View],
        params: &[View],
        known: &dyn Fn(usize) -> Option<NodeId>,
    ) -> Vec<NodeId> {
        let params = self.params.places(params);
        let places: Vec<Result<NodeId, u16>> = (0..inputs.len())
            .map(|i| known(i).ok_or_else(|| self.inputs.place(&inputs[i])))
            .collect();
        let mut input = |b: &mut Builder, i: u16| match places[usize::from(i)] {
            Ok(id) => id,
            Err(place) => b.put(Op::Input(place), &[]),
        };
        self.builder.graft(program, immediates, &mut input, &|i| params[usize::from(i)])
    }

    pub fn put(&mut self, op: Op) -> NodeId {
        self.builder.put(op, &[])
    }

    /// The map, or none when it would be too large.
    pub fn finish(self, roots: &[NodeId], outputs: Vec<View>) -> Option<Map> {
        let (program, immediates) = self.builder.finish_with_immediates(roots);
        let small = program.nodes().len() <= MAX_NODES;
        let (inputs, params) = (self.inputs.0, self.params.0);
        let bound = can_be_bound(inputs.iter().chain(&params).chain(&outputs));
        let program = Arc::new(program);
        (small && bound).then_some(Map { program, params, immediates, inputs, outputs })
    }
}

/// True when the numbers of both programs travel with one verb.
pub(super) fn numbers_fit(a: &Immediates, b: &Immediates) -> bool {
    a.len() + b.len() <= MAX_IMMEDIATES
}

/// Views under the shape of another verb.
pub(super) fn all_reshaped(views: &[View], shape: &[usize]) -> Option<Vec<View>> {
    views.iter().map(|v| reshaped(v, shape)).collect()
}

/// The map at `first` as a part of the one that reads its result, and where that stands.
pub(super) fn into_reader(
    list: &[Checked],
    first: usize,
    world: &World<'_>,
) -> Option<Result<(usize, Checked), Stop>> {
    let a = as_map(&list[first])?;
    let [result] = &a.outputs[..] else { return Some(Err(Stop::Results)) };
    Some(join(list, first, a, result, world))
}

fn join(
    list: &[Checked],
    first: usize,
    a: &Map,
    result: &View,
    world: &World<'_>,
) -> Result<(usize, Checked), Stop> {
    let uses = uses(list, first, result, world);
    let reader = match uses.readers[..] {
        [] => return Err(Stop::Result),
        [reader] => reader,
        _ => return Err(Stop::Readers(uses.readers)),
    };
    let b = as_map(&list[reader]).ok_or(Stop::Reader(reader))?;
    if !uses.dies {
        return Err(Stop::Result);
    }
    let mut touching = b.inputs.iter().filter(|v| result.may_overlap(v));
    let shape = b.outputs[0].shape();
    let as_parameter = b.params.iter().any(|v| result.may_overlap(v));
    if as_parameter || !touching.all(|v| same_elements(v, result)) {
        return Err(Stop::Places(reader));
    }
    if !may_move_down(list, first, reader) {
        return Err(Stop::Order(reader));
    }
    let inputs = all_reshaped(&a.inputs, shape).ok_or(Stop::Places(reader))?;
    let mut joined = Joined::default();
    let value = joined.add((&a.program, &a.immediates), &inputs, &a.params, &|_| None)[0];
    let value = stored(&mut joined.builder, value, result.dtype).ok_or(Stop::Type(result.dtype))?;
    // A number could be computed with while the program is built, wider than f32.
    if joined.builder.is_constant(value) || !numbers_fit(&a.immediates, &b.immediates) {
        return Err(Stop::Size(reader));
    }
    let known = |i: usize| same_elements(&b.inputs[i], result).then_some(value);
    let roots = joined.add((&b.program, &b.immediates), &b.inputs, &b.params, &known);
    let map = joined.finish(&roots, b.outputs.clone()).ok_or(Stop::Size(reader))?;
    let checked = checked(map, world).ok_or(Stop::Size(reader))?;
    Ok((reader, checked))
}

/// The verb, where it may stand in a list: it is checked, and the backend runs it.
pub(super) fn checked(verb: impl Into<Verb>, world: &World<'_>) -> Option<Checked> {
    verb.into().check().ok().filter(|v| (world.is_native)(v))
}

/// Two maps over one shape that share an operand, as one with the results of both.
fn side_by_side(
    list: &[Checked],
    [first, second]: [usize; 2],
    world: &World<'_>,
) -> Option<Checked> {
    let (a, b) = (as_map(&list[first])?, as_map(&list[second])?);
    let shape = a.outputs[0].shape();
    let shared = |v: &View| b.inputs.iter().any(|w| same_elements(v, w));
    if b.outputs[0].len() != a.outputs[0].len()
        || !a.inputs.iter().any(shared)
        || !numbers_fit(&a.immediates, &b.immediates)
    {
        return None;
    }
    if !commute(&list[first], &list[second]) || !may_move_up(list, second, first) {
        return None;
    }
    let mut joined = Joined::default();
    let inputs = all_reshaped(&b.inputs, shape)?;
    let outputs = [a.outputs.clone(), all_reshaped(&b.outputs, shape)?].concat();
    let mut roots = joined.add((&a.program, &a.immediates), &a.inputs, &a.params, &|_| None);
    roots.extend(joined.add((&b.program, &b.immediates), &inputs, &b.params, &|_| None));
    checked(joined.finish(&roots, outputs)?, world)
}

/// How far behind a map another one is looked for.
const NEAR: usize = 16;

/// Joins maps until no two are left that could be joined.
pub(super) fn merge(list: &mut Vec<Checked>, world: &World<'_>) {
    let mut first = 0;
    while first < list.len() {
        match into_reader(list, first, world) {
            Some(Ok((reader, joined))) => {
                list[reader] = joined;
                list.remove(first);
                // What stood before may read differently now.
                first = first.saturating_sub(1);
                continue;
            }
            Some(Err(_)) => {}
            None => {
                first += 1;
                continue;
            }
        }
        let near = first + 1..list.len().min(first + 1 + NEAR);
        let found = near
            .into_iter()
            .find_map(|second| Some((second, side_by_side(list, [first, second], world)?)));
        match found {
            Some((second, joined)) => {
                list[first] = joined;
                list.remove(second);
            }
            None => first += 1,
        }
    }
}
