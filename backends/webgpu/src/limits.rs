//! What a device has and does, as plans and shaders need to know it.

use starling_ops::wgsl::Fma;

/// What a kernel may use of a device.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Storage buffers of one dispatch.
    pub slots: usize,
    /// Bytes that one storage binding may see.
    pub binding_bytes: usize,
    /// Bytes of one buffer.
    pub buffer_bytes: usize,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: usize,
    /// Invocations of one workgroup.
    pub invocations: usize,
    /// Lanes of a subgroup, at least; 1 without subgroups.
    pub lanes: usize,
    /// Rows and columns of a cooperative matrix of f16 in and f32 out; 0 without them.
    pub matrix: usize,
}

/// What WGSL leaves to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    pub fma: Fma,
    /// Infinities and NaN come out of loads, stores, sums, products and comparisons as IEEE-754
    /// says.
    pub special_values: bool,
    /// Numbers below 2^-126 are kept.
    pub subnormals: bool,
    /// Turns of loops that an invocation may take. llvmpipe (seen in Mesa 22.3) ends every loop
    /// once an invocation's loops have made 65,535 turns together.
    pub turns: usize,
}

impl Arithmetic {
    /// What is assumed until the device has answered: the least.
    pub const LEAST: Self = Self {
        fma: Fma::Separate,
        special_values: false,
        subnormals: false,
        turns: u16::MAX as usize,
    };
}
