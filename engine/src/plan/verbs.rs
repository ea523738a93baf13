//! Verbs that take expressions.

use super::fusion::Fusion;
use super::node::{Node, Stored, reads_nothing};
use crate::error::{Error, Result};
use starling_contract::{Copy, DType, Layout, Map, Reduce, ReduceKind};
use starling_ops::Definition;
use std::sync::Arc;

/// Reduces `node` over the axes in `axes` (a bit each) with its expression fused into the verb;
/// the result keeps the reduced axes with extent 1.
pub(crate) fn reduce(node: &Arc<Node>, kind: ReduceKind, axes: u32) -> Result<Arc<Node>> {
    reduce_into(node, kind, axes, |dtype, shape| Stored::new(&node.device, dtype, shape))
}

/// As [`reduce`], into the memory that `room` gives for a type and a shape.
pub(crate) fn reduce_into(
    node: &Arc<Node>,
    kind: ReduceKind,
    axes: u32,
    room: impl FnOnce(DType, &[usize]) -> Result<Stored>,
) -> Result<Arc<Node>> {
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
    let out = room(dtype, &shape)?;
    let mut fusion = Fusion::new(node.shape());
    if reads_nothing(node) {
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
            fusion.parameter(stored.with(layout).view(node.dtype))
        } else {
            if node.shape() != shape && node.positional() {
                node.stored()?;
            }
            fusion.visit(node)?
        });
    }
    let roots = fusion.apply(def, &args, scalars);
    let mut views = Vec::new();
    for node in outputs {
        let stored = node.stored()?;
        stored.before_write(&node.device)?;
        views.push(stored.view(node.dtype));
    }
    let device = &outputs[0].device;
    device.run(fusion.map(&roots, views))
}

/// Writes a value to fresh memory: computes it there if it is an expression, else copies it.
pub(crate) fn write(node: &Arc<Node>, to: &Stored) -> Result<()> {
    let dst = to.view(node.dtype);
    if node.is_stored() || node.is_view() || reads_nothing(node) {
        return node.device.run(Copy { src: node.view()?, dst });
    }
    let mut fusion = Fusion::new(node.shape());
    let root = fusion.unrounded(node)?;
    node.device.run(fusion.map(&[root], vec![dst]))
}
