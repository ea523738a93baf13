//! config.json as Hugging Face transformers reads and writes it for GPT-2.

use serde::{Deserialize, Serialize};
use starling_engine::{Definition, Error, Result};
use starling_train::files::read_json;
use starling_train::memory::{Bytes, product};
use std::path::Path;

/// The shape of a GPT-2; what a file leaves out has transformers' default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `gpt2`
    pub model_type: String,
    /// `["GPT2LMHeadModel"]`
    pub architectures: Option<Vec<String>>,
    /// Number of tokens.
    pub vocab_size: usize,
    /// The longest sequence.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads of each block.
    pub n_head: usize,
    /// Width inside the feed-forward part; four times `n_embd` when absent.
    pub n_inner: Option<usize>,
    /// The feed-forward part's activation.
    pub activation_function: String,
    /// Added to the variance in every norm.
    pub layer_norm_epsilon: f64,
    /// Dropout of what each block adds.
    pub resid_pdrop: f64,
    /// Dropout of the embeddings.
    pub embd_pdrop: f64,
    /// Dropout of the attention's weights.
    pub attn_pdrop: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Scores are divided by the root of the head dimension.
    pub scale_attn_weights: bool,
    /// Scores of block `i` are divided by `i + 1` too.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// A decoder's second attention; not supported.
    pub add_cross_attention: bool,
    /// The output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// The token before a text; absent for byte models.
    pub bos_token_id: Option<i64>,
    /// The token after a text; absent for byte models.
    pub eos_token_id: Option<i64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "gpt2".into(),
            architectures: Some(vec!["GPT2LMHeadModel".into()]),
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            layer_norm_epsilon: 1e-5,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
        }
    }
}

impl Config {
    /// A byte model: 256 tokens and no special ones.
    pub fn bytes(
        n_layer: usize,
        n_embd: usize,
        n_head: usize,
        n_positions: usize,
        dropout: f64,
    ) -> Self {
        Self {
            vocab_size: 256,
            n_positions,
            n_embd,
            n_layer,
            n_head,
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: 0.0,
            ..Self::default()
        }
    }

