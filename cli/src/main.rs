//! The `starling` command: arguments, progress, reports.

mod args;
mod bench;
mod devices;
mod evaluate;
mod generate;
mod headless;
mod output;
mod train;
mod verify;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;
use starling_engine::{Error, Result};
use std::process::ExitCode;

/// A user's error: one sentence was printed.
const USER_ERROR: u8 = 2;

fn main() -> ExitCode {
    headless::no_compositor_is_asked();
    report_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse(&e),
    };
    match on_threads(cli.threads, || run(&cli)) {
        Ok(code) => code,
        Err(e) if output::is_closed(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", e.to_string().replace('\n', " "));
            ExitCode::from(USER_ERROR)
        }
    }
}

/// Prints help where it was asked for, and what is wrong with the arguments in one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if asked || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let first = text.lines().take_while(|l| !l.trim().is_empty());
    eprintln!("{}", first.map(str::trim).collect::<Vec<_>>().join(" "));
    ExitCode::from(USER_ERROR)
}

fn run(cli: &Cli) -> Result<ExitCode> {
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

/// Runs `f` on a worker of rayon's global pool, of `threads` threads or as many as
/// RAYON_NUM_THREADS or the machine says: verbs then start without waking another thread first.
fn on_threads(
    threads: Option<usize>,
    f: impl FnOnce() -> Result<ExitCode> + Send,
) -> Result<ExitCode> {
    if threads == Some(0) {
        return Err(Error::Invalid("--threads is 0 and must be at least 1".into()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build_global()
        .map_err(|e| Error::Invalid(format!("the threads cannot be started: {e}")))?;
    rayon::scope(|_| f())
}

/// A panic is this program's fault: one sentence, no trace.
fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line()));
        eprintln!(
            "error: internal error{}: {message}; please report it with the command that led to it",
            place.unwrap_or_default()
        );
    }));
}
