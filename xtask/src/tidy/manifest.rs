//! Rules about the crates' manifests.

use super::{File, Tree};

/// The layers, the highest first: a crate may depend on crates of lower layers only. The reference
/// stands below the tests, whose truth it is.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["starling"],
    &["cluster"],
    &["models"],
    &["train"],
    &["engine"],
    &["backends/cpu", "backends/webgpu", "backends/cuda"],
    &["tests/conformance"],
    &["backends/reference"],
    &["kernels/cpu"],
    &["contract"],
    &["ops"],
];
/// Tools: they may use every crate and no crate may use them.
const TOOLS: &[&str] = &["benches", "xtask"];
/// What others write, shown: it needs the contract and the formulas alone, and no crate may use it.
const EXAMPLES: &str = "examples/";
const EXAMPLES_USE: &[&str] = &["contract", "ops"];

/// Our crates' names begin with this.
const OURS: &str = "starling-";

struct Manifest<'a> {
    file: &'a File,
    folder: &'a str,
    name: &'a str,
    /// Line number and name of each dependency, except those of tests, which may look up.
    dependencies: Vec<(usize, &'a str)>,
    inherits_lints: bool,
}

fn manifests(tree: &Tree) -> Vec<Manifest<'_>> {
    let files = tree.ending(&["/Cargo.toml"]);
    // A folder with a workspace of its own is not part of this one.
    files.filter(|f| !f.text.contains("[workspace]")).map(parse).collect()
}

/// Reads the few lines of a manifest that the rules are about.
fn parse(file: &File) -> Manifest<'_> {
    let folder = file.path.trim_end_matches("/Cargo.toml");
    let mut manifest =
        Manifest { file, folder, name: "", dependencies: Vec::new(), inherits_lints: false };
    let mut section = "";
    for (i, line) in file.text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            // [dependencies.name]
            if let Some((table, name)) = section.rsplit_once('.')
                && holds_dependencies(table)
            {
                manifest.dependencies.push((i + 1, name));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        match section {
            "package" if key == "name" => manifest.name = value.trim_matches('"'),
            "lints" if key == "workspace" => manifest.inherits_lints = value == "true",
            table if holds_dependencies(table) => {
                let name = key.split('.').next().unwrap_or(key);
                manifest.dependencies.push((i + 1, name));
            }
            _ => {}
        }
    }
    manifest
}

fn holds_dependencies(table: &str) -> bool {
    let last = table.rsplit('.').next().unwrap_or(table);
    matches!(last, "dependencies" | "build-dependencies")
}

fn layer(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&folder))
}

/// The folders of the layers, the highest first, with the name that `use` knows each crate by.
pub fn crates(tree: &Tree) -> Vec<(String, String)> {
    let all = manifests(tree);
    let named = |folder: &&str| {
        let m = all.iter().find(|m| m.folder == *folder)?;
        let library = m.file.text.split("[lib]").nth(1).and_then(|lib| lib.split('"').nth(1));
        let name = library.map_or_else(|| m.name.replace('-', "_"), str::to_owned);
        Some((m.folder.to_owned(), name))
    };
    LAYERS.iter().copied().flatten().filter_map(named).collect()
}

