//! The files that scenes are drawn from, and glyphs of a font with bitmaps.

use std::path::{Path, PathBuf};

use swash::scale::{Render, ScaleContext, Source, StrikeWith};
use swash::shape::ShapeContext;
use swash::{FontRef, GlyphId};

use super::glyph::Glyph;
use crate::error::{Hint, LocatedFile};
use crate::{Error, Result};

/// The files that worlds other than `tiny` are drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// A colour emoji font with bitmaps.
    pub font: PathBuf,
    /// The folder of CLDR's annotations with `en.xml` and `zh.xml`; only `full` and `styles` read it.
    pub cldr: PathBuf,
    /// The folder of art packs that `recipes/art/fetch` makes; only `styles` reads it.
    pub art: PathBuf,
}

impl Default for Sources {
    /// Where Debian's packages put them, and `art` in the working directory.
    fn default() -> Self {
        Sources {
            font: "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf".into(),
            cldr: "/usr/share/unicode/cldr/common/annotations".into(),
            art: "art".into(),
        }
    }
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
                    hint: Hint::Locate {
                        file: LocatedFile::Font,
                        install: "install Debian's package fonts-noto-color-emoji",
                    },
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
