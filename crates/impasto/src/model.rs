//! A model of any family, opened once and shared: `Model::open(name)`, then [`Model::run`] requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::canvas::Conditioning;
use crate::checkpoint::{ModelSource, WeightFormat};
use crate::families::{
    self, Answerer, AnyModel, Attentive, Captioner, Generator, ModelFiles, PictureEncoder,
};
use crate::files::FileAccess;
use crate::image::Image;
use crate::models::ImageTokenizer;
use crate::observer::{Event, Observer};
use crate::progress::Progress;
use crate::threads::Threads;
use crate::work::Request;
use crate::{Error, Result, hub};

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// In what the transformer's weights are held in memory; as they are stored, if not given.
    pub precision: Option<WeightFormat>,
    /// The folder of a LoRA adapter that was trained on the model.
    pub adapter: Option<PathBuf>,
    /// Where pulled models are kept, for names of such.
    pub cache: Option<PathBuf>,
    /// How weight files come into memory.
    pub access: FileAccess,
    /// The threads of its work; those of the process, if not given.
    pub threads: Option<Threads>,
}

/// How often an observer hears of loading.
const LOADING_PAUSE: Duration = Duration::from_millis(50);

/// What a family loads.
type Loaded = Result<Box<dyn AnyModel>>;

/// A model, ready to run. Copies share its weights.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<dyn AnyModel>,
    load_time: Duration,
    threads: Option<Threads>,
    licence: Option<String>,
}

impl Model {
    /// Opens a model on `device` by its name (the embedded one's or a pulled one's) or by its folder or file, in our
    /// format or as it was published.
    pub fn open(name_or_path: &str, device: &Device, options: &OpenOptions) -> Result<Self> {
        let files = ModelFiles::find(&ModelSource::find(name_or_path, options.cache.as_deref())?)?;
        Self::open_files(&files, device, options)
    }

    /// [`Model::open`] of files that were found before.
    pub fn open_files(files: &ModelFiles, device: &Device, options: &OpenOptions) -> Result<Self> {
        Self::load(files, device, options, &|load| load())
    }

