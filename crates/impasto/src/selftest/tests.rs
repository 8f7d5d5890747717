//! That checks can fail, and that the CPU passes against itself.
#![allow(clippy::unwrap_used)]

use burn::tensor::Tensor;

use super::check::forward;
use super::*;
