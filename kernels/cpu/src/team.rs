//! Spreading a kernel's work over threads.
//!
//! A [`Team`] is the calling thread and helpers that wait for it. Unlike a worker of a pool that
//! steals, a caller works on its own call alone and then waits for the helpers that took part of
//! it: it never takes up what others have asked for. So a stream may keep its turn during a verb,
//! whichever thread it is called on.
//!
//! Which thread runs a task is left open; what a task computes must not depend on it.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// How often who waits looks again before it sleeps: waking up takes longer than the pauses
/// between the verbs of a training step.
const LOOKS: usize = 64;

/// Threads that share the work of one call at a time.
///
/// Dropping it waits for the helpers to end.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Who is in the call: helpers only. Changed under the lock, watched without.
    inside: AtomicUsize,
    /// Counts calls, and the end of the team. Changed under the lock, watched without.
    number: AtomicU64,
    /// Helpers sleep on it.
    called: Condvar,
    /// The caller sleeps on it.
    left: Condvar,
    /// What is still to do of the call: a range for the caller, then one for each helper.
    seats: Box<[Seat]>,
}

#[derive(Default)]
struct State {
    /// A caller has the seats.
    busy: bool,
    /// What helpers may join.
    open: Option<Call>,
    /// How many of them.
    room: usize,
    asleep: usize,
    /// The caller sleeps.
    awaited: bool,
    ended: bool,
    panic: Option<Box<dyn Any + Send>>,
}

/// A caller's task. It is followed by helpers that are inside alone, and the caller stays until
/// none is.
#[derive(Clone, Copy)]
struct Call(NonNull<dyn Fn(usize) + Sync>);

// SAFETY: what it points to may be called from any thread.
unsafe impl Send for Call {}

/// The numbers of tasks that nobody has taken yet: first and end, 32 bits each, on a cache line of
/// its own.
#[repr(align(64))]
struct Seat(AtomicU64);

impl Seat {
    const MOST: usize = u32::MAX as usize;

    fn put(&self, first: usize, end: usize) {
        self.0.store((first as u64) << 32 | end as u64, Ordering::Relaxed);
    }

    /// The next number: the first one for who sits here, the last one for others, so that each
    /// thread goes through memory of its own as long as there is some.
    fn take(&self, own: bool) -> Option<usize> {
        let mut taken = 0;
        let next = |now: u64| {
            let (first, end) = (now >> 32, now & u64::from(u32::MAX));
            taken = if own { first } else { end.checked_sub(1)? };
            let rest = if own { now + (1 << 32) } else { now - 1 };
            (first < end).then_some(rest)
        };
        // What tasks read and write is ordered by the lock, on the way in and out.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(taken as usize)
    }
}

thread_local! {
    /// The team that this thread's kernels spread over.
    static CURRENT: Cell<Option<NonNull<Shared>>> = const { Cell::new(None) };
    /// True while this thread runs a task of a call.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Puts a thread's value back when it is dropped.
struct Restore<T: Copy + 'static>(&'static thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Restore<T> {
    fn after(key: &'static thread::LocalKey<Cell<T>>, value: T) -> Self {
        Self(key, key.replace(value))
    }
}

impl<T: Copy> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// The threads that a kernel called now would spread over: those of the team that it is called in
/// ([`Team::install`]), or the calling thread alone.
pub fn threads() -> usize {
    current().map_or(1, |shared| shared.seats.len())
}

/// True in a task of a kernel that is spread over threads, where nothing may be submitted: the verb
/// that it is part of keeps its turn until the task is done.
pub fn is_task() -> bool {
    IN_TASK.get()
}

fn current<'a>() -> Option<&'a Shared> {
    let shared = CURRENT.get().filter(|_| !is_task())?;
    // SAFETY: `Team::install` borrows the team while it is the current one.
    Some(unsafe { shared.as_ref() })
}

/// Runs `task(0) .. task(count - 1)`, each once, in any order, on the threads of the current team.
///
/// # Panics
/// With what a task panicked with, when all threads have left the call.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Sync) {
    let Some(team) = current().filter(|team| count > 1 && team.seats.len() > 1) else {
        return (0..count).for_each(task);
    };
    for first in (0..count).step_by(Seat::MOST) {
        team.run(Seat::MOST.min(count - first), &|i| task(first + i));
    }
}

impl Team {
    /// The most threads: more than any machine has cores.
    pub const MOST: usize = 4096;

