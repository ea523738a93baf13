//! Reads the paths that a Rust file names, from its code without comments and strings.

use std::ops::Range;

const USE: usize = "use ".len();

/// One leaf of a `use`, or a path in the code.
#[derive(Debug, PartialEq)]
pub struct Named {
    /// `["crate", "plan", "Node"]`; ends in `*` for a glob.
    pub path: Vec<String>,
    /// What the file calls it; empty for a path in the code.
    pub alias: String,
    /// Others may name it through this module (`pub use`, `pub(crate) use`).
    pub exported: bool,
}

/// Where the `use` statements of the file lie, from the keyword to the semicolon, and whether
/// others may name what they bring.
fn statements(code: &str) -> Vec<(Range<usize>, bool)> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or("").trim();
        let exported = line.starts_with("pub");
        if let Some(end) = code[at..].find(';').filter(|_| line.is_empty() || exported) {
            all.push((at..at + end, exported));
        }
    }
    all
}

/// Every leaf of every `use` of the file.
pub fn uses(code: &str) -> Vec<Named> {
    let mut all = Vec::new();
    for (range, exported) in statements(code) {
        tree(&code[range][USE..], &mut Vec::new(), exported, &mut all);
    }
    all
}

/// Takes a tree of names apart: `a::{b, c::d as e}`.
fn tree(text: &str, prefix: &mut Vec<String>, exported: bool, all: &mut Vec<Named>) {
    let text = text.trim();
    let depth = prefix.len();
    let brace = text.find('{');
    let head = brace.map_or(text, |b| &text[..b]);
    let (head, alias) = head.split_once(" as ").unwrap_or((head, ""));
    prefix.extend(head.split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned));
    match brace {
        Some(b) => {
            let inner = text[b + 1..].trim_end().trim_end_matches('}');
            for part in parts(inner) {
                tree(part, prefix, exported, all);
            }
        }
        None => {
            let mut path = prefix.clone();
            path.retain(|s| s != "self" || path_is_self(prefix));
            let last = path.last().cloned().unwrap_or_default();
            let alias = if alias.is_empty() { last } else { alias.trim().to_owned() };
            all.push(Named { path, alias, exported });
        }
    }
    prefix.truncate(depth);
}

/// A leading `self` names this module; a last one, in braces, the module before it.
fn path_is_self(prefix: &[String]) -> bool {
    prefix.first().is_some_and(|s| s == "self")
}

/// The parts between the commas that stand in no inner braces.
fn parts(inner: &str) -> Vec<&str> {
    let (mut depth, mut from, mut all) = (0, 0, Vec::new());
    // Closing braces that belong to an outer tree were cut off, so depth may end above 0.
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(&inner[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    all.push(&inner[from..]);
    all.retain(|p| !p.trim().is_empty());
    all
}

/// Every path of two names or more that the code outside of `use` mentions.
pub fn mentions(code: &str) -> Vec<Vec<String>> {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let mut code = code.to_owned();
    for (range, _) in statements(&code).into_iter().rev() {
        code.replace_range(range, "");
    }
    let mut all = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = rest.find("::") {
        let start = rest[..at].rfind(|c| !name(c)).map_or(0, |i| i + 1);
        let end = rest[at..].find(|c| !name(c) && c != ':').map_or(rest.len(), |e| at + e);
        let path: Vec<String> =
            rest[start..end].split("::").map(str::to_owned).filter(|s| !s.is_empty()).collect();
        if path.len() > 1 && start < at {
            all.push(path);
        }
        rest = &rest[end..];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(code: &str) -> Vec<String> {
        let shown = |n: Named| format!("{} as {}{}", n.path.join("::"), n.alias, n.exported);
        uses(code).into_iter().map(shown).collect()
    }

    #[test]
    fn trees_of_names_are_taken_apart() {
        let code =
            "use crate::a::{self, b::{C, D as E}, f};\npub(crate) use x::*;\nlet refuse = 1;";
        let expected = [
            "crate::a as afalse",
            "crate::a::b::C as Cfalse",
            "crate::a::b::D as Efalse",
            "crate::a::f as ffalse",
            "x::* as *true",
        ];
        assert_eq!(leaves(code), expected);
    }

    #[test]
    fn paths_in_the_code_are_found() {
        let found = mentions("let x: crate::random::Random = a::b(super::c::D::new());");
        let shown: Vec<String> = found.iter().map(|p| p.join("::")).collect();
        assert_eq!(shown, ["crate::random::Random", "a::b", "super::c::D::new"]);
    }
}
