//! `cargo xtask tidy`: rules of this repository that the compiler does not know.
//!
//! A rule is a function from the [`Tree`] to complaints, each `path:line: what is wrong`, and has a
//! test that a planted violation is caught.

mod golden;
mod manifest;
mod source;
mod tensor;
mod text;

pub use manifest::{crates, layers};
pub use source::shipped;

use crate::imports;
use crate::run::{self, Steps};

/// The text files of the repository.
pub struct Tree {
    files: Vec<File>,
}

/// One file.
pub struct File {
    /// Relative to the root, with `/` between names.
    pub path: String,
    /// Its contents.
    pub text: String,
}

type Rule = fn(&Tree) -> Vec<String>;

/// Every rule with the name that a failure is reported under.
const RULES: &[(&str, Rule)] = &[
    ("layers", manifest::layers),
    ("circles", imports::circles),
    ("lints", manifest::lints),
    ("file length", text::lengths),
    ("line width", text::widths),
    ("home paths", text::home_paths),
    ("placeholders", source::placeholders),
    ("unsafe", source::unsafe_places),
    ("safety comments", source::safety_comments),
    ("std::arch", source::arch_places),
    ("constants", source::constants),
    ("golden rows", golden::rows),
    ("tensor methods", tensor::methods),
];

/// Checks every rule on the files that git tracks or would add.
pub fn step(steps: &mut Steps) {
    steps.step("tidy", || {
        let tree = Tree::of_repository()?;
        let mut complaints = 0;
        for (name, rule) in RULES {
            for complaint in rule(&tree) {
                println!("{name}: {complaint}");
                complaints += 1;
            }
        }
        match complaints {
            0 => Ok(format!("{} rules, {} files", RULES.len(), tree.files.len())),
            n => Err(format!("{n} complaints")),
        }
    });
}

impl Tree {
    /// What git tracks or would add.
    pub fn of_repository() -> Result<Self, String> {
        let listed = run::output("git", &["ls-files", "-co", "--exclude-standard"]);
        if listed.is_empty() {
            return Err("git lists no files: tidy runs in a git checkout".into());
        }
        // A listed file may be deleted, and one that is not text has no lines to judge.
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            Some(File { path: path.to_string(), text })
        };
        Ok(Self { files: listed.lines().filter_map(read).collect() })
    }

    /// Files whose name ends in one of `endings`.
    pub fn ending(&self, endings: &[&str]) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |f| endings.iter().any(|e| f.path.ends_with(e)))
    }

    fn find(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// A tree for the tests of rules.
    #[cfg(test)]
    pub fn planted(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Self { files: files.iter().map(file).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_holds_for_an_empty_tree_but_the_golden_rows() {
        for (name, rule) in RULES {
            let complaints = rule(&Tree::planted(&[]));
            assert_eq!(complaints.is_empty(), *name != "golden rows", "{name}: {complaints:?}");
        }
    }
}
