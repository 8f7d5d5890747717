//! Where glyphs come from: the eight that ship with the library, or a colour emoji font.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::art::Pack;
use super::background::Background;
use super::backgrounds;
use super::colour::Colour;
use super::font::{Font, Sources};
use super::glyph::Glyph;
use super::masters::Master;
use super::sprites::Sprite;
use super::style::Style;
use super::world::World;
use crate::error::Reason;
use crate::image::Image;
use crate::{Error, Result};

/// The shipped glyphs: Noto Color Emoji, SIL Open Font License 1.1 (`glyphs/OFL.txt`), shrunk to 72 px.
const SHIPPED: [(&str, &[u8]); 8] = [
    ("🐢", include_bytes!("glyphs/turtle.png")),
    ("🐱", include_bytes!("glyphs/cat.png")),
    ("🐟", include_bytes!("glyphs/fish.png")),
    ("🍎", include_bytes!("glyphs/apple.png")),
    ("🍌", include_bytes!("glyphs/banana.png")),
    ("🚗", include_bytes!("glyphs/car.png")),
    ("🎈", include_bytes!("glyphs/balloon.png")),
    ("⭐", include_bytes!("glyphs/star.png")),
];

/// The sprites' memory from which on they are drawn anew each time instead of kept.
const CACHE_LIMIT: usize = 256 << 20;

/// A world's glyphs, and what has been drawn from them already. Cloning shares it all.
#[derive(Clone)]
pub struct Glyphs {
    inner: Arc<Inner>,
}

struct Inner {
    picture_size: usize,
    styles: Vec<Style>,
    /// The things' glyphs by the world's style; those of the font are shared.
    glyphs: Vec<Arc<Vec<Glyph>>>,
    sizes: Vec<usize>,
    /// Indexed by thing, look, size, style; empty for worlds too large to keep.
    sprites: Vec<OnceLock<Arc<Sprite>>>,
    /// Indexed by thing, size, style; empty for worlds without styles of art.
    masters: Vec<OnceLock<Master>>,
    backgrounds: Vec<(Background, OnceLock<Arc<Image>>)>,
}

/// Natural, and each colour.
const LOOKS: usize = 1 + Colour::ALL.len();

