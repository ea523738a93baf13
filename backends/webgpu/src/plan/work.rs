//! How much work a verb is: what submissions are cut by.

use starling_contract::{Attention, Verb, View};

/// Operations that moving an element, with what is computed from it on the way, is worth: a slow
/// GPU reads four bytes in the time of as many.
const ELEMENT: usize = 16;

/// Multiplications and additions of a verb by its shapes, or what its memory traffic is worth:
/// what it takes at most, whatever lengths and masks hide.
pub(crate) fn work(verb: &Verb) -> u64 {
    let operations = match verb {
        Verb::Gemm(v) => {
            let k = v.a.shape().last().copied().unwrap_or(1);
            v.c.len().saturating_mul(2).saturating_mul(k)
        }
        // Scores and results; backward also both again, and three gradients.
        Verb::Attention(v) => pairs(v, 4),
        Verb::AttentionBackward(v) => {
            let more = v.d_mask.iter().chain(v.d_inputs.iter().flatten()).count();
            pairs(&v.forward, 14 + 4 * more)
        }
        _ => 0,
    };
    let operands = verb.reads().into_iter().chain(verb.writes()).map(View::len);
    let elements = operands.fold(0, usize::saturating_add);
    operations.max(elements.saturating_mul(ELEMENT)) as u64
}

/// `each` operations for every element of a query and every key that it may see.
fn pairs(v: &Attention, each: usize) -> usize {
    let keys = v.k.shape()[2];
    let window = v.sight.window.map_or(keys, |window| keys.min(window.saturating_mul(2)));
    v.q.len().saturating_mul(window).saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use starling_contract::{DType, Fill, Gemm, HostStorage, Layout};

    #[test]
    fn products_count_their_operations_and_the_rest_its_elements() {
        let storage = HostStorage::new(4).unwrap();
        let view = |shape: &[usize]| {
            let view = View::contiguous(storage.clone(), DType::F32, &[]);
            view.with(Layout::new(shape, &vec![0; shape.len()], 0))
        };
        let (a, b, c) = (view(&[8, 100, 300]), view(&[8, 300, 200]), view(&[8, 100, 200]));
        let gemm = Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None };
        assert_eq!(work(&gemm.into()), 2 * 8 * 100 * 200 * 300);
        let fill = Fill { dst: view(&[1000, 1000]), value: 0.0 };
        assert_eq!(work(&fill.into()), 16_000_000);
    }
}
