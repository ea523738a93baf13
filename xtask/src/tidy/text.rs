//! Rules about files as text.

use super::Tree;

const LONGEST_FILE: usize = 700;
const WIDEST_LINE: usize = 100;

/// A file has one job.
pub fn lengths(tree: &Tree) -> Vec<String> {
    let written = tree.ending(&[".rs", ".wgsl", ".cu"]);
    let lines = written.map(|f| (f, f.text.lines().count()));
    lines
        .filter(|(_, n)| *n > LONGEST_FILE)
        .map(|(f, n)| format!("{}:1: {n} lines; {LONGEST_FILE} at most", f.path))
        .collect()
}

/// rustfmt leaves strings and comments alone.
pub fn widths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.ending(&[".rs"]) {
        for (i, line) in file.text.lines().enumerate() {
            let width = line.chars().count();
            if width > WIDEST_LINE {
                complaints.push(format!("{}:{}: {width} columns", file.path, i + 1));
            }
        }
    }
    complaints
}

/// A path of someone's machine in a tracked file.
pub fn home_paths(tree: &Tree) -> Vec<String> {
    // In two parts, so that this line is not one.
    let homes =
        [["/ho", "me/"], ["/ro", "ot/"], ["/wo", "rk/"], ["/Use", "rs/"]].map(|p| p.concat());
    let mut complaints = Vec::new();
    for file in &tree.files {
        for (i, line) in file.text.lines().enumerate() {
            if let Some(home) = homes.iter().find(|h| begins_a_path(line, h)) {
                complaints.push(format!("{}:{}: {home}", file.path, i + 1));
            }
        }
    }
    complaints
}

/// True when `home` stands in `line` as the beginning of a path and not in the middle of one.
fn begins_a_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/~}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_and_wide_lines_are_found() {
        let long = "\n".repeat(LONGEST_FILE + 1);
        let wide = "é".repeat(WIDEST_LINE + 1);
        let tree = Tree::planted(&[("a.rs", &long), ("b.rs", &wide), ("c.md", &wide)]);
        assert_eq!(lengths(&tree).len(), 1);
        assert_eq!(widths(&tree), ["b.rs:1: 101 columns"]);
        let fits = Tree::planted(&[("a.rs", &long[1..]), ("b.rs", &wide[2..])]);
        assert!(lengths(&fits).is_empty() && widths(&fits).is_empty());
    }

    #[test]
    fn home_paths_are_found() {
        let home = ["open(\"/ho", "me/me/novel.txt\")"].concat();
        let url = ["https://example.com/ho", "me/index.html"].concat();
        assert_eq!(home_paths(&Tree::planted(&[("a.py", &home)])).len(), 1);
        assert!(home_paths(&Tree::planted(&[("a.md", &url)])).is_empty());
    }
}
