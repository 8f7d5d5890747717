//! What every command that draws or measures needs, of whichever family the model is.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;

use super::dalle_mini::{DalleMiniPipeline, is_dalle_mini};
use super::dalle_pytorch::{DallePytorchPipeline, is_dalle_pytorch};
use super::image_tokenizer::{ImageTokenizerPipeline, is_image_tokenizer};
use super::{GenerateRequest, GeneratedImage, Likelihood, Pipeline, Progress, Timings};
use crate::canvas::{Canvas, Caption};
use crate::caption::{
    ContinueRequest, GeneratedCaption, Language, Search, captions_in, continuations,
};
use crate::checkpoint::{Model, ModelSource, WeightFormat};
use crate::generate::InfillModel;
use crate::image::Picture;
use crate::models::ImageTokenizer;
use crate::sampling::SamplingOptions;
use crate::{Error, Result, files};

/// A model of any family, ready to run.
pub trait AnyPipeline: Debug {
    /// The model's name.
    fn name(&self) -> &str;

    /// Where the weights are.
    fn device(&self) -> &Device;

    /// Pixels ↔ image ids.
    fn image_tokenizer(&self) -> &ImageTokenizer;

    /// The default sampling options for pictures.
    fn sampling(&self) -> &SamplingOptions;

    /// Whether the model can read a prompt.
    fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()>;

