use super::*;
use std::sync::atomic::AtomicU32;

/// Miri runs a thousandth as fast.
const ROUNDS: usize = if cfg!(miri) { 20 } else { 2000 };

fn each_once(team: &Team, count: usize) {
    let runs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
    team.install(|| for_each(count, |i| _ = runs[i].fetch_add(1, Ordering::Relaxed)));
    assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{count} tasks");
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 5] {
        let team = Team::new(threads).unwrap();
        for count in [0, 1, 2, 3, 4, 7, 100] {
            each_once(&team, count);
        }
    }
}

#[test]
fn what_tasks_write_is_seen_after_the_call_without_more() {
    let team = Team::new(3).unwrap();
    let mut data = vec![0usize; 100];
    for round in 1..=ROUNDS {
        let start = Numbers(data.as_mut_ptr());
        // SAFETY: every task writes a number of its own, inside the vector.
        team.install(|| for_each(100, |i| unsafe { *start.at(i) += i }));
        assert!(data.iter().enumerate().all(|(i, &x)| x == round * i), "round {round}");
    }
}

/// A plain pointer: no atomic helps the call.
struct Numbers(*mut usize);

// SAFETY: tasks write elements of their own.
unsafe impl Sync for Numbers {}

impl Numbers {
    fn at(&self, i: usize) -> *mut usize {
        self.0.wrapping_add(i)
    }
}

#[test]
fn all_threads_take_part_of_long_tasks() {
    let team = Team::new(4).unwrap();
    let met = std::sync::Barrier::new(4);
    // Ends only if four threads are in it at once.
    team.install(|| for_each(4, |_| _ = met.wait()));
}

#[test]
fn callers_that_share_a_team_do_not_wait_for_each_other() {
    let team = Team::new(3).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..ROUNDS / 10).for_each(|_| each_once(&team, 50)));
        }
    });
    // A caller in its task keeps nobody from theirs.
    let (inside, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            team.install(|| {
                for_each(2, |i| {
                    if i == 0 {
                        inside.wait();
                        done.wait();
                    }
                });
            });
        });
        inside.wait();
        each_once(&team, 50);
        done.wait();
    });
}

#[test]
fn calls_within_a_task_run_on_its_thread() {
    let team = Team::new(2).unwrap();
    let inner = AtomicU32::new(0);
    team.install(|| {
        assert_eq!((threads(), is_task()), (2, false));
        for_each(8, |_| {
            assert_eq!((threads(), is_task()), (1, true));
            let own = thread::current().id();
            for_each(3, |_| {
                assert_eq!(thread::current().id(), own);
                inner.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!((threads(), is_task()), (2, false));
    });
    assert_eq!(inner.into_inner(), 24);
    assert_eq!(threads(), 1, "outside the team");
}

#[test]
fn the_inner_of_two_teams_works() {
    let (outer, inner) = (Team::new(2).unwrap(), Team::new(3).unwrap());
    outer.install(|| {
        inner.install(|| assert_eq!(threads(), 3));
        assert_eq!(threads(), 2);
    });
}

#[test]
fn a_panic_of_any_task_reaches_the_caller_and_the_team_works_on() {
    let team = Team::new(3).unwrap();
    for bad in 0..9 {
        let call = || team.install(|| for_each(9, |i| assert!(i != bad, "task {bad}")));
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("task {bad}"));
        assert_eq!((threads(), is_task()), (1, false));
        each_once(&team, 100);
    }
}

#[test]
fn a_team_has_threads_and_not_too_many() {
    assert!(Team::new(0).is_err());
    assert!(Team::new(4097).is_err());
    assert_eq!(Team::new(3).unwrap().threads(), 3);
}
