//! Captions of a length that they are padded to, read by CLIP's text tower, as those of aMUSEd and Meissonic.

use std::path::Path;

use crate::models::clip::ClipTextConfig;
use crate::text::clip::{Cleaning, ClipTokenizer, LongCaption, MAX_CHUNKS};
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

/// The ids of a caption, padded; of one in chunks, each padded, one after the other.
pub(super) fn encode(
    text: &ClipTokenizer,
    caption: &str,
    length: usize,
    pad_id: u32,
    long: LongCaption,
) -> Result<Vec<u32>> {
    let rows = text.encode_caption(caption, length, long)?;
    if rows.len() > MAX_CHUNKS {
        return Err(Error::CaptionTooLong {
            // A chunk that ends with a word before its last place has no room for more.
            tokens: rows.len() * length,
            limit: MAX_CHUNKS * length,
            caption: crate::text::shortened(caption),
        });
    }
    let mut ids = Vec::with_capacity(rows.len() * length);
    for mut row in rows {
        row.resize(length, pad_id);
        ids.extend(row);
    }
    Ok(ids)
}

/// Those of a caption without words.
pub(super) fn empty(text: &ClipTokenizer, length: usize, pad_id: u32) -> Vec<u32> {
    let mut ids = vec![text.start(), text.end()];
    ids.resize(length, pad_id);
    ids
}
