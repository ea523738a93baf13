//! `starling generate`

use crate::args::GenerateArgs;
use crate::output;
use starling_engine::{Device, Result};
use starling_models::{Choice, Gpt2, check_byte_tokens, generate};
use starling_train::data::{ByteDecoder, ByteTokenizer};
use std::process::ExitCode;

pub fn run(args: &GenerateArgs) -> Result<ExitCode> {
    let choice = Choice {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    choice.check()?;
    let model = Gpt2::open(&Device::new(&args.device)?, &args.run)?;
    check_byte_tokens(&args.run)?;
    stream(&model, &args.prompt, args.tokens, &choice)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the prompt and its continuation as it is drawn.
pub fn stream(model: &Gpt2, prompt: &str, tokens: usize, choice: &Choice) -> Result<()> {
    let ids: Vec<i32> = ByteTokenizer.encode(prompt).into_iter().map(i32::from).collect();
    let mut decoder = ByteDecoder::default();
    let mut started = false;
    generate(model, &ids, tokens, choice, &mut |token| {
        if !started {
            output::print(prompt)?;
            started = true;
        }
        // Tokens beyond the bytes have no text.
        let text = u8::try_from(token).map_or_else(|_| String::new(), |b| decoder.push(b));
        output::print(&text)
    })?;
    output::line(decoder.finish())
}
