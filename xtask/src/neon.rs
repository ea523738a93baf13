//! `cargo xtask test-neon`: the vector tests as NEON under qemu, on a machine that is not ARM.

use crate::debian::{self, apt_get, as_root};
use crate::run::{self, Steps};
use crate::test::{self, Suites};
use std::path::Path;
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const QEMU: &str = "qemu-aarch64";
/// Where the cross compiler's C library lies, and qemu looks for it.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// Tests that take minutes when emulated and hardly depend on the processor: the sweeps over the
/// arguments of scalar functions.
const SWEEPS: &str = "poly::tests";

/// Sequences of 8,192 take seconds natively and hours emulated; memory is no matter of the
/// instruction set.
const LONG: &str = "twice_the_length_takes_twice_the_memory";

/// Installs what is missing and runs the tests; `full` on every processor that matters: one with
/// NEON alone, and one with everything that qemu has.
pub fn test_neon(steps: &mut Steps, full: bool) {
    if cfg!(target_arch = "aarch64") {
        steps.skip("test-neon: this machine has NEON, and `cargo xtask test` tested it");
        return;
    }
    println!("needs: {LINKER}, {QEMU} and a Rust standard library for {TARGET}");
    let mut toolchain = None;
    if !steps.step("install what is missing", || {
        toolchain = install()?;
        Ok(String::new())
    }) {
        return;
    }
    let processors: &[&str] = if full { &["cortex-a53", "max"] } else { &["max"] };
    for processor in processors {
        for package in ["starling-ops", "starling-kernels-cpu", "starling-cpu"] {
            let mut command = cargo(toolchain, processor, "test");
            command.args(["-p", package, "--lib", "--tests"]);
            command.args(["--", "--skip", LONG]);
            if !full {
                command.args(["--skip", SWEEPS]);
            }
            counted(steps, &format!("{package} on {processor}"), command);
        }
        let mut verify = cargo(toolchain, processor, "run");
        verify.args(["-p", "starling-cli", "--"]);
        test::verify(steps, &mut verify, "cpu", "neon", "quick");
    }
    steps.skip(&format!("{LONG}: hours in an emulator"));
    if !full {
        steps.skip(&format!("{SWEEPS} and other processors than qemu's `max`: --full"));
    }
}

/// Runs tests and reports how many passed.
fn counted(steps: &mut Steps, name: &str, mut command: Command) {
    steps.step(name, || {
        let mut suites = Suites::new();
        run::status_with_lines(&mut command, |line| suites.line(line))?;
        let passed: u32 = suites.done.iter().map(|s| s.passed).sum();
        if passed == 0 { Err("no test ran".into()) } else { Ok(format!("{passed} passed")) }
    });
}

/// cargo with everything that a build for [`TARGET`] needs; it has a target folder of its own.
fn cargo(toolchain: Option<&str>, processor: &str, verb: &str) -> Command {
    let mut command = match toolchain {
        // Through rustup: the cargo that runs this program belongs to another toolchain.
        Some(name) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", name, "cargo"]);
            rustup
        }
        None => run::cargo(),
    };
    let folder = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    command
        .args([verb, "--target", TARGET])
        .env("CARGO_TARGET_DIR", Path::new(&folder).join("neon"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{QEMU} -L {SYSROOT}"))
        .env("QEMU_CPU", processor)
        .env("STARLING_ISA", "neon")
        .env("CARGO_TERM_COLOR", "never");
    command
}

/// Installs the tools; returns the toolchain to use when it is not the one that runs now.
fn install() -> Result<Option<&'static str>, String> {
    let mut packages = Vec::new();
    if !run::succeeds(LINKER, &["--version"]) {
        packages.extend(["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]);
    }
    if !run::succeeds(QEMU, &["--version"]) {
        packages.push("qemu-user");
    }
    let installed = run::output("rustup", &["target", "list", "--installed"]);
    let target_here = installed.lines().any(|l| l == TARGET);
    if !target_here && !run::succeeds("/usr/bin/rustc", &["--version"]) {
        packages.extend(["rustc-web", "cargo-web"]);
    }
    if !packages.is_empty() {
        debian::install(&packages)?;
    }
    if target_here { Ok(None) } else { debian_toolchain().map(Some) }
}

/// Debian's compiler with its standard library for ARM, known to rustup as `deb`.
fn debian_toolchain() -> Result<&'static str, String> {
    let library = Path::new("/usr/lib/rustlib").join(TARGET);
    if !library.exists() {
        run::status(&mut as_root("dpkg", &["--add-architecture", "arm64"]))?;
        apt_get(&["update"])?;
        let folder = std::env::temp_dir().join(format!("starling-neon-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        // The package's dependencies are for ARM machines: only its files are wanted.
        let script = "apt-get download libstd-rust-web-dev:arm64 && \
                      dpkg-deb -x libstd-rust-web-dev_*_arm64.deb files";
        run::status(Command::new("sh").args(["-c", script]).current_dir(&folder))?;
        let files = folder.join("files").join(".");
        run::status(&mut as_root("cp", &["-r", &files.to_string_lossy(), "/"]))?;
        std::fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    if !run::output("rustup", &["toolchain", "list"]).lines().any(|l| l.starts_with("deb")) {
        run::status(Command::new("rustup").args(["toolchain", "link", "deb", "/usr"]))?;
    }
    Ok("deb")
}
