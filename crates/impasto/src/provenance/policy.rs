//! What a picture file says of itself beyond its settings: one policy for all commands and the server.
//!
//! The order matters: the visible label and the watermark change pixels, so they come first; then the file is encoded
//! with its settings and XMP; a C2PA manifest is last, as it hashes all that stands before it.

use std::sync::Arc;

use impasto_provenance::container;
use impasto_provenance::label;
use impasto_provenance::manifest::{Claim, Ingredient, Signer};
use impasto_provenance::watermark::{self, Key, MIN_SIDE};
use impasto_provenance::xmp::{Aigc, SourceType, Statement};
use sha2::{Digest, Sha256};

use super::{Settings, encode_samples, read_parameters, version};
use crate::edit::Mask;
use crate::image::{Format, Image, Original, SampleKind, Samples};
use crate::{Error, Result, hub};

/// What is written besides the settings. The default is XMP alone, which changes no pixel.
#[derive(Clone, Debug)]
pub struct Policy {
    /// XMP that says that a model made the picture.
    pub xmp: bool,
    /// The key of an invisible watermark.
    pub watermark: Option<Key>,
    /// The provider's name or code in the label `AIGC` of GB 45438-2025, in XMP.
    pub aigc: Option<String>,
    /// The visible label "AI生成".
    pub visible_label: bool,
    /// Signs a C2PA manifest.
    pub signer: Option<Arc<Signer>>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            xmp: true,
            watermark: None,
            aigc: None,
            visible_label: false,
            signer: None,
        }
    }
}

/// A picture's file.
#[derive(Clone, Debug)]
pub struct Written {
    /// The file.
    pub bytes: Vec<u8>,
    /// What of the policy could not be kept, in words.
    pub notes: Vec<String>,
}

/// How a file is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// Its format.
    pub format: Format,
    /// From 1 to 100; counts for JPEG only.
    pub quality: u8,
}

/// A file that an edit started from.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its name.
    pub name: &'a str,
}

/// An error of the crate that writes and reads the parts.
pub(super) fn wrong(error: impasto_provenance::Error) -> Error {
    Error::invalid("provenance", error.to_string())
}

impl Policy {
    /// A picture that a model generated.
    ///
    /// # Errors
    /// Where the format can't hold what is written, or signing fails.
    pub fn encode(
        &self,
        image: &Image,
        settings: &Settings,
        encoding: Encoding,
    ) -> Result<Written> {
        let mut image = image.clone();
        let mut notes = Vec::new();
        self.mark_pixels(&mut image, None, &mut notes);
        let samples = Samples {
            width: image.width,
            height: image.height,
            colour: SampleKind::Rgb8,
            bytes: image.rgb,
            profile: None,
        };
        let bytes = self.finish(&samples, settings, encoding, (SourceType::Generated, None))?;
        Ok(Written { bytes, notes })
    }

    /// A picture in which a model drew where `mask` says. The watermark is put there alone: all other pixels stay as
    /// they are, unless the visible label is drawn over them.
    ///
    /// # Errors
    /// See [`Policy::encode`].
    pub fn encode_edit(
        &self,
        picture: &Original,
        mask: &Mask,
        settings: &Settings,
        encoding: Encoding,
        parent: Option<Parent>,
    ) -> Result<Written> {
        let mut picture = picture.clone();
        let mut notes = Vec::new();
        if self.visible_label || self.watermark.is_some() {
            let before = picture.picture();
            let mut after = before.clone();
            // The picture may have been enlarged since.
            let asked = mask.scaled(before.width, before.height).asked;
            self.mark_pixels(&mut after, Some(&asked), &mut notes);
            let width = before.width;
            let changed = |x: usize, y: usize| {
                let at = 3 * (y * width + x);
                before.rgb[at..at + 3] != after.rgb[at..at + 3]
            };
            picture.paint(0, 0, &after, changed);
        }
        let samples = picture.samples(encoding.format);
        let bytes = self.finish(
            &samples,
            settings,
            encoding,
            (SourceType::Composite, parent),
        )?;
        Ok(Written { bytes, notes })
    }

