//! `bench attention`

use super::{Bench, Work, check, sizes};
use serde_json::{Map, Value};
use starling_engine::{AttentionOptions, Device, Result, Tensor, no_grad};

pub fn run(
    mut bench: Bench,
    shape: &str,
    causal: bool,
    backward: bool,
) -> Result<Map<String, Value>> {
    let [batch, heads, sequence, dim] = sizes(shape)?;
    let all = [batch, heads, sequence, dim];
    bench.check_memory(&[&all[..]; 5])?;
    let mut operand = || -> Result<Tensor> { Ok(bench.random(&all)?.requires_grad()) };
    let leaves = [operand()?, operand()?, operand()?];
    let upstream = bench.random(&all)?;
    let options = AttentionOptions { causal, ..AttentionOptions::default() };
    // The last head of the last sequence, as the reference has it.
    let slow = check::reference()?;
    let results = compute(&leaves, &upstream, &options, backward)?;
    let truth = compute(
        &[last(&slow, &leaves[0])?, last(&slow, &leaves[1])?, last(&slow, &leaves[2])?]
            .map(|t| t.requires_grad()),
        &last(&slow, &upstream)?,
        &options,
        backward,
    )?;
    for (got, truth) in results.iter().zip(&truth) {
        check::same("attention", &last(&bench.device, got)?, truth)?;
    }
    let times = bench.time(|| compute(&leaves, &upstream, &options, backward).map(drop))?;
    // Two products of [S, D] x [D, S] forward, five backward; half of each when causal.
    let products = if backward { 7.0 } else { 2.0 };
    let share = if causal { 0.5 } else { 1.0 };
    let rows = (batch * heads * sequence) as f64;
    let flops = products * share * 2.0 * rows * (sequence * dim) as f64;
    let tensors = if backward { 12.0 } else { 4.0 };
    let work = Work { flops, bytes: tensors * 4.0 * rows * dim as f64 };
    let mut report = bench.report("attention", shape, &times, Some(work));
    report.insert("backward".into(), backward.into());
    report.insert("causal".into(), causal.into());
    Ok(report)
}

/// The result and, after backward, the three gradients.
fn compute(
    [q, k, v]: &[Tensor; 3],
    upstream: &Tensor,
    options: &AttentionOptions,
    backward: bool,
) -> Result<Vec<Tensor>> {
    if !backward {
        return Ok(vec![no_grad(|| q.attention(k, v, options))?]);
    }
    for leaf in [q, k, v] {
        leaf.zero_grad();
    }
    let out = q.attention(k, v, options)?;
    out.backward_with(upstream)?;
    let mut all = vec![out];
    all.extend([q, k, v].into_iter().filter_map(Tensor::grad));
    Ok(all)
}

/// The last head of the last sequence, as `[1, 1, sequence, dim]` on another device.
fn last(to: &Device, x: &Tensor) -> Result<Tensor> {
    let (batch, heads) = (x.shape()[0], x.shape()[1]);
    check::moved(to, &x.detach().narrow(0, batch - 1, 1)?.narrow(1, heads - 1, 1)?)
}
