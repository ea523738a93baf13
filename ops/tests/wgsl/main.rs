//! The printed text of every definition and derivative: valid WGSL, as recorded, and right.

use naga::valid::{Capabilities, ValidationFlags, Validator};
use starling_ops::defs::{ALL, Definition};
use starling_ops::wgsl::Fma;
use starling_ops::{Program, wgsl};
use std::fs;
use std::path::Path;

mod interpreter;
mod values;

/// What rewrites the recorded text.
const COMMAND: &str = "UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl";

/// The definition and its derivatives by each tensor, with the names of their functions.
fn functions(d: &Definition) -> Vec<(String, Program)> {
    let scalars = d.default_scalars();
    let mut all = vec![(format!("def_{}", d.name), d.program(&scalars))];
    if d.gradient.is_derived() {
        for (by, (tensor, _)) in d.tensors.iter().enumerate() {
            let name = format!("def_{}_by_{tensor}", d.name);
            all.push((name, d.derivative_program(&scalars, by)));
        }
    }
    all
}

/// A module of the functions and what they call.
fn module(functions: &[(String, Program)], fma: Fma) -> String {
    let mut text = String::from("fn sl_zero() -> u32 {\n    return 0u;\n}\n\n");
    text.push_str(&wgsl::prelude(functions.iter().map(|f| &f.1), fma));
    let printed: Vec<String> = functions.iter().map(|(name, p)| wgsl::print(p, name)).collect();
    text.push_str(&printed.join("\n"));
    text
}

fn parse(name: &str, text: &str) -> naga::Module {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|e| panic!("{name}: {}\n{text}", e.emit_to_string(text)));
    Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"));
    module
}

#[test]
fn every_definition_prints_what_is_recorded() {
    // cargo runs tests in the package's folder.
    let folder = Path::new("../shaders/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for d in ALL {
        let source = format!("// Printed from `{}` in ops/src/defs.rs by {COMMAND}", d.name);
        let text = format!("{source}\n\n{}", module(&functions(d), Fma::Fused));
        parse(d.name, &text);
        let path = folder.join(d.name).with_extension("wgsl");
        if update {
            fs::write(&path, text).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            wrong.push(format!("{}.wgsl is missing or differs", d.name));
        }
    }
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if Definition::find(&stem).is_none() {
            if update {
                fs::remove_file(&path).unwrap();
            } else {
                wrong.push(format!("{stem}.wgsl belongs to no definition"));
            }
        }
    }
    assert!(wrong.is_empty(), "shaders/golden: {wrong:#?}\nwhen the change is meant: {COMMAND}");
}
