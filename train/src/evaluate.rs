//! The loss of a model over a whole text.

use super::LanguageModel;
use starling_engine::Tensor;
use starling_engine::nn::Mode;
use starling_engine::no_grad;
use starling_engine::{Error, Result};

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Nats per predicted token.
    pub loss: f64,
    /// Predicted tokens: all but the first.
    pub tokens: usize,
}

impl Evaluation {
    /// `e^loss`
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Logits that one forward pass may make: bounds its memory.
const LOGITS_AT_ONCE: usize = 1 << 22;

/// The mean loss over `text` in windows of the model's context C: window `i` feeds the tokens
/// `iC .. iC + C` and predicts `iC + 1 ..= iC + C`, so each token but the first is predicted once.
///
/// # Errors
/// [`Error::Invalid`] when there is nothing to predict or a token is outside the vocabulary.
pub fn evaluate(model: &dyn LanguageModel, text: &[u8]) -> Result<Evaluation> {
    let predicted = text.len().saturating_sub(1);
    if predicted == 0 {
        let message =
            format!("{} tokens leave nothing to predict: at least 2 are needed", text.len());
        return Err(Error::invalid(message));
    }
    if let Some(token) = text.iter().find(|&&t| usize::from(t) >= model.vocabulary()) {
        let known = model.vocabulary();
        let message = format!("the text has the byte {token} and the model knows {known} tokens");
        return Err(Error::invalid(message));
    }
    let context = model.context();
    let at_once = (LOGITS_AT_ONCE / (context * model.vocabulary()).max(1)).clamp(1, 32);
    let (whole, mut total) = (predicted / context, 0f64);
    for first in (0..whole).step_by(at_once) {
        let windows = at_once.min(whole - first);
        total += summed_loss(model, text, first * context, [windows, context])?;
    }
    let rest = predicted % context;
    if rest > 0 {
        total += summed_loss(model, text, whole * context, [1, rest])?;
    }
    Ok(Evaluation { loss: total / predicted as f64, tokens: predicted })
}

/// The sum of the losses of `windows` neighbouring windows of `length` tokens.
fn summed_loss(
    model: &dyn LanguageModel,
    text: &[u8],
    start: usize,
    shape: [usize; 2],
) -> Result<f64> {
    let count = shape[0] * shape[1];
    let tokens = |from: usize| -> Result<Tensor> {
        let ids: Vec<i32> = text[from..from + count].iter().map(|&t| i32::from(t)).collect();
        Tensor::from_slice(model.device(), &ids, &shape)
    };
    let (inputs, targets) = (tokens(start)?, tokens(start + 1)?);
    let loss = no_grad(|| model.logits(&inputs, Mode::Eval)?.cross_entropy(&targets, None))?;
    Ok(f64::from(loss.item()?) * count as f64)
}
