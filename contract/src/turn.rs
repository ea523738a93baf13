//! Taking turns: the order of streams whose verbs run on the thread that submits them.

use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// How often a thread looks whether its turn has come before it sleeps.
const LOOKS: usize = 100;
/// Threads that wait sleep in so many places, so that few wake in vain.
const PLACES: usize = 16;

/// A turn that one thread has at a time, first come, first served.
///
/// A thread that waits for it does nothing else meanwhile. So whoever has the turn may wait for
/// threads of its own, but never for one that might ask for the turn.
///
/// ```
/// static TURN: starling_contract::Turn = starling_contract::Turn::new();
///
/// let turn = TURN.take();
/// // What happens here happens after what was done in the turns taken before.
/// drop(turn);
/// ```
pub struct Turn {
    /// The ticket that the next comer draws.
    next: AtomicU64,
    /// The ticket whose turn it is.
    serving: AtomicU64,
    places: [Place; PLACES],
}

struct Place {
    lock: Mutex<()>,
    called: Condvar,
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

impl Turn {
    /// A turn that nobody has.
    pub const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            places: [const { Place { lock: Mutex::new(()), called: Condvar::new() } }; PLACES],
        }
    }

    /// Waits for the turn; dropping what this returns gives it to the next, also when a panic does.
    pub fn take(&self) -> Taken<'_> {
        // Here and in `pass` the order of all four accesses counts: either who comes sees that it
        // is its turn, or who leaves sees that somebody came.
        let ticket = self.next.fetch_add(1, Ordering::SeqCst);
        for _ in 0..LOOKS {
            if self.serving.load(Ordering::SeqCst) == ticket {
                return Taken(self);
            }
            hint::spin_loop();
        }
        let place = self.place(ticket);
        // The lock guards no data.
        let mut guard = place.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.serving.load(Ordering::SeqCst) != ticket {
            guard = place.called.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        Taken(self)
    }

    fn place(&self, ticket: u64) -> &Place {
        &self.places[(ticket % PLACES as u64) as usize]
    }

    fn pass(&self) {
        let ticket = self.serving.load(Ordering::Relaxed) + 1;
        self.serving.store(ticket, Ordering::SeqCst);
        if self.next.load(Ordering::SeqCst) != ticket {
            let place = self.place(ticket);
            // Who waits there looks under the lock: it has seen the ticket, or sleeps by now.
            drop(place.lock.lock().unwrap_or_else(PoisonError::into_inner));
            place.called.notify_all();
        }
    }
}

/// The turn, until it is dropped.
#[must_use = "the turn is passed on when this is dropped"]
pub struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.pass();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Miri runs a thousandth as fast.
    const ROUNDS: usize = if cfg!(miri) { 30 } else { 3000 };
    const THREADS: usize = 4;

    #[test]
    fn one_thread_has_it_at_a_time() {
        let (turn, sum) = (Turn::new(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let _turn = turn.take();
                        // Not one step, so that a second thread within would lose a number.
                        let before = sum.load(Ordering::Relaxed);
                        (0..100).for_each(|_| hint::spin_loop());
                        sum.store(before + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), THREADS * ROUNDS);
    }

    #[test]
    fn first_come_first_served() {
        // More than there are places to wait in.
        const COMERS: u64 = if cfg!(miri) { 4 } else { 2 * PLACES as u64 + 3 };
        let (turn, served) = (Turn::new(), Mutex::new(Vec::new()));
        let first = turn.take();
        thread::scope(|scope| {
            for comer in 1..=COMERS {
                let (turn, served) = (&turn, &served);
                scope.spawn(move || {
                    let _turn = turn.take();
                    served.lock().unwrap().push(comer);
                });
                while turn.next.load(Ordering::SeqCst) <= comer {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(served.into_inner().unwrap(), (1..=COMERS).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_passes_it_on() {
        let turn = Turn::new();
        let panics = || {
            let _turn = turn.take();
            panic!("a kernel");
        };
        catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        drop(turn.take());
    }
}
