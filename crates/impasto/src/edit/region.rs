//! What of a picture is to be drawn, as requests say it: a mask, a rectangle, damage, what lies beyond its sides.

use serde::{Deserialize, Serialize};

use super::mask::{Area, Mask};
use super::{Sides, damage};
use crate::image::Original;
use crate::{Error, Result};

/// Which pixels are drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Where the picture is transparent.
    #[default]
    Transparent,
    /// Where it is not.
    Opaque,
    /// A mask of the picture's size.
    #[serde(skip)]
    Mask(Mask),
    /// A rectangle.
    Box(Area),
    /// All but a rectangle.
    AllBut(Area),
    /// All below the first rows of the model's grid.
    BelowRows(usize),
    /// Scratches and holes of this colour, or of the likeliest one.
    Damage(Option<[u8; 3]>),
    /// New pixels beyond the picture's sides.
    Outpaint(Sides),
}

/// A picture and what of it is to be drawn.
#[derive(Clone, Debug)]
pub struct Canvassed {
    /// The picture, extended where it is outpainted.
    pub original: Original,
    /// What is drawn.
    pub mask: Mask,
    /// Side of the windows, where the mask alone does not say it.
    pub window: Option<usize>,
    /// The colour of damage that was found.
    pub damage: Option<[u8; 3]>,
}

impl Region {
    /// The region of a picture, for a model whose images have `grid` rows of ids.
    ///
    /// # Errors
    /// Where nothing, or all, would be drawn, and where it reaches out of the picture.
    pub fn of(&self, original: Original, grid: usize) -> Result<Canvassed> {
        let (width, height) = (original.width(), original.height());
        let (mut window, mut colour) = (None, None);
        let (original, mask) = match self {
            Region::Mask(mask) => (original, mask.clone()),
            Region::Box(area) => (original, Mask::of_area(width, height, *area)?),
            Region::AllBut(area) => {
                let kept = Mask::of_area(width, height, *area)?;
                (original, kept.inverted())
            }
            Region::BelowRows(rows) => {
                // All rows would leave nothing to draw; in a very low picture a row may have no pixel.
                let kept = rows * height / grid;
                if *rows >= grid || kept == 0 {
                    return Err(Error::invalid(
                        "rows",
                        format!(
                            "{rows} of the model's {grid} rows of a picture {height} pixels high leave nothing to keep or to draw; expected 1 to {}",
                            grid - 1
                        ),
                    ));
                }
                let area = Area {
                    x: 0,
                    y: 0,
                    width,
                    height: kept,
                };
                let kept = Mask::of_area(width, height, area)?;
                (original, kept.inverted())
            }
            Region::Damage(named) => {
                let found = damage::find(&original.picture(), *named)?;
                colour = Some(found.colour);
                (original, found.mask)
            }
            Region::Outpaint(sides) => {
                let extended =
                    original.extended(sides.left, sides.top, sides.right, sides.bottom)?;
                let old = Area {
                    x: sides.left,
                    y: sides.top,
                    width,
                    height,
                };
                let mask = Mask::of_area(extended.width(), extended.height(), old)?.inverted();
                // As much as the old picture shows: what is new comes at its scale.
                window = Some(width.min(height));
                (extended, mask)
            }
            Region::Transparent | Region::Opaque => {
                let asked = original.transparent().ok_or_else(|| {
                    Error::invalid(
                        "region",
                        "the picture has no transparency that could say what to draw",
                    )
                })?;
                let mask = Mask {
                    width,
                    height,
                    asked,
                };
                match self {
                    Region::Opaque => (original, mask.inverted()),
                    _ => (original, mask),
                }
            }
        };
        mask.check(original.width(), original.height())?;
        Ok(Canvassed {
            original,
            mask,
            window,
            damage: colour,
        })
    }
}
