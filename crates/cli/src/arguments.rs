//! Flags that several commands share.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use impasto::checkpoint::{EMBEDDED_CLIP, EMBEDDED_NAME, ModelSource, WeightFormat, adapter};
use impasto::data::scenes::{Sources, World};
use impasto::device::{self, Device};
use impasto::families::ModelFiles;
use impasto::files::FileAccess;
use impasto::judges::model_judges;
use impasto::model::{Model, OpenOptions};
use impasto::observer::Event;
use impasto::provenance::{Settings, Upscaled};
use impasto::rank::Ranker;
use impasto::request::SamplingOverrides;
use impasto::sampling::SamplingOptions;
use impasto::text::clip::LongCaption;
use impasto::upscale::{DEFAULT_UPSCALER, Upscaler};

use crate::commands::pull;
use crate::failure::Usage;
use crate::terminal;

/// Which model, and where it runs.
#[derive(Args)]
pub struct ModelFlags {
    /// Name of the embedded or of a pulled model, or a checkpoint folder: impasto's or a published one
    #[arg(long, value_name = "NAME|DIR", default_value = EMBEDDED_NAME)]
    pub model: String,
    /// Precision of linear layers in memory: f32, bf16, int8 or int4. Lower precision: less memory, faster on the CPU,
    /// slightly less accurate [default: as stored]
    #[arg(long, value_name = "FORMAT")]
    pub precision: Option<WeightFormat>,
    /// LoRA adapter to apply; --model is the model that it was trained on
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Read weight files into memory instead of mapping them: for files that may change or be truncated during the run
    #[arg(long)]
    pub no_mmap: bool,
    #[command(flatten)]
    pub device: DeviceFlags,
}

/// Which CLIP has a say in which of several pictures are best.
#[derive(Args)]
pub struct ChoosingClip {
    /// CLIP that has a say in which pictures are best: a name, or a folder written by `train clip` or `import`; none: no
    /// CLIP [default: the embedded one for models that do not caption, else none]
    #[arg(long, value_name = "NAME|DIR")]
    clip: Option<String>,
}

/// The value of --clip that means none.
pub const NO_CLIP: &str = "none";

/// A [`ChoosingClip`] that is there.
pub enum FoundClip {
    /// It was named.
    Named(ModelSource),
    /// None was wanted.
    None,
    /// It depends on the model.
    Usual,
}

impl ChoosingClip {
    /// Finds it, before anything is loaded.
    pub fn find(&self) -> Result<FoundClip> {
        Ok(match self.clip.as_deref() {
            Some(NO_CLIP) => FoundClip::None,
            Some(name) => FoundClip::Named(find_model(name)?),
            None => FoundClip::Usual,
        })
    }
}

impl FoundClip {
    /// Loads what has a say beside a model.
    pub fn load(self, model: &Model) -> Result<Option<Ranker>> {
        let source = match self {
            FoundClip::Named(source) => source,
            FoundClip::None => return Ok(None),
            FoundClip::Usual if model_judges(model) => return Ok(None),
            FoundClip::Usual => find_model(EMBEDDED_CLIP)?,
        };
        Ok(Some(Ranker::load(&source, model.device())?))
    }
}

/// A model by its name or folder; pulled models have names, too.
pub fn find_model(text: &str) -> Result<ModelSource> {
    let source = match ModelSource::parse(text) {
        Ok(source) => source,
        Err(error) => {
            let found = impasto::hub::find_pulled(text, &pull::default_cache()?)?;
            return found.ok_or_else(|| error.into());
        }
    };
    if source.folder().is_some_and(adapter::is_adapter) {
        return Err(Usage::new(
            format!("{text} is an adapter, expected a model"),
            "give it with --adapter beside the model that it was trained on, or make one model of both with `impasto model merge`",
        )
        .into());
    }
    Ok(source)
}

/// Where programs keep what is theirs.
pub fn data_folder() -> Result<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(data) = variable("XDG_DATA_HOME") {
        return Ok(data.join("impasto"));
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.context("no home folder to keep pictures in; pass --data DIR")?;
    Ok(match cfg!(target_os = "macos") {
        true => home.join("Library/Application Support/impasto"),
        false => home.join(".local/share/impasto"),
    })
}

/// The variable of the environment that lets LibTorch round the factors of products in `f32` to tf32.
const ALLOW_TF32: &str = "IMPASTO_ALLOW_TF32";

/// Where the work is done.
#[derive(Args)]
pub struct DeviceFlags {
    /// auto, cpu, cuda, vulkan or metal. A device given by name is used, or the command fails; it is never replaced
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// CPU threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl DeviceFlags {
    /// Sizes the thread pool, selects the device and prints it to stderr.
    pub fn select(&self) -> Result<Device> {
        Ok(self.select_described()?.0)
    }

    /// [`DeviceFlags::select`], and what it says about the device.
    pub fn select_described(&self) -> Result<(Device, String)> {
        self.use_threads()?;
        let (device, description) = device::select(&self.device)?;
        if std::env::var_os(ALLOW_TF32).is_some_and(|value| value == "1") {
            device::allow_tf32(true);
        }
        terminal::note(format_args!("device: {description}"));
        Ok((device, description))
    }
}

