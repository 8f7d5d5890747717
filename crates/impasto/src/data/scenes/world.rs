//! What a world of scenes is made of: plain data, saved with every training run and export.

use serde::{Deserialize, Serialize};

use super::catalogue;
use super::glyphs::Sources;
use super::things::{self, Thing};
use crate::{Error, Result};

/// A named colour, of a thing or of a background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Colour {
    White,
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
}

impl Colour {
    /// All of them.
    pub const ALL: [Colour; 8] = [
        Colour::White,
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];
    /// The seven that a thing may be painted in.
    pub const OF_THINGS: [Colour; 7] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];

    /// The strong tone that a thing is painted in.
    pub fn paint(self) -> [f32; 3] {
        match self {
            Colour::White => [245.0, 245.0, 245.0],
            Colour::Red => [222.0, 38.0, 38.0],
            Colour::Orange => [245.0, 128.0, 10.0],
            Colour::Yellow => [250.0, 208.0, 10.0],
            Colour::Green => [48.0, 160.0, 58.0],
            Colour::Blue => [36.0, 96.0, 226.0],
            Colour::Purple => [130.0, 56.0, 190.0],
            Colour::Pink => [246.0, 104.0, 176.0],
        }
    }

    /// The soft tone of a background, so that a thing of the same name still stands out.
    pub fn ground(self) -> [f32; 3] {
        match self {
            Colour::White => [250.0, 250.0, 250.0],
            Colour::Red => [240.0, 126.0, 118.0],
            Colour::Orange => [255.0, 188.0, 112.0],
            Colour::Yellow => [255.0, 238.0, 138.0],
            Colour::Green => [160.0, 218.0, 140.0],
            Colour::Blue => [138.0, 190.0, 246.0],
            Colour::Purple => [188.0, 158.0, 236.0],
            Colour::Pink => [250.0, 190.0, 218.0],
        }
    }

    /// The English word.
    pub fn english(self) -> &'static str {
        match self {
            Colour::White => "white",
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Pink => "pink",
        }
    }

    /// The Chinese word.
    pub fn chinese(self) -> &'static str {
        match self {
            Colour::White => "白色",
            Colour::Red => "红色",
            Colour::Orange => "橙色",
            Colour::Yellow => "黄色",
            Colour::Green => "绿色",
            Colour::Blue => "蓝色",
            Colour::Purple => "紫色",
            Colour::Pink => "粉色",
        }
    }
}

/// What stands behind the things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum BackgroundKind {
    Plain,
    Gradient,
    Stripes,
    Dots,
    SkyAndGrass,
    Night,
    Sea,
    Room,
}

impl BackgroundKind {
    /// All of them.
    pub const ALL: [BackgroundKind; 8] = [
        BackgroundKind::Plain,
        BackgroundKind::Gradient,
        BackgroundKind::Stripes,
        BackgroundKind::Dots,
        BackgroundKind::SkyAndGrass,
        BackgroundKind::Night,
        BackgroundKind::Sea,
        BackgroundKind::Room,
    ];

    /// Whether it comes in several colours.
    pub fn is_coloured(self) -> bool {
        matches!(
            self,
            BackgroundKind::Plain
                | BackgroundKind::Gradient
                | BackgroundKind::Stripes
                | BackgroundKind::Dots
        )
    }
}

/// A background: one kind, in one colour where the kind has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Background {
    /// The kind.
    pub kind: BackgroundKind,
    /// The colour, for the kinds that have one.
    pub colour: Option<Colour>,
}

/// How things are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// As in the font.
    Flat,
    /// In coarse pixels.
    Pixels,
    /// As a drawing of lines: only the edges keep their ink.
    Outline,
    /// Without colour.
    Grey,
    /// With a white border.
    Sticker,
}

/// The boxes' sizes in px, by how many things a scene has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// One thing.
    pub one: Vec<usize>,
    /// Two things.
    pub two: Vec<usize>,
    /// Three or four.
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
            backgrounds: backgrounds(&BackgroundKind::ALL, &Colour::ALL),
            styles: vec![Style::Flat],
            natural_share: 0.5,
            two_kinds_share: 0.4,
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
            backgrounds: backgrounds(&BackgroundKind::ALL, &Colour::ALL),
            styles: vec![
                Style::Flat,
                Style::Pixels,
                Style::Outline,
                Style::Grey,
                Style::Sticker,
            ],
            natural_share: 0.6,
            two_kinds_share: 0.4,
        })
    }

    /// The presets' names.
    pub const PRESETS: [&'static str; 3] = ["tiny", "small", "full"];

    /// A preset by its name; only `full` reads `sources` here.
    pub fn preset(name: &str, sources: &Sources) -> Result<Self> {
        match name {
            "tiny" => Ok(World::tiny()),
            "small" => Ok(World::small()),
            "full" => World::full(sources),
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
        ] {
            if !(0.0..=1.0).contains(&share) {
                return invalid(format!("{name} must be from 0 to 1, got {share}"));
            }
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

/// The product of kinds and colours, with the plain kinds once. White has no stripes, dots or gradient.
fn backgrounds(kinds: &[BackgroundKind], colours: &[Colour]) -> Vec<Background> {
    let mut all = Vec::new();
    for &kind in kinds {
        if kind.is_coloured() {
            for &colour in colours {
                if colour != Colour::White || kind == BackgroundKind::Plain {
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
