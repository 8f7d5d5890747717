//! The models that are served: opened when they are needed, closed when they are idle.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use impasto::families::{self, ModelFiles};
use impasto::hub;
use impasto::sampling::SamplingOptions;
use impasto::{Device, Model};
use serde::Serialize;

use crate::jobs::{Job, Queue};

/// Something that is done with a model between two tokens.
pub type Call = Box<dyn FnOnce(&impasto::Result<Model>) + Send>;

/// Calls that wait for a model.
const MOST_CALLS: usize = 16;

/// What clients see of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Side of its pictures in pixels.
    pub size: usize,
    /// Image ids of a picture.
    pub tokens: usize,
    /// Parameters of the transformer.
    pub parameters: usize,
    /// The most memory that it takes, in bytes, with a full batch.
    pub memory: u64,
    /// Its own settings.
    pub sampling: SamplingOptions,
}

/// A model and the work that waits for it.
pub struct Hosted {
    /// What it is.
    pub card: ModelCard,
    files: ModelFiles,
    work: Mutex<Work>,
    wake: Condvar,
    loaded: AtomicBool,
    busy: AtomicBool,
    unload: AtomicBool,
}

/// What waits.
#[derive(Default)]
pub struct Work {
    /// Jobs.
    pub queue: Queue,
    /// Calls.
    pub calls: VecDeque<Call>,
}

impl Hosted {
    /// Looks at a model's files, without reading its weights.
    pub fn new(files: ModelFiles) -> impasto::Result<Arc<Self>> {
        let info = families::info(&files)?;
        let Some(sampling) = info.sampling.clone() else {
            let reason = format!(
                "{} is an image tokenizer alone, expected a model that draws",
                info.name
            );
            return Err(impasto::Error::invalid("model", reason));
        };
        let recorded = files.source.folder().and_then(hub::recorded_licence);
        let card = ModelCard {
            size: info.image_tokenizer.picture_size(),
            tokens: info.image_tokenizer.grid().pow(2),
            parameters: info.dalle_parameters,
            memory: info.peak_memory_bytes_of_16,
            licence: recorded.unwrap_or(info.licence),
            id: info.name,
            sampling,
        };
        Ok(Arc::new(Hosted {
            card,
            files,
            work: Mutex::default(),
            wake: Condvar::new(),
            loaded: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            unload: AtomicBool::new(false),
        }))
    }

    /// What waits for it.
    pub fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job waits for it.
    pub fn push(&self, job: Arc<Job>) {
        self.work().queue.push(job);
        self.wake.notify_all();
    }

    /// Something is to be done with it soon. Returns whether there is room for it.
    pub fn call(&self, call: Call) -> bool {
        let mut work = self.work();
        if work.calls.len() >= MOST_CALLS {
            return false;
        }
        work.calls.push_back(call);
        drop(work);
        self.wake.notify_all();
        true
    }

    /// Wakes its thread.
    pub fn wake(&self) {
        self.wake.notify_all();
    }

    /// Whether its weights are in memory.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Whether it works.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether it works.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Waits for work, at most this long.
    pub fn wait(&self, longest: Duration) {
        let work = self.work();
        if work.queue.is_empty() && work.calls.is_empty() {
            drop(self.wake.wait_timeout(work, longest));
        }
    }

    /// Whether its memory is wanted by another model.
    pub fn is_to_unload(&self) -> bool {
        self.unload.swap(false, Ordering::Relaxed)
    }

    /// Closed.
    pub fn unloaded(&self) {
        self.loaded.store(false, Ordering::Relaxed);
    }

    /// Opens it, after idle models have made room where memory is short.
    pub fn open(&self, device: &Device, all: &[Arc<Hosted>]) -> impasto::Result<Model> {
        for _ in 0..50 {
            if available_memory().is_none_or(|free| free > self.card.memory) {
                break;
            }
            let idle = all
                .iter()
                .filter(|other| other.is_loaded() && !other.is_busy());
            let idle: Vec<_> = idle.collect();
            if idle.is_empty() {
                break;
            }
            for other in idle {
                other.unload.store(true, Ordering::Relaxed);
                other.wake();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let model = Model::open_files(&self.files, device, &impasto::OpenOptions::default())?;
        self.loaded.store(true, Ordering::Relaxed);
        crate::log::note(format_args!(
            "model {} loaded in {:.2} s",
            self.card.id,
            model.load_time().as_secs_f64()
        ));
        Ok(model)
    }
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

/// Bytes that programs can have without anything being written to a disk; none where the system does not say it.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
