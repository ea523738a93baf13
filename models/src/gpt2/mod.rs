//! GPT-2 (Radford et al. 2019), with the tensor names and layouts of Hugging Face transformers.

mod config;

pub use config::Config;

use serde_json::Value;
use starling_engine::nn::{
    CausalSelfAttention, Dropout, Embedding, Fresh, Init, KvCache, LayerNorm, Linear, Mlp, Mode,
    Module, Source, join,
};
use starling_engine::{Device, Error, Result, Tensor, WeightLayout, no_grad};
use starling_train::LanguageModel;
use starling_train::files::{Archive, FromFile};
use starling_train::memory::{self, Bytes, product};
use std::path::Path;

/// What transformers puts before the names of everything but the output layer; files of the bare
/// model lack it.
const PREFIX: &str = "transformer.";
const OUTPUT: &str = "lm_head";

/// One block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
struct Block {
    norm_1: LayerNorm,
    attention: CausalSelfAttention,
    norm_2: LayerNorm,
    mlp: Mlp,
    dropout: Dropout,
}

impl Block {
    fn new(source: &mut dyn Source, config: &Config, layer: usize) -> Result<Self> {
        let name = format!("{PREFIX}h.{layer}");
        let (dim, inner, eps) = (config.n_embd, config.inner(), config.layer_norm_epsilon);
        let weights = Init::Normal(config.initializer_range as f32);
        // What is added to the residual stream starts smaller, so that its variance does not grow
        // with the number of blocks.
        let residual = config.initializer_range / (2.0 * config.n_layer as f64).sqrt();
        let residual = Init::Normal(residual as f32);
        let mut linear = |part: &str, sizes: [usize; 2], init: Init| {
            Linear::new(source, &join(&name, part), sizes, WeightLayout::InOut, init, true)
        };
        let qkv = linear("attn.c_attn", [dim, 3 * dim], weights)?;
        let out = linear("attn.c_proj", [dim, dim], residual)?;
        let up = linear("mlp.c_fc", [dim, inner], weights)?;
        let down = linear("mlp.c_proj", [inner, dim], residual)?;
        let scale = Some(config.attention_scale(layer));
        Ok(Self {
            norm_1: LayerNorm::new(source, &join(&name, "ln_1"), dim, eps)?,
            attention: CausalSelfAttention::new(
                qkv,
                out,
                config.n_head,
                scale,
                ["c_attn", "c_proj"],
            )
            .with_dropout(config.attn_pdrop)?,
            norm_2: LayerNorm::new(source, &join(&name, "ln_2"), dim, eps)?,
            mlp: Mlp::new(up, down, config.activation()?, ["c_fc", "c_proj"]),
            dropout: Dropout::new(config.resid_pdrop)?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode, past: Past<'_>) -> Result<Tensor> {
        let normed = self.norm_1.forward(x)?;
        let mixed = match past {
            Past::None => self.attention.forward(&normed, mode)?,
            Past::Tokens(cache, n) => self.attention.forward_cached(&normed, cache, n)?,
            Past::OnDevice(cache, n) => self.attention.forward_next(&normed, cache, n)?,
        };
        let x = x.add(&self.dropout.forward(&mixed, mode)?)?;
        let fed = self.mlp.forward(&self.norm_2.forward(&x)?)?;
        x.add(&self.dropout.forward(&fed, mode)?)
    }
}

impl Module for Block {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        self.norm_1.visit(&join(prefix, "ln_1"), f);
        self.attention.visit(&join(prefix, "attn"), f);
        self.norm_2.visit(&join(prefix, "ln_2"), f);
        self.mlp.visit(&join(prefix, "mlp"), f);
    }
}

/// What came before the tokens of a pass.
#[derive(Clone, Copy)]
enum Past<'a> {
    None,
    /// So many tokens.
    Tokens(&'a KvCache, usize),
    /// As many as a number on the device says.
    OnDevice(&'a KvCache, &'a Tensor),
}

/// Keys and values of every block, for generating.
pub struct Cache {
    blocks: Vec<KvCache>,
    tokens: usize,
}

impl Cache {
    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets the tokens; the memory stays.
    pub fn clear(&mut self) {
        self.tokens = 0;
    }

