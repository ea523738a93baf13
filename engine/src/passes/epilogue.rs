//! Maps that become a part of the product before them.

use super::World;
use super::list::{can_be_bound, may_move_down, may_move_up, same_elements, uses};
use super::merge::{Joined, all_reshaped, checked};
use starling_contract::{Checked, DType, Epilogue, Gemm, Kind, Map, View};
use starling_ops::program::Op;

/// Moves maps of products' results into the products.
pub(super) fn fold(list: &mut Vec<Checked>, world: &World<'_>) {
    let mut at = 0;
    while at < list.len() {
        match into_product(list, at, world) {
            Some((map, place, joined)) => {
                list[place] = joined;
                list.remove(if place == at { map } else { at });
            }
            None => at += 1,
        }
    }
}

/// The product at `at` with the map that reads its result first, where that map stands, and which
/// of the two places the product takes.
fn into_product(list: &[Checked], at: usize, world: &World<'_>) -> Option<(usize, usize, Checked)> {
    let Kind::Gemm(gemm) = list[at].kind() else { return None };
    let gemm = gemm.get();
    // A second map would make the product a program without end.
    if gemm.epilogue.is_some() || gemm.beta != 0.0 || gemm.c.dtype != DType::F32 {
        return None;
    }
    let uses = uses(list, at, &gemm.c, world);
    let reader = *uses.readers.first()?;
    let Kind::Map(map) = list[reader].kind() else { return None };
    let map = map.get();
    let kept = !uses.dies || uses.readers.len() > 1;
    let verb = checked(with_epilogue(gemm, map, kept)?, world)?;
    if workspace_fits(&verb, world) {
        if may_move_up(list, reader, at) {
            return Some((reader, at, verb));
        }
        if may_move_down(list, at, reader) {
            return Some((reader, reader, verb));
        }
    }
    None
}

fn workspace_fits(verb: &Checked, world: &World<'_>) -> bool {
    let has = verb.workspace().map_or(0, View::bytes);
    (world.workspace_bytes)(verb) <= has
}

/// `gemm` that does what `map` does with its result; which it keeps too when `kept`.
fn with_epilogue(gemm: &Gemm, map: &Map, kept: bool) -> Option<Gemm> {
    let c = &gemm.c;
    let reads_c = |v: &&View| c.may_overlap(v);
    let alike = map.inputs.iter().filter(reads_c).all(|v| same_elements(v, c));
    let whole = map.outputs[0].len() == c.len();
    if !alike || !whole || map.params.iter().any(|v| c.may_overlap(v)) || map.program.uses_index() {
        return None;
    }
    let shape = c.shape();
    let inputs = all_reshaped(&map.inputs, shape)?;
    let outputs = all_reshaped(&map.outputs, shape)?;
    let mut joined = Joined::with_inputs(std::slice::from_ref(c));
    let product = joined.put(Op::Input(0));
    let known = |i: usize| same_elements(&map.inputs[i], c).then_some(product);
    let program = (&*map.program, &map.immediates);
    let mut roots = joined.add(program, &inputs, &map.params, &known);
    // A map overwrites what it reads as a whole or not at all.
    let overwritten = map.outputs.iter().any(|v| c.may_overlap(v));
    let mut targets = outputs;
    if kept && !overwritten {
        roots.push(product);
        targets.push(c.clone());
    }
    if targets[0].dtype != DType::F32 {
        return None;
    }
    let Map { program, params, immediates, inputs, mut outputs } =
        joined.finish(&roots, targets)?;
    let c = outputs.remove(0);
    let inputs = inputs[1..].to_vec();
    let own = [&gemm.a, &gemm.b, &c].into_iter().chain(&gemm.workspace);
    if !can_be_bound(own.chain(&inputs).chain(&outputs).chain(&params)) {
        return None;
    }
    let epilogue = Some(Epilogue { program, params, immediates, inputs, outputs });
    Some(Gemm { c, epilogue, ..gemm.clone() })
}
