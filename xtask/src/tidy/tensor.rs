//! Every public method of `Tensor` has a case in the table of tensor methods.

use super::Tree;
use super::source::code;
use serde_json::Value;
use starling_ops::defs::{ALL, Gradient};
use std::collections::{BTreeMap, BTreeSet};

const PATH: &str = "tests/golden/tensor.json";
const METHODS: &str = "engine/src/tensor/";
/// Methods that no golden number speaks about, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("shape", "tells about the tensor; every case compares it"),
    ("rank", "the length of `shape`"),
    ("len", "the product of `shape`"),
    ("is_empty", "`len` is 0"),
    ("dtype", "tells about the tensor; every case reads its results by it"),
    ("device", "a handle"),
    ("download", "`to_vec` awaits it, and every case calls that"),
    ("copy_to", "`to_device` awaits it"),
    ("custom", "what a user adds: engine/tests/graph.rs compares its gradient"),
    ("to_vec", "how every case reads its results"),
    ("item", "`to_vec` of one element; engine/tests/gradients.rs calls it"),
    ("rand", "drawn: the numbers are compared in ops/src/philox.rs"),
    ("randn", "drawn: the numbers are compared in ops/src/philox.rs"),
    ("dropout", "drawn: engine/tests/gradients.rs compares the mask with the gradient"),
];

/// Compares the methods with the table, both ways.
pub fn methods(tree: &Tree) -> Vec<String> {
    let sources: Vec<_> = tree.ending(&[".rs"]).filter(|f| f.path.starts_with(METHODS)).collect();
    if sources.is_empty() {
        return Vec::new();
    }
    let table: Value = match tree.find(PATH).map(|f| serde_json::from_str(&f.text)) {
        Some(Ok(table)) => table,
        Some(Err(error)) => return vec![format!("{PATH}: {error}")],
        None => return vec![format!("{PATH}: is missing")],
    };
    let cases = covered(&table);
    let mut public: BTreeMap<String, String> = BTreeMap::new();
    for file in sources {
        for (line, name) in public_methods(&code(&file.text)) {
            public.insert(name, format!("{}:{line}", file.path));
        }
    }
    // Each definition has a method, but for those that are drawn or update in place.
    let defined = ALL.iter().filter(|d| d.outputs == 1 && d.name != "dropout");
    public.extend(defined.map(|d| (d.name.to_owned(), "ops/src/defs.rs:1".to_owned())));
    let excepted = |name: &str| EXCEPTIONS.iter().any(|(n, _)| *n == name);
    let mut complaints = Vec::new();
    for (name, place) in &public {
        match cases.get(name.as_str()) {
            None if !excepted(name) => {
                complaints.push(format!("{place}: {name} has no case in {PATH}"));
            }
            Some(_) if excepted(name) => {
                complaints.push(format!("{place}: {name} is an exception and has a case"));
            }
            Some(false) if differentiable(name) => {
                complaints.push(format!("{PATH}: no case of {name} compares a gradient"));
            }
            _ => {}
        }
    }
    let known = |name: &&&str| !public.contains_key(**name);
    let stale = cases.keys().filter(known);
    complaints.extend(stale.map(|name| format!("{PATH}: no method is called {name}")));
    let gone = EXCEPTIONS.iter().filter(|(name, _)| !public.contains_key(*name));
    complaints.extend(gone.map(|(name, _)| format!("{PATH}: no method is called {name}")));
    complaints
}

/// The methods that the table calls, and whether a case of each compares a gradient.
fn covered(table: &Value) -> BTreeMap<&str, bool> {
    let mut found = BTreeMap::new();
    for case in table["cases"].as_array().map_or(&[][..], Vec::as_slice) {
        let Some(method) = case["method"].as_str() else { continue };
        let steps = case["steps"].as_array().map_or(&[][..], Vec::as_slice);
        let called = |s: &Value| s[0].as_str() == Some(method);
        // Two methods stand in every case: they make the inputs.
        let implied = ["from_slice", "requires_grad"].contains(&method);
        if implied || steps.iter().any(called) {
            let gradients = case["gradients"].as_array().map_or(&[][..], Vec::as_slice);
            *found.entry(method).or_default() |= gradients.iter().any(|g| !g.is_null());
        }
    }
    found
}

