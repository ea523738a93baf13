//! Shader templates: WGSL with three directives.
//!
//! - `//% if NAME` .. `//% else` .. `//% end` keeps lines by a constant that is not 0;
//! - `//% for r in NAME` .. `//% end` repeats lines `NAME` times with `#r` replaced by the number;
//! - `$name` stands for a word of the parameters, `#NAME` for a constant's value.
//!
//! Everything else of a kernel (bindings, accessors, printed programs) stands in functions that are
//! put in front of the template, so a template reads like any WGSL file.

/// A file of `shaders/`.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// The file's name without its ending.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Template {
    /// True when the shader may loop.
    pub fn has_loops(&self) -> bool {
        ["for (", "while ", "loop {"].iter().any(|word| self.text.contains(word))
    }
}

/// The template `shaders/NAME.wgsl`, or one made of several such files.
macro_rules! template {
    ($name:literal) => {
        template!($name: $name)
    };
    ($name:literal: $($part:literal),+) => {
        $crate::template::Template {
            name: $name,
            text: concat!($(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shaders/",
                $part,
                ".wgsl"
            ))),+),
        }
    };
}
pub(crate) use template;

/// Carries out the directives of `text`. `constant` gives a constant's value, 0 when it has none.
pub fn expand(text: &str, constant: &dyn Fn(&str) -> u32) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 2);
    block(&lines, constant, &mut Vec::new(), &mut out);
    out
}

/// The index of the line that ends the block that starts before line `from`, and of its `else`.
fn ends(lines: &[&str], from: usize) -> (usize, Option<usize>) {
    let (mut depth, mut other) = (0, None);
    for (at, line) in lines.iter().enumerate().skip(from) {
        match directive(line) {
            Some(d) if d.starts_with("if ") || d.starts_with("for ") => depth += 1,
            Some("else") if depth == 0 => other = Some(at),
            Some("end") if depth == 0 => return (at, other),
            Some("end") => depth -= 1,
            _ => {}
        }
    }
    panic!("a template's block has no end");
}

fn directive(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//%").map(str::trim)
}

fn block(
    lines: &[&str],
    constant: &dyn Fn(&str) -> u32,
    numbers: &mut Vec<(String, u32)>,
    out: &mut String,
) {
    let mut at = 0;
    while at < lines.len() {
        let Some(d) = directive(lines[at]) else {
            out.push_str(&substitute(lines[at], constant, numbers));
            out.push('\n');
            at += 1;
            continue;
        };
        let (end, other) = ends(lines, at + 1);
        if let Some(name) = d.strip_prefix("if ") {
            let (first, second) = match other {
                Some(other) => (at + 1..other, other + 1..end),
                None => (at + 1..end, end..end),
            };
            let chosen = if constant(name.trim()) != 0 { first } else { second };
            block(&lines[chosen], constant, numbers, out);
        } else if let Some((variable, name)) =
            d.strip_prefix("for ").and_then(|d| d.split_once(" in "))
        {
            for i in 0..constant(name.trim()) {
                numbers.push((format!("#{}", variable.trim()), i));
                block(&lines[at + 1..end], constant, numbers, out);
                numbers.pop();
            }
        }
        at = end + 1;
    }
}

/// `#r` becomes the number of the innermost loop over `r`, `#NAME` the constant.
fn substitute(line: &str, constant: &dyn Fn(&str) -> u32, numbers: &[(String, u32)]) -> String {
    if !line.contains('#') {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(at) = rest.find('#') {
        out.push_str(&rest[..at]);
        let word = rest[at + 1..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        let word = word.unwrap_or_default();
        let token = &rest[at..at + 1 + word.len()];
        let number = numbers.iter().rev().find(|(name, _)| name == token).map(|n| n.1);
        out.push_str(&number.unwrap_or_else(|| constant(word)).to_string());
        rest = &rest[at + token.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_choose_and_repeat() {
        let text = "a\n//% if YES\nb\n//% if NO\nc\n//% else\nd\n//% end\n//% else\ne\n//% end\n\
                    //% for r in TWO\n//% for s in TWO\nx#r#s = #TWO;\n//% end\n//% end\nf";
        let constant = |name: &str| match name {
            "YES" => 1,
            "TWO" => 2,
            _ => 0,
        };
        let out = expand(text, &constant);
        assert_eq!(out, "a\nb\nd\nx00 = 2;\nx01 = 2;\nx10 = 2;\nx11 = 2;\nf\n");
    }
}
