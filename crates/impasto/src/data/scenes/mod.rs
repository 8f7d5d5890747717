//! Composed scenes: pictures with complete captions that carry nobody's photographs.
//!
//! A [`World`] lists things (glyphs of an emoji font), colours, sizes, backgrounds and styles. A seed draws a
//! [`Scene`] from it, [`render`] its picture, [`World::caption`] its captions in English and Chinese; a hash
//! of what it combines puts one in ten aside ([`Split::HeldOut`]) for the benchmark.
//!
//! Pictures are exact functions of their scene, with no noise and with boxes on a grid: what a small model
//! has to learn is words and composition.

mod art;
mod background;
mod backgrounds;
mod captions;
mod catalogue;
mod colour;
mod export;
mod font;
mod glyph;
mod glyphs;
mod long_captions;
mod masters;
mod render;
mod scene;
mod soft_backgrounds;
mod split;
mod sprites;
mod style;
mod styled_captions;
mod things;
mod wording;
mod world;

pub use art::{Pack, PackInfo, PackSource};
pub use background::{Background, BackgroundKind};
pub use captions::WORDINGS;
pub use colour::Colour;
pub use export::{Export, ExportReport, Form, export};
pub use font::Sources;
pub use glyph::Glyph;
pub use glyphs::Glyphs;
pub use render::render;
pub use scene::{Arrangement, Kind, Place, Relation, Scene, SceneBox, Split};
pub use sprites::Sprite;
pub use style::Style;
pub use styled_captions::SizeWord;
pub use things::Thing;
pub use wording::Language;
pub use world::{Grammar, Sizes, World};

#[cfg(test)]
mod styled_tests;
#[cfg(test)]
mod tests;
