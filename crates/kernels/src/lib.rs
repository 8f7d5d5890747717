//! CPU kernels for training and running transformers and convolutional image tokenizers: plain
//! functions on `f32` slices, with no model and no tensor library.
//!
//! Two promises hold everywhere:
//! - **Invariance.** A result element is accumulated in an order that depends on the length of its
//!   own reduction only: never on the rows beside it, the number of threads or the instruction set's
//!   tile. A row computed alone equals the same row of a batch, bit for bit. (Gradients of weights are
//!   sums over all rows; they do not depend on the threads either.)
//! - **Run-time dispatch.** One generic binary holds AVX-512, AVX2, NEON and portable versions, whatever
//!   of them the processor's family has. The vector versions agree bit for bit (same fused multiply-adds
//!   in the same order); the portable one rounds its products, and agrees to rounding. Instructions that multiply
//!   bfloat16s (AVX-512 BF16, AMX) each have an order of their own, see [`bf16`].

pub mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod bf16;
pub mod conv2d;
pub mod cross_entropy;
pub mod enlarge;
pub mod gelu;
pub mod gemm;
pub mod group_norm;
mod isa;
pub mod layer_norm;
pub mod linear;
pub mod machine;
pub mod memory;
pub mod prelu;
pub mod quantised;
pub mod rms_norm;
pub mod self_attention;
mod shared;
mod simd;
mod stored;
pub mod swiglu;
mod team;
mod vector;

pub use isa::{Isa, extensions, has_vnni, isa};
pub use shared::for_each_item;
pub use stored::Stored;
pub use team::Threads;
