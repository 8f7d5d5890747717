//! Ids on their way into tables of embeddings.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Error, Result};

/// Refuses an id that a table of `known` rows has none for; `what` names the ids in the error.
pub(super) fn check_ids(what: &'static str, ids: &[u32], known: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= known) {
        None => Ok(()),
        Some(id) => Err(Error::invalid(
            what,
            format!("expected ids below {known}, got {id}"),
        )),
    }
}

/// Rows of one length as a tensor, `[rows, length]`.
pub(super) fn ids(rows: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let length = rows.first().map_or(0, |row| row.len());
    let flat: Vec<i32> = rows.concat().into_iter().map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(flat, [rows.len(), length]), device)
}
