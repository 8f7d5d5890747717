//! Sharing out work of some microseconds: a token is some sixty products, each over in a few dozen microseconds,
//! and a pool that puts its threads to sleep in between spends more on waking them than on the work.
//!
//! The threads of the team go on looking for work for a while after each piece ([`LOOKING`]) before they sleep, and
//! whoever has work takes part in it. Called from a thread of a rayon pool, or while the team works for another
//! thread, work is shared out on the rayon pool; which of them it was can't be seen in any result, as tasks are the
//! same ones.
//!
//! [`Threads`] are a pool and a team of their own, for programs that want more than one of them.

use std::cell::{RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rayon::prelude::*;

/// How long a thread without work looks for some: longer than what lies between two products of a token.
const LOOKING: Duration = Duration::from_micros(300);

/// Looks at the work before a thread lets others have the core in between.
const LOOKS: u32 = 2000;

/// Runs `task(0)` to `task(tasks − 1)`, each once, on as many threads as the current rayon pool has.
pub(crate) fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    if tasks <= 1 || rayon::current_num_threads() == 1 {
        return (0..tasks).for_each(task);
    }
    let taken = match OWN.with_borrow(Clone::clone) {
        Some(team) => team.run(tasks, &task),
        None => rayon::current_thread_index().is_none() && team().run(tasks, &task),
    };
    if !taken {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&task);
    }
}

/// The team of the process; its size is the global pool's.
fn team() -> &'static Team {
    static TEAM: OnceLock<Arc<Team>> = OnceLock::new();
    TEAM.get_or_init(|| Team::start(rayon::current_num_threads() - 1).0)
}

