//! Panics of backends as messages: caught, and not printed while they are.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::Result;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The hook belongs to the process: one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Until it is dropped, panics inside [`Quiet::catch`] are not printed; those of other threads are, as before.
pub(super) struct Quiet {
    previous: Option<Arc<Hook>>,
    _one: MutexGuard<'static, ()>,
}

impl Quiet {
    pub fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let previous = Arc::new(panic::take_hook());
        let hook = previous.clone();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                let place = info.location().map(|place| {
                    let file = place.file().rsplit('/').take(3).collect::<Vec<_>>();
                    let file = file.into_iter().rev().collect::<Vec<_>>().join("/");
                    format!("{file}:{}", place.line())
                });
                PLACE.set(place);
            } else {
                hook(info);
            }
        }));
        Quiet {
            previous: Some(previous),
            _one: one,
        }
    }

    /// What `work` gives once `then` has succeeded, or one line about the error or panic of either.
    pub fn catch<T>(
        &self,
        work: impl FnOnce() -> Result<T>,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<T, String> {
        CATCHING.set(true);
        // What a panic leaves behind is thrown away with the check.
        let caught = panic::catch_unwind(AssertUnwindSafe(|| -> Result<T> {
            let value = work()?;
            then()?;
            Ok::<T, crate::Error>(value)
        }));
        CATCHING.set(false);
        let place = PLACE.take();
        match caught {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(one_line(&error.to_string())),
            Err(payload) => {
                let place = place
                    .map(|place| format!(" at {place}"))
                    .unwrap_or_default();
                Err(format!("panic{place}: {}", one_line(message(&*payload))))
            }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Ours first: it holds the other reference.
        drop(panic::take_hook());
        if let Some(previous) = self.previous.take().and_then(Arc::into_inner) {
            panic::set_hook(previous);
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

/// The first part of a message, on one line: backends write pages.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Error;

    #[test]
    fn panics_and_errors_become_one_line_and_the_hook_comes_back() {
        let quiet = Quiet::new();
        let panicked: Result<(), String> = quiet.catch(|| panic!("two\nlines {}", 7), || Ok(()));
        let line = panicked.unwrap_err();
        assert!(line.starts_with("panic at selftest/panics.rs:") || line.contains("/panics.rs:"));
        assert!(line.ends_with("two lines 7"), "{line}");
        let error = quiet.catch(|| Err::<(), _>(Error::invalid("x", "y")), || Ok(()));
        assert_eq!(error, Err("x: y".to_owned()));
        let late = quiet.catch(|| Ok(1), || Err(Error::Stopped));
        assert_eq!(late, Err("stopped".to_owned()));
        assert_eq!(quiet.catch(|| Ok(1), || Ok(())), Ok(1));
        drop(quiet);
        // Another one finds the hook free and puts it back, too.
        drop(Quiet::new());
        assert!(!CATCHING.get());
    }
}