    /// Another encoding or size of a file that was written before: what the file says stays, and a signature names it
    /// as the source.
    ///
    /// # Errors
    /// See [`Policy::encode`].
    pub fn encode_again(
        &self,
        samples: &Samples,
        encoding: Encoding,
        from: &[u8],
    ) -> Result<Vec<u8>> {
        let parameters = read_parameters(from).unwrap_or_default();
        let mut bytes = encode_samples(samples, encoding.format, encoding.quality, &parameters)?;
        if let Some(packet) = container::read_xmp(from) {
            bytes = container::with_xmp(&bytes, packet).map_err(wrong)?;
        }
        if let Some(signer) = &self.signer {
            let claim = Claim {
                origin: None,
                tool: &version(),
                model: None,
                licence: None,
                non_commercial: false,
                seed: None,
            };
            let parent = Ingredient {
                bytes: from,
                title: "the same picture",
            };
            bytes = signer.sign(&bytes, &claim, Some(&parent)).map_err(wrong)?;
        }
        Ok(bytes)
    }

    /// Signs a file as it is. If its settings are ours and its XMP says that a model made it, so does the manifest;
    /// otherwise the manifest says nothing about its origin.
    ///
    /// # Errors
    /// Where there is no signer, the file is none of the formats, or signing fails.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signer = self.signer.as_ref().ok_or_else(|| {
            Error::invalid(
                "policy",
                "has no signer, expected certificates and their key",
            )
        })?;
        let settings = read_parameters(bytes).and_then(|text| Settings::parse(&text).ok());
        let said = container::read_xmp(bytes)
            .map(Statement::read)
            .unwrap_or_default();
        let origin = (said.digital_source_type.as_deref() == Some(SourceType::Generated.uri()))
            .then_some(SourceType::Generated)
            .filter(|_| {
                settings
                    .as_ref()
                    .is_some_and(|settings| settings.version.starts_with("impasto "))
            });
        let settings = settings.filter(|_| origin.is_some());
        let licence = settings
            .as_ref()
            .and_then(|settings| settings.licence.as_deref());
        let claim = Claim {
            origin,
            tool: &version(),
            model: settings.as_ref().map(|settings| &settings.model[..]),
            licence,
            non_commercial: licence.is_some_and(hub::forbids_commerce),
            seed: settings.as_ref().map(|settings| settings.seed),
        };
        signer.sign(bytes, &claim, None).map_err(wrong)
    }

    fn mark_pixels(&self, image: &mut Image, area: Option<&[bool]>, notes: &mut Vec<String>) {
        let (width, height) = (image.width, image.height);
        if self.visible_label && label::draw(width, height, &mut image.rgb).is_none() {
            notes.push(format!(
                "{width}x{height} pixels are too small for a legible label: it was left out"
            ));
        }
        let Some(key) = &self.watermark else {
            return;
        };
        match watermark::embed(width, height, &image.rgb, key, area) {
            Some(marked) if marked.score >= watermark::THRESHOLD => image.rgb = marked.rgb,
            Some(marked) => notes.push(format!(
                "no watermark: {} can't hold one that is found again (score {:.1}, needs {})",
                if area.is_some() { "what was drawn" } else { "this picture" },
                marked.score,
                watermark::THRESHOLD
            )),
            None => notes.push(format!(
                "no watermark: {width}x{height} pixels are too few, it needs sides of {MIN_SIDE} or more"
            )),
        }
    }

    fn finish(
        &self,
        samples: &Samples,
        settings: &Settings,
        encoding: Encoding,
        (origin, parent): (SourceType, Option<Parent>),
    ) -> Result<Vec<u8>> {
        let parameters = settings.parameters();
        let mut bytes = encode_samples(samples, encoding.format, encoding.quality, &parameters)?;
        let licence = settings.licence.as_deref();
        let non_commercial = licence.is_some_and(hub::forbids_commerce);
        if self.xmp || self.aigc.is_some() {
            let statement = Statement {
                digital_source_type: self.xmp.then(|| origin.uri().to_owned()),
                creator_tool: self.xmp.then(|| settings.version.clone()),
                usage_terms: licence.filter(|_| self.xmp && non_commercial).map(|licence| {
                    format!(
                        "Made with the model {}, whose licence, {licence}, forbids commercial use.",
                        settings.model
                    )
                }),
                aigc: self.aigc.as_ref().map(|producer| {
                    let id = Sha256::new()
                        .chain_update(&samples.bytes)
                        .chain_update(&parameters)
                        .finalize();
                    let label = Aigc::generated(producer, &crate::files::hex(&id[..16]));
                    serde_json::to_string(&label).unwrap_or_default()
                }),
            };
            bytes = container::with_xmp(&bytes, &statement.packet()).map_err(wrong)?;
        }
        if let Some(signer) = &self.signer {
            let claim = Claim {
                origin: Some(origin),
                tool: &settings.version,
                model: Some(&settings.model),
                licence,
                non_commercial,
                seed: Some(settings.seed),
            };
            let parent = parent.map(|parent| Ingredient {
                bytes: parent.bytes,
                title: parent.name,
            });
            // A file in a format that C2PA does not know is no ingredient.
            let parent = parent.filter(|parent| container::Container::of(parent.bytes).is_some());
            bytes = signer
                .sign(&bytes, &claim, parent.as_ref())
                .map_err(wrong)?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    fn image() -> Image {
        let mut image = Image::filled(96, 80, [90, 160, 120]);
        for (i, value) in image.rgb.iter_mut().enumerate() {
            *value = value.wrapping_add((i / 3 % 96 / 8 * 5) as u8);
        }
        image
    }

    const PNG: Encoding = Encoding {
        format: Format::Png,
        quality: 95,
    };

    #[test]
    fn the_default_changes_no_pixel_and_names_the_source_in_every_format() {
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            let encoding = Encoding {
                format,
                quality: 95,
            };
            let written = Policy::default()
                .encode(&image(), &settings("a cat"), encoding)
                .unwrap();
            let plain = super::super::encode(&image(), format, 95, &settings("a cat").parameters())
                .unwrap();
            let decode = |bytes: &[u8]| Image::decode(bytes, "x").unwrap();
            assert_eq!(decode(&written.bytes), decode(&plain));
            assert_eq!(read_parameters(&written.bytes), read_parameters(&plain));
            let said = Statement::read(container::read_xmp(&written.bytes).unwrap());
            assert_eq!(
                said.digital_source_type.as_deref(),
                Some(SourceType::Generated.uri())
            );
            assert_eq!((said.usage_terms, said.aigc), (None, None));
            let off = Policy {
                xmp: false,
                ..Policy::default()
            };
            assert_eq!(
                off.encode(&image(), &settings("a cat"), encoding)
                    .unwrap()
                    .bytes,
                plain
            );
        }
    }

    #[test]
    fn a_licence_that_forbids_commerce_and_the_label_are_written() {
        let policy = Policy {
            aigc: Some("甲公司".into()),
            ..Policy::default()
        };
        let settings = Settings {
            licence: Some("cc-by-nc-4.0".into()),
            ..settings("a cat")
        };
        let written = policy.encode(&image(), &settings, PNG).unwrap();
        let said = Statement::read(container::read_xmp(&written.bytes).unwrap());
        assert!(
            said.usage_terms
                .unwrap()
                .contains("cc-by-nc-4.0, forbids commercial use")
        );
        let label: Aigc = serde_json::from_str(&said.aigc.unwrap()).unwrap();
        assert_eq!(
            (&label.label[..], &label.content_producer[..]),
            ("1", "甲公司")
        );
        assert_eq!(label.produce_id.len(), 32);
        assert_eq!(
            Settings::parse(&read_parameters(&written.bytes).unwrap()).unwrap(),
            settings
        );
    }

    #[test]
    fn the_watermark_of_an_edit_stays_in_what_was_drawn() {
        let key = Key::public();
        let policy = Policy {
            watermark: Some(key.clone()),
            ..Policy::default()
        };
        let picture = Original::from(&image());
        let mut mask = Mask::empty(96, 80);
        for (i, asked) in mask.asked.iter_mut().enumerate() {
            *asked = i % 96 >= 20;
        }
        let written = policy
            .encode_edit(&picture, &mask, &settings("a cat"), PNG, None)
            .unwrap();
        assert_eq!(written.notes, Vec::<String>::new());
        let back = Original::decode(&written.bytes, "x").unwrap();
        let mut changed = 0;
        for (i, asked) in mask.asked.iter().enumerate() {
            let same = back.same_at(&picture, i % 96, i / 96);
            assert!(same || *asked, "pixel {i}");
            changed += usize::from(!same);
        }
        assert!(changed > 1000);
        let found = watermark::detect(96, 80, &back.picture().rgb, &key).unwrap();
        assert!(found.found(), "{found:?}");
        // A part that holds none is said to have none, and stays as it is.
        let small = Mask::of_area(
            96,
            80,
            crate::edit::Area {
                x: 0,
                y: 0,
                width: 9,
                height: 9,
            },
        )
        .unwrap();
        let written = policy
            .encode_edit(&picture, &small, &settings("a cat"), PNG, None)
            .unwrap();
        assert!(
            written.notes[0].contains("what was drawn can't hold one"),
            "{:?}",
            written.notes
        );
        assert_eq!(Image::decode(&written.bytes, "x").unwrap(), image());
    }
}