    /// Empties the memory too, for [`Gpt2::logits_at`].
    ///
    /// # Errors
    /// What the device reports.
    pub fn wipe(&mut self) -> Result<()> {
        self.clear();
        self.blocks.iter().try_for_each(KvCache::clear)
    }
}

/// A GPT-2 language model.
pub struct Gpt2 {
    config: Config,
    device: Device,
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// The output layer where it is not the embedding.
    output: Option<Linear>,
    dropout: Dropout,
}

impl Gpt2 {
    /// Builds the model with parameters from `source`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an impossible configuration; those of the source.
    pub fn new(config: Config, source: &mut dyn Source) -> Result<Self> {
        config.check()?;
        let bytes = config.parameters().saturating_mul(size_of::<f32>() as Bytes);
        let what = format!("a model of {} parameters", config.parameters());
        memory::check(source.device(), &what, bytes)?;
        let (dim, weights) = (config.n_embd, Init::Normal(config.initializer_range as f32));
        let mut table = |name: &str, rows: usize| {
            Embedding::new(source, &format!("{PREFIX}{name}"), [rows, dim], weights)
        };
        let tokens = table("wte", config.vocab_size)?;
        let positions = table("wpe", config.n_positions)?;
        let blocks = (0..config.n_layer)
            .map(|layer| Block::new(source, &config, layer))
            .collect::<Result<_>>()?;
        let eps = config.layer_norm_epsilon;
        let norm = LayerNorm::new(source, &format!("{PREFIX}ln_f"), dim, eps)?;
        let sizes = [dim, config.vocab_size];
        let output = (!config.tie_word_embeddings)
            .then(|| Linear::new(source, OUTPUT, sizes, WeightLayout::OutIn, weights, false))
            .transpose()?;
        let dropout = Dropout::new(config.embd_pdrop)?;
        let device = source.device().clone();
        Ok(Self { config, device, tokens, positions, blocks, norm, output, dropout })
    }

    /// A model with fresh weights, as GPT-2 was initialised, drawn from a seed.
    ///
    /// # Errors
    /// As [`Gpt2::new`].
    pub fn fresh(device: &Device, config: Config, seed: u64) -> Result<Self> {
        Self::new(config, &mut Fresh::new(device, seed))
    }

    /// Opens a Hugging Face folder: config.json and model.safetensors.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Format`] that name the file and what is wrong with it.
    pub fn open(device: &Device, folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let message =
                "there is no such folder: name one that `starling train` or transformers wrote";
            return Err(Error::format(folder, message));
        }
        let description = folder.join("config.json");
        let config = Config::open(&description)?;
        let weights = folder.join("model.safetensors");
        let other = ["model.safetensors.index.json", "pytorch_model.bin"];
        if let Some(other) = other
            .into_iter()
            .find(|f| weights.symlink_metadata().is_err() && folder.join(f).exists())
        {
            let message = format!(
                "only a single model.safetensors can be read, and there is {other}: save the model \
                 anew with transformers"
            );
            return Err(Error::format(folder, message));
        }
        let mut source = FromFile::new(device, Archive::open(&weights)?, PREFIX);
        let model = Self::new(config, &mut source).map_err(|e| match e {
            Error::Invalid(message) => Error::format(&description, message),
            other => other,
        })?;
        // Older files carry each block's causal mask, and tied models may repeat the embedding.
        let ignored = |name: &String| {
            name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
                || *name == format!("{OUTPUT}.weight")
        };
        if let Some(name) = source.unused().iter().find(|n| !ignored(n)) {
            let message = format!("the tensor {name:?} is no part of a GPT-2 of this config.json");
            return Err(Error::format(&weights, message));
        }
        Ok(model)
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Room for the keys and values of one sequence.
    ///
    /// # Errors
    /// Out of memory.
    pub fn cache(&self) -> Result<Cache> {
        let c = &self.config;
        let block = || KvCache::new(&self.device, 1, c.n_head, c.n_positions, c.n_embd / c.n_head);
        Ok(Cache { blocks: (0..c.n_layer).map(|_| block()).collect::<Result<_>>()?, tokens: 0 })
    }

