//! Who watches long work: each event is reported once, and the answer may stop the work.

use std::ops::ControlFlow;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Image ids were sampled.
    Tokens {
        /// Ids so far, over all images.
        done: usize,
        /// Ids in all.
        total: usize,
        /// The ids so far of the images in work, by position; none where an id is not known yet.
        image_ids: &'a [&'a [Option<u32>]],
    },
    /// A text grew: all of it so far.
    Text(&'a str),
    /// An image of a request is finished; no later one changes it.
    Image(&'a crate::request::GeneratedImage),
    /// Items of some work are done: scenes judged, captions scored.
    Items {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// Something happened while an index was built.
    Index(crate::search::Event<'a>),
    /// Something happened in a training.
    Training(&'a crate::train::Event),
}

/// Receives events and may stop the work, which then ends with [`crate::Error::Stopped`].
pub trait Observer {
    /// Called for each event.
    fn event(&mut self, event: &Event<'_>) -> ControlFlow<()>;

    /// Asked where work can be interrupted and resumed, as after each step of a training: whether to stop there.
    fn stop(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Event<'_>) -> ControlFlow<()>> Observer for F {
    fn event(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&mut self, _event: &Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
