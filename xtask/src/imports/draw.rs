//! The drawing: a row for each crate, the highest first, a box for each folder.

use super::graph::{Graph, folder};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const ROW: usize = 84;
const BOX: usize = 190;
const HEIGHT: usize = 34;
const LEFT: usize = 20;

/// Folders as boxes and their imports as arrows: blue ones lead down or stay in the crate, red
/// ones lead up.
pub fn svg(graph: &Graph) -> String {
    // Files come crate by crate, the highest crate first.
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for file in &graph.files {
        let name = file.split("/src/").next().unwrap_or("");
        if rows.last().is_none_or(|r| r.0 != name) {
            rows.push((name, Vec::new()));
        }
        let here = folder(file);
        if let Some((_, folders)) = rows.last_mut().filter(|r| !r.1.contains(&here)) {
            folders.push(here);
        }
    }
    let widest = rows.iter().map(|r| r.1.len()).max().unwrap_or(1);
    let (width, height) = (2 * LEFT + widest * (BOX + 20), rows.len() * ROW + 40);
    let mut at: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (y, (_, folders)) in rows.iter().enumerate() {
        for (x, f) in folders.iter().enumerate() {
            at.insert(f, (LEFT + x * (BOX + 20), 20 + y * ROW));
        }
    }
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n"
    );
    for (from, to) in graph.folders() {
        to.keys().for_each(|to| arrow(&mut out, at[from], at[to]));
    }
    let files: BTreeSet<&str> = graph.files.iter().map(|f| folder(f)).collect();
    for f in files {
        let (x, y) = at[f];
        let count = graph.files.iter().filter(|file| folder(file) == f).count();
        let name = f.replace("/src", "");
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX}\" height=\"{HEIGHT}\" rx=\"4\" \
             fill=\"#f4f6fa\" stroke=\"#556\"/><text x=\"{}\" y=\"{}\">{name} ({count})</text>",
            x + 8,
            y + 21
        );
    }
    out + "</svg>\n"
}

fn arrow(out: &mut String, from: (usize, usize), to: (usize, usize)) {
    let color = if to.1 < from.1 { "#c22" } else { "#58a" };
    let (x1, x2) = (from.0 + BOX / 2, to.0 + BOX / 2);
    let (y1, y2) = if from.1 == to.1 {
        (from.1 + HEIGHT, to.1 + HEIGHT)
    } else if to.1 < from.1 {
        (from.1, to.1 + HEIGHT)
    } else {
        (from.1 + HEIGHT, to.1)
    };
    // Arrows within a row hang below it.
    let bend = if from.1 == to.1 { 24 } else { 0 };
    let _ = writeln!(
        out,
        "<path d=\"M{x1} {y1} C{x1} {} {x2} {} {x2} {y2}\" fill=\"none\" stroke=\"{color}\" \
         stroke-opacity=\"0.5\"/><circle cx=\"{x2}\" cy=\"{y2}\" r=\"3\" fill=\"{color}\"/>",
        y1 + bend,
        y2 + bend
    );
}
