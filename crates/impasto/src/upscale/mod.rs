//! Pictures enlarged by published networks ([`crate::models::upscaler`]), tile by tile.
//!
//! ```no_run
//! use impasto::image::Original;
//! use impasto::observer::NoObserver;
//! use impasto::{Upscale, Upscaler, device};
//!
//! let (device, _) = device::select("cpu")?;
//! let upscaler = Upscaler::open("RealESRGAN_x4plus.pth", &device, &Default::default())?;
//! let request = Upscale::new(Original::open("cat.png")?);
//! let large = upscaler.run(&request, &mut NoObserver)?.image;
//! # Ok::<(), impasto::Error>(())
//! ```
//!
//! Around the network everything is as in `RealESRGANer` (Real-ESRGAN `realesrgan/utils.py`): odd sides are reflected
//! where the network takes steps of two pixels, transparency goes through the network as a grey picture, a factor that
//! is not the network's own is scaled to with a Lanczos filter. Deviations: what is opaque stays so without the
//! network; a network that enlarges too little is run again; tiles of equal size, with 16 instead of 10 pixels of overlap.

mod tiles;

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{ModelSource, WeightFormat};
use crate::error::Reason;
use crate::image::{Image, Original, Planes};
use crate::import::upscaler as published;
use crate::models::upscaler::{UpscalerConfig, UpscalerNet};
use crate::nn::precision::convolutions_in_bf16;
use crate::observer::{Event, Observer};
use crate::work::Request;
use crate::{Error, Result};

pub use tiles::{Span, spans};

/// The published upscaler that is used where none is named: small, and quick on a CPU.
pub const DEFAULT_UPSCALER: &str = "realesr-general-x4v3";

/// The largest factor.
pub const MAX_FACTOR: usize = 8;

/// Pixels on each side of a tile that are seen and not written.
const OVERLAP: usize = 16;
/// The largest tile, without overlap.
const MAX_TILE: usize = 1 << 12;

/// How an upscaler is opened.
#[derive(Clone, Debug, Default)]
pub struct UpscalerOptions {
    /// In what convolutions multiply, f32 or bf16; f32, if not given. On a CPU without units for bf16 it is f32.
    pub precision: Option<WeightFormat>,
    /// Where pulled models are kept, for names of such.
    pub cache: Option<PathBuf>,
}

/// A network that enlarges pictures, ready to run.
#[derive(Debug)]
pub struct Upscaler {
    name: String,
    net: UpscalerNet,
    device: Device,
}

impl Upscaler {
    /// Opens a published network by the name of a pulled one, or by its file or folder.
    pub fn open(name_or_path: &str, device: &Device, options: &UpscalerOptions) -> Result<Self> {
        let source = ModelSource::find(name_or_path, options.cache.as_deref())?;
        Upscaler::load(&source, device, options.precision)
    }

    /// [`Upscaler::open`] of one that was found before.
    pub fn load(
        source: &ModelSource,
        device: &Device,
        precision: Option<WeightFormat>,
    ) -> Result<Self> {
        let Some(path) = source.folder() else {
            let reason = "is a model that draws, expected an upscaler such as Real-ESRGAN's";
            return Err(Error::invalid("upscaler", reason));
        };
        let found = published::load(path, device)?;
        let net = match precision {
            None | Some(WeightFormat::F32) => found.net,
            Some(WeightFormat::Bf16) => convolutions_in_bf16(found.net),
            Some(other) => {
                let reason = format!("expected f32 or bf16 for an upscaler, got {other}");
                return Err(Error::invalid("precision", reason));
            }
        };
        Ok(Upscaler {
            name: found.name,
            net,
            device: device.clone(),
        })
    }

    /// What its repository or file is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which network, and its sizes.
    pub fn config(&self) -> UpscalerConfig {
        self.net.config()
    }

    /// Validates a request and runs it.
    ///
    /// # Errors
    /// What is wrong with the request, and [`Error::Stopped`] where `observer` stops it.
    pub fn run(&self, request: &Upscale, observer: &mut dyn Observer) -> Result<UpscaleOutcome> {
        request.validate()?;
        request.run(self, observer)
    }

    /// A picture `factor` times as large.
    pub fn enlarge(
        &self,
        picture: &Image,
        factor: usize,
        observer: &mut dyn Observer,
    ) -> Result<Image> {
        let request = Upscale {
            factor: Some(factor),
            ..Upscale::new(Original::from(picture))
        };
        Ok(self.run(&request, observer)?.image.picture())
    }

    /// One pass over all tiles.
    fn pass(&self, from: &Original, work: &mut Work<'_>) -> Result<Original> {
        let (scale, step) = (self.config().scale(), self.config().step());
        let mut to = from.of_size(scale * from.width(), scale * from.height())?;
        for rows in work.spans(from.height(), step) {
            for columns in work.spans(from.width(), step) {
                let planes = from.planes(
                    &tiles::padded(&columns.seen, step),
                    &tiles::padded(&rows.seen, step),
                );
                let sides = [&rows, &columns].map(|span| span.seen.len().next_multiple_of(step));
                let through = |colours: Vec<f32>| {
                    let pixels = Tensor::from_data(
                        TensorData::new(colours, [1, 3, sides[0], sides[1]]),
                        &self.device,
                    );
                    let of = |span: &Span| {
                        let first = scale * (span.written.start - span.seen.start);
                        (first, scale * span.written.len())
                    };
                    let ((top, height), (left, width)) = (of(&rows), of(&columns));
                    let enlarged = self.net.forward(pixels);
                    finite(enlarged.narrow(2, top, height).narrow(3, left, width))
                };
                let grey = planes.opacity_as_grey();
                let enlarged = Planes {
                    colours: through(planes.colours)?,
                    opacity: match grey {
                        Some(grey) => Some(Planes::grey_as_opacity(&through(grey)?)),
                        None => None,
                    },
                };
                let of = |span: &Span| scale * span.written.start..scale * span.written.end;
                to.set_planes((of(&columns), of(&rows)), &enlarged);
                work.advance()?;
            }
        }
        Ok(to)
    }
}

