//! Rules about Rust code, judged without its comments and strings.

use super::{File, Tree};
use std::collections::BTreeMap;

/// Where unsafe code may stand: kernels, buffers and drivers, and a few files for one thing each.
const UNSAFE_PLACES: &[&str] = &[
    "kernels/",
    "backends/",
    // Memory of hosts.
    "contract/src/host.rs",
    // A variable of the environment, set before there are threads.
    "cli/src/headless.rs",
    // The bytes of host storage, which hands out a pointer.
    "tests/conformance/src/data.rs",
    "tests/conformance/tests/mutations.rs",
    // An allocator that counts.
    "benches/benches/host.rs",
    // The competitors' C interfaces.
    "benches/peers/",
];
/// The only crate that names an instruction set's intrinsics.
const ARCH_PLACE: &str = "kernels/cpu/";
/// A number with so many significant digits is a formula's, and not a size or a tolerance.
const FORMULA_DIGITS: usize = 5;
/// Numbers that two formulas share by chance, each with the reason.
const SHARED_CONSTANTS: &[(&str, &str)] =
    &[("0.3333333134651184", "the f32 next to 1/3: two fitted polynomials begin with it")];

/// `text` with comments and the contents of strings and characters made blank; every line keeps
/// its number and length.
pub fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let blank = comment(rest).or_else(|| string(rest, &out)).unwrap_or(0);
        let (taken, left) = rest.split_at(blank.max(c.len_utf8()));
        if blank == 0 {
            out.push(c);
        } else {
            out.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = left;
    }
    out
}

/// The bytes of the comment that `rest` begins with.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    Some(rest.len())
}

/// The bytes of the string or character that `rest` begins with; `before` is the code so far.
fn string(rest: &str, before: &str) -> Option<usize> {
    let in_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !in_name {
        let hashes = rest[1..].bytes().take_while(|&b| b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 2;
            let length = rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len());
            return Some(length);
        }
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    // A character, not a lifetime: 'x' or '\...'.
    let mut chars = rest.strip_prefix('\'')?.chars();
    let (first, second) = (chars.next()?, chars.next()?);
    (first == '\\' || second == '\'').then(|| quoted(rest, '\''))
}

/// The bytes up to the quote that ends what `rest` begins with.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `code` without the module of unit tests that ends it.
fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let next = code[at + mark.len()..].trim_start().lines().next().unwrap_or("");
        next.contains("mod ") && next.ends_with('{')
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

/// The code of a file that is shipped: without comments, strings and unit tests.
pub fn shipped(text: &str) -> String {
    let code = code(text);
    without_tests(&code).to_owned()
}

/// Every Rust file with its code.
fn sources(tree: &Tree) -> impl Iterator<Item = (&File, String)> {
    tree.ending(&[".rs"]).map(|f| (f, code(&f.text)))
}

/// Complaints about the lines of `code` that hold one of `words` with no letter beside it.
fn lines_with<'a>(
    file: &'a File,
    code: &'a str,
    words: &'a [&'a str],
) -> impl Iterator<Item = String> + 'a {
    code.lines().enumerate().filter_map(move |(i, line)| {
        let word = words.iter().find(|w| has_word(line, w))?;
        Some(format!("{}:{}: {word}", file.path, i + 1))
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let after = &line[at + word.len()..];
        let goes_on = word.ends_with(part) && after.starts_with(part);
        !goes_on && !line[..at].ends_with(part)
    })
}

/// What is not finished must not look finished.
pub fn placeholders(tree: &Tree) -> Vec<String> {
    let words = ["todo!", "unimplemented!", "dbg!"];
    sources(tree).flat_map(|(f, code)| lines_with(f, &code, &words).collect::<Vec<_>>()).collect()
}

/// Unsafe code is for the few places that cannot do without.
pub fn unsafe_places(tree: &Tree) -> Vec<String> {
    sources(tree)
        .filter(|(f, _)| !UNSAFE_PLACES.iter().any(|p| f.path.starts_with(p)))
        .flat_map(|(f, code)| lines_with(f, &code, &["unsafe"]).collect::<Vec<_>>())
        .collect()
}

/// Code for one instruction set stays behind the kernels' `Simd` trait.
pub fn arch_places(tree: &Tree) -> Vec<String> {
    let words = ["std::arch", "core::arch"];
    sources(tree)
        .filter(|(f, _)| !f.path.starts_with(ARCH_PLACE))
        .flat_map(|(f, code)| lines_with(f, &code, &words).collect::<Vec<_>>())
        .collect()
}

/// Every unsafe block or impl names the check that it relies on, within the lines right above it.
pub fn safety_comments(tree: &Tree) -> Vec<String> {
    const NEAR: usize = 6;
    let mut complaints = Vec::new();
    for (file, code) in sources(tree) {
        let text: Vec<&str> = file.text.lines().collect();
        for (i, line) in code.lines().enumerate() {
            let needs = ["unsafe {", "unsafe impl"].iter().any(|w| has_word(line, w));
            let near = &text[i.saturating_sub(NEAR)..=i];
            if needs && !near.iter().any(|l| l.contains("// SAFETY:")) {
                complaints.push(format!("{}:{}: no // SAFETY: comment", file.path, i + 1));
            }
        }
    }
    complaints
}