thread_local! {
    /// The team of the [`Threads`] whose work this thread runs.
    static OWN: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// This many threads for the work that is run in them, whatever the process has besides. They end when this is dropped.
#[derive(Debug)]
pub struct Threads {
    pool: rayon::ThreadPool,
    team: Arc<Team>,
    helpers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts them; of 0, one for each processor.
    ///
    /// # Errors
    /// Where the system has no more.
    pub fn new(count: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(count);
        let pool = builder
            .thread_name(|number| format!("impasto {number}"))
            .build()?;
        let (team, helpers) = Team::start(pool.current_num_threads() - 1);
        Ok(Threads {
            pool,
            team,
            helpers,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` and what it shares out in these threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        /// Puts back what was there before, also if `work` panics.
        struct Before(Option<Arc<Team>>);
        impl Drop for Before {
            fn drop(&mut self) {
                OWN.set(self.0.take());
            }
        }
        self.pool.install(|| {
            let _before = Before(OWN.replace(Some(self.team.clone())));
            work()
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.team.closing.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches the panics of its tasks.
            let _ = helper.join();
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy)]
struct Job {
    /// Borrowed from the caller, who stays until nobody is inside.
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// Bit of [`Team::state`]: there is work, and whoever comes may join in.
const OPEN: u64 = 1;
/// Unit of how many are inside.
const INSIDE: u64 = 1 << 1;
/// All of them.
const ALL_INSIDE: u64 = 0xffff << 1;
/// Unit of the number of the job.
const JOB: u64 = 1 << 17;

struct Team {
    /// Whether a caller has the team.
    taken: AtomicBool,
    /// [`OPEN`], how many helpers are inside, and the job's number.
    state: AtomicU64,
    /// Written by the caller that has the team, while nobody is inside and nothing is open.
    job: UnsafeCell<Option<Job>>,
    /// The next task.
    next: AtomicUsize,
    /// Whether a helper's task panicked.
    panicked: AtomicBool,
    /// Helpers that sleep.
    asleep: AtomicUsize,
    helpers: OnceLock<Vec<Thread>>,
    /// Whether helpers are to end.
    closing: AtomicBool,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let helpers = self.helpers.get().map_or(0, Vec::len);
        f.debug_struct("Team").field("helpers", &helpers).finish()
    }
}

// SAFETY: `job` is read only between entering and leaving an open job, see there.
unsafe impl Sync for Team {}
// SAFETY: what `job` points to is shared between threads (`Sync`), and not touched once its job is closed.
unsafe impl Send for Team {}

impl Team {
    fn start(helpers: usize) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let team = Arc::new(Team {
            taken: AtomicBool::new(false),
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            helpers: OnceLock::new(),
            closing: AtomicBool::new(false),
        });
        // A thread that can't be started is one less: callers do the work themselves then.
        let started: Vec<JoinHandle<()>> = (0..helpers)
            .filter_map(|number| {
                let builder = thread::Builder::new().name(format!("kernels {number}"));
                let team = team.clone();
                builder.spawn(move || team.help()).ok()
            })
            .collect();
        let threads = started.iter().map(|handle| handle.thread().clone());
        let _ = team.helpers.set(threads.collect());
        (team, started)
    }

    /// Whether the team was free and has done it.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
        if self.taken.swap(true, Ordering::Acquire) {
            return false;
        }
        // SAFETY: only the lifetime is changed; nobody is inside when this function returns or unwinds.
        let task: *const (dyn Fn(usize) + Sync + 'static) = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(
                task,
            )
        };
        // SAFETY: the team is this caller's, the last job is closed, and nobody is inside.
        unsafe { *self.job.get() = Some(Job { task, tasks }) };
        self.next.store(0, Ordering::Relaxed);
        self.state.fetch_add(JOB | OPEN, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.helpers
                .get()
                .into_iter()
                .flatten()
                .for_each(Thread::unpark);
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.work(Job { task, tasks })));
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) & ALL_INSIDE != 0 {
            look(&mut looks);
        }
        let panicked = self.panicked.swap(false, Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!panicked, "a task of a kernel panicked on another thread");
        true
    }

    /// Tasks until there is none.
    fn work(&self, job: Job) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            // SAFETY: whoever works is inside or the caller itself, so the borrow lives.
            unsafe { (*job.task)(index) };
        }
    }

    /// A helper's life.
    fn help(&self) {
        let mut done = 0;
        loop {
            let Some(state) = self.wait(done) else {
                return;
            };
            let entered = self.state.compare_exchange_weak(
                state,
                state + INSIDE,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if entered.is_err() {
                continue;
            }
            // SAFETY: entered while it was open, so it was written before, and stays until all have left.
            if let Some(job) = unsafe { *self.job.get() }
                && catch_unwind(AssertUnwindSafe(|| self.work(job))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            done = state / JOB;
            self.state.fetch_sub(INSIDE, Ordering::Release);
        }
    }

    /// Waits for an open job other than number `done`; none where the team ends.
    fn wait(&self, done: u64) -> Option<u64> {
        let news = |state: u64| state & OPEN != 0 && state / JOB != done;
        let mut looks = 0;
        let mut since = None;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if news(state) {
                return Some(state);
            }
            if self.closing.load(Ordering::SeqCst) {
                return None;
            }
            look(&mut looks);
            if looks < LOOKS || since.get_or_insert_with(Instant::now).elapsed() < LOOKING {
                continue;
            }
            // Either this helper sees the open job here, or its caller sees that somebody is asleep.
            self.asleep.fetch_add(1, Ordering::SeqCst);
            let closing = self.closing.load(Ordering::SeqCst);
            if !closing && !news(self.state.load(Ordering::SeqCst)) {
                thread::park();
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            (looks, since) = (0, None);
        }
    }
}

/// Waits a moment; after [`LOOKS`] of them, others may have the core.
fn look(looks: &mut u32) {
    *looks = looks.saturating_add(1);
    if *looks < LOOKS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Every task of every job runs once, whatever the tasks' number, with sleeps of the team in between.
    #[test]
    fn every_task_runs_once() {
        let (team, _) = Team::start(3);
        for round in 0..2000usize {
            let tasks = round % 37;
            let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            let ran = team.run(tasks, &|index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(ran);
            assert!(
                counts
                    .iter()
                    .all(|count| count.load(Ordering::Relaxed) == 1)
            );
            if round % 400 == 0 {
                thread::sleep(3 * LOOKING);
            }
        }
    }

    #[test]
    fn a_team_that_works_is_not_taken_again() {
        let (team, _) = Team::start(1);
        let within = AtomicBool::new(true);
        let ran = team.run(2, &|_| {
            let again = team.run(1, &|_| {});
            within.fetch_and(!again, Ordering::Relaxed);
        });
        assert!(ran && within.load(Ordering::Relaxed));
    }

    /// Threads that call at once all get their work done, some of it on the rayon pool.
    #[test]
    fn callers_do_not_disturb_each_other() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for tasks in 0..300 {
                        let sum = AtomicUsize::new(0);
                        for_each(tasks, |index| {
                            sum.fetch_add(index + 1, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), tasks * (tasks + 1) / 2);
                    }
                });
            }
        });
    }

    /// Two handles of different sizes at once, each with its own number, and the threads end with them.
    #[test]
    fn threads_belong_to_their_handle() {
        let threads = named_threads;
        let before = threads();
        {
            let (two, three) = (Threads::new(2).unwrap(), Threads::new(3).unwrap());
            thread::scope(|scope| {
                for (handle, count) in [(&two, 2), (&three, 3)] {
                    scope.spawn(move || {
                        for tasks in 0..200 {
                            let sum = AtomicUsize::new(0);
                            let seen = handle.run(|| {
                                for_each(tasks, |index| {
                                    sum.fetch_add(index + 1, Ordering::Relaxed);
                                });
                                rayon::current_num_threads()
                            });
                            assert_eq!((seen, handle.count()), (count, count));
                            assert_eq!(sum.into_inner(), tasks * (tasks + 1) / 2);
                        }
                    });
                }
            });
            assert!(OWN.with_borrow(Option::is_none));
        }
        // Threads of rayon's pools end a moment after the pool; other tests start threads, too.
        let deadline = Instant::now() + Duration::from_secs(20);
        while threads() > before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(threads(), before);
    }

    /// Threads of this process that some [`Threads`] started for their pool, where the system lists them.
    fn named_threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("impasto ")).count()
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let (team, _) = Team::start(2);
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(8, &|index| assert_ne!(index, bad, "as planned"));
            }));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        assert!(team.run(10, &|index| {
            sum.fetch_add(index, Ordering::Relaxed);
        }));
        assert_eq!(sum.into_inner(), 45);
    }
}