/// Numbers in 0..1 of pixels.
fn finite(pixels: Tensor<4>) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = pixels
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("pixels", Reason::of(e)))?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::NonFinite {
            what: "pixel",
            detail: format!("{} at value {at}", values[at]),
        });
    }
    values
        .iter_mut()
        .for_each(|value| *value = value.clamp(0.0, 1.0));
    Ok(values)
}

/// Tiles, counted over all passes.
struct Work<'a> {
    tile: usize,
    overlap: usize,
    done: usize,
    total: usize,
    observer: &'a mut dyn Observer,
}

impl Work<'_> {
    fn spans(&self, length: usize, step: usize) -> Vec<Span> {
        spans(length, self.tile, self.overlap, step)
    }

    fn advance(&mut self) -> Result<()> {
        self.done += 1;
        let (done, total) = (self.done, self.total);
        match self.observer.event(&Event::Items { done, total }) {
            flow if flow.is_break() => Err(Error::Stopped),
            _ => Ok(()),
        }
    }
}

/// A request to enlarge a picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upscale {
    /// How many times as large the sides become; the network's own factor, if not given.
    #[serde(default)]
    pub factor: Option<usize>,
    /// The largest side of a tile in pixels of the picture, without overlap: memory grows with its square. 384 for
    /// `RRDBNet`, 512 for `SRVGGNetCompact`, if not given.
    #[serde(default)]
    pub tile: Option<usize>,
    /// Pixels on each side of a tile that the network sees and that are not written. Where it reaches at least as far
    /// as the network does ([`UpscalerConfig::reach`]), tiles change nothing; pixels that are further from a seam than
    /// the difference never change.
    #[serde(default = "overlap")]
    pub overlap: usize,
    /// The picture.
    #[serde(skip)]
    pub image: Option<Arc<Original>>,
}

fn overlap() -> usize {
    OVERLAP
}

/// What came of an [`Upscale`].
#[derive(Clone, Debug)]
pub struct UpscaleOutcome {
    /// The picture, with the same kind of samples.
    pub image: Original,
    /// How many times as large its sides are.
    pub factor: usize,
    /// Tiles that the network enlarged.
    pub tiles: usize,
}

impl Upscale {
    /// A picture enlarged by the network's own factor.
    pub fn new(image: Original) -> Self {
        Upscale {
            factor: None,
            tile: None,
            overlap: OVERLAP,
            image: Some(Arc::new(image)),
        }
    }
}

impl Request<Upscaler> for Upscale {
    type Outcome = UpscaleOutcome;

    fn validate(&self) -> Result<()> {
        if self.image.is_none() {
            return Err(Error::invalid("image", "expected one, got none"));
        }
        if let Some(factor) = self.factor
            && !(1..=MAX_FACTOR).contains(&factor)
        {
            let reason = format!("expected 1 to {MAX_FACTOR}, got {factor}");
            return Err(Error::invalid("factor", reason));
        }
        if let Some(tile) = self.tile
            && !(16..=MAX_TILE).contains(&tile)
        {
            let reason = format!("expected 16 to {MAX_TILE} pixels, got {tile}");
            return Err(Error::invalid("tile", reason));
        }
        if self.overlap > MAX_TILE {
            let reason = format!("expected 0 to {MAX_TILE} pixels, got {}", self.overlap);
            return Err(Error::invalid("overlap", reason));
        }
        Ok(())
    }

    fn run(&self, upscaler: &Upscaler, observer: &mut dyn Observer) -> Result<UpscaleOutcome> {
        let Some(image) = &self.image else {
            return Err(Error::invalid("image", "expected one, got none"));
        };
        let config = upscaler.config();
        let (scale, step) = (config.scale(), config.step());
        let factor = self.factor.unwrap_or(scale);
        let (width, height) = (image.width(), image.height());
        let mut passes = 1;
        while scale.pow(passes) < factor {
            passes += 1;
        }
        // Refused before any work.
        let most = scale.pow(passes).max(factor);
        Original::check_size(width.saturating_mul(most), height.saturating_mul(most))?;
        let usual = match config {
            UpscalerConfig::Rrdb(_) => 384,
            UpscalerConfig::Compact(_) => 512,
        };
        let mut work = Work {
            tile: self.tile.unwrap_or(usual),
            overlap: self.overlap,
            done: 0,
            total: 0,
            observer,
        };
        let tiles = |length: usize| work.spans(length, step).len();
        let of_pass = |pass: u32| tiles(width * scale.pow(pass)) * tiles(height * scale.pow(pass));
        work.total = (0..passes).map(of_pass).sum();
        let mut enlarged = upscaler.pass(image, &mut work)?;
        for _ in 1..passes {
            enlarged = upscaler.pass(&enlarged, &mut work)?;
        }
        Ok(UpscaleOutcome {
            image: enlarged.resize(factor * width, factor * height)?,
            factor,
            tiles: work.done,
        })
    }
}
