//! Logits on the host.

use std::sync::Arc;

use burn::tensor::{DType, FloatDType, Tensor};

use crate::error::Reason;
use crate::{Error, Result};

/// The logits of some rows of a pass.
#[derive(Clone, Debug)]
pub(super) struct Logits {
    values: Arc<Vec<f32>>,
    /// Where each row of these has its own among the pass's.
    rows: Vec<usize>,
    /// Logits of each row.
    count: usize,
    vocabulary: usize,
}

impl Logits {
    /// Those of all rows: `[rows, count, vocabulary]`.
    pub fn of(logits: Tensor<3>) -> Result<Self> {
        let [rows, count, vocabulary] = logits.dims();
        Ok(Logits {
            values: Arc::new(to_host(logits)?),
            rows: (0..rows).collect(),
            count,
            vocabulary,
        })
    }

    /// Those of `rows` rows from `first` on.
    pub fn part(&self, first: usize, rows: usize) -> Self {
        Logits {
            rows: self.rows[first..first + rows].to_vec(),
            ..self.clone()
        }
    }

    /// Puts other rows in the place of these, as [`super::DecodeState::select_rows`] does.
    pub fn select_rows(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|&row| self.rows[row]).collect();
    }

    /// Number `index` of a row.
    pub fn at(&self, row: usize, index: usize) -> &[f32] {
        let start = (self.rows[row] * self.count + index) * self.vocabulary;
        &self.values[start..start + self.vocabulary]
    }
}

/// The numbers of a tensor, row-major.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    // On a GPU it is there that numbers of another type are widened: the host would do it one by one.
    let tensor = match tensor.dtype() {
        DType::BF16 => tensor.cast(FloatDType::F32),
        _ => tensor,
    };
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("logits", Reason::of(e)))
}