    /// A team of so many threads, the caller's included.
    ///
    /// # Errors
    /// For 0 threads or more than [`Team::MOST`], and when the system refuses them.
    pub fn new(threads: usize) -> io::Result<Team> {
        if threads == 0 || threads > Self::MOST {
            let message = format!("it takes 1 to {}", Self::MOST);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            inside: AtomicUsize::new(0),
            number: AtomicU64::new(0),
            called: Condvar::new(),
            left: Condvar::new(),
            seats: (0..threads).map(|_| Seat(AtomicU64::new(0))).collect(),
        });
        let mut team = Team { shared, helpers: Vec::with_capacity(threads - 1) };
        for seat in 1..threads {
            let shared = team.shared.clone();
            let named = thread::Builder::new().name(format!("starling-{seat}"));
            team.helpers.push(named.spawn(move || shared.help(seat))?);
        }
        Ok(team)
    }

    /// Its threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.shared.seats.len()
    }

    /// Calls `f` on this thread; the kernels in it spread over the team. While the team works for
    /// one caller, others work alone.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        let _outer = Restore::after(&CURRENT, Some(NonNull::from(&*self.shared)));
        f()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        self.shared.number.fetch_add(1, Ordering::Release);
        drop(state);
        self.shared.called.notify_all();
        for helper in self.helpers.drain(..) {
            // It catches what tasks panic with.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if !self.open(count, task) {
            return (0..count).for_each(task);
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.work(0, task)));
        let others = self.close();
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }

    /// Lets helpers into a call; false when the team works for somebody else.
    fn open(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
        let mut state = self.state();
        if state.busy {
            return false;
        }
        let parts = self.seats.len().min(count);
        for (i, seat) in self.seats.iter().enumerate() {
            let start = |i: usize| i.min(parts) * count / parts;
            seat.put(start(i), start(i + 1));
        }
        // SAFETY: only the lifetime changes; `run` catches panics and calls `close`, which waits
        // for who is inside, before the task's borrow ends.
        let task = unsafe {
            type Task<'a> = NonNull<dyn Fn(usize) + Sync + 'a>;
            std::mem::transmute::<Task<'_>, Task<'static>>(NonNull::from(task))
        };
        state.busy = true;
        state.open = Some(Call(task));
        state.room = parts - 1;
        self.number.fetch_add(1, Ordering::Release);
        let wake = state.room.min(state.asleep);
        drop(state);
        (0..wake).for_each(|_| self.called.notify_one());
        true
    }

    /// Runs what is left of seat `seat`, then of the others.
    fn work(&self, seat: usize, task: &(dyn Fn(usize) + Sync)) {
        let _task = Restore::after(&IN_TASK, true);
        let (before, from) = self.seats.split_at(seat);
        let mut own = true;
        for seat in from.iter().chain(before) {
            while let Some(i) = seat.take(own) {
                task(i);
            }
            own = false;
        }
    }

    /// A helper's life.
    fn help(&self, seat: usize) {
        let mut seen = 0;
        while let Some(call) = self.next_call(&mut seen) {
            // SAFETY: this helper is inside, so the caller waits.
            let task = unsafe { call.0.as_ref() };
            let result = catch_unwind(AssertUnwindSafe(|| self.work(seat, task)));
            let mut state = self.state();
            if let Err(panic) = result {
                state.panic = Some(panic);
            }
            let last = self.inside.fetch_sub(1, Ordering::Release) == 1;
            if last && state.awaited {
                self.left.notify_one();
            }
        }
    }

    /// Waits for a call that this helper has not seen and enters it; `None` at the team's end.
    fn next_call(&self, seen: &mut u64) -> Option<Call> {
        loop {
            look_until(|| self.number.load(Ordering::Acquire) != *seen);
            let mut state = self.state();
            while self.number.load(Ordering::Relaxed) == *seen {
                state.asleep += 1;
                state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep -= 1;
            }
            if state.ended {
                return None;
            }
            *seen = self.number.load(Ordering::Relaxed);
            if let Some(call) = state.open.filter(|_| state.room > 0) {
                state.room -= 1;
                self.inside.fetch_add(1, Ordering::Relaxed);
                return Some(call);
            }
        }
    }

    /// Lets nobody in any more, waits until all are out and hands on what one panicked with.
    fn close(&self) -> Option<Box<dyn Any + Send>> {
        let mut state = self.state();
        state.open = None;
        if self.inside.load(Ordering::Relaxed) > 0 {
            drop(state);
            look_until(|| self.inside.load(Ordering::Acquire) == 0);
            state = self.state();
            state.awaited = true;
            while self.inside.load(Ordering::Relaxed) > 0 {
                state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.awaited = false;
        }
        state.busy = false;
        state.panic.take()
    }
}

/// Looks for a while whether `done`.
fn look_until(done: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if done() {
            return;
        }
        // Not a busy wait: on a machine that has more to do others come first.
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests;
