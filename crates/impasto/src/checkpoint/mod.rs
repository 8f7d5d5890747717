//! A checkpoint: a directory of `config.json`, `*.safetensors`, `tokenizer.json` and `MODEL_CARD.md`.
//!
//! Weights of linear layers may be packed into fewer bits ([`WeightFormat`]), in the file, in memory or both.
//! Nothing in a file is ever executed. Loading is strict: every tensor must be there, have its shape and
//! be finite, and none may be left over.

pub mod adapter;
mod clip;
pub(crate) mod config_file;
pub(crate) use config_file::check_numbers;
pub mod dalle_pytorch_clip;
pub mod image_tokenizer;
mod loading;
pub mod pytorch;
pub(crate) mod saving;
mod source;
pub mod stored;
pub mod weights;

pub use crate::nn::ops::packed::WeightFormat;
pub use clip::{CaptionTokenizer, ClipModel, ClipModelConfig, TextTokenizerKind};
pub(crate) use source::IMAGE_TOKENIZER;
pub use source::{EMBEDDED_CLIP, EMBEDDED_NAME, ModelSource};