/// Whether a method's gradient must be compared: that of a definition with a derivative, and that
/// of every other method but those named here.
fn differentiable(name: &str) -> bool {
    const WITHOUT: &[&str] = &[
        "from_slice",
        "full",
        "zeros",
        "ones",
        "zeros_like",
        "arange",
        "argmax",
        "argmin",
        "slice_assign",
    ];
    match ALL.iter().find(|d| d.name == name) {
        // Steps are outside the graph of gradients.
        Some(d) => d.gradient == Gradient::Derived && !["floor", "round"].contains(&name),
        None => !WITHOUT.contains(&name),
    }
}

/// The line and name of each `pub fn` in the `impl Tensor` blocks of `code`.
fn public_methods(code: &str) -> BTreeSet<(usize, String)> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for (i, line) in code.lines().enumerate() {
        if line.starts_with("impl Tensor {") {
            inside = true;
        } else if line.starts_with('}') {
            inside = false;
        }
        let rest = line.trim_start().strip_prefix("pub ");
        let rest = rest.and_then(|r| r.strip_prefix("async ").unwrap_or(r).strip_prefix("fn "));
        let name = rest.and_then(|r| r.split(['(', '<']).next());
        found.extend(name.filter(|_| inside).map(|n| (i + 1, n.to_owned())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> String {
        // cargo runs tests in the package's folder.
        std::fs::read_to_string(format!("../{path}")).unwrap()
    }

    /// The real methods and table, with `extra` methods and one change of the table.
    fn complaints_after(extra: &str, change: impl FnOnce(&mut Vec<Value>)) -> Vec<String> {
        let mut table: Value = serde_json::from_str(&read(PATH)).unwrap();
        change(table["cases"].as_array_mut().unwrap());
        let listed = std::fs::read_dir(format!("../{METHODS}")).unwrap();
        let mut files: Vec<(String, String)> = listed
            .map(|f| format!("{METHODS}{}", f.unwrap().file_name().to_str().unwrap()))
            .map(|path| (path.clone(), read(&path)))
            .collect();
        files.push((format!("{METHODS}planted.rs"), extra.to_owned()));
        files.push((PATH.to_owned(), table.to_string()));
        let files: Vec<(&str, &str)> =
            files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        methods(&Tree::planted(&files))
    }

    #[test]
    fn the_table_has_every_method() {
        assert_eq!(complaints_after("", |_| ()), Vec::<String>::new());
    }

    #[test]
    fn new_stale_and_gradientless_methods_are_found() {
        let new = "impl Tensor {\n    pub fn novel(&self) {}\n    fn own(&self) {}\n}\n";
        assert_eq!(complaints_after(new, |_| ()).len(), 1);
        let elsewhere = "impl Other {\n    pub fn novel(&self) {}\n}\n";
        assert!(complaints_after(elsewhere, |_| ()).is_empty());
        let without = |name: &'static str| {
            move |cases: &mut Vec<Value>| cases.retain(|c| c["method"] != name)
        };
        assert_eq!(complaints_after("", without("var")).len(), 1);
        assert_eq!(complaints_after("", without("gelu")).len(), 1);
        let stale = complaints_after("", |cases| {
            let mut case = cases[0].clone();
            case["method"] = "no_such".into();
            case["steps"][0][0] = "no_such".into();
            cases.push(case);
        });
        assert_eq!(stale.len(), 1, "{stale:?}");
        let silent = complaints_after("", |cases| {
            let of_var = cases.iter_mut().filter(|c| c["method"] == "var");
            of_var.for_each(|c| c["gradients"] = Value::Array(Vec::new()));
        });
        assert_eq!(silent.len(), 1, "{silent:?}");
    }
}