/// A formula is written once: none of its numbers stands anywhere else. Tests may repeat one.
pub fn constants(tree: &Tree) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, code) in sources(tree) {
        if file.path.contains("tests/") || file.path.contains("examples/") {
            continue;
        }
        for (i, line) in without_tests(&code).lines().enumerate() {
            for number in formula_numbers(line) {
                places.entry(number).or_default().push(format!("{}:{}", file.path, i + 1));
            }
        }
    }
    places.retain(|n, at| at.len() > 1 && !SHARED_CONSTANTS.iter().any(|(known, _)| n == known));
    places
        .into_iter()
        .map(|(n, at)| format!("{}: {n} stands there too", at.join(" and ")))
        .collect()
}

/// The fractional literals of a line with many digits, each by its shortest text.
fn formula_numbers(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_alphanumeric() || c == '_') {
        let word = &rest[at..];
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        let length = if number { literal_length(word) } else { name_length(word) };
        let digits: String = word[..length].replace('_', "");
        let mantissa = digits.split(['e', 'E']).next().unwrap_or("");
        let significant = mantissa.replace('.', "").trim_matches('0').len();
        if number && digits.contains('.') && significant >= FORMULA_DIGITS {
            // The same number may be written in two ways; a whole one is a size or a power of two.
            let value = digits.parse::<f64>().ok().filter(|x| x.fract() != 0.0);
            found.extend(value.map(|x| x.to_string()));
        }
        rest = &word[length..];
    }
    found
}

fn name_length(word: &str) -> usize {
    word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len())
}

/// The length of a number such as `0xff_u32`, `1..` (without the dots) or `1.5e-3`.
fn literal_length(word: &str) -> usize {
    let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(s.len());
    let mut length = digits(word);
    let fraction = word[length..].strip_prefix('.').map(digits);
    if let Some(n @ 1..) = fraction {
        length += 1 + n;
    }
    if let Some(exponent) = word[length..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        if let n @ 1.. = digits(&exponent[sign..]) {
            length += 1 + sign + n;
        }
    }
    // A suffix or the digits of 0xff.
    if fraction.is_none() { name_length(word).max(length) } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Tree {
        Tree::planted(&[("engine/src/a.rs", text)])
    }

    #[test]
    fn code_is_what_is_neither_comment_nor_string() {
        let text = "a /* b /* c */ d */ e \"f \\\" g\" h 'i' '\\'' j<'k> r#\"l \" m\"# n // o\np";
        let left: String = code(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(left, "a e h j<'k> n p");
        assert_eq!(code(text).lines().count(), 2);
        assert_eq!(code("for r in \"x\"").trim(), "for r in");
    }

    #[test]
    fn placeholders_are_found_in_code_only() {
        assert_eq!(placeholders(&one("fn f() { todo!() }")), ["engine/src/a.rs:1: todo!"]);
        assert_eq!(placeholders(&one("\ndbg!(x); unimplemented!()")).len(), 1);
        assert!(placeholders(&one("// todo!()\nlet x = \"dbg!\"; my_dbg!(x)")).is_empty());
    }

    #[test]
    fn unsafe_code_is_found_outside_its_places() {
        let text = "let x = unsafe { f() };";
        assert_eq!(unsafe_places(&one(text)).len(), 1);
        assert!(unsafe_places(&one("#![deny(unsafe_op_in_unsafe_fn)] // unsafe")).is_empty());
        assert!(unsafe_places(&Tree::planted(&[("kernels/cpu/src/a.rs", text)])).is_empty());
    }

    #[test]
    fn intrinsics_are_found_outside_the_kernels() {
        let text = "use std::arch::x86_64::*;";
        assert_eq!(arch_places(&one(text)).len(), 1);
        assert!(arch_places(&Tree::planted(&[("kernels/cpu/src/a.rs", text)])).is_empty());
    }

    #[test]
    fn unsafe_blocks_need_a_reason() {
        assert_eq!(safety_comments(&one("let x = unsafe { f() };")).len(), 1);
        assert_eq!(safety_comments(&one("unsafe impl Send for A {}")).len(), 1);
        assert!(safety_comments(&one("// SAFETY: checked.\nlet x = unsafe { f() };")).is_empty());
        assert!(safety_comments(&one("unsafe fn f() {}")).is_empty());
    }

    #[test]
    fn a_formulas_number_stands_once() {
        let twice = |a: &str, b: &str| {
            constants(&Tree::planted(&[("ops/src/a.rs", a), ("kernels/cpu/src/b.rs", b)])).len()
        };
        assert_eq!(twice("m.lit(0.044715)", "0.044715_f32 * x"), 1);
        assert_eq!(twice("m.lit(0.044715)", "x * 4.4715e-2"), 1);
        assert_eq!(twice("m.lit(0.044715 * 0.044715)", ""), 1);
        assert_eq!(twice("m.lit(0.044715)", "#[cfg(test)]\nmod tests {\n0.044715"), 0);
        assert_eq!(
            twice("0.5 + 16_777_216.0 + 1e-12 + 0x7f80_0000", "0.5 + 16777216.0 + 1e-12"),
            0
        );
        assert_eq!(twice("0..44715", "0..44715"), 0);
    }
}