impl Glyphs {
    /// The glyphs of all things of `world`: the shipped ones where they suffice, else the font's.
    pub fn load(world: &World, sources: &Sources) -> Result<Self> {
        world.check()?;
        let mut of_font: Option<Arc<Vec<Glyph>>> = None;
        let glyphs = world
            .styles
            .iter()
            .map(|style| match style.pack() {
                Some(pack) => {
                    let pack = Pack::open(&sources.art, pack)?;
                    let glyphs: Result<Vec<Glyph>> = world
                        .things
                        .par_iter()
                        .map(|thing| pack.glyph(&thing.emoji))
                        .collect();
                    Ok(Arc::new(glyphs?))
                }
                None => {
                    let glyphs = match of_font.take() {
                        Some(glyphs) => glyphs,
                        None => Arc::new(font_glyphs(world, sources)?),
                    };
                    of_font = Some(Arc::clone(&glyphs));
                    Ok(glyphs)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let sizes = world.all_sizes();
        let looks = 1 + world.colours.len();
        let pixels: usize = sizes.iter().map(|s| s * s).sum();
        let (things, styles) = (world.things.len(), world.styles.len());
        let bytes = things * looks * styles * pixels * size_of::<[f32; 4]>();
        let slots = things * LOOKS * sizes.len() * styles;
        let sprites = if bytes <= CACHE_LIMIT {
            (0..slots).map(|_| OnceLock::new()).collect()
        } else {
            Vec::new()
        };
        let masters = if world.styles.iter().any(|style| style.is_art()) {
            (0..things * sizes.len() * styles)
                .map(|_| OnceLock::new())
                .collect()
        } else {
            Vec::new()
        };
        let backgrounds = world
            .backgrounds
            .iter()
            .map(|&background| (background, OnceLock::new()))
            .collect();
        let inner = Inner {
            picture_size: world.picture_size,
            styles: world.styles.clone(),
            glyphs,
            sizes,
            sprites,
            masters,
            backgrounds,
        };
        Ok(Glyphs {
            inner: Arc::new(inner),
        })
    }

    /// The picture's width and height.
    pub fn picture_size(&self) -> usize {
        self.inner.picture_size
    }

    /// A thing's glyph as the source of a style has it. The style must be one of the world's.
    pub fn glyph(&self, thing: usize, style: Style) -> &Glyph {
        &self.inner.glyphs[self.style_index(style)][thing]
    }

    /// How a thing is drawn in a colour, size and style: in [`Style::drawn_colour`] where the colour depends on the
    /// background. The style must be one of the world's.
    pub fn sprite(
        &self,
        thing: usize,
        colour: Option<Colour>,
        size: usize,
        style: Style,
    ) -> Arc<Sprite> {
        let Inner {
            styles,
            sizes,
            sprites,
            ..
        } = &*self.inner;
        let draw = || {
            let sprite = match self.master(thing, size, style) {
                Some(master) => master.sprite(colour),
                None if style.is_art() => {
                    Master::new(self.glyph(thing, style), size, style).sprite(colour)
                }
                None => Sprite::new(self.glyph(thing, style), colour, size, style),
            };
            Arc::new(sprite)
        };
        let Some(size_index) = sizes.iter().position(|&s| s == size) else {
            return draw();
        };
        let look = colour.map_or(0, |c| 1 + c as usize);
        let style_index = self.style_index(style);
        let slot = ((thing * LOOKS + look) * sizes.len() + size_index) * styles.len() + style_index;
        match sprites.get(slot) {
            Some(kept) => kept.get_or_init(draw).clone(),
            None => draw(),
        }
    }

    /// A thing's natural picture at one of the world's sizes, for styles of art.
    pub(super) fn master(&self, thing: usize, size: usize, style: Style) -> Option<&Master> {
        let Inner {
            styles,
            sizes,
            masters,
            ..
        } = &*self.inner;
        if !style.is_art() {
            return None;
        }
        let size_index = sizes.iter().position(|&s| s == size)?;
        let slot = (thing * sizes.len() + size_index) * styles.len() + self.style_index(style);
        let draw = || Master::new(self.glyph(thing, style), size, style);
        Some(masters.get(slot)?.get_or_init(draw))
    }

    fn style_index(&self, style: Style) -> usize {
        let index = self.inner.styles.iter().position(|&s| s == style);
        index.unwrap_or_else(|| panic!("the style {} is not the world's", style.name()))
    }

    /// The picture of a background without things.
    pub fn background(&self, background: Background) -> Arc<Image> {
        let draw = || Arc::new(backgrounds::draw(background, self.inner.picture_size));
        match self
            .inner
            .backgrounds
            .iter()
            .find(|(kept, _)| *kept == background)
        {
            Some((_, kept)) => kept.get_or_init(draw).clone(),
            None => draw(),
        }
    }
}

/// The shipped glyphs where they suffice, else the font's.
fn font_glyphs(world: &World, sources: &Sources) -> Result<Vec<Glyph>> {
    let shipped: Option<Vec<&[u8]>> = world
        .things
        .iter()
        .map(|thing| {
            SHIPPED
                .iter()
                .find(|(emoji, _)| *emoji == thing.emoji)
                .map(|(_, png)| *png)
        })
        .collect();
    match shipped {
        Some(files) => files.into_iter().map(decode_shipped).collect(),
        None => {
            let font = Font::open(&sources.font)?;
            let mut drawer = font.drawer()?;
            world
                .things
                .iter()
                .map(|thing| {
                    drawer.draw(&thing.emoji).ok_or_else(|| {
                        Error::bad_file(
                            &sources.font,
                            format!("has no colour bitmap for {}", thing.emoji),
                        )
                    })
                })
                .collect()
        }
    }
}

fn decode_shipped(png: &[u8]) -> Result<Glyph> {
    let bad = |e: Reason| Error::bad_file("shipped glyph", e);
    let picture = ::image::load_from_memory_with_format(png, ::image::ImageFormat::Png)
        .map_err(|e| bad(Reason::of(e)))?
        .into_rgba8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Glyph::cropped(width, height, picture.as_raw()).ok_or_else(|| bad("is empty".into()))
}
