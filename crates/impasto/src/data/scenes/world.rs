//! What a world of scenes is made of: plain data, saved with every training run and export.

use serde::{Deserialize, Serialize};

use super::background::{Background, BackgroundKind};
use super::catalogue;
use super::colour::Colour;
use super::font::Sources;
use super::style::Style;
use super::things::{self, Thing};
use crate::{Error, Result};

/// What scenes and captions are made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grammar {
    /// One or two kinds of things; captions of one sentence; only what a scene combines is held out.
    #[default]
    Plain,
    /// Up to four kinds, each at its place; captions that name style and size, and long ones of several
    /// sentences; pairs of a thing and a style are held out, too ([`World::is_held_out_pair`]).
    Rich,
}

impl Grammar {
    fn is_plain(&self) -> bool {
        *self == Grammar::Plain
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde passes it
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// The boxes' sizes in px, by how many things a scene has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// One thing.
    pub one: Vec<usize>,
    /// Two things; several kinds, each in its quadrant.
    pub two: Vec<usize>,
    /// Three or four of one kind.
    pub many: Vec<usize>,
}

/// A finite world: everything a scene may be made of.
///
/// Two runs over equal worlds draw equal scenes; the whole value is written beside what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The preset's name, or the user's.
    pub name: String,
    /// Width and height of a picture in px: a multiple of 64.
    pub picture_size: usize,
    /// Boxes' corners are multiples of this many px.
    pub snap: usize,
    /// The things.
    pub things: Vec<Thing>,
    /// The colours that things may be painted in, besides their natural one.
    pub colours: Vec<Colour>,
    /// The boxes' sizes.
    pub sizes: Sizes,
    /// The backgrounds.
    pub backgrounds: Vec<Background>,
    /// The styles.
    pub styles: Vec<Style>,
    /// The share of kinds of things that keep their natural colour.
    pub natural_share: f64,
    /// The share of scenes with two kinds of things.
    pub two_kinds_share: f64,
    /// The share of scenes with three or four kinds, each one thing in its own quadrant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub many_kinds_share: f64,
    /// What scenes and captions are made by.
    #[serde(default, skip_serializing_if = "Grammar::is_plain")]
    pub grammar: Grammar,
}

impl World {
    /// Eight things whose glyphs ship with the library: needs no font. For tests and smoke trainings.
    pub fn tiny() -> Self {
        World {
            name: "tiny".into(),
            picture_size: 64,
            snap: 16,
            things: things::tiny(),
            colours: vec![Colour::Red, Colour::Green, Colour::Blue],
            sizes: Sizes {
                one: vec![32],
                two: vec![32],
                many: vec![32],
            },
            backgrounds: backgrounds(
                &[
                    BackgroundKind::Plain,
                    BackgroundKind::Stripes,
                    BackgroundKind::Night,
                ],
                &[Colour::White, Colour::Yellow, Colour::Pink],
            ),
            styles: vec![Style::Flat],
            natural_share: 0.5,
            two_kinds_share: 0.3,
            many_kinds_share: 0.0,
            grammar: Grammar::Plain,
        }
    }

    /// Forty-eight compact, colourful things at 64 px on an 8 px grid: what two CPU cores can teach a
    /// model of a few million parameters.
    pub fn small() -> Self {
        World {
            name: "small".into(),
            picture_size: 64,
            snap: 8,
            things: things::small(),
            colours: Colour::OF_THINGS.to_vec(),
            sizes: Sizes {
                one: vec![32, 40],
                two: vec![24, 32],
                many: vec![24],
            },
            backgrounds: backgrounds(&BackgroundKind::PATTERNED, &Colour::ALL),
            styles: vec![Style::Flat],
            natural_share: 0.5,
            two_kinds_share: 0.4,
            many_kinds_share: 0.0,
            grammar: Grammar::Plain,
        }
    }

    /// All things of the font that CLDR names in both languages, at 128 px, in all styles.
    pub fn full(sources: &Sources) -> Result<Self> {
        let things = catalogue::things(sources)?;
        Ok(World {
            name: "full".into(),
            picture_size: 128,
            snap: 2,
            things,
            colours: Colour::OF_THINGS.to_vec(),
            sizes: Sizes {
                one: vec![64, 80, 96],
                two: vec![48, 56, 64],
                many: vec![40, 48, 56],
            },
            backgrounds: backgrounds(&BackgroundKind::PATTERNED, &Colour::ALL),
            styles: vec![
                Style::Flat,
                Style::Pixels,
                Style::Outline,
                Style::Grey,
                Style::Sticker,
            ],
            natural_share: 0.6,
            two_kinds_share: 0.4,
            many_kinds_share: 0.0,
            grammar: Grammar::Plain,
        })
    }

    /// The things that the font and all packs of art have a picture for, at 128 px on the 8 px grid of an image
    /// tokenizer's patches, in the five styles of [`Style::ART`].
    pub fn styles(sources: &Sources) -> Result<Self> {
        let things = catalogue::drawn_in(&Style::ART, catalogue::things(sources)?, sources)?;
        Ok(World {
            name: "styles".into(),
            ..Self::styled(things, &Style::ART)
        })
    }

    /// A hundred and fifty of the things of `styles` in three of its styles: what two CPU cores can teach a model in
    /// some hours. Things that are in `small`, too, have the names that they have there.
    pub fn styles_small(sources: &Sources) -> Result<Self> {
        let all = catalogue::drawn_in(&Style::ART, catalogue::things(sources)?, sources)?;
        Ok(World {
            name: "styles-small".into(),
            ..Self::styled(things::styles_small(all), &Style::SMALL_ART)
        })
    }

