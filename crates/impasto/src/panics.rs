//! Panics of backends as errors: drivers that do not answer panic inside of them.
//!
//! The panic hook belongs to the process, so the library never sets one. Caught panics are printed like others, unless
//! the program passes its hook through [`hook`], once, at its start:
//!
//! ```
//! use std::panic;
//! panic::set_hook(impasto::panics::hook(panic::take_hook()));
//! ```

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What [`std::panic::set_hook`] takes.
pub type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How many threads are in [`catch_of_all_threads`].
static CATCHING_ALL: AtomicUsize = AtomicUsize::new(0);

/// `previous`, but not for panics that the library catches and reports as errors; their place becomes a part of the
/// report.
pub fn hook(previous: Hook) -> Hook {
    Box::new(move |info| {
        if CATCHING.get() {
            PLACE.set(info.location().map(|place| {
                let file: Vec<&str> = place.file().rsplit('/').take(3).collect();
                let file: Vec<&str> = file.into_iter().rev().collect();
                format!("{}:{}", file.join("/"), place.line())
            }));
        } else if CATCHING_ALL.load(Ordering::Relaxed) == 0 {
            previous(info);
        }
    })
}

/// A panic that was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caught {
    message: String,
    place: Option<String>,
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "panic at {place}: {}", self.message),
            None => write!(f, "panic: {}", self.message),
        }
    }
}

impl std::error::Error for Caught {}

/// The result of `work`, or its panic. What a panic leaves behind has to be thrown away with `work`.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    let before = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    let place = PLACE.take();
    result.map_err(|payload| Caught {
        message: one_line(message(&*payload)),
        place,
    })
}

/// [`catch`] for work of which a part panics on threads of its own: [`hook`] keeps those quiet meanwhile, too.
#[cfg(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "metal",
    feature = "tch",
    test
))]
pub(crate) fn catch_of_all_threads<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    CATCHING_ALL.fetch_add(1, Ordering::Relaxed);
    let result = catch(work);
    CATCHING_ALL.fetch_sub(1, Ordering::Relaxed);
    result
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
pub(crate) fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_one_line() {
        let caught = catch::<()>(|| panic!("two\nlines {}", 7)).unwrap_err();
        assert_eq!(caught.message, "two lines 7");
        assert!(caught.to_string().starts_with("panic"), "{caught}");
        assert_eq!(catch(|| 1), Ok(1));
        assert_eq!(catch_of_all_threads(|| 2), Ok(2));
        assert!(!CATCHING.get() && CATCHING_ALL.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn long_messages_are_cut() {
        let line = one_line(&"wort ".repeat(100));
        assert_eq!(line.chars().count(), 301);
    }
}