impl DeviceFlags {
    /// Sizes the thread pool alone, for work without a device.
    pub fn use_threads(&self) -> Result<()> {
        match self.threads {
            Some(threads) => rayon::ThreadPoolBuilder::new()
                .num_threads(threads.into())
                .build_global()
                .context("the thread pool can't be started"),
            None => Ok(()),
        }
    }
}

impl ModelFlags {
    /// Opens the model.
    pub fn open(&self) -> Result<Model> {
        // Before the device: a wrong path should not wait for a GPU.
        let files = ModelFiles::find(&find_model(&self.model)?)?;
        let device = self.device.select()?;
        let options = OpenOptions {
            precision: self.precision,
            adapter: self.adapter.clone(),
            access: self.access(),
            ..OpenOptions::default()
        };
        open_watched(&files, &device, &options)
    }

    /// Opens another model on the device of an open one.
    pub fn open_beside(
        &self,
        name: &str,
        precision: Option<WeightFormat>,
        device: &Device,
    ) -> Result<Model> {
        let files = ModelFiles::find(&find_model(name)?)?;
        let options = OpenOptions {
            precision,
            access: self.access(),
            ..OpenOptions::default()
        };
        open_watched(&files, device, &options)
    }

    fn access(&self) -> FileAccess {
        match self.no_mmap {
            true => FileAccess::Copy,
            false => FileAccess::Map,
        }
    }
}

/// Opens a model and shows how far it is.
fn open_watched(files: &ModelFiles, device: &Device, options: &OpenOptions) -> Result<Model> {
    let bar = terminal::bytes_bar()?;
    let mut loading = |event: &Event<'_>| {
        if let Event::Loading { done, total } = event {
            bar.set_length(*total);
            bar.set_position(*done);
        }
        terminal::go_on()
    };
    let model = Model::open_watched(files, device, options, &mut loading);
    bar.finish_and_clear();
    Ok(model?)
}

/// Whether finished pictures are enlarged, and by what.
#[derive(Args)]
pub struct UpscaleFlags {
    /// Enlarge the finished pictures this many times by a published network
    #[arg(long, value_name = "2|4", value_parser = ["2", "4"])]
    upscale: Option<String>,
    /// With --upscale: name of a pulled upscaler, or its file [default: realesr-general-x4v3]
    #[arg(long, value_name = "NAME|FILE", requires = "upscale")]
    upscaler: Option<String>,
}

/// An upscaler that was found and is not loaded yet.
pub struct FoundUpscaler {
    source: ModelSource,
    factor: usize,
}

/// How finished pictures are enlarged.
#[derive(Clone, Default)]
pub struct Enlarging {
    pub factor: Option<usize>,
    pub upscaler: Option<Arc<Upscaler>>,
}

impl UpscaleFlags {
    /// Looks for the upscaler before any work.
    pub fn find(&self) -> Result<Option<FoundUpscaler>> {
        let Some(factor) = &self.upscale else {
            return Ok(None);
        };
        let name = self.upscaler.as_deref().unwrap_or(DEFAULT_UPSCALER);
        Ok(Some(FoundUpscaler {
            source: find_model(name)?,
            factor: factor.parse()?,
        }))
    }
}

impl FoundUpscaler {
    /// Loads it, if there is one.
    pub fn load(found: Option<Self>, device: &Device) -> Result<Enlarging> {
        let Some(FoundUpscaler { source, factor }) = found else {
            return Ok(Enlarging::default());
        };
        Ok(Enlarging {
            factor: Some(factor),
            upscaler: Some(Arc::new(Upscaler::load(&source, device, None)?)),
        })
    }
}

impl Enlarging {
    /// The settings of a picture that may have been enlarged: its size is that of what was drawn.
    pub fn settings(&self, settings: &Settings) -> Settings {
        let (Some(factor), Some(upscaler)) = (self.factor, &self.upscaler) else {
            return settings.clone();
        };
        Settings {
            width: settings.width / factor,
            height: settings.height / factor,
            upscale: Some(Upscaled {
                factor,
                upscaler: upscaler.name().to_owned(),
            }),
            ..settings.clone()
        }
    }
}

/// Which CLIP, and where it runs.
#[derive(Args)]
pub struct ClipFlags {
    /// Name of the embedded or of a pulled CLIP, or a folder or file: impasto's or a published one
    #[arg(long = "clip", value_name = "NAME|DIR", default_value = impasto::checkpoint::EMBEDDED_CLIP)]
    clip: String,
    #[command(flatten)]
    device: DeviceFlags,
}

impl ClipFlags {
    /// Loads it.
    pub fn load(&self) -> Result<Ranker> {
        let source = find_model(&self.clip)?;
        let device = self.device.select()?;
        Ok(Ranker::load(&source, &device)?)
    }