    /// The byte model of a preset: `tiny`, `small` or `base`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn preset(name: &str, dropout: f64) -> Result<Self> {
        match name {
            "tiny" => Ok(Self::bytes(4, 128, 4, 128, dropout)),
            "small" => Ok(Self::bytes(6, 384, 6, 256, dropout)),
            "base" => Ok(Self::bytes(12, 768, 12, 1024, dropout)),
            _ => Err(Error::invalid(format!("unknown preset {name:?}: use tiny, small or base"))),
        }
    }

    /// Reads config.json.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Format`] when it is no GPT-2 or one that cannot be built.
    pub fn open(path: &Path) -> Result<Self> {
        let json = read_json(path)?;
        // A list would pass as one of all defaults.
        if !json.is_object() {
            return Err(Error::format(path, "this is no model description: it is no JSON object"));
        }
        let config: Self = serde_json::from_value(json)
            .map_err(|e| Error::format(path, format!("this is no model description: {e}")))?;
        config.check().map_err(|e| Error::format(path, e.to_string()))?;
        Ok(config)
    }

    /// Refuses what cannot be built.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the entry.
    pub fn check(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::invalid(message));
        if self.model_type != "gpt2" {
            return invalid(format!("model_type is {:?} and must be \"gpt2\"", self.model_type));
        }
        if self.add_cross_attention {
            return invalid("add_cross_attention is true: only decoders by themselves run".into());
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return invalid(format!("{name} is 0 and must be at least 1"));
        }
        if self.parameters() > i64::MAX as Bytes {
            return invalid("the sizes make more parameters than can be counted".into());
        }
        for (name, x) in [
            ("layer_norm_epsilon", self.layer_norm_epsilon),
            ("initializer_range", self.initializer_range),
        ] {
            if !x.is_finite() || x < 0.0 {
                return invalid(format!("{name} is {x} and must be a number of at least 0"));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let (width, heads) = (self.n_embd, self.n_head);
            return invalid(format!("n_embd {width} is no multiple of n_head {heads}"));
        }
        for (name, p) in [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ] {
            if !(0.0..1.0).contains(&p) {
                return invalid(format!("{name} is {p} and must be in 0..1"));
            }
        }
        self.activation().map(|_| ())
    }

    /// The feed-forward part's inner width.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// The number of parameters, exact or the largest number.
    pub fn parameters(&self) -> Bytes {
        let (dim, inner) = (self.n_embd, self.inner());
        let add = |parts: &[Bytes]| parts.iter().fold(0, |a: Bytes, &b| a.saturating_add(b));
        // Two norms, two projections of the attention, two of the feed-forward part.
        let block = add(&[
            product(&[4, dim]),
            product(&[4, dim, dim]),
            product(&[4, dim]),
            product(&[2, dim, inner]),
            product(&[1, dim]),
            product(&[1, inner]),
        ]);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        add(&[
            product(&[heads, self.vocab_size, dim]),
            product(&[self.n_positions, dim]),
            (self.n_layer as Bytes).saturating_mul(block),
            product(&[2, dim]),
        ])
    }

    /// The activation by transformers' name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that is not known here.
    pub fn activation(&self) -> Result<&'static Definition> {
        let name = match self.activation_function.as_str() {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => "gelu_tanh",
            "gelu" => "gelu",
            "relu" => "relu",
            "silu" | "swish" => "silu",
            "tanh" => "tanh",
            "mish" => "mish",
            _ => "",
        };
        Definition::find(name).ok_or_else(|| {
            Error::invalid(format!(
                "activation_function is {:?}: gelu_new, gelu, relu, silu, tanh and mish are known",
                self.activation_function
            ))
        })
    }

    /// The factor of block `layer`'s attention scores.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let head_dim = (self.n_embd / self.n_head) as f64;
        let scale = if self.scale_attn_weights { head_dim.sqrt().recip() } else { 1.0 };
        let by_layer = if self.scale_attn_by_inverse_layer_idx { layer + 1 } else { 1 };
        (scale / by_layer as f64) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::bytes(2, 32, 4, 16, 0.0);
        change(&mut config);
        config.check().err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_cannot_be_built_is_named() {
        assert_eq!(check(|_| {}), "");
        assert!(check(|c| c.n_head = 5).contains("no multiple"));
        assert!(check(|c| c.n_layer = 0).contains("n_layer"));
        assert!(check(|c| c.resid_pdrop = f64::NAN).contains("resid_pdrop"));
        assert!(check(|c| c.attn_pdrop = 1.0).contains("attn_pdrop"));
        assert!(check(|c| c.activation_function = "quick".into()).contains("quick"));
        assert!(check(|c| c.layer_norm_epsilon = -1.0).contains("layer_norm_epsilon is -1"));
        assert!(check(|c| c.layer_norm_epsilon = f64::NAN).contains("layer_norm_epsilon"));
        assert!(check(|c| c.initializer_range = f64::INFINITY).contains("initializer_range"));
        for size in [1 << 62, usize::MAX] {
            assert!(check(|c| (c.n_embd, c.n_head) = (size, 1)).contains("more parameters"));
            assert!(check(|c| c.n_layer = size).contains("more parameters"));
            assert!(check(|c| c.n_inner = Some(size)).contains("more parameters"));
            assert!(check(|c| c.vocab_size = size).contains("more parameters"));
        }
        assert!(check(|c| c.model_type = "llama".into()).contains("llama"));
    }

    #[test]
    fn presets_are_the_named_sizes() {
        let base = Config::preset("base", 0.0).unwrap();
        assert_eq!((base.n_layer, base.n_embd, base.n_head, base.n_positions), (12, 768, 12, 1024));
        assert!(Config::preset("huge", 0.0).is_err());
    }

    #[test]
    fn a_written_config_is_read_back_and_byte_models_have_no_special_tokens() {
        let config = Config::bytes(2, 32, 4, 16, 0.1);
        let json = serde_json::to_value(&config).unwrap();
        assert!(json["bos_token_id"].is_null() && json["eos_token_id"].is_null());
        assert_eq!(json["activation_function"], "gelu_new");
        assert_eq!(serde_json::from_value::<Config>(json).unwrap(), config);
    }
}