    /// The eight shipped things in the two styles that tests have pictures for.
    #[cfg(test)]
    pub(crate) fn tiny_styles() -> Self {
        World {
            name: "tiny-styles".into(),
            ..Self::styled(things::tiny(), &[Style::Noto, Style::Fluent3d])
        }
    }

    /// The world `styles` with other things and styles.
    pub(super) fn styled(things: Vec<Thing>, styles: &[Style]) -> Self {
        World {
            name: "styled".into(),
            picture_size: 128,
            snap: 8,
            things,
            colours: Colour::OF_THINGS.to_vec(),
            sizes: Sizes {
                one: vec![56, 80, 104],
                two: vec![48, 56],
                many: vec![40, 48],
            },
            backgrounds: backgrounds(&BackgroundKind::SOFT, &Colour::ALL),
            styles: styles.to_vec(),
            natural_share: 0.7,
            two_kinds_share: 0.3,
            many_kinds_share: 0.2,
            grammar: Grammar::Rich,
        }
    }

    /// The presets' names.
    pub const PRESETS: [&'static str; 5] = ["tiny", "small", "full", "styles", "styles-small"];

    /// A preset by its name; only `full` and the ones of styles read `sources` here.
    pub fn preset(name: &str, sources: &Sources) -> Result<Self> {
        match name {
            "tiny" => Ok(World::tiny()),
            "small" => Ok(World::small()),
            "full" => World::full(sources),
            "styles" => World::styles(sources),
            "styles-small" => World::styles_small(sources),
            _ => Err(Error::invalid(
                "world",
                format!(
                    "expected one of {}, got \"{name}\"",
                    World::PRESETS.join(", ")
                ),
            )),
        }
    }

    /// Refuses a world that no scene can be drawn from.
    pub fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(Error::invalid("world", reason));
        if self.picture_size == 0 || !self.picture_size.is_multiple_of(64) {
            return invalid(format!(
                "picture_size must be a multiple of 64, got {}",
                self.picture_size
            ));
        }
        if self.snap == 0 || !(self.picture_size / 2).is_multiple_of(self.snap) {
            return invalid(format!(
                "snap must divide half the picture ({}), got {}",
                self.picture_size / 2,
                self.snap
            ));
        }
        if self.things.len() < 2 {
            return invalid(format!(
                "at least 2 things are needed, got {}",
                self.things.len()
            ));
        }
        if self.backgrounds.is_empty() || self.styles.is_empty() {
            return invalid("at least one background and one style are needed".into());
        }
        for background in &self.backgrounds {
            if background.colour.is_some() != background.kind.is_coloured() {
                return invalid(format!(
                    "background {:?} {} a colour",
                    background.kind,
                    if background.kind.is_coloured() {
                        "needs"
                    } else {
                        "has no"
                    }
                ));
            }
        }
        let half = self.picture_size / 2;
        for (name, sizes, limit) in [
            ("one", &self.sizes.one, self.picture_size),
            ("two", &self.sizes.two, half),
            ("many", &self.sizes.many, half),
        ] {
            if sizes.is_empty() {
                return invalid(format!("sizes.{name} is empty"));
            }
            if let Some(bad) = sizes.iter().find(|&&s| s < 8 || s > limit || s % 2 != 0) {
                return invalid(format!(
                    "sizes.{name} must be even numbers from 8 to {limit}, got {bad}"
                ));
            }
        }
        for (name, share) in [
            ("natural_share", self.natural_share),
            ("two_kinds_share", self.two_kinds_share),
            ("many_kinds_share", self.many_kinds_share),
            (
                "two_kinds_share and many_kinds_share together",
                self.two_kinds_share + self.many_kinds_share,
            ),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return invalid(format!("{name} must be from 0 to 1, got {share}"));
            }
        }
        if self.many_kinds_share > 0.0 && self.things.len() < 4 {
            return invalid(format!(
                "at least 4 things are needed for scenes of four kinds, got {}",
                self.things.len()
            ));
        }
        Ok(())
    }

    /// Every size a box may have, ascending.
    pub fn all_sizes(&self) -> Vec<usize> {
        let Sizes { one, two, many } = &self.sizes;
        let mut sizes: Vec<usize> = one.iter().chain(two).chain(many).copied().collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The looks that a thing may have: natural, and painted in each colour that is not its own.
    pub fn looks(&self, thing: usize) -> impl Iterator<Item = Option<Colour>> + '_ {
        let natural = self.things[thing].natural;
        std::iter::once(None).chain(
            self.colours
                .iter()
                .filter(move |&&c| Some(c) != natural)
                .map(|&c| Some(c)),
        )
    }
}

/// The product of kinds and colours, with the plain kinds once. White has no stripes or dots, and no gradient but
/// the soft one.
fn backgrounds(kinds: &[BackgroundKind], colours: &[Colour]) -> Vec<Background> {
    let mut all = Vec::new();
    for &kind in kinds {
        if kind.is_coloured() {
            for &colour in colours {
                let patterned = matches!(
                    kind,
                    BackgroundKind::Gradient | BackgroundKind::Stripes | BackgroundKind::Dots
                );
                if colour != Colour::White || !patterned {
                    all.push(Background {
                        kind,
                        colour: Some(colour),
                    });
                }
            }
        } else {
            all.push(Background { kind, colour: None });
        }
    }
    all
}
