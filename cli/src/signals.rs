//! Signals that ask a run to end: after the first it finishes its step and saves, the second ends
//! it at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use starling_engine::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Listens until the process ends.
pub struct Signals {
    received: Arc<AtomicUsize>,
    armed: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen. A signal that the caller had ignored stays ignored: `nohup` relies on
    /// that for SIGHUP, shells for the SIGINT of what they run in the background.
    pub fn listen() -> Result<Self> {
        let signals = Self { received: Arc::default(), armed: Arc::default() };
        for signal in heard().into_iter().filter(|&s| !is_ignored(s)) {
            signals
                .register(signal)
                .map_err(|e| Error::invalid(format!("signals cannot be listened to: {e}")))?;
        }
        Ok(signals)
    }

    fn register(&self, signal: i32) -> std::io::Result<()> {
        // In this order: the first signal finds the process not armed yet.
        flag::register_conditional_shutdown(signal, 128 + signal, self.armed.clone())?;
        flag::register(signal, self.armed.clone())?;
        flag::register_usize(signal, self.received.clone(), signal as usize)?;
        Ok(())
    }

    /// True after the first signal.
    pub fn received(&self) -> bool {
        self.received.load(Ordering::Relaxed) != 0
    }

    /// The exit code that tells of the signal, as shells have it.
    pub fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.received.load(Ordering::Relaxed)).unwrap_or(u8::MAX)
    }

    /// From now on the first signal ends the process: there is nothing left to save.
    pub fn end_at_once(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }
}

/// SIGHUP only where [`is_ignored`] can tell whether the caller wants to survive it.
fn heard() -> Vec<i32> {
    #[cfg(target_os = "linux")]
    return vec![SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
    #[cfg(not(target_os = "linux"))]
    return vec![SIGINT, SIGTERM];
}

/// Whether this process was started with the signal ignored, where the system says.
fn is_ignored(signal: i32) -> bool {
    let mask = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    mask().is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
