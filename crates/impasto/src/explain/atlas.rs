//! Small pictures of codes.

use crate::image::Image;
use crate::model::Model;
use crate::{Error, Result};

/// Pictures of some codes of a codebook on one sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Atlas {
    /// The codes, in the order of their tiles: rows of [`Atlas::COLUMNS`].
    pub codes: Vec<u32>,
    /// Side of a tile in pixels.
    pub tile: usize,
    /// The sheet.
    pub sheet: Image,
}

impl Atlas {
    /// Tiles in a row.
    pub const COLUMNS: usize = 16;

    /// A sheet of tiles, one for each code.
    pub(super) fn of(codes: Vec<u32>, tile: usize, tiles: &[Image]) -> Result<Self> {
        let mut tiles = tiles.to_vec();
        let places = tiles.len().next_multiple_of(Self::COLUMNS);
        tiles.resize(places, Image::filled(tile, tile, [128; 3]));
        let sheet = Image::grid(&tiles, Self::COLUMNS, 0)?;
        Ok(Atlas { codes, tile, sheet })
    }
}

/// Ids along a side of what is decoded for a tile, so that its middle has neighbours.
const AROUND: usize = 3;

/// The pictures of codes: each is the middle of a small grid of that code alone, decoded. Inside a picture a code looks
/// different, since a decoder also looks at its neighbours.
pub fn atlas(model: &Model, codes: &[u32]) -> Result<Atlas> {
    let mut codes = codes.to_vec();
    codes.sort_unstable();
    codes.dedup();
    let known = model.image_tokenizer().config().codebook_size();
    if codes.is_empty() || codes.last().is_some_and(|&code| code as usize >= known) {
        let reason = format!("expected one or more below {known}, got {:?}", codes.last());
        return Err(Error::invalid("codes", reason));
    }
    let tile = model.picture_size() / model.grid();
    let mut tiles = Vec::with_capacity(codes.len());
    for &code in &codes {
        let ids = [code; AROUND * AROUND];
        let decoded = model
            .image_tokenizer()
            .decode_grid(&ids, [AROUND, AROUND])?;
        tiles.push(middle(&decoded, tile)?);
    }
    Atlas::of(codes, tile, &tiles)
}

/// The middle square of a picture, `side` pixels wide.
fn middle(picture: &Image, side: usize) -> Result<Image> {
    let (left, top) = ((picture.width - side) / 2, (picture.height - side) / 2);
    let rows = (top..top + side).flat_map(|y| {
        let start = 3 * (y * picture.width + left);
        picture.rgb[start..start + 3 * side].iter().copied()
    });
    Image::new(side, side, rows.collect())
}
