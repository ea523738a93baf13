//! Installing Debian's packages.

use crate::run;
use std::process::Command;

/// Installs packages without what they merely recommend.
pub fn install(packages: &[&str]) -> Result<String, String> {
    println!("installing {}", packages.join(" "));
    let needed = |e| format!("{} needed: {e}", packages.join(", "));
    apt_get(&["update"]).map_err(needed)?;
    let arguments = [&["install", "-y", "--no-install-recommends"], packages].concat();
    apt_get(&arguments).map_err(needed)
}

/// Runs apt-get, as root.
pub fn apt_get(arguments: &[&str]) -> Result<String, String> {
    if !run::succeeds("apt-get", &["--version"]) {
        return Err("there is no apt-get here: install it yourself".into());
    }
    let all = [&["-q", "-o", "DPkg::Lock::Timeout=200"], arguments].concat();
    run::status(as_root("apt-get", &all).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The command, through sudo unless this is root already.
pub fn as_root(program: &str, arguments: &[&str]) -> Command {
    let root = run::output("id", &["-u"]).trim() == "0";
    let mut command = Command::new(if root { program } else { "sudo" });
    if !root {
        command.arg(program);
    }
    command.args(arguments);
    command
}
