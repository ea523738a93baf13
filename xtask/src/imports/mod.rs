//! `cargo xtask layers`: folders and their imports, as a list and as a drawing.

mod draw;
mod graph;
mod paths;

use crate::run::Steps;
use crate::tidy::{self, Tree};
use graph::Graph;
use std::fs;

const DRAWING: &str = "target/layers.svg";

/// Prints every folder with the folders that it uses, draws them, and fails when files of different
/// folders use each other in a circle or a crate uses one above it.
pub fn step(steps: &mut Steps) {
    steps.step("layers", || {
        let tree = Tree::of_repository()?;
        let graph = Graph::of(&tree, &tidy::crates(&tree));
        for (from, to) in graph.folders() {
            println!("{from}");
            to.iter().for_each(|(folder, files)| println!("    {files:>3} files use {folder}"));
        }
        fs::create_dir_all("target")
            .and_then(|()| fs::write(DRAWING, draw::svg(&graph)))
            .map_err(|e| format!("{DRAWING}: {e}"))?;
        println!("drawn in {DRAWING}");
        let mut complaints = tidy::layers(&tree);
        complaints.extend(circles(&tree));
        complaints.iter().for_each(|c| println!("{c}"));
        match complaints.len() {
            0 => Ok(format!("{} files, no circle and no arrow up", graph.files.len())),
            n => Err(format!("{n} complaints")),
        }
    });
}

/// Files of different folders that use each other.
pub fn circles(tree: &Tree) -> Vec<String> {
    let graph = Graph::of(tree, &tidy::crates(tree));
    let told = |circle: Vec<usize>| {
        let files: Vec<&str> = circle.iter().map(|&i| graph.files[i].as_str()).collect();
        format!("{}:1: these files use each other: {}", files[0], files.join(", "))
    };
    graph.circles().into_iter().map(told).collect()
}
