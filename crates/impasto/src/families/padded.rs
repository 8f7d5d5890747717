//! Captions of a length that they are padded to, read by CLIP's text tower, as those of aMUSEd and Meissonic.

use std::path::Path;

use crate::models::clip::ClipTextConfig;
use crate::text::clip::{Cleaning, ClipTokenizer, LongCaption};
use crate::{Error, Result};

/// Reads the tokenizer of a folder in our format.
pub(super) fn load(folder: &Path, sizes: &ClipTextConfig, pad_id: u32) -> Result<ClipTokenizer> {
    let rows = sizes.vocab_size;
    let text = ClipTokenizer::load(folder, rows, Cleaning::Transformers)?;
    let largest = (text.vocab_size() - 1).max(pad_id as usize);
    if largest >= rows {
        return Err(Error::bad_file(
            folder,
            format!("has the text id {largest}, the text encoder reads ids below {rows}"),
        ));
    }
    Ok(text)
}

/// The ids of a caption, padded.
pub(super) fn encode(
    text: &ClipTokenizer,
    caption: &str,
    length: usize,
    pad_id: u32,
    truncate: bool,
) -> Result<Vec<u32>> {
    let mut rows = text.encode_caption(caption, length, LongCaption::cut_if(truncate))?;
    let mut ids = rows.swap_remove(0);
    ids.resize(length, pad_id);
    Ok(ids)
}

/// Those of a caption without words.
pub(super) fn empty(text: &ClipTokenizer, length: usize, pad_id: u32) -> Vec<u32> {
    let mut ids = vec![text.start(), text.end()];
    ids.resize(length, pad_id);
    ids
}
