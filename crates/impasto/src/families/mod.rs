//! Model families: architectures with their own weights, text tokenizers and conventions. This is the only place where
//! they are listed, and where it is found out which one a folder or a file is of.
//!
//! A family is three files: its net in [`crate::models`], the names that published files give to its weights in
//! [`crate::import`], and its [`Family`] here. Loading, saving, quantising, merging, fine-tuning, sampling, editing and
//! captioning are written once, over that trait.

mod adapted;
mod amused;
mod answers;
mod attention;
mod captions;
mod checkpoint;
mod dalle_mini;
mod dalle_pytorch;
mod expected;
mod files;
mod info;
mod janus;
mod language;
mod llamagen;
mod meissonic;
mod native;
mod operations;
mod padded;
mod rudalle;
mod sampling;
#[cfg(test)]
mod toy;
mod vision;

use std::fmt::Debug;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use adapted::merge;
pub use amused::{Amused, AmusedOptions};
pub use answers::{Answer, Answerer, Inquiry};
pub(crate) use attention::relevance;
pub use attention::{AttentionRule, Attentive};
pub use captions::{Captioner, ContinueRequest, GeneratedCaption, Search, TextFamily};
pub use checkpoint::{FamilyConfig, FamilyModel, NetworkReport, SaveAs};
pub use dalle_mini::{DalleMini, DalleMiniOptions, DalleMiniText};
pub use dalle_pytorch::{DallePytorch, NoOptions};
pub use expected::{DrawingWork, MachineSpeeds};
pub use files::{ModelFiles, ModelKind};
pub(crate) use info::json as config_json;
pub use info::{ModelInfo, Transformer, info};
pub use janus::{Janus, JanusOptions};
pub use language::Language;
pub use llamagen::{LlamaGen, LlamaGenText};
pub use meissonic::{Meissonic, MeissonicOptions};
pub use native::{Native, NativeConfig, NativeModel, NativeOptions};
pub use operations::{ImportOptions, Imported, import, open, open_native, quantise};
pub use rudalle::RuDalle;
pub use sampling::{AnyModel, Condition, Conditioned, Generator, Infill, PromptText, RunningBatch};
pub use vision::PictureEncoder;

use crate::Result;
use crate::canvas::Conditioning;
use crate::checkpoint::WeightFormat;
use crate::engine::AutoregressiveModel;
use crate::files::FileAccess;
use crate::models::dalle::Order;
use crate::nn::{Adapt, Init};
use crate::text::clip::LongCaption;
#[cfg(doc)]
use crate::text::clip::MAX_CHUNKS;

/// The sizes of a net: what a checkpoint's config says of it.
pub trait NetSizes: Clone + Debug + Serialize + DeserializeOwned + Send + Sync {
    /// The net.
    type Net;

    /// Returns an error that names the invalid field.
    fn validate(&self) -> Result<()>;

    /// How many numbers the net has, at least; computed without a layer being built.
    fn parameters(&self) -> u64;

    /// The net with fresh weights.
    fn init(&self, init: &mut Init) -> Self::Net;

    /// Image ids along a side of an image.
    fn grid(&self) -> usize;

    /// Ids of the image tokenizer.
    fn codebook_size(&self) -> usize;

    /// The longest caption in text ids, start and end included.
    fn text_length(&self) -> usize;

    /// Width of the residual stream.
    fn width(&self) -> usize;

    /// Bytes of the keys and values of one row, where linear layers are in `format`.
    fn cache_bytes(&self, format: WeightFormat) -> u64;

    /// Whether each pass of drawing goes through the linear layer of this name; not where captions or pictures that are
    /// given go through it once.
    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("text_head.")
    }

    /// Tokens of a row that each pass of drawing computes: one where ids are drawn one after the other.
    fn tokens_each_pass(&self) -> usize {
        1
    }

    /// What [`crate::families::info`] reports of it.
    fn describe(&self) -> Transformer;
}

