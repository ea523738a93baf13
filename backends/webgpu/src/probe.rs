//! What a device's arithmetic does, found out by running a kernel on it.

use crate::gpu::Gpu;
use crate::kernel::{Kernel, looped};
use crate::limits::Arithmetic;
use crate::operand::Access;
use crate::stream::WebGpuStream;
use crate::template::{Template, template};
use starling_contract::{DType, Gemm, Result, Stream, Verb, View};
use starling_ops::wgsl::Fma;
use std::sync::Arc;

const PROBE: Template = template!("probe");
/// Turns of the loop that shows whether loops run to their ends: beyond the limit of llvmpipe.
const TURNS: usize = 70_000;

/// Runs the kernel.
///
/// # Errors
/// What the device reports.
pub(crate) async fn arithmetic(gpu: &Arc<Gpu>) -> Result<Arithmetic> {
    // The operands come from memory, so that no compiler computes the answers itself.
    let mut operands = vec![f32::INFINITY, f32::NAN, f32::MIN_POSITIVE, 0.5, 0.0, 0.0, 0.0, 0.0];
    for x in [1.0 + 1.0 / 4096.0, 1.0 - 1.0 / 4096.0, -1.0] {
        operands.extend([x; 8]);
    }
    let stream = WebGpuStream::new(gpu)?;
    let memory = |dtype, elements: usize| -> Result<View> {
        Ok(View::contiguous(Arc::new(gpu.alloc(4 * elements)?), dtype, &[elements]))
    };
    let (x, y) = (memory(DType::F32, operands.len())?, memory(DType::U32, 16)?);
    stream.upload(bytemuck::cast_slice(&operands), &x)?;
    let mut kernel = Kernel::new(PROBE);
    kernel.operand("x", &x, Access::Read).operand("y", &y, Access::Write).groups(1);
    kernel.word("turns", TURNS).turns(looped(TURNS, 0));
    kernel.bind(gpu.limits.binding_bytes);
    stream.launch(&[kernel])?;
    let mut bytes = [0; 64];
    stream.download(&y, &mut bytes).await?;
    let answers: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    let [endless, difference, nothing, compared, half, product, turns, _, ref products @ ..] =
        answers[..]
    else {
        return Ok(Arithmetic::LEAST);
    };
    let nan = |bits: u32| f32::from_bits(bits).is_nan();
    // (1 + e)(1 - e) - 1 is -e^2 when rounded once, and 0 when the product was rounded first. A
    // driver that computes on the processor does now the one and now the other.
    let once = |bits: &u32| f32::from_bits(*bits) == -1.0 / 16_777_216.0;
    let fused = products.iter().chain([&product]).all(once) && !gpu.capabilities.software;
    Ok(Arithmetic {
        fma: if fused { Fma::Fused } else { Fma::Separate },
        special_values: f32::from_bits(endless) == f32::INFINITY
            && nan(difference)
            && nan(nothing)
            && compared == 0,
        subnormals: f32::from_bits(half) == f32::MIN_POSITIVE / 2.0,
        turns: if turns as usize == TURNS { usize::MAX } else { turns as usize },
    })
}

/// Multiplies two matrices of small whole numbers, whose product is exact in f32 and no less, on
/// cooperative matrices: a driver must get it right before they are used.
///
/// # Errors
/// What the device reports.
pub(crate) async fn matrices_agree(gpu: &Arc<Gpu>) -> Result<bool> {
    const M: usize = 80;
    const N: usize = 48;
    const K: usize = 112;
    let a: Vec<f32> = (0..M * K).map(|i| (i * 37 % 127) as f32 - 63.0).collect();
    let b: Vec<f32> = (0..K * N).map(|i| (i * 53 % 113) as f32 - 40.0).collect();
    let half =
        |x: &[f32]| -> Vec<half::f16> { x.iter().map(|&x| half::f16::from_f32(x)).collect() };
    let stream = WebGpuStream::new(gpu)?;
    let memory = |dtype: DType, shape: [usize; 2]| -> Result<View> {
        let bytes = shape[0] * shape[1] * dtype.size();
        Ok(View::contiguous(Arc::new(gpu.alloc(bytes)?), dtype, &shape))
    };
    let (x, y) = (memory(DType::F16, [M, K])?, memory(DType::F16, [K, N])?);
    let z = memory(DType::F32, [M, N])?;
    stream.upload(bytemuck::cast_slice(&half(&a)), &x)?;
    stream.upload(bytemuck::cast_slice(&half(&b)), &y)?;
    let (alpha, beta, epilogue) = (1.0, 0.0, None);
    let product = Gemm { a: x, b: y, c: z.clone(), alpha, beta, epilogue, workspace: None };
    stream.submit(&Verb::from(product).check()?)?;
    let mut bytes = vec![0; 4 * M * N];
    stream.download(&z, &mut bytes).await?;
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
    let exact = |at: usize| (0..K).map(|l| a[at / N * K + l] * b[l * N + at % N]).sum::<f32>();
    Ok(got.iter().enumerate().all(|(at, &c)| c == exact(at)))
}
