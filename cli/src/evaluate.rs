//! `starling eval` and `starling logits`

use crate::args::{EvalArgs, LogitsArgs};
use crate::output;
use serde_json::json;
use starling_engine::nn::Mode;
use starling_engine::{Device, Error, Result, Tensor, no_grad};
use starling_models::{Gpt2, check_byte_tokens};
use starling_train::data::Corpus;
use starling_train::files::{Disk, Named, check_writable, write_safetensors};
use starling_train::{LanguageModel, evaluate};
use std::process::ExitCode;

pub fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let text = Corpus::open(&args.text)?;
    let model = Gpt2::open(&Device::new(&args.device)?, &args.run)?;
    check_byte_tokens(&args.run)?;
    let result = evaluate(&model, &text).map_err(|e| Error::format(&args.text, e.to_string()))?;
    let (loss, perplexity, tokens) = (result.loss, result.perplexity(), result.tokens);
    if !perplexity.is_finite() {
        return Err(Error::Diverged(format!(
            "the model in {} has a loss of {loss} on {}, of which there is no perplexity: its \
             numbers are out of hand",
            args.run.display(),
            args.text.display()
        )));
    }
    if args.json {
        output::line(json!({"loss": loss, "perplexity": perplexity, "tokens": tokens}))?;
    } else {
        output::line(format!(
            "loss {loss:.4} nats per token, perplexity {perplexity:.3}, {tokens} tokens"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn logits(args: &LogitsArgs) -> Result<ExitCode> {
    check_writable(&args.out)?;
    let text = Corpus::open(&args.text)?;
    let model = Gpt2::open(&Device::new(&args.device)?, &args.run)?;
    check_byte_tokens(&args.run)?;
    let most = text.len().min(model.context());
    if !(1..=most).contains(&args.tokens) {
        let message = format!("--tokens is {} and must be in 1..={most}", args.tokens);
        return Err(Error::Invalid(message));
    }
    let ids: Vec<i32> = text[..args.tokens].iter().map(|&t| i32::from(t)).collect();
    let ids = Tensor::from_slice(model.device(), &ids, &[1, args.tokens])?;
    let logits = no_grad(|| model.logits(&ids, Mode::Eval))?;
    let named = Named {
        name: "logits".into(),
        shape: vec![args.tokens, model.vocabulary()],
        read: Box::new(move || logits.to_vec()),
    };
    write_safetensors(&Disk, &args.out, &[], &[named])?;
    Ok(ExitCode::SUCCESS)
}
