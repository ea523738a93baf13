//! Scaled dot-product attention and its gradient, memory linear in the sequence lengths.
//!
//! FlashAttention (Dao et al. 2022) with the loops of FlashAttention-2 (Dao 2023): blocks of scores
//! stay in the cache, the softmax is corrected as larger scores appear, and the backward pass
//! computes the blocks again from the saved log-sum-exp. Work is cut by shape only and every sum
//! has a fixed order, so the number of threads does not change a bit.

mod backward;
mod forward;
mod options;
mod pack;
mod pairs;
mod product;
mod recompute;
mod shape;
mod softmax;

pub use backward::{backward, backward_workspace_bytes};
pub use forward::forward;
pub use options::{Options, Standing};

use starling_contract::Layout;

/// f32 elements of a tensor: element 0 of the layout's storage, and where the elements lie.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// What the layout's offset counts from.
    pub at: *mut f32,
    /// Shape, strides and offset in elements.
    pub layout: Layout,
}

/// Which scores count; of shape `[batch, heads, queries, keys]`, repeated with stride 0.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// f32 that is added to the scores.
    Additive {
        /// What the layout's offset counts from.
        at: *const f32,
        /// Shape, strides and offset in elements.
        layout: Layout,
    },
    /// A score is kept where the byte is not 0.
    Keep {
        /// What the layout's offset counts from.
        at: *const u8,
        /// Shape, strides and offset in elements.
        layout: Layout,
    },
}

/// `out = softmax(scale * q k^T + mask) v` with [`Options`]; the contract is
/// [`starling_contract::Attention`].
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// `[batch, heads, queries, head_dim]`
    pub q: Tensor,
    /// `[batch, kv_heads, keys, head_dim]`
    pub k: Tensor,
    /// `[batch, kv_heads, keys, head_dim]`
    pub v: Tensor,
    /// Which scores count.
    pub mask: Option<Mask>,
    /// Query `i` sees keys `0 ..= i + keys - queries`. Not together with `spans`.
    pub causal: bool,
    /// The first key that a query of `[batch, queries]` sees and the one behind the last, none
    /// beyond the keys: as many pairs as there are queries, or null where all see all.
    pub spans: *const [u32; 2],
    /// Factor of the scores.
    pub scale: f32,
    /// Programs, dropout and blocks.
    pub options: Option<&'a Options<'a>>,
    /// `[batch, heads, queries, head_dim]`; written, or read by the backward pass.
    pub out: Tensor,
    /// `[batch, heads, queries]`: log-sum-exp by row; written, or read by the backward pass.
    pub lse: Tensor,
}

/// Gradients of [`Forward`]; the contract is that of [`starling_contract::AttentionBackward`].
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// The forward pass with its results.
    pub forward: Forward<'a>,
    /// `[batch, heads, queries, head_dim]`
    pub d_out: Tensor,
    /// Of `q`'s shape; written.
    pub d_q: Tensor,
    /// Of `k`'s shape; written.
    pub d_k: Tensor,
    /// Of `v`'s shape; written.
    pub d_v: Tensor,
    /// Gradients of what belongs to pairs; written.
    pub pairs: &'a [PairGradient],
    /// [`backward_workspace_bytes`] bytes, aligned for f32; not used when that is 0.
    pub workspace: *mut f32,
}

/// The gradient of what is given for each pair of a query and a key.
#[derive(Clone, Copy, Debug)]
pub struct PairGradient {
    /// Whose gradient.
    pub of: PairOperand,
    /// Of `[batch, heads, queries, keys]`, or with axes of extent 1 over which it is summed.
    pub to: Tensor,
}

/// What is given for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairOperand {
    /// The mask that is added.
    Mask,
    /// An input of the score's program, numbered as in [`starling_contract::Score::inputs`].
    Input(usize),
}

// SAFETY: the pointers are only followed by `forward` and `backward`, whose callers promise that
// nobody else touches what is written while they run.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}
// SAFETY: as above; the spans are only read.
unsafe impl Send for Forward<'_> {}
// SAFETY: as above.
unsafe impl Sync for Forward<'_> {}
// SAFETY: as above.
unsafe impl Send for Mask {}
// SAFETY: as above.
unsafe impl Sync for Mask {}
// SAFETY: as above; the tasks write disjoint parts of the workspace.
unsafe impl Send for Backward<'_> {}
// SAFETY: as above.
unsafe impl Sync for Backward<'_> {}
