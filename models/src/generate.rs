//! Drawing text from a model, token by token.

use crate::gpt2::Gpt2;
use starling_engine::{Error, Result};
use starling_ops::philox::HostStream;
use starling_train::LanguageModel;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only this many likeliest tokens are considered.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability are considered (Holtzman et
    /// al. 2019).
    pub top_p: Option<f64>,
    /// Decides the draws.
    pub seed: u64,
}

impl Choice {
    /// The random stream's instance; others are initialisation and sampling of batches.
    const INSTANCE: u32 = 0x6e47;

    /// Refuses impossible numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the number.
    pub fn check(&self) -> Result<()> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let t = self.temperature;
            return Err(Error::invalid(format!("the temperature is {t} and must be at least 0")));
        }
        if self.top_k == Some(0) {
            return Err(Error::invalid("top-k is 0 and must be at least 1"));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::invalid(format!("top-p is {p} and must be above 0 and at most 1")));
        }
        Ok(())
    }

    /// A token out of the logits.
    fn pick(&self, logits: &[f32], stream: &mut HostStream) -> usize {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Stable, so equal logits keep the order of their tokens.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        if self.temperature == 0.0 {
            return order[0];
        }
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let highest = f64::from(logits[order[0]]);
        let weight = |&i: &usize| ((f64::from(logits[i]) - highest) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let reach = weights.iter().sum::<f64>() * self.top_p.unwrap_or(1.0);
        let (mut kept, mut sum) = (0, 0.0);
        while kept < weights.len() && (kept == 0 || sum < reach) {
            sum += weights[kept];
            kept += 1;
        }
        let mut left = sum * f64::from(stream.uniform());
        for (token, weight) in order[..kept].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        order[kept - 1]
    }
}

/// Continues `prompt` by `count` tokens and gives each to `take` as soon as it is drawn. When the
/// context is full, the model goes on from its latter half.
///
/// # Errors
/// [`Error::Invalid`] for an empty prompt or an impossible choice; what `take` returns.
pub fn generate(
    model: &Gpt2,
    prompt: &[i32],
    count: usize,
    choice: &Choice,
    take: &mut dyn FnMut(i32) -> Result<()>,
) -> Result<()> {
    choice.check()?;
    if prompt.is_empty() {
        return Err(Error::invalid("the prompt is empty: give at least one character"));
    }
    if let Some(t) = prompt.iter().find(|&&t| t < 0 || t as usize >= model.vocabulary()) {
        let known = model.vocabulary();
        return Err(Error::invalid(format!("the prompt has the token {t}; {known} are known")));
    }
    let context = model.context();
    let mut stream = HostStream::seeded(choice.seed, Choice::INSTANCE);
    let mut cache = model.cache()?;
    let mut text = prompt.to_vec();
    let mut fresh = text.len();
    for _ in 0..count {
        if cache.tokens() + fresh > context {
            cache.clear();
            fresh = (context / 2).max(1);
        }
        let logits = model.next_logits(&text[text.len() - fresh..], &mut cache)?;
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::Diverged(
                "the model's logits are NaN: its numbers overflow, so nothing can be drawn".into(),
            ));
        }
        let token = choice.pick(&logits, &mut stream) as i32;
        take(token)?;
        text.push(token);
        fresh = 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Choice = Choice { temperature: 0.0, top_k: None, top_p: None, seed: 1 };

    fn counts(choice: Choice, logits: &[f32]) -> Vec<usize> {
        let mut stream = HostStream::seeded(choice.seed, Choice::INSTANCE);
        let mut counts = vec![0; logits.len()];
        (0..4000).for_each(|_| counts[choice.pick(logits, &mut stream)] += 1);
        counts
    }

    #[test]
    fn draws_follow_the_probabilities_and_their_limits() {
        let logits = [0.0, 3f32.ln(), 6f32.ln()];
        assert_eq!(counts(GREEDY, &logits), [0, 0, 4000]);
        let plain = counts(Choice { temperature: 1.0, ..GREEDY }, &logits);
        for (n, p) in plain.iter().zip([0.1, 0.3, 0.6]) {
            assert!((*n as f64 / 4000.0 - p).abs() < 0.03, "{plain:?}");
        }
        let k = counts(Choice { temperature: 1.0, top_k: Some(2), ..GREEDY }, &logits);
        assert!(k[0] == 0 && (k[1] as f64 / 4000.0 - 1.0 / 3.0).abs() < 0.03, "{k:?}");
        let p = counts(Choice { temperature: 1.0, top_p: Some(0.5), ..GREEDY }, &logits);
        assert_eq!(p, [0, 0, 4000]);
        let p = counts(Choice { temperature: 1.0, top_p: Some(0.7), ..GREEDY }, &logits);
        assert!(p[0] == 0 && p[1] > 1000, "{p:?}");
        let cold = counts(Choice { temperature: 0.25, ..GREEDY }, &logits);
        assert!(cold[2] > 3600, "{cold:?}");
    }

    #[test]
    fn impossible_choices_are_refused() {
        for bad in [
            Choice { temperature: f64::NAN, ..GREEDY },
            Choice { temperature: -1.0, ..GREEDY },
            Choice { top_k: Some(0), ..GREEDY },
            Choice { top_p: Some(0.0), ..GREEDY },
            Choice { top_p: Some(1.5), ..GREEDY },
            Choice { top_p: Some(f64::NAN), ..GREEDY },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(GREEDY.check().is_ok());
    }
}
