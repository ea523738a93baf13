//! `cargo xtask check-wasm`: the engine compiled for browsers.

use crate::run::{self, Steps};
use std::path::Path;
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

/// Where the target's standard library comes from.
enum Library {
    /// It is installed.
    Installed,
    /// It is built from the sources that this toolchain has.
    Sources(String),
}

/// Compiles the engine with all its backends for [`TARGET`].
pub fn check(steps: &mut Steps) {
    let Some(library) = library() else {
        steps.skip(&format!(
            "the engine for {TARGET}: there is neither its standard library (`rustup target add \
             {TARGET}`) nor its sources (`rustup component add rust-src`)"
        ));
        return;
    };
    steps.step(&format!("the engine for {TARGET}"), || {
        let mut command = match &library {
            Library::Installed => run::cargo(),
            Library::Sources(toolchain) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", toolchain, "cargo"]);
                rustup
            }
        };
        command.args(["check", "--package", "starling-engine", "--target", TARGET]);
        if let Library::Sources(_) = library {
            // The flag belongs to nightly; the sources are as stable as their toolchain.
            command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        }
        let folder = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
        run::status(command.env("CARGO_TARGET_DIR", Path::new(&folder).join("wasm")))
    });
}

fn library() -> Option<Library> {
    let installed = run::output("rustup", &["target", "list", "--installed"]);
    if installed.lines().any(|l| l == TARGET) {
        return Some(Library::Installed);
    }
    let toolchains = run::output("rustup", &["toolchain", "list"]);
    let names = toolchains.lines().filter_map(|l| l.split_whitespace().next());
    let mut with_sources = names.filter(|name| {
        let root = run::output("rustup", &["run", name, "rustc", "--print", "sysroot"]);
        Path::new(root.trim()).join("lib/rustlib/src/rust/library").is_dir()
    });
    with_sources.next().map(|name| Library::Sources(name.to_string()))
}