    /// [`Model::open_files`] while an observer hears of it ([`Event::Loading`]).
    ///
    /// # Errors
    /// Also [`Error::Stopped`] where it stops it.
    pub fn open_watched(
        files: &ModelFiles,
        device: &Device,
        options: &OpenOptions,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let progress = Arc::new(Progress::default());
        let (done, end) = sync_channel(1);
        let load = || {
            let opened = Self::load(files, device, options, &|load| progress.over(load));
            // Who waits takes it.
            let _ = done.send(opened);
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, load)
                .map_err(Error::io("start", "a thread that loads"))?;
            loop {
                if let Ok(opened) = end.recv_timeout(LOADING_PAUSE) {
                    return opened;
                }
                if thread.is_finished() {
                    // It has sent, or panicked.
                    return match thread.join() {
                        Ok(()) => end.recv().unwrap_or(Err(Error::Stopped)),
                        Err(panic) => std::panic::resume_unwind(panic),
                    };
                }
                let event = Event::Loading {
                    done: progress.done.load(Ordering::Relaxed),
                    total: progress.total.load(Ordering::Relaxed),
                };
                if observer.event(&event).is_break() {
                    progress.stop.store(true, Ordering::Relaxed);
                }
            }
        })
    }

    /// `within` runs what takes the weights, on the thread that takes them.
    fn load(
        files: &ModelFiles,
        device: &Device,
        options: &OpenOptions,
        within: &(dyn Fn(&dyn Fn() -> Loaded) -> Loaded + Sync),
    ) -> Result<Self> {
        let started = Instant::now();
        let mut files = files.clone();
        files.access = options.access;
        let adapter = options.adapter.as_deref();
        let open = || within(&|| families::open(&files, device, options.precision, adapter));
        let inner = match &options.threads {
            Some(threads) => threads.run(open),
            None => open(),
        };
        let inner: Arc<dyn AnyModel> = inner?.into();
        let recorded = files.source.folder().and_then(hub::recorded_licence);
        let licence = match recorded.filter(|_| adapter.is_none()) {
            Some(licence) => Some(licence),
            None => inner.config()?["licence"].as_str().map(str::to_owned),
        };
        Ok(Model {
            inner,
            load_time: started.elapsed(),
            threads: options.threads.clone(),
            licence: licence.filter(|licence| licence != "unknown"),
        })
    }

    /// Validates a request and runs it.
    ///
    /// # Errors
    /// What is wrong with the request, what the model can't do, and [`Error::Stopped`] where `observer` stops it.
    pub fn run<R>(&self, request: &R, observer: &mut dyn Observer) -> Result<R::Outcome>
    where
        R: Request<Self, Outcome: Send> + Sync,
    {
        request.validate()?;
        match &self.threads {
            Some(threads) => threads.run(|| request.run(self, observer)),
            None => request.run(self, observer),
        }
    }

    /// The threads of its work, if it has its own.
    pub fn threads(&self) -> Option<&Threads> {
        self.threads.as_ref()
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// The licence of its weights: what was recorded when it was pulled, or what its config says. None where neither
    /// does.
    pub fn licence(&self) -> Option<&str> {
        self.licence.as_deref()
    }

    /// What people call its family.
    pub fn family(&self) -> &'static str {
        self.inner.family()
    }

    /// Its `config.json`.
    pub fn config(&self) -> Result<serde_json::Value> {
        self.inner.config()
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.inner.device()
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Pixels ↔ image ids.
    pub fn image_tokenizer(&self) -> &ImageTokenizer {
        self.inner.image_tokenizer()
    }

    /// The model as one that generates images.
    ///
    /// # Errors
    /// Where it is an image tokenizer alone.
    pub fn generator(&self) -> Result<&dyn Generator> {
        self.inner.generator().ok_or_else(|| {
            Error::invalid(
                "model",
                format!(
                    "{} is an image tokenizer alone: it turns pictures into ids and back, and reads no words",
                    self.name()
                ),
            )
        })
    }

    /// The model as one that writes captions.
    ///
    /// # Errors
    /// Where its family only reads them.
    pub fn captioner(&self) -> Result<&dyn Captioner> {
        self.generator()?;
        self.inner.captioner().ok_or_else(|| {
            Error::invalid(
                "model",
                format!(
                    "{} cannot generate captions; impasto's own models, DALLE-pytorch's and Janus can",
                    self.name()
                ),
            )
        })
    }

    /// The model as one that answers questions.
    ///
    /// # Errors
    /// Where its family does not.
    pub fn answerer(&self) -> Result<&dyn Answerer> {
        self.inner.answerer().ok_or_else(|| {
            let reason = format!("{} cannot answer questions; Janus can", self.name());
            Error::invalid("model", reason)
        })
    }

    /// The model as one that embeds pictures.
    ///
    /// # Errors
    /// Where its family does not.
    pub fn picture_encoder(&self) -> Result<&dyn PictureEncoder> {
        self.inner.picture_encoder().ok_or_else(|| {
            let reason = format!("{} cannot embed pictures; CLIPs and Janus can", self.name());
            Error::invalid("model", reason)
        })
    }

    /// The model as one whose attention can be looked at; none for families where that is not written.
    pub fn attentive(&self) -> Option<&dyn Attentive> {
        self.inner.attentive()
    }

    /// Whether it predicts any position at any time.
    pub fn is_any_order(&self) -> bool {
        let generator = self.inner.generator();
        generator.is_some_and(|generator| generator.conditioning() == Conditioning::Prefix)
    }

    /// Side of the pictures in pixels.
    pub fn picture_size(&self) -> usize {
        self.image_tokenizer().config().picture_size()
    }

    /// Image ids along a side.
    pub fn grid(&self) -> usize {
        self.image_tokenizer().config().grid()
    }

    /// Row-major ids of a picture of any size: its middle square, scaled to the model's.
    pub fn encode(&self, picture: &Image) -> Result<Vec<u32>> {
        let picture = picture.fit_square(self.picture_size())?;
        let ids = self.image_tokenizer().encode(&[picture], self.device());
        Ok(ids?.swap_remove(0))
    }

    /// The picture of row-major ids.
    pub fn decode(&self, image_ids: &[u32]) -> Result<Image> {
        let pictures = self.image_tokenizer().decode(&[image_ids.to_vec()]);
        Ok(pictures?.swap_remove(0))
    }

    /// A picture through the image tokenizer and back.
    pub fn reconstruct(&self, picture: &Image) -> Result<Image> {
        self.decode(&self.encode(picture)?)
    }

    /// The picture of the ids that are known so far, grey where none is; none where no id is known.
    pub fn decode_partial(&self, image_ids: &[Option<u32>]) -> Result<Option<Image>> {
        let (size, grid) = (self.picture_size(), self.grid());
        let known = image_ids.iter().take_while(|id| id.is_some()).count();
        let scattered = image_ids.iter().skip(known).any(Option::is_some);
        let mut picture = Image::filled(size, size, [128; 3]);
        if !scattered {
            // The first rows of ids that are whole are enough, and quicker to decode.
            let rows = known / grid;
            if rows == 0 {
                return Ok(None);
            }
            let ids: Vec<u32> = image_ids[..rows * grid].iter().copied().flatten().collect();
            let upper = self.image_tokenizer().decode_grid(&ids, [rows, grid])?;
            let length = upper.rgb.len().min(picture.rgb.len());
            picture.rgb[..length].copy_from_slice(&upper.rgb[..length]);
            return Ok(Some(picture));
        }
        // An unknown id takes the one before it, and its patch is painted over.
        let mut last = image_ids.iter().copied().flatten().next().unwrap_or(0);
        let ids: Vec<u32> = image_ids
            .iter()
            .map(|id| {
                last = id.unwrap_or(last);
                last
            })
            .collect();
        let whole = self.decode(&ids)?;
        let patch = size / grid;
        for (position, id) in image_ids.iter().enumerate() {
            if id.is_none() {
                continue;
            }
            let (top, left) = (position / grid * patch, position % grid * patch);
            for y in top..top + patch {
                let row = 3 * (y * size + left)..3 * (y * size + left + patch);
                picture.rgb[row.clone()].copy_from_slice(&whole.rgb[row]);
            }
        }
        Ok(Some(picture))
    }

    /// Several pictures as one, decoded together so that they blend into each other: rows of `columns`.
    pub fn decode_seamless(&self, pictures: &[&[u32]], columns: usize) -> Result<Image> {
        let grid = self.grid();
        if columns == 0 || pictures.is_empty() || !pictures.len().is_multiple_of(columns) {
            return Err(Error::invalid(
                "seamless grid",
                format!("{} pictures do not fill rows of {columns}", pictures.len()),
            ));
        }
        if let Some(ids) = pictures.iter().find(|ids| ids.len() != grid * grid) {
            return Err(Error::invalid(
                "image ids",
                format!("expected {} ids, got {}", grid * grid, ids.len()),
            ));
        }
        let mut all = Vec::with_capacity(pictures.len() * grid * grid);
        for row in pictures.chunks(columns) {
            for line in 0..grid {
                for ids in row {
                    all.extend(&ids[line * grid..][..grid]);
                }
            }
        }
        let rows = pictures.len() / columns * grid;
        self.image_tokenizer()
            .decode_grid(&all, [rows, columns * grid])
    }
}

impl From<Box<dyn AnyModel>> for Model {
    fn from(model: Box<dyn AnyModel>) -> Self {
        Model {
            inner: model.into(),
            load_time: Duration::ZERO,
            threads: None,
            licence: None,
        }
    }
}

/// Models are shared between threads.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<crate::rank::Ranker>();
    shared::<crate::search::Index>();
};
