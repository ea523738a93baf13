//! Text as tokens, and batches of it in the background.

mod corpus;
mod prefetch;
mod sampling;
mod tokenizer;

pub use corpus::Corpus;
pub use prefetch::{Batch, Prefetch};
pub use sampling::Sampling;
pub use tokenizer::{ByteDecoder, ByteTokenizer};
