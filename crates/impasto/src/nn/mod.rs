//! The blocks that the models are made of. Each holds its weights and calls [`ops`], which picks our own
//! CPU kernels or the device's operations.

pub mod block;
pub mod conv;
pub mod heads;
pub mod init;
pub mod layer_norm;
pub mod linear;
pub mod llama;
pub mod lora;
pub mod norm;
pub mod ops;
pub mod precision;
pub mod recorded;
pub mod rope;

pub use block::{Block, CacheRows, KvCache, extend_groups};
pub use conv::{Conv2d, ConvTranspose2d, GroupNormSilu, ResBlock};
pub use init::Init;
pub use layer_norm::LayerNorm;
pub use linear::{Embedding, Linear, VocabularyEmbedding};
pub use lora::{Adapt, Adaptable, Adapter, Lora, LoraConfig};
pub use norm::RmsNorm;
pub use precision::ComputePrecision;