    /// Feeds `tokens` after those in `cache`; the logits `[vocabulary]` of what comes next.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no token or more than the context holds.
    pub fn next_logits(&self, tokens: &[i32], cache: &mut Cache) -> Result<Vec<f32>> {
        let (past, new) = (cache.tokens, tokens.len());
        if new == 0 || past + new > self.config.n_positions {
            let context = self.config.n_positions;
            return Err(Error::invalid(format!(
                "{past} + {new} tokens: at least one new one, at most {context} altogether"
            )));
        }
        let logits = no_grad(|| {
            let ids = Tensor::from_slice(&self.device, tokens, &[1, new])?;
            let mut x = self.embed(&ids, past, Mode::Eval)?;
            for (block, kv) in self.blocks.iter().zip(&cache.blocks) {
                x = block.forward(&x, Mode::Eval, Past::Tokens(kv, past))?;
            }
            self.head(&x.narrow(1, new - 1, 1)?)
        })?;
        cache.tokens += new;
        logits.to_vec()
    }

    /// The logits `[1, 1, vocabulary]` of what follows the token `id`, `[1, 1]` i32, which stands
    /// at `position`, `[1]` i32. Both are read on the device, so this can be captured and replayed
    /// for token after token; `cache` must be [wiped](Cache::wipe) before the first and is not told
    /// how many there are.
    ///
    /// # Errors
    /// What the device reports; a position beyond the context is an index outside its table.
    pub fn logits_at(&self, id: &Tensor, position: &Tensor, cache: &Cache) -> Result<Tensor> {
        no_grad(|| {
            let place = self.positions.forward(position)?;
            let mut x = self.tokens.forward(id)?.add(&place)?;
            for (block, kv) in self.blocks.iter().zip(&cache.blocks) {
                x = block.forward(&x, Mode::Eval, Past::OnDevice(kv, position))?;
            }
            self.head(&x)
        })
    }

    fn embed(&self, ids: &Tensor, past: usize, mode: Mode) -> Result<Tensor> {
        let &[_, sequence] = ids.shape() else {
            let message = format!("tokens have shape {:?} and need [batch, sequence]", ids.shape());
            return Err(Error::invalid(message));
        };
        let x = self.tokens.forward(ids)?.add(&self.positions.rows(past, sequence)?)?;
        self.dropout.forward(&x, mode)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(x)?;
        match &self.output {
            Some(output) => output.forward(&x),
            None => self.tokens.logits(&x),
        }
    }
}

impl Module for Gpt2 {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        let name = |part: &str| join(prefix, &format!("{PREFIX}{part}"));
        self.tokens.visit(&name("wte"), f);
        self.positions.visit(&name("wpe"), f);
        for (i, block) in self.blocks.iter().enumerate() {
            block.visit(&name(&format!("h.{i}")), f);
        }
        self.norm.visit(&name("ln_f"), f);
        if let Some(output) = &self.output {
            output.visit(&join(prefix, OUTPUT), f);
        }
    }
}

impl LanguageModel for Gpt2 {
    fn device(&self) -> &Device {
        &self.device
    }

    fn context(&self) -> usize {
        self.config.n_positions
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn config_json(&self) -> Value {
        // A plain struct of numbers and strings always has a JSON form.
        serde_json::to_value(&self.config).unwrap_or_default()
    }

    fn logits(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.embed(tokens, 0, mode)?;
        for block in &self.blocks {
            x = block.forward(&x, mode, Past::None)?;
        }
        self.head(&x)
    }

    /// The logits and their gradient, and of each block what backward cannot do without: its
    /// input, queries, keys and values, the attention's result, the sum, the inner activations.
    fn step_bytes(&self, batch: usize, sequence: usize) -> Bytes {
        let c = &self.config;
        let wide = product(&[6, c.n_embd]).saturating_add(c.inner() as Bytes);
        let blocks = wide.saturating_mul(c.n_layer as Bytes);
        let each = blocks.saturating_add(product(&[2, c.vocab_size]));
        each.saturating_mul(product(&[size_of::<f32>(), batch, sequence]))
    }
}
