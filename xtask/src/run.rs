//! Running steps and telling how they went.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// What was done so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
    skipped: Vec<String>,
}

struct Step {
    name: String,
    seconds: f64,
    outcome: Result<String, String>,
}

impl Steps {
    /// Does `work`, which returns a remark, or what went wrong.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String, String>) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work();
        if let Err(reason) = &outcome {
            println!("FAILED: {name}: {reason}");
        }
        let ok = outcome.is_ok();
        let seconds = start.elapsed().as_secs_f64();
        self.done.push(Step { name: name.to_string(), seconds, outcome });
        ok
    }

    /// Adds a part that another step measured.
    pub fn part(&mut self, name: String, seconds: f64, outcome: Result<String, String>) {
        self.done.push(Step { name, seconds, outcome });
    }

    /// Runs cargo.
    pub fn cargo(&mut self, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> bool {
        self.step(name, || {
            let mut command = cargo();
            command.args(arguments).envs(variables.iter().copied());
            status(&mut command)
        })
    }

    /// Says loudly that something was not checked, and why.
    pub fn skip(&mut self, what: &str) {
        println!("SKIPPED: {what}");
        self.skipped.push(what.to_string());
    }

    /// Prints what happened; fails when a step did.
    pub fn summary(self) -> ExitCode {
        println!();
        for step in &self.done {
            let (word, remark) = match &step.outcome {
                Ok(remark) => ("ok", remark),
                Err(reason) => ("FAILED", reason),
            };
            println!("{word:>8} {:>7.1} s  {}  {remark}", step.seconds, step.name);
        }
        for what in &self.skipped {
            println!(" SKIPPED: {what}");
        }
        let failed = self.done.iter().filter(|s| s.outcome.is_err()).count();
        if failed > 0 {
            println!("{failed} failed");
            return ExitCode::FAILURE;
        }
        println!("passed");
        ExitCode::SUCCESS
    }
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end with its output on the terminal.
pub fn status(command: &mut Command) -> Result<String, String> {
    println!("$ {}", shown(command));
    match command.status() {
        Ok(status) if status.success() => Ok(String::new()),
        Ok(status) => Err(format!("{status}: {}", shown(command))),
        Err(error) => Err(format!("{}: {error}", shown(command))),
    }
}

/// Runs a command whose standard output and error, joined, are shown and handed on line by line.
pub fn status_with_lines(
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<String, String> {
    println!("$ {}", shown(command));
    let told = |error: std::io::Error| error.to_string();
    let (reader, writer) = std::io::pipe().map_err(told)?;
    command.stdout(writer.try_clone().map_err(told)?).stderr(writer);
    let child = command.spawn();
    // The pipe ends when no one can write to it: the command must let go of its ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.map_err(told)?;
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).map_err(told)? > 0 {
        std::io::stdout().write_all(&bytes).map_err(told)?;
        line(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
    let status = child.wait().map_err(told)?;
    if status.success() { Ok(String::new()) } else { Err(format!("{status}")) }
}

/// True when the command can be run and succeeds; its output is dropped.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// What a command prints; empty when it cannot be run.
pub fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).stderr(Stdio::null()).output() {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(_) => String::new(),
    }
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(k, v)| Some(format!("{}={:?}", k.to_string_lossy(), v?.to_string_lossy())));
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    variables.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}
