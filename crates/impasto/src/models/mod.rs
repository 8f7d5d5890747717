//! One file or folder per published or own architecture; what they share lives in [`crate::nn`].

pub mod amused;
pub mod clip;
pub mod dalle;
pub mod dalle_bart;
pub mod dalle_pytorch;
pub mod discrete_vae;
pub mod discriminator;
pub mod dvae;
mod ids;
pub mod image_tokenizer;
pub mod janus;
pub mod llamagen;
pub mod masked;
pub mod meissonic;
mod pairs;
pub mod parameters;
mod row_groups;
pub mod rudalle;
pub mod safety_checker;
pub mod t5;
pub mod taming_vqgan;
pub mod upscaler;
mod visibility;
pub mod vit;
pub mod vqgan;

pub use amused::{Amused, AmusedConfig};
pub use clip::{Clip, ClipConfig};
pub use dalle::{Dalle, DalleConfig};
pub use dalle_bart::{DalleBart, DalleBartConfig};
pub use dalle_pytorch::{DallePytorch, DallePytorchConfig};
pub use image_tokenizer::{ImageTokenizer, ImageTokenizerConfig};
pub use janus::{Janus, JanusConfig};
pub use llamagen::{LlamaGen, LlamaGenConfig};
pub use meissonic::{Meissonic, MeissonicConfig};
pub use rudalle::{RuDalle, RuDalleConfig};
pub use safety_checker::{SafetyChecker, SafetyCheckerConfig};
pub use vit::{Vit, VitConfig};

#[cfg(test)]
mod goldens;
