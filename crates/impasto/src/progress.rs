//! How far the weights of a model are loaded, and whether to stop: parameters are taken one by one, wherever they come
//! from, on one thread.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a thread loads, for one that watches it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes that are taken.
    pub done: AtomicU64,
    /// Bytes of the files that are open.
    pub total: AtomicU64,
    /// Whether to stop.
    pub stop: AtomicBool,
}

thread_local! {
    /// What this thread loads, while somebody watches.
    static WATCHED: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// A file of weights is open.
pub(crate) fn opened(bytes: usize) {
    count(|progress| &progress.total, bytes);
}

/// This many bytes of weights are loaded.
pub(crate) fn took(bytes: usize) {
    count(|progress| &progress.done, bytes);
}

fn count(of: impl Fn(&Progress) -> &AtomicU64, bytes: usize) {
    WATCHED.with_borrow(|watched| {
        if let Some(progress) = watched {
            of(progress).fetch_add(bytes as u64, Ordering::Relaxed);
        }
    });
}

/// Whether the observer wants an end.
pub(crate) fn is_stopped() -> bool {
    WATCHED.with_borrow(|watched| {
        let stop = watched.as_ref().map(|progress| &progress.stop);
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    })
}

impl Progress {
    /// Runs what takes the parameters, on the thread that takes them.
    pub fn over<R>(self: &Arc<Self>, load: impl FnOnce() -> R) -> R {
        /// Nobody watches what the thread does afterwards, also if it panics.
        struct Done;
        impl Drop for Done {
            fn drop(&mut self) {
                WATCHED.set(None);
            }
        }
        let _done = Done;
        WATCHED.set(Some(self.clone()));
        load()
    }
}
