//! Which file of the workspace uses which.

use super::paths::{self, Named};
use crate::tidy::{Tree, shipped};
use std::collections::{BTreeMap, BTreeSet};

/// A crate's module: its file, its children and what it lets others name.
struct Module {
    file: usize,
    parent: Option<usize>,
    root: usize,
    children: BTreeMap<String, usize>,
    uses: Vec<Named>,
}

/// Files and the files that each of them uses.
pub struct Graph {
    /// Paths relative to the root of the repository.
    pub files: Vec<String>,
    /// `arrows[i]` are the files that file `i` names.
    pub arrows: Vec<BTreeSet<usize>>,
}

/// Names on the way to a file; ends the search in re-exports that name each other.
const DEEPEST: usize = 16;

struct Modules {
    all: Vec<Module>,
    /// Crates by the name that `use` knows them by.
    roots: BTreeMap<String, usize>,
}

impl Graph {
    /// The files of the crates in `folders`, each with the name that others use it by.
    pub fn of(tree: &Tree, folders: &[(String, String)]) -> Self {
        let mut modules = Modules { all: Vec::new(), roots: BTreeMap::new() };
        let (mut files, mut codes) = (Vec::new(), Vec::new());
        for (folder, name) in folders {
            let source = format!("{folder}/src/");
            let mut here: Vec<(Vec<String>, &str, &str)> = tree
                .ending(&[".rs"])
                .filter_map(|f| Some((place(f.path.strip_prefix(&source)?), &*f.path, &*f.text)))
                .filter(|(place, ..)| place.last().is_none_or(|last| last != "tests"))
                .collect();
            // Parents before their children.
            here.sort_by_key(|(place, ..)| place.len());
            let root = modules.all.len();
            for (place, path, text) in here {
                let code = shipped(text);
                modules.add(root, &place, files.len(), paths::uses(&code));
                files.push(path.to_owned());
                codes.push(code);
            }
            if modules.all.len() > root {
                modules.roots.insert(name.clone(), root);
            }
        }
        let arrows = (0..files.len()).map(|i| modules.used_by(i, &codes[i])).collect();
        Self { files, arrows }
    }

    /// Groups of files of more than one folder that reach each other.
    pub fn circles(&self) -> Vec<Vec<usize>> {
        let reach: Vec<BTreeSet<usize>> = (0..self.files.len()).map(|i| self.reach(i)).collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for i in 0..self.files.len() {
            let circle: Vec<usize> =
                reach[i].iter().copied().filter(|&j| reach[j].contains(&i)).collect();
            let folders: BTreeSet<&str> = circle.iter().map(|&j| folder(&self.files[j])).collect();
            if folders.len() > 1 && circle.iter().all(|j| seen.insert(*j)) {
                circles.push(circle);
            }
        }
        circles
    }

    fn reach(&self, from: usize) -> BTreeSet<usize> {
        let (mut reached, mut pending) = (BTreeSet::new(), vec![from]);
        while let Some(i) = pending.pop() {
            pending.extend(self.arrows[i].iter().filter(|j| reached.insert(**j)));
        }
        reached
    }

    /// Folders and the folders that their files use, with the number of files that do.
    pub fn folders(&self) -> BTreeMap<&str, BTreeMap<&str, usize>> {
        let mut all: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (i, arrows) in self.arrows.iter().enumerate() {
            let from = folder(&self.files[i]);
            let to: BTreeSet<&str> = arrows.iter().map(|&j| folder(&self.files[j])).collect();
            let row = all.entry(from).or_default();
            to.into_iter().filter(|t| *t != from).for_each(|t| *row.entry(t).or_default() += 1);
        }
        all
    }
}

/// The folder that a file lies in.
pub fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The modules on the way to a file below `src`.
fn place(file: &str) -> Vec<String> {
    let stem = file.trim_end_matches(".rs");
    let mut all: Vec<String> = stem.split('/').map(str::to_owned).collect();
    let last = all.last().map(String::as_str);
    if last == Some("mod") || (all.len() == 1 && matches!(last, Some("lib" | "main"))) {
        all.pop();
    }
    all
}

impl Modules {
    fn add(&mut self, root: usize, place: &[String], file: usize, uses: Vec<Named>) {
        let mut parent = None;
        let here = self.all.len();
        if let Some((name, way)) = place.split_last() {
            // A folder without a file of its own hangs its modules on the one above.
            let at = way.iter().fold(root, |at, n| *self.all[at].children.get(n).unwrap_or(&at));
            self.all[at].children.insert(name.clone(), here);
            parent = Some(at);
        }
        self.all.push(Module { file, parent, root, children: BTreeMap::new(), uses });
    }

