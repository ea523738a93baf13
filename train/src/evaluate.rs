//! The loss of a model over a whole text.

use super::LanguageModel;
use starling_engine::Tensor;
use starling_engine::nn::Mode;
use starling_engine::no_grad;
use starling_engine::{Error, Result};
use std::ops::ControlFlow;

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
    let all = evaluate_some(model, text, usize::MAX, &mut |_, _| ControlFlow::Continue(()))?;
    all.ok_or_else(|| Error::invalid("the evaluation was ended"))
}

/// As [`evaluate`], over at most `most` windows: where the text has more, over so many whole ones,
/// evenly spread. `watch` is told how many windows of how many are done and may end it, which
/// gives `None`.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_some(
    model: &dyn LanguageModel,
    text: &[u8],
    most: usize,
    watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Evaluation>> {
    let predicted = check_text(model, text)?;
    let context = model.context();
    let at_once = (LOGITS_AT_ONCE / (context * model.vocabulary()).max(1)).clamp(1, 32);
    let (whole, rest) = (predicted / context, predicted % context);
    let all = whole + usize::from(rest > 0) <= most;
    let windows = if all { whole } else { whole.min(most) };
    // Wide, because texts may be long and windows many.
    let start = |i: usize| (i as u128 * whole as u128 / windows as u128) as usize * context;
    let (mut total, mut done) = (0f64, 0);
    let count = windows + usize::from(all && rest > 0);
    while done < windows {
        let starts: Vec<usize> = (done..windows.min(done + at_once)).map(start).collect();
        total += summed_loss(model, text, &starts, context)?;
        done += starts.len();
        if watch(done, count).is_break() {
            return Ok(None);
        }
    }
    let mut tokens = windows * context;
    if all && rest > 0 {
        total += summed_loss(model, text, &[whole * context], rest)?;
        tokens += rest;
    }
    Ok(Some(Evaluation { loss: total / tokens as f64, tokens }))
}

/// The number of tokens to predict.
fn check_text(model: &dyn LanguageModel, text: &[u8]) -> Result<usize> {
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
    Ok(predicted)
}

/// The sum of the losses of the windows of `length` tokens that begin at `starts`.
fn summed_loss(
    model: &dyn LanguageModel,
    text: &[u8],
    starts: &[usize],
    length: usize,
) -> Result<f64> {
    let shape = [starts.len(), length];
    let tokens = |shift: usize| -> Result<Tensor> {
        let windows = starts.iter().map(|s| &text[s + shift..s + shift + length]);
        let ids: Vec<i32> = windows.flatten().map(|&t| i32::from(t)).collect();
        Tensor::from_slice(model.device(), &ids, &shape)
    };
    let (inputs, targets) = (tokens(0)?, tokens(1)?);
    let loss = no_grad(|| model.logits(&inputs, Mode::Eval)?.cross_entropy(&targets, None))?;
    Ok(f64::from(loss.item()?) * (starts.len() * length) as f64)
}
