//! burn's side: its operations, and our GPT-2 built of its modules.

use burn::module::{Module, Param};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{gelu_approximate, softmax};
use burn::tensor::module::{attention, attention_fallback, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use starling_models::Config;
use std::collections::HashMap;

/// The version in Cargo.toml, with what was built in.
pub const NAME: &str = "burn wgpu 0.22.1";

/// How burn was built.
pub fn variant() -> String {
    let language = if cfg!(feature = "spirv") { "spirv" } else { "wgsl" };
    let fusion = if cfg!(feature = "fusion") { ", fusion" } else { "" };
    format!("{language}{fusion}, autotune")
}

/// The adapter that wgpu prefers, or the one that `CUBECL_WGPU_DEFAULT_DEVICE` names.
pub fn device() -> Device {
    #[cfg(feature = "spirv")]
    return Device::vulkan(Default::default());
    #[cfg(not(feature = "spirv"))]
    Device::wgpu(Default::default())
}

pub fn upload<const D: usize>(device: &Device, data: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data.to_vec(), shape), device)
}

pub fn download<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32 was asked for")
}

/// A way to compute attention; `causal` holds true above the diagonal where what comes later is
/// hidden.
pub type Attend = fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<Tensor<4, Bool>>) -> Tensor<4>;

/// burn's ways to compute attention. The first takes the fused kernels where no gradient is asked
/// for; which one is fastest depends on the device.
pub const ATTENTION: [(&str, Attend); 3] = [
    ("attention", |q, k, v, hidden| attention(q, k, v, None, None, options(hidden.is_some()))),
    ("attention_fallback", |q, k, v, hidden| {
        attention_fallback(q, k, v, None, None, options(hidden.is_some()))
    }),
    ("matmul and softmax", |q, k, v, hidden| {
        let scale = (q.dims()[3] as f64).sqrt().recip();
        let scores = q.matmul(k.transpose()) * scale;
        let scores = match hidden {
            Some(hidden) => scores.mask_fill(hidden, f32::NEG_INFINITY),
            None => scores,
        };
        softmax(scores, 3).matmul(v)
    }),
];

fn options(is_causal: bool) -> AttentionModuleOptions {
    AttentionModuleOptions { is_causal, ..Default::default() }
}

#[derive(Module, Debug)]
struct Block {
    norm_1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm_2: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Gpt2 {
    tokens: Embedding,
    positions: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// Parameters by the names that transformers gives them.
pub type Weights = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// Hands out the parts of a model.
struct Loader<'a> {
    weights: &'a Weights,
    config: &'a Config,
    device: &'a Device,
}

impl Loader<'_> {
    fn param<const D: usize>(&self, name: &str) -> Param<Tensor<D>> {
        let name = format!("transformer.{name}");
        let (shape, data) = &self.weights[&name];
        Param::from_data(TensorData::new(data.clone(), shape.clone()), self.device)
    }

    fn linear(&self, name: &str) -> Linear {
        let bias = Some(self.param(&format!("{name}.bias")));
        Linear { weight: self.param(&format!("{name}.weight")), bias }
    }

    fn norm(&self, name: &str) -> LayerNorm {
        let config =
            LayerNormConfig::new(self.config.n_embd).with_epsilon(self.config.layer_norm_epsilon);
        let mut norm = config.init(self.device);
        norm.gamma = self.param(&format!("{name}.weight"));
        norm.beta = Some(self.param(&format!("{name}.bias")));
        norm
    }

    fn block(&self, layer: usize) -> Block {
        let name = |part: &str| format!("h.{layer}.{part}");
        Block {
            norm_1: self.norm(&name("ln_1")),
            qkv: self.linear(&name("attn.c_attn")),
            out: self.linear(&name("attn.c_proj")),
            norm_2: self.norm(&name("ln_2")),
            up: self.linear(&name("mlp.c_fc")),
            down: self.linear(&name("mlp.c_proj")),
        }
    }
}

impl Gpt2 {
    fn load(weights: &Weights, config: &Config, device: &Device) -> Self {
        let loader = Loader { weights, config, device };
        Self {
            tokens: Embedding { weight: loader.param("wte.weight") },
            positions: loader.param("wpe.weight"),
            blocks: (0..config.n_layer).map(|layer| loader.block(layer)).collect(),
            norm: loader.norm("ln_f"),
        }
    }

    /// The logits `[batch * sequence, vocabulary]`.
    fn logits(
        &self,
        ids: Tensor<2, Int>,
        heads: usize,
        attend: Attend,
        hidden: &Tensor<4, Bool>,
    ) -> Tensor<2> {
        let mut x = self.tokens.forward(ids) + self.positions.val().unsqueeze();
        let [batch, sequence, dim] = x.dims();
        for block in &self.blocks {
            let qkv = block.qkv.forward(block.norm_1.forward(x.clone()));
            let part = |i: usize| {
                let part = qkv.clone().narrow(2, i * dim, dim);
                part.reshape([batch, sequence, heads, dim / heads]).swap_dims(1, 2)
            };
            let mixed = attend(part(0), part(1), part(2), Some(hidden.clone()));
            let mixed = mixed.swap_dims(1, 2).reshape([batch, sequence, dim]);
            x = x + block.out.forward(mixed);
            let inner = gelu_approximate(block.up.forward(block.norm_2.forward(x.clone())));
            x = x + block.down.forward(inner);
        }
        let x = self.norm.forward(x).reshape([batch * sequence, dim]);
        linear(x, self.tokens.weight.val().transpose(), None)
    }
}

/// Our GPT-2 and AdamW as one step of burn's.
pub struct Step {
    device: Device,
    heads: usize,
    attend: Attend,
    hidden: Tensor<4, Bool>,
    model: Option<Gpt2>,
    optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    learning_rate: f64,
}

impl Step {
    pub fn new(
        device: &Device,
        config: &Config,
        weights: &Weights,
        adamw: &AdamWConfig,
        learning_rate: f64,
        attend: Attend,
    ) -> Self {
        let device = device.clone().autodiff();
        let (heads, sequence) = (config.n_head, config.n_positions);
        let hidden = Tensor::<2, Bool>::tril_mask([sequence, sequence], 0, &device).unsqueeze();
        let model = Some(Gpt2::load(weights, config, &device));
        let loss = CrossEntropyLossConfig::new().init(&device);
        let optimizer = adamw.init();
        Self { device, heads, attend, hidden, model, optimizer, loss, learning_rate }
    }

    /// One step on `[batch, sequence]` tokens; the loss stays on the device.
    pub fn run(&mut self, inputs: &[i32], targets: &[i32]) -> Tensor<1> {
        let sequence = self.hidden.dims()[3];
        let ids = TensorData::new(inputs.to_vec(), [inputs.len() / sequence, sequence]);
        let ids = Tensor::from_data(ids, &self.device);
        let targets =
            Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &self.device);
        let model = self.model.take().expect("the model comes back at the end");
        let logits = model.logits(ids, self.heads, self.attend, &self.hidden);
        let loss = self.loss.forward(logits, targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(self.learning_rate, model, gradients));
        loss.detach()
    }
}
