//! Where glyphs come from: the eight that ship with the library, or a colour emoji font.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use swash::scale::{Render, ScaleContext, Source, StrikeWith};
use swash::shape::ShapeContext;
use swash::{FontRef, GlyphId};

use super::backgrounds;
use super::sprites::{Glyph, Sprite};
use super::world::{Background, Colour, Style, World};
use crate::image::Picture;
use crate::{Error, Result};

/// The files that worlds other than `tiny` are drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// A colour emoji font with bitmaps.
    pub font: PathBuf,
    /// The folder of CLDR's annotations with `en.xml` and `zh.xml`; only `full` reads it.
    pub cldr: PathBuf,
}

impl Default for Sources {
    /// Where Debian's packages put them.
    fn default() -> Self {
        Sources {
            font: "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf".into(),
            cldr: "/usr/share/unicode/cldr/common/annotations".into(),
        }
    }
}

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
    glyphs: Vec<Glyph>,
    sizes: Vec<usize>,
    /// Indexed by thing, look, size, style; empty for worlds too large to keep.
    sprites: Vec<OnceLock<Arc<Sprite>>>,
    backgrounds: Vec<(Background, OnceLock<Arc<Picture>>)>,
}

/// Natural, and each colour.
const LOOKS: usize = 1 + Colour::ALL.len();
const STYLES: usize = 5;

impl Glyphs {
    /// The glyphs of all things of `world`: the shipped ones where they suffice, else the font's.
    pub fn load(world: &World, sources: &Sources) -> Result<Self> {
        world.check()?;
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
        let glyphs = match shipped {
            Some(files) => files
                .into_iter()
                .map(decode_shipped)
                .collect::<Result<Vec<_>>>()?,
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
                    .collect::<Result<Vec<_>>>()?
            }
        };
        let sizes = world.all_sizes();
        let looks = 1 + world.colours.len();
        let pixels: usize = sizes.iter().map(|s| s * s).sum();
        let bytes = glyphs.len() * looks * world.styles.len() * pixels * size_of::<[f32; 4]>();
        let slots = glyphs.len() * LOOKS * sizes.len() * STYLES;
        let sprites = if bytes <= CACHE_LIMIT {
            (0..slots).map(|_| OnceLock::new()).collect()
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
            glyphs,
            sizes,
            sprites,
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

    /// A thing's glyph as the source has it.
    pub fn glyph(&self, thing: usize) -> &Glyph {
        &self.inner.glyphs[thing]
    }

    /// How a thing is drawn in a colour, size and style.
    pub fn sprite(
        &self,
        thing: usize,
        colour: Option<Colour>,
        size: usize,
        style: Style,
    ) -> Arc<Sprite> {
        let Inner {
            glyphs,
            sizes,
            sprites,
            ..
        } = &*self.inner;
        let draw = || Arc::new(Sprite::new(&glyphs[thing], colour, size, style));
        let Some(size_index) = sizes.iter().position(|&s| s == size) else {
            return draw();
        };
        let look = colour.map_or(0, |c| 1 + c as usize);
        let slot = ((thing * LOOKS + look) * sizes.len() + size_index) * STYLES + style as usize;
        match sprites.get(slot) {
            Some(kept) => kept.get_or_init(draw).clone(),
            None => draw(),
        }
    }

    /// The picture of a background without things.
    pub fn background(&self, background: Background) -> Arc<Picture> {
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

fn decode_shipped(png: &[u8]) -> Result<Glyph> {
    let bad = |e: String| Error::bad_file("shipped glyph", e);
    let picture = ::image::load_from_memory_with_format(png, ::image::ImageFormat::Png)
        .map_err(|e| bad(e.to_string()))?
        .into_rgba8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Glyph::cropped(width, height, picture.as_raw()).ok_or_else(|| bad("is empty".into()))
}

/// A font file in memory.
pub(super) struct Font {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Font {
    pub(super) fn open(path: &Path) -> Result<Self> {
        match crate::files::read(path) {
            Ok(bytes) => Ok(Font {
                path: path.to_path_buf(),
                bytes,
            }),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::Missing {
                    what: "colour emoji font",
                    path: path.to_path_buf(),
                    hint: "install Debian's package fonts-noto-color-emoji, or pass --font FILE"
                        .into(),
                })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn drawer(&self) -> Result<Drawer<'_>> {
        let font = FontRef::from_index(&self.bytes, 0)
            .ok_or_else(|| Error::bad_file(&self.path, "expected an OpenType font"))?;
        Ok(Drawer {
            font,
            shape: ShapeContext::new(),
            scale: ScaleContext::new(),
        })
    }
}

/// Draws sequences of characters that the font has one colour bitmap for.
pub(super) struct Drawer<'a> {
    font: FontRef<'a>,
    shape: ShapeContext,
    scale: ScaleContext,
}

impl Drawer<'_> {
    /// The glyph's bitmap in the font's own resolution, or `None` where the font has none or needs
    /// several glyphs.
    pub(super) fn draw(&mut self, emoji: &str) -> Option<Glyph> {
        let mut ids: Vec<GlyphId> = Vec::new();
        let mut shaper = self.shape.builder(self.font).size(128.0).build();
        shaper.add_str(emoji);
        shaper.shape_with(|cluster| ids.extend(cluster.glyphs.iter().map(|glyph| glyph.id)));
        // Some fonts answer a variation selector with an empty glyph of its own.
        let &[id] = ids.as_slice() else { return None };
        if id == 0 {
            return None;
        }
        // Size 0 is the bitmap's own resolution.
        let mut scaler = self.scale.builder(self.font).size(0.0).build();
        let image =
            Render::new(&[Source::ColorBitmap(StrikeWith::LargestSize)]).render(&mut scaler, id)?;
        let (width, height) = (
            image.placement.width as usize,
            image.placement.height as usize,
        );
        if image.data.len() != width * height * 4 {
            return None;
        }
        Glyph::cropped(width, height, &image.data)
    }
}
