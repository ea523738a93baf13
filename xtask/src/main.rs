//! `cargo xtask <task>`: everything a person would otherwise have to remember.

mod dawn;
mod debian;
mod fuzz;
mod imports;
mod neon;
mod run;
mod test;
mod tidy;
mod wasm;
mod webgpu;

use run::Steps;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "cargo xtask <task>
  test [--quick]      every test that this machine can run, and the full table of cases
  test-dawn           every planned shader through Chrome's compiler; installs an npm package
  check-wasm          the engine compiled for browsers
  test-neon [--full]  the vector tests as NEON, emulated; installs a cross compiler and qemu
  ci                  format, tidy, clippy, documentation and test: what a change must pass
  fuzz-graphs N [SEED]
                      N random graphs against PyTorch, which pip installs; prints what fails
  layers              folders and their imports, listed and drawn; circles and arrows up fail
  tidy                layers, sizes, unsafe code, golden rows and other rules of this repository";

fn main() -> ExitCode {
    // Asked for at run time: a target folder may serve more than one checkout.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = here.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
    if let Err(error) = std::env::set_current_dir(root) {
        eprintln!("{}: {error}", root.display());
        return ExitCode::from(2);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut steps = Steps::default();
    match arguments[..] {
        ["test"] => test::test(&mut steps, false),
        ["test", "--quick"] => test::test(&mut steps, true),
        ["check-wasm"] => wasm::check(&mut steps),
        ["test-dawn"] => dawn::shaders(&mut steps),
        ["test-neon"] => neon::test_neon(&mut steps, false),
        ["test-neon", "--full"] => neon::test_neon(&mut steps, true),
        ["fuzz-graphs", count] => fuzz::graphs(&mut steps, count, None),
        ["fuzz-graphs", count, seed] => fuzz::graphs(&mut steps, count, Some(seed)),
        ["layers"] => imports::step(&mut steps),
        ["tidy"] => tidy::step(&mut steps),
        ["ci"] => ci(&mut steps),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    steps.summary()
}

/// Goes through every step even after a failure: one run tells all that is wrong.
fn ci(steps: &mut Steps) {
    steps.cargo("format", &["fmt", "--all", "--check"], &[]);
    tidy::step(steps);
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    steps.cargo("clippy", &clippy, &[]);
    let doc = ["doc", "--workspace", "--no-deps"];
    steps.cargo("documentation", &doc, &[("RUSTDOCFLAGS", "-D warnings")]);
    test::test(steps, false);
    if run::succeeds("cargo", &["deny", "--version"]) {
        steps.cargo("licences", &["deny", "check", "licenses", "bans", "sources"], &[]);
    } else {
        steps.skip("licences: cargo-deny is not installed (cargo install cargo-deny)");
    }
}