    fn used_by(&self, file: usize, code: &str) -> BTreeSet<usize> {
        let Some(me) = self.all.iter().position(|m| m.file == file) else {
            return BTreeSet::new();
        };
        let mut files = BTreeSet::new();
        let mut aliases = BTreeMap::new();
        for named in &self.all[me].uses {
            let own = named.path.first().is_some_and(|h| self.all[me].children.contains_key(h));
            match self.resolve(me, &named.path, 0) {
                Some((module, true)) => {
                    aliases.insert(named.alias.as_str(), module);
                }
                // A name that a module passes on from its own child is the child's business.
                Some(_) if named.exported && own => {}
                Some((module, false)) => {
                    files.insert(self.all[module].file);
                }
                None => {}
            }
        }
        for path in paths::mentions(code) {
            let known = match aliases.get(path[0].as_str()) {
                Some(&module) => self.descend(module, &path[1..], 0),
                None => self.resolve(me, &path, 0),
            };
            if let Some((module, false)) = known {
                files.insert(self.all[module].file);
            }
        }
        files.remove(&file);
        files
    }

    /// The module that a path leads to, and whether it is the module itself that is named.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<(usize, bool)> {
        let (head, rest) = path.split_first()?;
        let m = &self.all[from];
        match head.as_str() {
            "crate" => self.descend(m.root, rest, depth),
            "self" => self.descend(from, rest, depth),
            "super" => {
                // Any number of them.
                let (mut at, mut rest) = (m.parent?, rest);
                while rest.first().is_some_and(|s| s == "super") {
                    (at, rest) = (self.all[at].parent?, &rest[1..]);
                }
                self.descend(at, rest, depth)
            }
            name => match (m.children.get(name), self.roots.get(name)) {
                (Some(&child), _) => self.descend(child, rest, depth),
                (None, Some(&root)) => self.descend(root, rest, depth),
                (None, None) => None,
            },
        }
    }

    fn descend(&self, from: usize, path: &[String], depth: usize) -> Option<(usize, bool)> {
        let Some((head, rest)) = path.split_first() else { return Some((from, true)) };
        if depth > DEEPEST {
            return None;
        }
        if let Some(&child) = self.all[from].children.get(head) {
            return self.descend(child, rest, depth);
        }
        // What the module passes on lies where it comes from.
        for named in self.all[from].uses.iter().filter(|n| n.exported) {
            let target = if named.alias == *head {
                named.path.clone()
            } else if named.alias == "*" {
                let mut path = named.path[..named.path.len() - 1].to_vec();
                path.push(head.clone());
                path
            } else {
                continue;
            };
            let found = self.resolve(from, &target, depth + 1);
            let Some((module, whole)) = found else { continue };
            return if whole { self.descend(module, rest, depth + 1) } else { found };
        }
        Some((from, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let folders = [("low", "starling_low"), ("high", "starling_high")];
        let folders = folders.map(|(a, b)| (a.to_owned(), b.to_owned()));
        Graph::of(&Tree::planted(files), &folders)
    }

    fn shown(g: &Graph) -> Vec<String> {
        let arrow = |(i, to): (usize, &BTreeSet<usize>)| {
            to.iter().map(|&j| format!("{} > {}", g.files[i], g.files[j])).collect::<Vec<_>>()
        };
        g.arrows.iter().enumerate().flat_map(arrow).collect()
    }

    #[test]
    fn imports_lead_to_the_file_that_defines_the_name() {
        let g = graph(&[
            ("low/src/lib.rs", "mod a;\nmod b;\npub use a::Thing;"),
            ("low/src/a.rs", "use crate::b::{self, Other};\nfn f() { b::g() }"),
            ("low/src/b/mod.rs", "mod inner;\npub use inner::Other;"),
            ("low/src/b/inner.rs", "fn g() { super::super::a::h() }"),
            ("high/src/lib.rs", "use starling_low::Thing; // use starling_low::b;"),
        ]);
        let expected = [
            "low/src/a.rs > low/src/b/mod.rs",
            "low/src/a.rs > low/src/b/inner.rs",
            "low/src/b/inner.rs > low/src/a.rs",
            "high/src/lib.rs > low/src/a.rs",
        ];
        let mut found = shown(&g);
        found.sort();
        let mut expected = expected.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(g.circles().len(), 1, "a.rs and b/inner.rs lie in two folders");
    }

    #[test]
    fn circles_within_a_folder_and_in_unit_tests_do_not_count() {
        let g = graph(&[
            ("low/src/a.rs", "use crate::b::X;"),
            ("low/src/b.rs", "use crate::a::Y;"),
            ("low/src/c/d.rs", "#[cfg(test)]\nmod tests {\n use crate::a::Y; }"),
            ("low/src/lib.rs", "mod a; mod b;"),
        ]);
        assert!(g.circles().is_empty());
    }
}