/// The loss of a pass of fine-tuning.
pub struct FamilyLoss {
    /// `[1]`, with a gradient.
    pub loss: Tensor<1>,
    /// What else is worth logging, `[1]` each.
    pub metrics: Vec<(&'static str, Tensor<1>)>,
}

/// How often each window of an edit is filled for the best to be taken, unless a family says otherwise.
pub const USUAL_TRIES: usize = 8;

/// A model family.
pub trait Family: Copy + Debug + Send + Sync + 'static {
    /// The tag in `config.json`: `"architecture": NAME`.
    const NAME: &'static str;
    /// What people call it.
    const TITLE: &'static str;
    /// Whether the tag is written. (Folders of impasto's own models had none from the first.)
    const TAGGED: bool = true;
    /// The key of the sizes in `config.json`.
    const SIZES: &'static str;
    /// The file of the net's weights.
    const WEIGHTS: &'static str;
    /// The weight of the image's loss against the text's in fine-tuning; none for families without a loss of texts.
    const IMAGE_LOSS_WEIGHT: Option<f64> = None;
    /// How often each window of an edit is filled by default, for the best to be taken.
    const TRIES: usize = USUAL_TRIES;

    /// The model as one that embeds pictures; none for families without an encoder that understands them.
    const PICTURE_ENCODER: Option<fn(&FamilyModel<Self>) -> &dyn PictureEncoder> = None;

    /// Sizes of the net.
    type Sizes: NetSizes<Net = Self::Net>;
    /// What else `config.json` says; its fields stand beside those that all families have.
    type Options: Clone + Debug + Serialize + DeserializeOwned + Send + Sync;
    /// The transformer.
    type Net: AutoregressiveModel + Adapt;
    /// Captions → text ids.
    type Text: Clone + Debug + Send + Sync;

    /// Reads the text tokenizer of a folder in our format.
    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<Self::Text>;

    /// Writes the text tokenizer into a folder.
    fn save_text(text: &Self::Text, dir: &Path) -> Result<()>;

    /// Whether captions of any length can be read in chunks, which the text encoder reads apart and whose states the net
    /// attends to one after the other. For families whose text encoder is a CLIP or a T5, which the rest of the net was
    /// trained on as it is.
    fn reads_chunks(_text: &Self::Text) -> bool {
        false
    }

    /// The text ids of a caption, as the net reads them. `long` is [`LongCaption::Chunks`] only where
    /// [`Self::reads_chunks`], and [`LongCaption::Fit`] only elsewhere.
    ///
    /// # Errors
    /// [`crate::Error::CaptionTooLong`], unless it may be truncated, or has no more chunks than [`MAX_CHUNKS`].
    fn encode(
        text: &Self::Text,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>>;

    /// The text ids of no caption, for guidance beside a caption of these ids; without ids, of no caption at all.
    fn unconditional(text: &Self::Text, config: &FamilyConfig<Self>, caption: &[u32]) -> Vec<u32>;

    /// How known ids condition the net.
    fn conditioning(_options: &Self::Options) -> Conditioning {
        Conditioning::TeacherForced
    }

    /// The order in which images are sampled, unless a request says another.
    fn order(_options: &Self::Options) -> Order {
        Order::Raster
    }

    /// How published files of the family are read; none where nobody publishes any.
    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        None
    }

    /// The model as one that writes captions; none for families that only read them.
    fn captioner(_model: &FamilyModel<Self>) -> Option<&dyn Captioner> {
        None
    }

    /// The model as one that answers questions; none for families that don't.
    fn answerer(_model: &FamilyModel<Self>) -> Option<&dyn Answerer> {
        None
    }

    /// The model as one whose attention can be looked at; none for families where that is not written.
    fn attentive(_model: &FamilyModel<Self>) -> Option<&dyn Attentive> {
        None
    }

    /// The net for training; what is no weight of it keeps no gradient.
    fn for_training(net: Self::Net) -> Self::Net {
        net
    }

