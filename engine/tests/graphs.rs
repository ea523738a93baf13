//! Random graphs (tests/golden/make_graphs.py) on every device of this machine: their values and
//! gradients agree with PyTorch in float64, and are the same bits when every value is looked at,
//! when the graph is captured and replayed, and when threads run different graphs at once.
//!
//! tests/golden/graphs.jsonl is a small part; `cargo xtask fuzz-graphs` draws more, to a file that
//! STARLING_GRAPHS names. A complaint begins with the graph's seed.

mod torch;

use starling_engine::{Device, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use torch::{Graph, Mode, Outcome, devices, golden};

const THREADS: usize = 4;
/// Graphs that a GPU runs at the most, which compiles every program anew.
const ON_A_GPU: usize = 120;

fn graphs() -> Vec<Graph> {
    let path = std::env::var_os("STARLING_GRAPHS").map_or(golden("graphs.jsonl"), Into::into);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let graphs = Graph::lines(&text);
    assert!(!graphs.is_empty(), "{path:?} holds no graph");
    graphs
}

/// Calls `check` with every device and the graphs to run there, and panics with all complaints.
///
/// A GPU takes one graph in `share`, and in longer lists fewer.
fn on_every_device(share: usize, check: impl Fn(&Device, &[&Graph]) -> Vec<String>) {
    let graphs = graphs();
    let mut complaints = Vec::new();
    for (name, device) in devices() {
        let gpu = share * graphs.len().div_ceil(ON_A_GPU);
        let step = if name.starts_with("webgpu") { gpu } else { 1 };
        let part: Vec<&Graph> = graphs.iter().step_by(step).collect();
        let wrong = check(&device, &part);
        println!("{name}: {} graphs, {} wrong", part.len(), wrong.len());
        complaints.extend(wrong.into_iter().map(|w| format!("{w} ({name})")));
    }
    assert!(complaints.is_empty(), "{} wrong:\n{}", complaints.len(), complaints.join("\n"));
}

fn seed(graph: &Graph) -> String {
    format!("seed {}", graph.0["seed"])
}

/// A refusal is the same by its words.
fn comparable(outcome: Result<Outcome>) -> std::result::Result<Outcome, String> {
    outcome.map_err(|e| e.to_string())
}

/// Complains when a graph run in `mode` gives other bits than run plainly.
fn same_bits(device: &Device, graphs: &[&Graph], mode: Mode) -> Vec<String> {
    let differs = |graph: &&&Graph| {
        comparable(graph.run(device, Mode::Plain)) != comparable(graph.run(device, mode))
    };
    let wrong = graphs.iter().filter(differs);
    wrong.map(|g| format!("{}: other bits", seed(g))).collect()
}

/// Complains when a graph run in `mode` does not give what PyTorch does.
fn right(device: &Device, graphs: &[&Graph], mode: Mode) -> Vec<String> {
    let judge = |g: &Graph| {
        // One that panics must not hide the others.
        let judged = catch_unwind(AssertUnwindSafe(|| g.judge(&g.run(device, mode))));
        judged.unwrap_or_else(|_| Err("panicked".into()))
    };
    graphs.iter().filter_map(|g| Some(format!("{}: {}", seed(g), judge(g).err()?))).collect()
}

#[test]
fn random_graphs_agree_with_pytorch() {
    on_every_device(1, |device, graphs| right(device, graphs, Mode::Plain));
}

#[test]
fn looking_at_every_value_changes_no_bit() {
    on_every_device(8, |device, graphs| same_bits(device, graphs, Mode::Looking));
}

#[test]
fn a_replayed_graph_gives_the_same_bits() {
    on_every_device(8, |device, graphs| {
        let fit: Vec<&Graph> = graphs.iter().filter(|g| g.capturable()).copied().collect();
        // Of the kept graphs some are captured; of a few others perhaps none.
        assert!(!fit.is_empty() || std::env::var_os("STARLING_GRAPHS").is_some());
        same_bits(device, &fit, Mode::Captured)
    });
}

#[test]
fn threads_that_run_different_graphs_at_once_get_the_same_bits() {
    on_every_device(8, |device, graphs| {
        let alone: Vec<_> = graphs.iter().map(|g| comparable(g.run(device, Mode::Plain))).collect();
        let all = |number: usize| -> Vec<String> {
            // Each thread goes through the graphs from a place of its own.
            let order =
                (0..graphs.len()).map(|i| (i + number * graphs.len() / THREADS) % graphs.len());
            let differs = |&i: &usize| comparable(graphs[i].run(device, Mode::Plain)) != alone[i];
            let wrong = order.filter(differs);
            wrong.map(|i| format!("{}: other bits in a thread", seed(graphs[i]))).collect()
        };
        thread::scope(|scope| {
            let all = &all;
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || all(n))).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        })
    });
}
