//! What the system says about the machine.

/// How the device is asked for.
pub(crate) const NAME: &str = "cpu";

/// The processor's name, or its architecture where the system does not say.
pub(crate) fn processor() -> String {
    let named = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    let arch = std::env::consts::ARCH;
    named.map_or_else(|| arch.into(), |name| format!("{name} ({arch})"))
}

/// The size of its memory, where the system says.
pub(crate) fn memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