    /// Loads it, or a model that sees pictures in its place.
    pub fn load_encoder(&self) -> Result<Encoder> {
        let source = find_model(&self.clip)?;
        let device = self.device.select()?;
        match ModelFiles::find(&source) {
            Ok(files) if files.embeds_pictures() => {
                let model = open_watched(&files, &device, &OpenOptions::default())?;
                Ok(Encoder::Model(model))
            }
            _ => Ok(Encoder::Clip(Ranker::load(&source, &device)?)),
        }
    }
}

/// What embeds.
pub enum Encoder {
    /// Captions and pictures.
    Clip(Ranker),
    /// Pictures alone.
    Model(Model),
}

/// What to do with captions that are too long.
#[derive(Args)]
pub struct LongCaptionFlags {
    /// Shorten a caption that is too long for the model instead of refusing it
    #[arg(long, conflicts_with = "chunks")]
    truncate: bool,
    /// Split a caption that is too long into chunks: a CLIP averages their embeddings; models that draw after a CLIP or T5
    /// text encoder (aMUSEd, Meissonic, LlamaGen) read one chunk after the other
    #[arg(long)]
    chunks: bool,
}

impl LongCaptionFlags {
    /// As the library's option.
    pub fn what(&self) -> LongCaption {
        match (self.chunks, self.truncate) {
            (true, _) => LongCaption::Chunks,
            (false, true) => LongCaption::Truncate,
            (false, false) => LongCaption::Refuse,
        }
    }
}

/// Which composed scenes, and what they are drawn from.
#[derive(Args)]
pub struct WorldFlags {
    /// tiny (8 things, needs no font), small (48 things, 64 px), full (all things, 128 px), styles (a thousand things
    /// by five artists, 128 px) or styles-small (150 of them by three) [default: styles-small for eval, which the
    /// embedded model draws, else small]
    #[arg(long, value_name = "NAME")]
    world: Option<String>,
    /// A colour emoji font [default: where Debian's fonts-noto-color-emoji puts it]
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
    /// CLDR's annotations [default: where Debian's unicode-cldr-core puts them]
    #[arg(long, value_name = "DIR")]
    cldr: Option<PathBuf>,
    /// The art packs that recipes/art/fetch makes, for the world styles [default: art]
    #[arg(long, value_name = "DIR")]
    art: Option<PathBuf>,
}

impl WorldFlags {
    /// The world, `default` where none is named, and the files to draw it from.
    pub fn open(&self, default: &str) -> Result<(World, Sources)> {
        let mut sources = Sources::default();
        sources.font = self.font.clone().unwrap_or(sources.font);
        sources.cldr = self.cldr.clone().unwrap_or(sources.cldr);
        sources.art = self.art.clone().unwrap_or(sources.art);
        Ok((
            World::preset(self.world.as_deref().unwrap_or(default), &sources)?,
            sources,
        ))
    }
}

/// Sampling options; the model's config has the defaults.
#[derive(Args)]
pub struct SamplingFlags {
    /// Guidance scale: how strongly to follow the prompt; 1 disables guidance [default: the model's]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = guidance)]
    guidance: Option<f32>,
    /// Sampling temperature; 0 always takes the likeliest token [default: the model's]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = temperature)]
    temperature: Option<f32>,
    /// Sample from this many likeliest tokens only [default: the model's]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = top_k)]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens whose probabilities add up to this [default: the model's]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = top_p)]
    top_p: Option<f32>,
}

impl SamplingFlags {
    /// The options that were given.
    pub fn overrides(&self) -> SamplingOverrides {
        SamplingOverrides {
            guidance_scale: self.guidance,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    /// The model's options, overridden by the given ones.
    pub fn over(&self, defaults: &SamplingOptions) -> SamplingOptions {
        self.overrides().over(defaults)
    }
}

fn guidance(text: &str) -> Result<f32, String> {
    checked(text, |guidance_scale, options| SamplingOptions {
        guidance_scale,
        ..options
    })
}

/// A value that [`SamplingOptions`] accepts.
pub fn temperature(text: &str) -> Result<f32, String> {
    checked(text, |temperature, options| SamplingOptions {
        temperature,
        ..options
    })
}

/// A value that [`SamplingOptions`] accepts.
pub fn top_k(text: &str) -> Result<usize, String> {
    checked(text, |top_k, options| SamplingOptions {
        top_k: Some(top_k),
        ..options
    })
}

/// A value that [`SamplingOptions`] accepts.
pub fn top_p(text: &str) -> Result<f32, String> {
    checked(text, |top_p, options| SamplingOptions {
        top_p: Some(top_p),
        ..options
    })
}

/// A number that the library accepts in its place.
fn checked<T: std::str::FromStr<Err: std::fmt::Display> + Copy>(
    text: &str,
    place: impl FnOnce(T, SamplingOptions) -> SamplingOptions,
) -> Result<T, String> {
    let value = text.parse::<T>().map_err(|e| e.to_string())?;
    place(value, SamplingOptions::greedy())
        .validate()
        .map_err(|e| e.to_string())?;
    Ok(value)
}

/// A prompt or caption that is not empty.
pub fn prompt(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty, expected a caption such as \"a red turtle\"".to_owned());
    }
    Ok(text.to_owned())
}

/// 32 bits from the system's randomness, short enough to be typed again.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
