//! Who watches long work: each event is reported once, and the answer may stop the work.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::image::Image;

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
    Image(&'a GeneratedImage),
    /// Items of some work are done: scenes judged, captions scored.
    Items {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// Something happened while an index was built.
    Index(IndexEvent<'a>),
    /// A part of a model was loaded.
    Loading {
        /// Bytes of weights so far.
        done: u64,
        /// Bytes of the weight files that are open so far.
        total: u64,
    },
    /// A part of a file was downloaded.
    Download(&'a DownloadProgress),
    /// Something happened in a training.
    Training(&'a TrainingEvent),
}

/// An image that was generated.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The pixels.
    pub picture: Image,
    /// Its seed.
    pub seed: u64,
    /// Its row-major ids.
    pub image_ids: Vec<u32>,
    /// ln p of the sampled ids given the prompt, in nats.
    pub log_likelihood: f64,
    /// −ln p(prompt | image) per text id, in nats, where the model had a say in which image is best.
    pub caption_nats: Option<f64>,
    /// Cosine of image and prompt, where a CLIP chose.
    pub clip_score: Option<f32>,
}

/// How far a download is.
#[derive(Debug, Clone)]
pub struct DownloadProgress {
    /// The file.
    pub file: String,
    /// Bytes of this file that are here.
    pub bytes: u64,
    /// Its size, where the server states it.
    pub file_bytes: Option<u64>,
    /// Bytes of the whole model, as far as known.
    pub model_bytes: u64,
}

/// What happens while an index is built.
#[derive(Clone, Copy, Debug)]
pub enum IndexEvent<'a> {
    /// This many pictures are embedded, of this many.
    Embedded(usize, usize),
    /// This many rows are in the graph, of this many.
    Linked(usize, usize),
    /// A picture could not be read, and is left out.
    Skipped(&'a Path, &'a Error),
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub enum TrainingEvent {
    /// The run continues from a checkpoint.
    Resumed {
        /// Steps done so far.
        step: u64,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The trained loss.
        loss: f64,
        /// Samples trained per second, over the last few seconds.
        samples_per_second: f64,
        /// Floating-point operations of forward and backward passes per second, where they are known.
        operations_per_second: Option<f64>,
        /// Until the end at this speed.
        remaining: Duration,
    },
    /// Metrics were measured.
    Metrics {
        /// Steps done.
        step: u64,
        /// Name and value.
        values: Vec<(String, f64)>,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps done.
        step: u64,
        /// Its directory.
        path: PathBuf,
    },
    /// Something to know before the first step: pictures that a list leaves out.
    Note(String),
    /// Something deserves attention: a collapsed codebook, dropped pictures.
    Warning(String),
    /// Something is under way before the first step.
    Preparing(String),
}

/// Receives events and may stop the work, which then ends with [`Error::Stopped`].
pub trait Observer: Send {
    /// Called for each event.
    fn event(&mut self, event: &Event<'_>) -> ControlFlow<()>;

    /// Asked where work can be interrupted and resumed, as after each step of a training: whether to stop there.
    fn stop(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Event<'_>) -> ControlFlow<()> + Send> Observer for F {
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
