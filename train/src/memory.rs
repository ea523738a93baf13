//! Whether something fits into memory, before any of it is taken.

use starling_engine::{Device, Error, Result};

/// Bytes of memory, exact at any size that a user can write down.
pub type Bytes = u128;

/// Refuses `what` when a device cannot hold the `bytes` that it needs at least. A device that does
/// not say how much it has lets everything pass up to what it can address.
///
/// # Errors
/// [`Error::Invalid`] with both numbers.
pub fn check(device: &Device, what: &str, bytes: Bytes) -> Result<()> {
    let capabilities = device.capabilities();
    // A device that has threads computes in the host's memory.
    if capabilities.threads.is_some() || capabilities.software {
        return check_host(what, bytes);
    }
    let most = capabilities.memory_bytes.map_or(i64::MAX as Bytes, Bytes::from);
    refuse_above(what, bytes, most, device.name())
}

/// As [`check`] of the host's memory.
///
/// # Errors
/// [`Error::Invalid`] with both numbers.
pub fn check_host(what: &str, bytes: Bytes) -> Result<()> {
    refuse_above(what, bytes, available().map_or(i64::MAX as Bytes, Bytes::from), "this machine")
}

fn refuse_above(what: &str, bytes: Bytes, most: Bytes, place: &str) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let gib = |x: Bytes| x as f64 / (1u64 << 30) as f64;
    Err(Error::invalid(format!(
        "{what} needs at least {:.1} GiB of memory, and {place} has {:.1} GiB to give: choose \
         smaller sizes",
        gib(bytes),
        gib(most)
    )))
}

/// The product of sizes; the largest number where it is larger still.
pub fn product(sizes: &[usize]) -> Bytes {
    sizes.iter().fold(1, |all: Bytes, &size| all.saturating_mul(size as Bytes))
}

/// The bytes that the host can still give, where the system says: what is free or can be freed,
/// and no more than the process's control group may have.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()?.saturating_mul(1024);
    Some(free.min(group_limit().unwrap_or(u64::MAX)))
}

/// What the control group (version 2) of a container may have altogether. How much of that is in
/// use says little: cached files, which can be freed, are counted.
fn group_limit() -> Option<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        assert!(check_host("a little", 1 << 20).is_ok());
        let device = Device::new("cpu").unwrap();
        let error = check(&device, "the batch", 3 << 80).unwrap_err().to_string();
        assert!(error.starts_with("the batch needs at least") && error.contains("GiB"), "{error}");
        assert!(check(&device, "all", Bytes::MAX).is_err());
        assert!(refuse_above("x", 5, 5, "y").is_ok() && refuse_above("x", 6, 5, "y").is_err());
    }

    #[test]
    fn products_do_not_wrap() {
        assert_eq!(product(&[3, 4, 5]), 60);
        assert_eq!(product(&[usize::MAX; 2]), (usize::MAX as u128) * (usize::MAX as u128));
        assert_eq!(product(&[usize::MAX; 3]), u128::MAX);
        assert_eq!(product(&[]), 1);
    }
}
