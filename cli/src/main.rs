//! The `starling` command: arguments, progress, reports.

mod args;
mod bench;
mod devices;
mod evaluate;
mod generate;
mod headless;
mod output;
mod signals;
mod train;
mod verify;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;
use starling_engine::{Device, Error, Result};
use std::io::Write;
use std::process::ExitCode;

/// A user's error: one sentence was printed.
const USER_ERROR: u8 = 2;
/// The computation itself failed: a run diverged, a loss is no number.
const DIVERGED: u8 = 1;

fn main() -> ExitCode {
    headless::no_compositor_is_asked();
    report_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse(&e),
    };
    run(&cli).unwrap_or_else(|e| report(&e))
}

/// Prints an error; a reader of standard output who has gone away is none.
fn report(error: &Error) -> ExitCode {
    if output::is_closed(error) {
        return ExitCode::SUCCESS;
    }
    output::note(format!("error: {}", error.to_string().replace('\n', " ")));
    ExitCode::from(if matches!(error, Error::Diverged(_)) { DIVERGED } else { USER_ERROR })
}

/// Prints help where it was asked for, and what is wrong with the arguments in one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // To the error output, which may be lost.
        let _ = error.print();
        return ExitCode::from(USER_ERROR);
    }
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        return printed.map_or_else(|e| report(&output::failed(e)), |()| ExitCode::SUCCESS);
    }
    let text = error.render().to_string();
    let first = text.lines().take_while(|l| !l.trim().is_empty());
    output::note(first.map(str::trim).collect::<Vec<_>>().join(" "));
    ExitCode::from(USER_ERROR)
}

fn run(cli: &Cli) -> Result<ExitCode> {
    if let Some(threads) = cli.threads {
        Device::set_cpu_threads(threads)
            .map_err(|e| Error::Invalid(format!("--threads is {threads}: {e}")))?;
    }
    match &cli.command {
        Command::Devices(args) => devices::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Eval(args) => evaluate::eval(args),
        Command::Logits(args) => evaluate::logits(args),
        Command::Bench(args) => bench::run(args),
    }
}

/// A panic is this program's fault: one sentence, no trace.
fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line()));
        output::note(format!(
            "error: internal error{}: {message}; please report it with the command that led to it",
            place.unwrap_or_default()
        ));
    }));
}
