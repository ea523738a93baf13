//! The table of tensor methods (tests/golden/tensor.json): value and gradients against PyTorch in
//! float64 on every device of this machine.

mod torch;

use serde_json::Value;
use torch::{Graph, Mode, devices, golden};

fn table() -> Vec<(String, Graph)> {
    let text = std::fs::read_to_string(golden("tensor.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let named = |case: &Value| {
        let (method, title) = (case["method"].as_str().unwrap(), case["title"].as_str().unwrap());
        (format!("{method}: {title}"), Graph(case.clone()))
    };
    table["cases"].as_array().unwrap().iter().map(named).collect()
}

/// Runs the table and names what went wrong; says how many cases were judged.
fn passes(mode: Mode) {
    let table = table();
    for (device_name, device) in devices() {
        let (mut judged, mut wrong) = (0, Vec::new());
        for (i, (name, graph)) in table.iter().enumerate() {
            // A GPU compiles every program anew: there the other modes take one case in eight.
            let sampled = mode == Mode::Plain || !device_name.starts_with("webgpu") || i % 8 == 0;
            if !sampled || (mode == Mode::Captured && !graph.capturable()) {
                continue;
            }
            judged += 1;
            if let Err(fault) = graph.judge(&graph.run(&device, mode)) {
                wrong.push(format!("{name}: {fault}"));
            }
        }
        println!("{device_name}: {judged} cases");
        assert!(judged > table.len() / 10);
        let count = wrong.len();
        assert!(wrong.is_empty(), "{device_name}: {count} wrong:\n{}", wrong.join("\n"));
    }
}

#[test]
fn every_method_gives_pytorchs_value_and_gradients() {
    passes(Mode::Plain);
}

#[test]
fn looking_at_what_a_method_made_changes_nothing() {
    passes(Mode::Looking);
}

#[test]
fn every_method_can_be_captured_and_replayed() {
    passes(Mode::Captured);
}
