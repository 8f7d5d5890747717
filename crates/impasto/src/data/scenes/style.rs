//! Styles: what a thing's picture comes from, and what is done to it.

use serde::{Deserialize, Serialize};

use super::background::BackgroundKind;
use super::colour::Colour;

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
    /// Noto Color Emoji, from the font; named in captions.
    Noto,
    /// Fluent Emoji as soft volumes, with a shadow.
    #[serde(rename = "fluent-3d")]
    Fluent3d,
    /// Fluent Emoji as flat shapes.
    FluentFlat,
    /// Fluent Emoji in one ink: black, white on dark grounds, or a colour.
    HighContrast,
    /// Twemoji.
    Twemoji,
}

impl Style {
    /// The five of the world `styles`: each from artists of its own.
    pub const ART: [Style; 5] = [
        Style::Noto,
        Style::Fluent3d,
        Style::FluentFlat,
        Style::HighContrast,
        Style::Twemoji,
    ];

    /// The three of the world `styles-small`.
    pub const SMALL_ART: [Style; 3] = [Style::Noto, Style::Fluent3d, Style::FluentFlat];

    /// The folder of the art pack that its pictures come from; `None` where they come from the font.
    pub fn pack(self) -> Option<&'static str> {
        match self {
            Style::Fluent3d => Some("fluent-3d"),
            Style::FluentFlat => Some("fluent-flat"),
            Style::HighContrast => Some("high-contrast"),
            Style::Twemoji => Some("twemoji"),
            _ => None,
        }
    }

    /// Whether it shows the colours that things are painted in.
    pub fn shows_colours(self) -> bool {
        !matches!(self, Style::Grey | Style::Outline)
    }

    /// Whether sprites are composed from [masters](super::masters) in fixed point, as in all styles of
    /// [`Style::ART`]; the others are drawn in floating point from the glyph each.
    pub(super) fn is_art(self) -> bool {
        Style::ART.contains(&self)
    }

    /// The colour that a thing of look `colour` is drawn in on a background: its own, except that black ink turns
    /// white on dark grounds.
    pub fn drawn_colour(self, colour: Option<Colour>, ground: BackgroundKind) -> Option<Colour> {
        match (self, colour) {
            (Style::HighContrast, None) if ground.is_dark() => Some(Colour::White),
            _ => colour,
        }
    }

    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Style::Flat => "flat",
            Style::Pixels => "pixels",
            Style::Outline => "outline",
            Style::Grey => "grey",
            Style::Sticker => "sticker",
            Style::Noto => "noto",
            Style::Fluent3d => "fluent-3d",
            Style::FluentFlat => "fluent-flat",
            Style::HighContrast => "high-contrast",
            Style::Twemoji => "twemoji",
        }
    }
}
