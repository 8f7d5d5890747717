//! `impasto edit`: holes of a picture drawn anew.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::{ArgGroup, Args};
use impasto::edit::{Area, Canvassed, Mask, Region, Sides};
use impasto::files;
use impasto::image::{Format, Image, Original};

use super::drawing::{DrawingFlags, Task};
use crate::arguments::prompt;
use crate::failure::Usage;
use crate::{outputs, terminal};

/// Redraw parts of a picture
///
/// The part is given by --mask, --box, --damaged or --outpaint, else by the picture's transparency. All other pixels
/// stay the same, bit for bit in a PNG.
#[derive(Args)]
#[command(group = ArgGroup::new("where").multiple(false))]
pub struct Arguments {
    /// The picture, of any size
    image: PathBuf,
    /// Prompt for the whole picture [default: none; the hole is drawn to fit its surroundings]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    /// Mask of the picture's size: redrawn where it is transparent, or where it is bright if it has no transparency
    #[arg(long, value_name = "FILE", group = "where")]
    mask: Option<PathBuf>,
    /// Invert the mask (or the transparency, or the box)
    #[arg(long, conflicts_with_all = ["damaged", "outpaint"])]
    mask_invert: bool,
    /// Redraw this rectangle, in pixels from the top left corner
    #[arg(long = "box", value_name = "X,Y,W,H", group = "where")]
    area: Option<Area>,
    /// Redraw scratches and holes of one colour, such as white or #ff00ff [default: detected]
    #[arg(long, value_name = "COLOUR", group = "where", num_args = 0..=1, require_equals = true,
          default_missing_value = "auto")]
    damaged: Option<DamageColour>,
    /// Extend the picture beyond its sides: pixels by side, such as left=64,top=32
    #[arg(long, value_name = "SIDES", group = "where")]
    outpaint: Option<Sides>,
    /// Also write the mask that was used: white is redrawn
    #[arg(long, value_name = "FILE")]
    save_mask: Option<PathBuf>,
    #[command(flatten)]
    drawing: DrawingFlags,
}

/// Which colour damage has.
#[derive(Clone, Copy)]
enum DamageColour {
    Auto,
    Named([u8; 3]),
}

impl FromStr for DamageColour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NAMES: [(&str, [u8; 3]); 8] = [
            ("white", [255, 255, 255]),
            ("black", [0, 0, 0]),
            ("red", [255, 0, 0]),
            ("green", [0, 255, 0]),
            ("blue", [0, 0, 255]),
            ("yellow", [255, 255, 0]),
            ("magenta", [255, 0, 255]),
            ("cyan", [0, 255, 255]),
        ];
        if text == "auto" {
            return Ok(DamageColour::Auto);
        }
        if let Some((_, colour)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(DamageColour::Named(*colour));
        }
        let number = text
            .strip_prefix('#')
            .filter(|digits| digits.len() == 6)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match number {
            Some(number) => Ok(DamageColour::Named(
                [16, 8, 0].map(|shift| (number >> shift) as u8),
            )),
            None => Err(format!(
                "expected {} or #rrggbb, got \"{text}\"",
                NAMES.map(|(name, _)| name).join(", ")
            )),
        }
    }
}

/// Reads, draws, writes, reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let planned = arguments.drawing.plan()?;
    if let Some(path) = &arguments.save_mask {
        outputs::check_file(path, None)?;
    }
    let canvassed = arguments.canvassed()?;
    if let Some(path) = &arguments.save_mask {
        let format = Format::of_path(path)?;
        files::write_atomic(path, &shown(&canvassed.mask)?.encode(format, 100)?)?;
        terminal::note(format_args!("mask: {}", terminal::shown(path)));
    }
    let task = Task {
        path: &arguments.image,
        verb: "edited",
        canvassed,
        prompt: arguments.prompt,
    };
    let model = arguments.drawing.open()?;
    arguments.drawing.draw(&model, task, planned)
}

impl Arguments {
    /// The picture and the part of it to redraw.
    fn canvassed(&self) -> Result<Canvassed> {
        let original = Original::open(&self.image)?;
        let region = if let Some(sides) = self.outpaint {
            Region::Outpaint(sides)
        } else if let Some(path) = &self.mask {
            let mask = Mask::open(path)?;
            Region::Mask(if self.mask_invert {
                mask.inverted()
            } else {
                mask
            })
        } else if let Some(colour) = self.damaged {
            Region::Damage(match colour {
                DamageColour::Auto => None,
                DamageColour::Named(colour) => Some(colour),
            })
        } else {
            match (self.area, self.mask_invert) {
                (Some(area), false) => Region::Box(area),
                (Some(area), true) => Region::AllBut(area),
                (None, false) => Region::Transparent,
                (None, true) => Region::Opaque,
            }
        };
        let by_transparency = matches!(region, Region::Transparent | Region::Opaque);
        if by_transparency && original.transparent().is_none() {
            return Err(Usage::new(
                format!(
                    "{} has no transparency that could say what to draw",
                    self.image.display()
                ),
                "pass --mask, --box, --damaged or --outpaint",
            )
            .into());
        }
        // Only rows of ids depend on the model.
        let canvassed = region.of(original, 1)?;
        if let Some([r, g, b]) = canvassed.damage {
            terminal::note(format_args!(
                "damage: #{r:02x}{g:02x}{b:02x}, {} pixels with their rims",
                canvassed.mask.count()
            ));
        }
        Ok(canvassed)
    }
}

/// The mask as a picture: white is redrawn.
fn shown(mask: &Mask) -> Result<Image> {
    let rgb = mask
        .asked
        .iter()
        .flat_map(|&asked| [if asked { 255 } else { 0 }; 3])
        .collect();
    Ok(Image::new(mask.width, mask.height, rgb)?)
}