/// Folders are the architecture.
pub fn layers(tree: &Tree) -> Vec<String> {
    let all = manifests(tree);
    let mut complaints = Vec::new();
    for m in &all {
        let place = layer(m.folder);
        let example = m.folder.starts_with(EXAMPLES);
        if place.is_none() && !example && !TOOLS.contains(&m.folder) {
            complaints.push(format!("{}:1: the folder stands in no layer", m.file.path));
        }
        for &(line, name) in m.dependencies.iter().filter(|d| d.1.starts_with(OURS)) {
            let target = all.iter().find(|other| other.name == name);
            let below = target.and_then(|t| layer(t.folder));
            let allowed = match (place, below) {
                _ if example => target.is_some_and(|t| EXAMPLES_USE.contains(&t.folder)),
                (Some(from), Some(to)) => from < to,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if !allowed {
                let to = target.map_or("an unknown folder", |t| t.folder);
                complaints.push(format!(
                    "{}:{line}: {} may not depend on {name} in {to}",
                    m.file.path, m.folder
                ));
            }
        }
    }
    complaints
}

/// Every crate is under the workspace's lints.
pub fn lints(tree: &Tree) -> Vec<String> {
    let without = manifests(tree).into_iter().filter(|m| !m.inherits_lints);
    without.map(|m| format!("{}:1: lacks [lints] workspace = true", m.file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}")
    }

    #[test]
    fn only_dependencies_on_lower_layers_pass() {
        let ops = |rest| package("starling-ops", rest);
        let engine = package("starling-engine", "[dependencies]\nstarling-ops.workspace = true\n");
        let check = |ops: &str| {
            layers(&Tree::planted(&[("ops/Cargo.toml", ops), ("engine/Cargo.toml", &engine)]))
        };
        assert!(check(&ops("")).is_empty());
        assert!(check(&ops("[dev-dependencies]\nstarling-engine = { path = \"..\" }")).is_empty());
        for up in [
            "[dependencies]\nstarling-engine.workspace = true",
            "[build-dependencies]\nstarling-engine = { path = \"../engine\" }",
            "[dependencies.starling-engine]\nworkspace = true",
            "[target.'cfg(unix)'.dependencies]\nstarling-engine.workspace = true",
        ] {
            assert_eq!(check(&ops(up)).len(), 1, "{up}");
        }
    }

    #[test]
    fn tools_are_used_by_no_one_and_new_folders_need_a_layer() {
        let xtask = package("starling-benches", "[dependencies]\nstarling-ops.workspace = true");
        let ops = package("starling-ops", "[dependencies]\nstarling-benches.workspace = true");
        let tree = Tree::planted(&[("benches/Cargo.toml", &xtask), ("ops/Cargo.toml", &ops)]);
        assert_eq!(layers(&tree).len(), 1);
        let new = package("starling-new", "");
        assert_eq!(layers(&Tree::planted(&[("new/Cargo.toml", &new)])).len(), 1);
    }

    #[test]
    fn examples_use_the_contract_alone_and_no_one_uses_them() {
        let uses = |name: &str| {
            let line = format!("[dependencies]\n{name}.workspace = true");
            package("starling-example", &line)
        };
        let check = |example: &str, cpu: &str| {
            layers(&Tree::planted(&[
                ("ops/Cargo.toml", &package("starling-ops", "")),
                ("contract/Cargo.toml", &package("starling-contract", "")),
                ("backends/reference/Cargo.toml", &package("starling-reference", "")),
                ("backends/cpu/Cargo.toml", cpu),
                ("examples/one/Cargo.toml", example),
            ]))
        };
        let cpu = package("starling-cpu", "");
        assert!(check(&uses("starling-ops"), &cpu).is_empty());
        assert!(check(&uses("starling-contract"), &cpu).is_empty());
        assert_eq!(check(&uses("starling-reference"), &cpu).len(), 1);
        assert_eq!(check(&uses("starling-cpu"), &cpu).len(), 1);
        let up = "[dependencies]\nstarling-example.workspace = true";
        assert_eq!(check(&uses("starling-ops"), &package("starling-cpu", up)).len(), 1);
    }

    #[test]
    fn lints_must_be_inherited() {
        let good = package("a", "");
        assert!(lints(&Tree::planted(&[("a/Cargo.toml", &good)])).is_empty());
        let bad = good.replace("workspace = true", "workspace = false");
        assert_eq!(lints(&Tree::planted(&[("a/Cargo.toml", &bad)])).len(), 1);
        let own = "[workspace]\n[package]\nname = \"a\"";
        assert!(lints(&Tree::planted(&[("a/Cargo.toml", own)])).is_empty());
    }
}
