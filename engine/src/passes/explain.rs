//! A captured list in words.

use super::World;
use super::merge::{Stop, into_reader};
use starling_contract::{Checked, DType, Kind, View};
use std::fmt;

/// Tensors with names: what a list reads from before, and what somebody sees after it.
pub(crate) type Names = Vec<(String, View)>;

/// What a captured step launches, in order: each launch with what it reads and writes, the bytes of
/// all its operands and, for elementwise work, why it was not fused with what comes next.
///
/// Memory is called by the name that it was given, else by the launch that wrote it (`#3`).
#[derive(Clone, Debug)]
pub struct Explanation {
    launches: Vec<Launch>,
    temporary_bytes: usize,
}

#[derive(Clone, Debug)]
struct Launch {
    what: String,
    reads: Vec<String>,
    writes: Vec<String>,
    bytes: u64,
    stop: Option<Stop>,
}

impl Explanation {
    /// Number of launches.
    pub fn len(&self) -> usize {
        self.launches.len()
    }

    /// True when the step launches nothing.
    pub fn is_empty(&self) -> bool {
        self.launches.is_empty()
    }

    /// Bytes of all operands of all launches, a repeated element counted each time.
    pub fn bytes(&self) -> u64 {
        self.launches.iter().map(|l| l.bytes).sum()
    }

    /// Memory that only the list uses, kept for its replays.
    pub fn temporary_bytes(&self) -> usize {
        self.temporary_bytes
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, launch) in self.launches.iter().enumerate() {
            let (reads, writes) = (launch.reads.join(", "), launch.writes.join(", "));
            let bytes = Bytes(launch.bytes);
            writeln!(f, "#{i:<4} {}  {reads} -> {writes}  ({bytes})", launch.what)?;
            if let Some(stop) = &launch.stop {
                writeln!(f, "      a launch of its own: {stop}")?;
            }
        }
        let (bytes, kept) = (Bytes(self.bytes()), Bytes(self.temporary_bytes as u64));
        write!(f, "{} launches move {bytes}; {kept} between them", self.len())
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b >= 1 << 30 => write!(f, "{:.2} GiB", b as f64 / (1u64 << 30) as f64),
            b if b >= 1 << 20 => write!(f, "{:.1} MiB", b as f64 / (1u64 << 20) as f64),
            b if b >= 1 << 10 => write!(f, "{:.1} KiB", b as f64 / 1024.0),
            b => write!(f, "{b} B"),
        }
    }
}

/// What is in memory at one point of the list.
struct Contents<'a> {
    names: &'a Names,
    /// Views that were written, the newest last.
    written: Vec<(View, String)>,
}

impl Contents<'_> {
    fn name(&self, view: &View) -> String {
        let named = self.names.iter().find(|(_, v)| v.may_overlap(view));
        let written = self.written.iter().rev().find(|(v, _)| v.may_overlap(view));
        let whole = |v: &View| v.layout.extent() == view.layout.extent();
        let name = match (named, written) {
            (Some((name, v)), _) if whole(v) => name.clone(),
            (Some((name, _)), _) => format!("a part of {name}"),
            (None, Some((v, name))) if whole(v) => name.clone(),
            (None, Some((_, name))) => format!("a part of {name}"),
            (None, None) => "given".to_owned(),
        };
        format!("{name} {}", shape(view))
    }

    fn write(&mut self, at: usize, result: usize, several: bool, view: &View) -> String {
        let own = if several { format!("#{at}.{result}") } else { format!("#{at}") };
        self.written.push((view.clone(), own));
        let named = self.names.iter().find(|(_, v)| v.may_overlap(view));
        match named {
            Some((name, _)) => format!("{name} {}", shape(view)),
            None => shape(view),
        }
    }
}

fn shape(view: &View) -> String {
    match view.dtype {
        DType::F32 => format!("{:?}", view.shape()),
        dtype => format!("{:?} {dtype}", view.shape()),
    }
}

fn what(verb: &Checked) -> String {
    match verb.kind() {
        Kind::Map(v) => format!("map of {}", steps(v.program.nodes().len())),
        Kind::Reduce(v) if v.program.is_identity() => format!("{:?}", v.kind).to_lowercase(),
        Kind::Reduce(v) => {
            let kind = format!("{:?}", v.kind).to_lowercase();
            format!("{kind} of a program of {}", steps(v.program.nodes().len()))
        }
        Kind::Gemm(v) => match &v.epilogue {
            Some(e) => format!("gemm with {}", steps(e.program.nodes().len())),
            None => "gemm".to_owned(),
        },
        _ => verb.name().to_owned(),
    }
}

fn steps(n: usize) -> String {
    if n == 1 { "1 step".to_owned() } else { format!("{n} steps") }
}

/// The list in words.
pub(crate) fn explain(list: &[Checked], names: &Names, world: &World<'_>) -> Explanation {
    let mut contents = Contents { names, written: Vec::new() };
    let launch = |(at, verb): (usize, &Checked)| {
        let reads = verb.reads().into_iter().map(|v| contents.name(v)).collect();
        let results = verb.results();
        let several = results.len() > 1;
        let name = |(i, v): (usize, &&View)| contents.write(at, i, several, v);
        let writes = results.iter().enumerate().map(name).collect();
        let operands = verb.reads().into_iter().chain(verb.writes());
        let bytes = operands.map(|v| v.bytes() as u64).sum();
        // Where the pass was on, nothing is left to join.
        let found = into_reader(list, at, world);
        let stop = found.map(|f| f.map_or_else(|stop| stop, |(reader, _)| Stop::Off(reader)));
        Launch { what: what(verb), reads, writes, bytes, stop }
    };
    let launches = list.iter().enumerate().map(launch).collect();
    Explanation { launches, temporary_bytes: temporary_bytes(list, world) }
}

fn temporary_bytes(list: &[Checked], world: &World<'_>) -> usize {
    let mut seen: Vec<&View> = Vec::new();
    for view in list.iter().flat_map(|verb| verb.writes()) {
        if (world.is_temporary)(view) && !seen.iter().any(|s| s.same_storage(view)) {
            seen.push(view);
        }
    }
    seen.iter().map(|v| v.storage.bytes()).sum()
}
