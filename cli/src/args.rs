//! What can be asked for.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Trains and runs neural networks on whatever this machine has.
#[derive(Parser)]
#[command(name = "starling", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Worker threads [default: STARLING_THREADS, or one for each core]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

#[derive(Subcommand)]
pub enum Command {
    /// List every backend: available with its properties, or unavailable with the reason
    Devices(DevicesArgs),
    /// Hold a device to the reference, operation by operation
    Verify(VerifyArgs),
    /// Train a language model on a text (without arguments: a small one on a novel)
    Train(TrainArgs),
    /// Continue a text with a trained model
    Generate(GenerateArgs),
    /// The loss of a model over a whole text
    Eval(EvalArgs),
    /// Measure one operation on random data
    Bench(BenchArgs),
    /// Write the logits of a text's first tokens to a file, for comparisons
    #[command(hide = true)]
    Logits(LogitsArgs),
}

#[derive(Args)]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How much is verified.
#[derive(Clone, Copy, ValueEnum)]
pub enum TierArg {
    /// Every operation, type and layout in tiny shapes
    Quick,
    /// Those and sizes that cross every block boundary
    Full,
}

#[derive(Args)]
pub struct VerifyArgs {
    /// cpu, cuda:N, webgpu:N or auto
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How much is verified
    #[arg(long, value_enum, default_value = "quick")]
    pub tier: TierArg,
    /// Only cases whose title contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// The models that can be trained.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ModelArg {
    /// GPT-2
    Gpt2,
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Preset {
    /// 4 layers of width 128, 4 heads, context 128
    Tiny,
    /// 6 layers of width 384, 6 heads, context 256
    Small,
    /// 12 layers of width 768, 12 heads, context 1024
    Base,
}

#[derive(Args)]
pub struct TrainArgs {
    /// The kind of model
    #[arg(long, value_enum, default_value = "gpt2")]
    pub model: ModelArg,
    /// Its size [default: tiny]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// The text to learn; the last tenth validates [default: a novel in the program]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// cpu, cuda:N, webgpu:N or auto [default: auto, or where the resumed run is]
    #[arg(long)]
    pub device: Option<String>,
    /// Optimizer steps
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<u64>,
    /// Sequences that go through the model at once
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    pub batch: Option<usize>,
    /// Tokens of a sequence, and the model's context
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub seq: Option<usize>,
    /// Batches whose gradients are added up for one step [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub accumulate: Option<usize>,
    /// The highest learning rate
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub lr: Option<f64>,
    /// Dropout probability [default: 0]
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub dropout: Option<f64>,
    /// Decides initial weights, sequences and dropout [default: 0]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Steps between validations [default: 100]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub validate_every: Option<u64>,
    /// Steps between checkpoints [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub checkpoint_every: Option<u64>,
    /// Validations without a new best after which the run ends [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub patience: Option<u64>,
    /// The run's folder [default: runs/PRESET, or the first free runs/PRESET-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the run in the folder, bit for bit
    #[arg(long)]
    pub resume: bool,
}

#[derive(Args)]
pub struct GenerateArgs {
    /// A run's folder, or any Hugging Face gpt2 folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens to draw
    #[arg(long, value_name = "N", default_value_t = 400, allow_negative_numbers = true)]
    pub tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_hyphen_values = true)]
    pub temperature: f64,
    /// Draw from the K likeliest tokens
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have the probability P
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub top_p: Option<f64>,
    /// Decides the draws
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// cpu, cuda:N, webgpu:N or auto
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Args)]
pub struct EvalArgs {
    /// A run's folder, or any Hugging Face gpt2 folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The text
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// cpu, cuda:N, webgpu:N or auto
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct LogitsArgs {
    /// A run's folder, or any Hugging Face gpt2 folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The text
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// How many of its first tokens are fed
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub tokens: usize,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// cpu, cuda:N, webgpu:N or auto
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Args)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    pub what: BenchWhat,
    /// cpu, cuda:N, webgpu:N or auto
    #[arg(long, global = true, default_value = "auto")]
    pub device: String,
    /// The operands' element type
    #[arg(long, global = true, default_value = "f32")]
    pub dtype: String,
    /// Seconds to measure
    #[arg(long, global = true, default_value_t = 1.0, allow_hyphen_values = true)]
    pub secs: f64,
    /// Print a JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum BenchWhat {
    /// A matrix product
    Gemm {
        /// MxNxK and, after a colon, which operands are transposed: nn, nt, tn or tt
        #[arg(long)]
        shape: String,
    },
    /// Attention
    Attention {
        /// batch x heads x sequence x head dimension
        #[arg(long)]
        shape: String,
        /// Each query sees its past only
        #[arg(long)]
        causal: bool,
        /// Forward and backward together
        #[arg(long)]
        backward: bool,
    },
    /// An elementwise operation
    Map {
        /// Its name, such as gelu or add
        #[arg(long)]
        op: String,
        /// Number of elements
        #[arg(long, allow_negative_numbers = true)]
        len: usize,
    },
    /// An operation on rows
    Rows {
        /// softmax, log_softmax, layer_norm, rms_norm or cross_entropy
        #[arg(long)]
        op: String,
        /// rows x columns
        #[arg(long)]
        shape: String,
    },
    /// A whole training step of a GPT-2
    Train {
        /// Blocks
        #[arg(long, allow_negative_numbers = true)]
        layers: usize,
        /// Width
        #[arg(long, allow_negative_numbers = true)]
        dim: usize,
        /// Heads
        #[arg(long, allow_negative_numbers = true)]
        heads: usize,
        /// Tokens of a sequence
        #[arg(long, allow_negative_numbers = true)]
        seq: usize,
        /// Sequences
        #[arg(long, allow_negative_numbers = true)]
        batch: usize,
        /// Number of tokens that the model knows
        #[arg(long, allow_negative_numbers = true)]
        vocab: usize,
    },
}
