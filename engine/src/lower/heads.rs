//! The axes of attention's operands, with query heads in groups that share a key head.

use super::Lowering;
use crate::error::Result;
use starling_contract::{Attention, Layout, View};

/// How heads are grouped.
pub(super) struct Heads {
    pub kv_heads: usize,
    pub groups: usize,
}

impl Heads {
    pub fn of(v: &Attention) -> Self {
        let kv_heads = v.k.shape()[1];
        Self { kv_heads, groups: v.q.shape()[1] / kv_heads }
    }

    /// `[batch, heads, ..]` as `[batch, kv_heads, groups, ..]`, and 1 head as `[batch, 1, 1, ..]`.
    pub fn grouped(&self, view: &View) -> View {
        let (mut shape, mut strides) = (view.shape().to_vec(), view.layout.strides().to_vec());
        let [kv_heads, groups] = if shape[1] == 1 { [1, 1] } else { [self.kv_heads, self.groups] };
        shape.splice(1..2, [kv_heads, groups]);
        strides.insert(1, strides[1] * groups as isize);
        view.with(Layout::new(&shape, &strides, view.layout.offset()))
    }

    /// `[batch, heads, queries, dim]` as `[batch, kv_heads, groups * queries, dim]`.
    pub fn merged(&self, l: &mut Lowering<'_>, view: &View) -> Result<View> {
        let shape = view.shape();
        l.reshaped(view, &[shape[0], self.kv_heads, self.groups * shape[2], shape[3]])
    }
}
