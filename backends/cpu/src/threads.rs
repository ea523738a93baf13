//! The threads that verbs spread over.

use crate::host::NAME;
use starling_contract::{Error, Result};
use starling_kernels_cpu::Team;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// The variable that says how many threads the process computes on.
const VARIABLE: &str = "STARLING_THREADS";

/// The team of all backends that were opened without a number of their own.
static SHARED: Mutex<Option<Arc<Team>>> = Mutex::new(None);

/// Backends that are opened from now on without a number of their own use so many threads. Without
/// a call it is as many as `STARLING_THREADS` says, or one for each core.
///
/// # Errors
/// [`Error::Unavailable`] for 0 threads or more than 4096, and when the system refuses them.
pub fn set_threads(threads: usize) -> Result<()> {
    let team = team_of(threads)?;
    *SHARED.lock().unwrap_or_else(PoisonError::into_inner) = Some(team);
    Ok(())
}

/// The team that backends share.
pub(crate) fn shared() -> Result<Arc<Team>> {
    // Whoever panics under the lock has left the team that was there.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(team) = &*shared {
        return Ok(team.clone());
    }
    let team = team_of(asked()?)?;
    *shared = Some(team.clone());
    Ok(team)
}

/// A team of so many threads.
pub(crate) fn team_of(threads: usize) -> Result<Arc<Team>> {
    let refused = |e| unavailable(format!("{threads} threads cannot be had: {e}"));
    Ok(Arc::new(Team::new(threads).map_err(refused)?))
}

fn asked() -> Result<usize> {
    match std::env::var_os(VARIABLE) {
        None => Ok(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
        Some(text) => {
            let number = text.to_str().and_then(|t| t.parse().ok());
            number.filter(|n| (1..=Team::MOST).contains(n)).ok_or_else(|| {
                let most = Team::MOST;
                unavailable(format!("{VARIABLE} is {text:?} and must be from 1 to {most}"))
            })
        }
    }
}

/// The device cannot be had, for this reason.
pub(crate) fn unavailable(reason: String) -> Error {
    Error::Unavailable { backend: NAME.into(), reason }
}