    /// The family's loss of images after their captions. `image_weight` is [`Self::IMAGE_LOSS_WEIGHT`], or what the
    /// run's config says in its place.
    fn loss(
        net: &Self::Net,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        image_weight: f64,
    ) -> Result<FamilyLoss>;
}

/// Where a published model is, and what it needs besides.
#[derive(Clone, Copy, Debug)]
pub struct PublishedFiles<'a> {
    /// Its folder or file.
    pub path: &'a Path,
    /// What it is called.
    pub name: &'a str,
    /// How its weight files come into memory.
    pub access: FileAccess,
    /// The image tokenizer's folder, for models that come without one; searched beside the model if not given.
    pub image_tokenizer: Option<&'a Path>,
}

/// A published model in memory.
#[derive(Debug)]
pub struct Published<F: Family> {
    /// The model.
    pub model: FamilyModel<F>,
    /// What became of the tensors of each of its networks.
    pub networks: Vec<NetworkReport>,
    /// Bytes of the weight files.
    pub bytes: u64,
}

/// How the published files of a family are read.
pub trait PublishedForm<F: Family>: Debug + Sync {
    /// Whether a folder or a file looks like one, by names and small files alone. `config` is what is in the folder's
    /// `config.json`, if there is one: it is not read twice.
    fn is_published(&self, path: &Path, config: Option<&[u8]>) -> bool;

    /// In what one has the weights of linear layers, for loading it as it is stored.
    fn precision(&self, _files: PublishedFiles<'_>) -> Result<WeightFormat> {
        Ok(WeightFormat::F32)
    }

    /// Loads one onto `device`, the net's weights held in `format`. Strict: a tensor that is missing, left over or of
    /// another shape is an error with the file's own names.
    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<F>>;

    /// What one is, and the bytes of its weight files. Loads it, where that can't be known otherwise.
    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<F>, u64)> {
        let published = self.load(files, &Device::flex(), WeightFormat::F32)?;
        Ok((published.model.config, published.bytes))
    }

    /// Writes one as a folder in our format, called `config.name`.
    fn import(
        &self,
        files: PublishedFiles<'_>,
        options: &ImportOptions,
        dir: &Path,
    ) -> Result<Vec<NetworkReport>> {
        let Published {
            mut model,
            networks,
            ..
        } = self.load(files, &Device::flex(), WeightFormat::F32)?;
        files.name.clone_into(&mut model.config.name);
        if let Some(licence) = &options.licence {
            model.config.licence.clone_from(licence);
        }
        model.save(dir, SaveAs::Floats(options.precision))?;
        Ok(networks)
    }
}

/// Work to be done for the family of a model, whichever that is.
pub trait FamilyVisitor: Sized {
    /// What comes of it.
    type Output;

    /// The work.
    fn visit<F: Family>(self) -> Self::Output;
}

/// The families, in the order in which published files are tried.
macro_rules! families {
    ($($(#[$condition:meta])? $family:ty),+ $(,)?) => {
        /// Their names, as `config.json` has them.
        pub(crate) const NAMES: &[&str] = &[$($(#[$condition])? <$family as Family>::NAME),+];

        /// Does the work for the family of this name; none if there is no such family.
        pub fn visit<V: FamilyVisitor>(name: &str, visitor: V) -> Option<V::Output> {
            $($(#[$condition])? if name == <$family as Family>::NAME {
                return Some(visitor.visit::<$family>());
            })+
            None
        }

        /// The family whose published files these look like.
        fn published_as(path: &Path, config: Option<&[u8]>) -> Option<&'static str> {
            $($(#[$condition])? if let Some(form) = <$family as Family>::published()
                && form.is_published(path, config)
            {
                return Some(<$family as Family>::NAME);
            })+
            None
        }
    };
}

families!(
    Amused,
    DalleMini,
    DallePytorch,
    Janus,
    LlamaGen,
    Meissonic,
    Native,
    RuDalle,
    #[cfg(test)]
    toy::Toy,
);
