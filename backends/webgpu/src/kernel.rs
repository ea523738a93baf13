//! A kernel to be launched: a template, what it is specialised to, and its operands.
//!
//! [`Kernel`] is a description only: nothing here touches a device, so that tests can plan and
//! validate every kernel without one. A storage is bound once, however many operands lie in it,
//! because WebGPU forbids a dispatch to see one buffer with different access.

use crate::access;
use crate::operand::{Access, Binding, Operand, Width, axes, parameter};
use crate::template::{Template, expand};
use starling_contract::{DType, Layout, Program, View};
use starling_ops::wgsl::{self, Fma};
use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What a shader is compiled from, and the arguments of one launch of it.
#[derive(Clone)]
pub struct Kernel {
    template: Template,
    constants: Vec<(&'static str, u32)>,
    words: Vec<(Cow<'static, str>, u32)>,
    programs: Vec<(&'static str, Arc<Program>)>,
    glue: String,
    extensions: Vec<&'static str>,
    pub(crate) operands: Vec<Operand>,
    pub(crate) bindings: Vec<Binding>,
    invocations: Invocations,
    turns: usize,
    work: u64,
    /// A parameter did not fit its word.
    too_large: bool,
}

#[derive(Clone, Copy)]
enum Invocations {
    /// So many workgroups, folded into two dimensions.
    Groups(usize),
    /// A grid.
    Grid([usize; 3]),
}

/// Turns of a loop of `n` turns around at most four loops that make `within` each time, as drivers
/// count them that compute lanes together: the turn that finds the end counts too, and in it one of
/// each loop within, with no lane at work.
pub(crate) fn looped(n: usize, within: usize) -> usize {
    let end = if within > 0 { 5 } else { 1 };
    n.saturating_mul(1 + within).saturating_add(end)
}

impl Kernel {
    /// A kernel of a template, without operands.
    pub fn new(template: Template) -> Self {
        Self {
            template,
            constants: Vec::new(),
            words: Vec::new(),
            programs: Vec::new(),
            glue: String::new(),
            extensions: Vec::new(),
            operands: Vec::new(),
            bindings: Vec::new(),
            invocations: Invocations::Groups(0),
            turns: 0,
            work: 0,
            too_large: false,
        }
    }

    /// The template's name.
    pub fn name(&self) -> &'static str {
        self.template.name
    }

    /// A constant that the shader is specialised to.
    pub fn constant(&mut self, name: &'static str, value: impl Into<u32>) -> &mut Self {
        self.constants.push((name, value.into()));
        self
    }

    /// A parameter: `$name` in the template, an `u32`.
    pub fn word(&mut self, name: impl Into<Cow<'static, str>>, value: usize) -> &mut Self {
        self.too_large |= u32::try_from(value).is_err();
        self.words.push((name.into(), value as u32));
        self
    }

    /// A parameter whose bits are those of an f32 or an i32.
    pub fn bits(&mut self, name: impl Into<Cow<'static, str>>, value: u32) -> &mut Self {
        self.words.push((name.into(), value));
        self
    }

    /// The function `name` of a printed program.
    pub fn program(&mut self, name: &'static str, program: &Arc<Program>) -> &mut Self {
        self.programs.push((name, program.clone()));
        self
    }

    /// Functions made for this kernel, in which `$name` is a parameter. What they are must follow
    /// from the rest of the kernel's key: constants, operands, programs.
    pub fn glue(&mut self, text: &str) -> &mut Self {
        self.glue.push_str(text);
        self
    }

    /// A language extension that the shader needs.
    pub fn enable(&mut self, extension: &'static str) -> &mut Self {
        self.extensions.push(extension);
        self
    }

    /// Gives the template `misplaced(index, bound)`, which notes an index outside its table in
    /// `faults`: the flag 1, the index, the bound and the number of the operation.
    pub fn reports(&mut self, faults: &View, operation: u32) -> &mut Self {
        self.operand("faults", faults, Access::ReadWrite);
        self.glue(&format!(
            "fn misplaced(index: u32, bound: u32) {{\n    faults_put(1u, index);\n    \
             faults_put(2u, bound);\n    faults_put(3u, {operation}u);\n    \
             faults_put(0u, 1u);\n}}\n"
        ))
    }

    /// An operand addressed by the row-major index of its elements.
    pub fn operand(&mut self, name: impl Into<String>, view: &View, access: Access) -> &mut Self {
        self.over(name, view, access, &view.layout, Width::One)
    }

    /// An operand moved in fours; `access::in_fours` says whether it can be.
    pub fn fours(&mut self, name: impl Into<String>, view: &View, access: Access) -> &mut Self {
        self.over(name, view, access, &view.layout, Width::Four)
    }

    /// An operand addressed by the row-major index of `space`, a part of its layout.
    pub fn over(
        &mut self,
        name: impl Into<String>,
        view: &View,
        access: Access,
        space: &Layout,
        width: Width,
    ) -> &mut Self {
        let size = view.dtype.size();
        let (low, high) = view.layout.extent().unwrap_or((0, 0));
        self.operands.push(Operand {
            name: name.into(),
            dtype: view.dtype,
            access,
            width,
            storage: view.storage.clone(),
            offset: space.offset(),
            axes: axes(space),
            span: (low as usize * size, (high as usize + 1) * size),
            binding: 0,
            words: 0,
        });
        self
    }

    pub(crate) fn is_reporting(&self) -> bool {
        self.operands.iter().any(|o| o.name == "faults")
    }

    /// Runs `groups` workgroups in one dimension, however many there are: the template finds its
    /// number as `group()`.
    pub fn groups(&mut self, groups: usize) -> &mut Self {
        self.invocations = Invocations::Groups(groups);
        self
    }

    /// The most turns that all loops of one invocation make together, counted as `looped` counts.
    pub fn turns(&mut self, turns: usize) -> &mut Self {
        self.turns = turns;
        self
    }

    /// What it is of its verb's work: see `plan::work`.
    pub(crate) fn works(&mut self, work: u64) {
        self.work = work;
    }

    /// What [`Kernel::works`] said.
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// What [`Kernel::turns`] said.
    pub(crate) fn most_turns(&self) -> usize {
        debug_assert!(
            self.turns > 0 || !self.template.has_loops(),
            "{} loops and does not say how often",
            self.name()
        );
        self.turns
    }

    /// Runs a grid of workgroups, each side at most 65,535.
    pub fn grid(&mut self, grid: [usize; 3]) -> &mut Self {
        self.invocations = Invocations::Grid(grid);
        self
    }

    /// The size of the grid; `None` when there is nothing to do.
    pub(crate) fn dispatch(&self) -> Option<[u32; 3]> {
        const SIDE: usize = 65_535;
        let grid = match self.invocations {
            Invocations::Groups(n) if n <= SIDE => [n, 1, 1],
            Invocations::Groups(n) => {
                let rows = n.div_ceil(SIDE);
                [n.div_ceil(rows), rows, 1]
            }
            Invocations::Grid(grid) => grid,
        };
        (!grid.contains(&0)).then(|| grid.map(|n| n as u32))
    }

    /// True when the grid has no more workgroups than were asked for.
    pub(crate) fn folds_evenly(&self) -> bool {
        match (self.invocations, self.dispatch()) {
            (Invocations::Groups(n), Some([x, y, _])) => x as usize * y as usize == n,
            _ => true,
        }
    }

    /// Puts each storage in one binding and lays out the parameters. `limit_bytes` is the most
    /// that one slot may see.
    pub(crate) fn bind(&mut self, limit_bytes: usize) {
        /// Slots begin where every device lets them, and shards hold whole fours.
        const ALIGN: usize = 256;
        let limit = limit_bytes / ALIGN * ALIGN;
        self.bindings.clear();
        for at in 0..self.operands.len() {
            let o = &self.operands[at];
            let same =
                |b: &Binding| std::ptr::addr_eq(Arc::as_ptr(&b.storage), Arc::as_ptr(&o.storage));
            let narrow_store = o.access.writes() && o.width == Width::One && o.dtype.size() < 4;
            let wide = (o.width == Width::Four).then_some(o.dtype);
            let binding = match self.bindings.iter().position(same) {
                Some(found) => {
                    let b = &mut self.bindings[found];
                    b.writes |= o.access.writes();
                    b.atomic |= narrow_store;
                    b.wide = if b.wide == wide { wide } else { None };
                    let end = (b.from + b.bytes).max(o.span.1);
                    b.from = b.from.min(o.span.0);
                    b.bytes = end - b.from;
                    found
                }
                None => {
                    self.bindings.push(Binding {
                        storage: o.storage.clone(),
                        writes: o.access.writes(),
                        atomic: narrow_store,
                        wide,
                        from: o.span.0,
                        bytes: o.span.1 - o.span.0,
                        shard_bytes: limit,
                        slot: 0,
                    });
                    self.bindings.len() - 1
                }
            };
            self.operands[at].binding = binding;
        }
        let mut slot = 1;
        for b in &mut self.bindings {
            // A storage that fits is bound whole: its text then depends on nothing.
            let whole = b.storage.bytes().next_multiple_of(16);
            let from = if whole <= limit { 0 } else { b.from / ALIGN * ALIGN };
            let end = if whole <= limit { whole } else { (b.from + b.bytes).next_multiple_of(16) };
            (b.from, b.bytes) = (from, end - from);
            b.slot = slot;
            slot += b.shards() as u32;
        }
        let mut words = 1 + self.words.len();
        for o in &mut self.operands {
            o.words = words;
            words += 1 + 2 * o.axes.len();
        }
    }

    /// True when every size and position is well below 2^32: the last workgroups of a folded grid
    /// count beyond the end.
    pub(crate) fn counts_in_words(&self) -> bool {
        const MOST: usize = u32::MAX as usize - (1 << 24);
        let small = |o: &Operand| {
            let positions = (o.span.1 - self.bindings[o.binding].from) / o.dtype.size();
            let elements: Option<usize> =
                o.axes.iter().try_fold(1usize, |all, axis| all.checked_mul(axis.0));
            positions <= MOST && elements.is_some_and(|n| n <= MOST)
        };
        !self.too_large && self.operands.iter().all(small)
    }

    /// The number of storage slots that the bindings take.
    pub(crate) fn slots(&self) -> usize {
        self.bindings.iter().map(Binding::shards).sum()
    }

    /// The words of the parameters.
    pub(crate) fn parameters(&self) -> Vec<u32> {
        // Word 0 is the zero that no compiler knows.
        let mut out: Vec<u32> = vec![0];
        out.extend(self.words.iter().map(|w| w.1));
        for o in &self.operands {
            let base = self.bindings[o.binding].from / o.dtype.size();
            out.push((o.offset - base) as u32);
            out.extend(o.axes.iter().flat_map(|&(n, stride)| [n as u32, stride as i32 as u32]));
        }
        out.resize(out.len().next_multiple_of(4).max(4), 0);
        out
    }

    /// What tells this shader from every other.
    pub(crate) fn key(&self) -> String {
        let mut key = String::with_capacity(128);
        // Writing to a String cannot fail.
        let _ = write!(key, "{} {}", self.template.name, self.words.len());
        for extension in &self.extensions {
            let _ = write!(key, " +{extension}");
        }
        for (name, value) in &self.constants {
            let _ = write!(key, " {name}={value}");
        }
        for (name, program) in &self.programs {
            let _ = write!(key, " {name}:{:016x}", Program::hash(program));
        }
        let mut hasher = DefaultHasher::new();
        self.glue.hash(&mut hasher);
        let _ = write!(key, " {:016x}", hasher.finish());
        for o in &self.operands {
            let unit = o.axes.first().is_some_and(|a| a.1 == 1);
            let (dtype, rank, at) = (o.dtype, o.axes.len(), o.binding);
            let width = u8::from(o.width == Width::Four) + 2 * u8::from(o.access.writes());
            let _ = write!(key, " {}{dtype}{rank}{}{width}@{at}", o.name, u8::from(unit));
        }
        for b in &self.bindings {
            let wide = b.wide.map_or("", DType::name);
            let flags = u8::from(b.writes) + 2 * u8::from(b.atomic);
            let shard = if b.shards() > 1 { b.shard_bytes } else { 0 };
            let _ = write!(key, " b{flags}{wide}x{}of{shard}", b.shards());
        }
        key
    }

    /// The shader's whole text for a device whose `fma` is `fma`.
    pub(crate) fn text(&self, fma: Fma) -> String {
        let mut text = String::with_capacity(8 << 10);
        for extension in &self.extensions {
            let _ = writeln!(text, "enable {extension};");
        }
        let parameters = 1
            + self.words.len()
            + self.operands.iter().map(|o| 1 + 2 * o.axes.len()).sum::<usize>();
        let vectors = parameters.div_ceil(4).max(1);
        for (name, value) in &self.constants {
            let _ = writeln!(text, "const {name} = {value}u;");
        }
        let _ = writeln!(
            text,
            "@group(0) @binding(0) var<uniform> parameters: array<vec4<u32>, {vectors}>;"
        );
        text.push_str("fn sl_zero() -> u32 {\n    return parameters[0].x;\n}\n");
        access::print(&self.operands, &self.bindings, &mut text);
        text.push_str(&wgsl::prelude(self.programs.iter().map(|(_, p)| &**p), fma));
        for (name, program) in &self.programs {
            text.push_str(&wgsl::print(program, name));
        }
        text.push_str(&self.with_words(&self.glue));
        let constant = |name: &str| self.constants.iter().find(|c| c.0 == name).map_or(0, |c| c.1);
        let body = expand(self.template.text, &constant);
        text.push_str(&self.with_words(&body));
        text
    }

    /// `$name` becomes the parameter's place.
    fn with_words(&self, body: &str) -> String {
        let mut out = String::with_capacity(body.len());
        let mut rest = body;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let end = rest[at + 1..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .map_or(rest.len(), |n| at + 1 + n);
            let name = &rest[at + 1..end];
            let word = self.words.iter().position(|w| w.0 == name);
            debug_assert!(word.is_some(), "{} has no parameter {name}", self.template.name);
            out.push_str(&parameter(1 + word.unwrap_or(0)));
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}
