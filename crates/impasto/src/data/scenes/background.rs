//! Backgrounds of scenes: plain data.

use serde::{Deserialize, Serialize};

use super::colour::Colour;

/// What is painted around the things.
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
    /// One soft tone.
    Smooth,
    /// A soft tone that fades downwards.
    Fade,
    /// A wooden table before a wall.
    Table,
    Meadow,
    NightSky,
    /// The open sea under a light sky.
    Ocean,
    /// A room with a window.
    Parlour,
}

impl BackgroundKind {
    /// Those of the worlds of one drawing style, patterns among them.
    pub const PATTERNED: [BackgroundKind; 8] = [
        BackgroundKind::Plain,
        BackgroundKind::Gradient,
        BackgroundKind::Stripes,
        BackgroundKind::Dots,
        BackgroundKind::SkyAndGrass,
        BackgroundKind::Night,
        BackgroundKind::Sea,
        BackgroundKind::Room,
    ];
    /// Those of the world `styles`: smooth, without patterns.
    pub const SOFT: [BackgroundKind; 7] = [
        BackgroundKind::Smooth,
        BackgroundKind::Fade,
        BackgroundKind::Table,
        BackgroundKind::Meadow,
        BackgroundKind::NightSky,
        BackgroundKind::Ocean,
        BackgroundKind::Parlour,
    ];

    /// Whether it comes in several colours.
    pub fn is_coloured(self) -> bool {
        matches!(
            self,
            BackgroundKind::Plain
                | BackgroundKind::Gradient
                | BackgroundKind::Stripes
                | BackgroundKind::Dots
                | BackgroundKind::Smooth
                | BackgroundKind::Fade
        )
    }

    /// Whether black ink would hardly be seen on it.
    pub fn is_dark(self) -> bool {
        matches!(self, BackgroundKind::Night | BackgroundKind::NightSky)
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

impl Background {
    /// Whether a thing painted in `colour` would hardly stand out.
    pub fn hides(self, colour: Colour) -> bool {
        match self.kind {
            BackgroundKind::Sea | BackgroundKind::Ocean => colour == Colour::Blue,
            BackgroundKind::Meadow => colour == Colour::Green,
            BackgroundKind::NightSky => matches!(colour, Colour::Blue | Colour::Purple),
            BackgroundKind::Table => colour == Colour::Orange,
            _ => self.colour == Some(colour),
        }
    }
}