    /// Draws; see [`Pipeline::generate`].
    fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)>;

    /// The default sampling options for text.
    fn text_sampling(&self) -> SamplingOptions {
        SamplingOptions {
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: None,
            top_p: None,
        }
    }

    /// Captions with one beginning, in the model's own words.
    fn continue_text(&self, _request: &ContinueRequest) -> Result<Vec<GeneratedCaption>> {
        no_captions(self.name())
    }

    /// The model as one that fills canvases.
    fn canvas_model(&self) -> Result<&dyn InfillModel>;

    /// Whether captions of a picture are drawn without it and ranked by it: in its sequence captions come first.
    fn ranks_captions(&self) -> bool {
        false
    }

    /// `n` captions of a picture, the likeliest first; there may be fewer.
    fn captions(
        &self,
        _picture: &Picture,
        _n: usize,
        _search: &Search,
    ) -> Result<Vec<GeneratedCaption>> {
        no_captions(self.name())
    }

    /// [`AnyPipeline::captions`] in a language, by models that were trained on both; others know one.
    fn captions_in(
        &self,
        picture: &Picture,
        n: usize,
        search: &Search,
        _language: Option<Language>,
    ) -> Result<Vec<GeneratedCaption>> {
        self.captions(picture, n, search)
    }

    /// ln p of a caption, where the model generates any, and of a picture given it.
    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood>;

    /// Side of the pictures in pixels.
    fn picture_size(&self) -> usize {
        self.image_tokenizer().config().picture_size()
    }

    /// Image ids along a side.
    fn grid(&self) -> usize {
        self.image_tokenizer().config().grid()
    }

    /// Row-major ids of a picture of any size: its middle square, scaled to the model's.
    fn encode(&self, picture: &Picture) -> Result<Vec<u32>> {
        let picture = picture.fit_square(self.picture_size())?;
        let ids = self.image_tokenizer().encode(&[picture], self.device());
        Ok(ids?.swap_remove(0))
    }

    /// The picture of row-major ids.
    fn decode(&self, image_ids: &[u32]) -> Result<Picture> {
        let pictures = self.image_tokenizer().decode(&[image_ids.to_vec()]);
        Ok(pictures?.swap_remove(0))
    }

    /// A picture through the image tokenizer and back.
    fn reconstruct(&self, picture: &Picture) -> Result<Picture> {
        self.decode(&self.encode(picture)?)
    }

    /// The picture of the first rows of ids that are whole, and grey below them; none where there is no row yet.
    fn decode_beginning(&self, image_ids: &[u32]) -> Result<Option<Picture>> {
        let (size, grid) = (self.picture_size(), self.grid());
        let rows = image_ids.len() / grid;
        if rows == 0 {
            return Ok(None);
        }
        let ids = &image_ids[..rows * grid];
        let told = self.image_tokenizer().decode_grid(ids, [rows, grid])?;
        let mut picture = Picture::filled(size, size, [128; 3]);
        let length = told.rgb.len().min(picture.rgb.len());
        picture.rgb[..length].copy_from_slice(&told.rgb[..length]);
        Ok(Some(picture))
    }

    /// Several pictures as one, decoded together so that they go over into each other: rows of `columns`.
    fn decode_seamless(&self, pictures: &[&[u32]], columns: usize) -> Result<Picture> {
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

/// The error of models that cannot generate captions.
fn no_captions<T>(name: &str) -> Result<T> {
    Err(Error::invalid(
        "model",
        format!("{name} cannot generate captions; impasto's own models and DALLE-pytorch's can"),
    ))
}

/// Whether a model is of another family than our own, in our format or as it was published.
pub fn is_published(source: &ModelSource) -> bool {
    is_dalle_mini(source) || is_image_tokenizer(source) || is_dalle_pytorch(source)
}

/// Refuses what is no model, before the time that loading one takes.
pub fn check(source: &ModelSource) -> Result<()> {
    match source.folder() {
        _ if is_published(source) => Ok(()),
        Some(path) if path.is_file() => Err(Error::bad_file(
            path,
            "not a published model that is known: expected dalle.pt, vae.pt, or a .ckpt beside its .yaml",
        )),
        _ => source.config().map(drop),
    }
}

/// Loads a model of whichever family, of our own format or as it was published, onto `device`.
/// The transformer's weights are held as `wanted`; without, as they are stored.
pub fn open(
    source: &ModelSource,
    device: &Device,
    wanted: Option<WeightFormat>,
) -> Result<Box<dyn AnyPipeline>> {
    if is_dalle_mini(source) {
        let pipeline = DalleMiniPipeline::load_in(source, device, wanted)?;
        return Ok(Box::new(pipeline));
    }
    if is_image_tokenizer(source) {
        refuse_other_weights(wanted, "image tokenizers")?;
        return Ok(Box::new(ImageTokenizerPipeline::load(source, device)?));
    }
    if is_dalle_pytorch(source) {
        let pipeline = DallePytorchPipeline::load_in(source, device, wanted)?;
        return Ok(Box::new(pipeline));
    }
    check(source)?;
    Ok(Box::new(Pipeline::load_in(source, device, wanted)?))
}

/// Says which models have their weights in f32 alone.
pub(super) fn refuse_other_weights(wanted: Option<WeightFormat>, what: &str) -> Result<()> {
    match wanted {
        None | Some(WeightFormat::F32) => Ok(()),
        Some(format) => Err(Error::invalid(
            "precision",
            format!("{what} are held in f32 only, not in {format}"),
        )),
    }
}

/// Refuses a folder that has something in it.
pub(super) fn check_new(dir: &Path) -> Result<()> {
    if dir.exists() && !files::is_empty(dir)? {
        return Err(Error::invalid(
            "output",
            format!(
                "{} is there already, expected a new or an empty folder",
                dir.display()
            ),
        ));
    }
    Ok(())
}

/// Writes a model of whichever family as a checkpoint whose weights are in `format`. Beside the packed model one
/// tensor at a time is in memory.
pub fn quantise(source: &ModelSource, format: WeightFormat, dir: &Path) -> Result<()> {
    check_new(dir)?;
    // Packed weights are held on the CPU only.
    let device = Device::flex();
    if is_image_tokenizer(source) {
        refuse_other_weights(Some(format), "image tokenizers")?;
    }
    if is_dalle_pytorch(source) {
        let pipeline = DallePytorchPipeline::load_in(source, &device, Some(format))?;
        return files::write_folder(dir, |dir| pipeline.save_as_held(source, dir));
    }
    if is_dalle_mini(source) {
        let pipeline = DalleMiniPipeline::load_in(source, &device, Some(format))?;
        return files::write_folder(dir, |dir| pipeline.model.save_as_held(source, dir));
    }
    let model = Model::load_in(source, &device, Some(format))?;
    files::write_folder(dir, |dir| model.save_as_held(dir))
}

impl AnyPipeline for Pipeline {
    fn name(&self) -> &str {
        &self.model.config.name
    }

    fn device(&self) -> &Device {
        &self.model.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.model.config.sampling
    }

    fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()> {
        let length = self.model.config.dalle.text_length;
        self.model
            .text
            .encode_caption(prompt, length, truncate)
            .map(drop)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        Pipeline::generate(self, request, progress)
    }

    fn continue_text(&self, request: &ContinueRequest) -> Result<Vec<GeneratedCaption>> {
        continuations(&self.model, request)
    }

    fn canvas_model(&self) -> Result<&dyn InfillModel> {
        Ok(&self.model)
    }

    fn captions(
        &self,
        picture: &Picture,
        n: usize,
        search: &Search,
    ) -> Result<Vec<GeneratedCaption>> {
        self.captions_in(picture, n, search, None)
    }

    fn captions_in(
        &self,
        picture: &Picture,
        n: usize,
        search: &Search,
        language: Option<Language>,
    ) -> Result<Vec<GeneratedCaption>> {
        let canvas = Canvas::of(&self.encode(picture)?, Caption::Asked);
        captions_in(&self.model, &canvas, n, search, language)
    }

    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood> {
        Pipeline::likelihood(self, caption, picture, truncate)
    }
}
