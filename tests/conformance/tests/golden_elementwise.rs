//! Every definition and derivative against PyTorch in float64 (tests/golden/elementwise.json).

use serde_json::Value;
use starling_ops::defs::{ALL, Definition, Gradient};
use std::collections::BTreeMap;

fn table() -> BTreeMap<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/elementwise.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let definitions = file["definitions"].as_object().expect("definitions");
    definitions.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
}

fn number(x: &Value) -> f64 {
    match x.as_str() {
        Some("nan") => f64::NAN,
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        _ => x.as_f64().expect("a number"),
    }
}

fn numbers(x: &Value) -> Vec<f64> {
    x.as_array().expect("an array").iter().map(number).collect()
}

/// Where PyTorch is not followed: definition, argument, our derivative, and why.
const EXCEPTIONS: [(&str, f64, f64, &str); 3] = [
    ("expm1", -100.0, 3.720075976020836e-44, "PyTorch adds 1 to a value that is -1 and yields 0"),
    ("clamp", 1.0, 1.0, "the slope at the bounds is 1, as it was in PyTorch until 2.14"),
    ("clamp", -1.0, 1.0, "as above"),
];

fn exception(name: &str, args: &[f64]) -> Option<f64> {
    let mut rows = EXCEPTIONS.iter();
    rows.find(|e| e.0 == name && args == [e.1]).map(|e| e.2)
}

/// Equal to 1e-12 relatively (both sides round in f64, PyTorch and libm differently).
fn same(ours: f64, golden: f64) -> bool {
    let tolerance = 1e-12 * golden.abs() + 1e-300;
    ours == golden || (ours.is_nan() && golden.is_nan()) || (ours - golden).abs() <= tolerance
}

fn check(d: &Definition, entry: &Value, complaints: &mut Vec<String>) {
    let order: Vec<&str> = d.scalars.iter().map(|s| s.0).collect();
    let scalars: Vec<f64> = order.iter().map(|s| number(&entry["scalars"][s])).collect();
    let value = d.program(&scalars);
    let derivatives: Vec<_> = match d.gradient {
        Gradient::Derived | Gradient::Step => {
            (0..d.tensors.len()).map(|i| d.derivative_program(&scalars, i)).collect()
        }
        Gradient::Truth | Gradient::NotDifferentiable(_) => Vec::new(),
    };
    for row in entry["rows"].as_array().expect("rows") {
        let args = numbers(&row["args"]);
        let golden = numbers(&row["value"]);
        let ours = value.eval_f64(&args, &[], 0);
        if ours.len() != golden.len() || ours.iter().zip(&golden).any(|(a, b)| !same(*a, *b)) {
            complaints.push(format!("{}{args:?} = {golden:?} and not {ours:?}", d.name));
        }
        assert_eq!(row["gradient"].is_null(), derivatives.is_empty(), "{}", d.name);
        // What happens to the gradient at infinities is no promise of PyTorch's.
        if row["gradient"].is_null() || args.iter().any(|x| !x.is_finite()) {
            continue;
        }
        for (i, golden) in numbers(&row["gradient"]).into_iter().enumerate() {
            let ours = derivatives[i].eval_f64(&args, &[], 0)[0];
            let golden = match exception(d.name, &args) {
                Some(own) => {
                    assert!(!same(own, golden), "{}{args:?} is no exception", d.name);
                    own
                }
                None => golden,
            };
            if !same(ours, golden) {
                let by = d.tensors[i].0;
                complaints.push(format!("{}'{args:?} by {by} = {golden} and not {ours}", d.name));
            }
        }
    }
}

#[test]
fn definitions_and_derivatives_agree_with_pytorch() {
    let table = table();
    let mut complaints = Vec::new();
    for d in ALL {
        let Some(entry) = table.get(d.name) else {
            complaints.push(format!("{} has no golden rows", d.name));
            continue;
        };
        check(d, entry, &mut complaints);
    }
    let known: Vec<&str> = ALL.iter().map(|d| d.name).collect();
    for name in table.keys().filter(|name| !known.contains(&name.as_str())) {
        complaints.push(format!("{name} has golden rows and no definition"));
    }
    assert!(complaints.is_empty(), "{} differ:\n{}", complaints.len(), complaints.join("\n"));
}
