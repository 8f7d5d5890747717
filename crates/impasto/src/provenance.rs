//! How a picture was made, written into its file and read back.
//!
//! The text is AUTOMATIC1111's `parameters` form, which galleries and other tools read: the prompt, the negative
//! prompt where there is one, then one line of `Key: value` pairs. It goes where that program puts it: a PNG `tEXt`
//! chunk (`iTXt` where Latin-1 can't hold the text), the EXIF UserComment of JPEG and WebP. Source:
//! AUTOMATIC1111/stable-diffusion-webui `modules/infotext_utils.py` (`parse_generation_parameters`,
//! `quote`) and `modules/images.py` (`save_image_with_geninfo`). What that program has no word for
//! (`Temperature`, `Top-k`, `Top-p`) are further pairs, which it keeps as they are.
//!
//! What a file says beside that, to programs that look for generated pictures, is a [`Policy`]'s: XMP, an invisible
//! watermark, labels, a signed C2PA manifest. [`verify`] reads all of it, of any file.

mod exif;
mod policy;
mod verify;

use std::io::Cursor;

use image::codecs::{jpeg::JpegEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader};
use serde::{Deserialize, Serialize};

use crate::image::{Format, Image, Samples};
use crate::models::dalle::Order;
use crate::observer::GeneratedImage;
use crate::sampling::SamplingOptions;
use crate::{Error, Result, hub};

pub use impasto_provenance::manifest::{
    ManifestReport, ManifestState, SELF_MADE, Signer, supported as c2pa_supported,
};
pub use impasto_provenance::watermark::Key;
pub use impasto_provenance::xmp::{SourceType, Statement};
pub use policy::{Encoding, Parent, Policy, Written};
pub use verify::{FoundWatermark, Verified, VerifyOptions, verify};

/// A file without what it says of itself, and the names of what was removed: settings, XMP, Exif (the orientation
/// stays), comments, C2PA manifests. The pixels stay as they are, so a watermark does, too.
///
/// # Errors
/// Where the file is no PNG, JPEG or WebP.
pub fn strip(bytes: &[u8]) -> Result<(Vec<u8>, Vec<&'static str>)> {
    impasto_provenance::container::stripped(bytes).map_err(policy::wrong)
}

/// The PNG keyword.
const KEYWORD: &str = "parameters";
/// What a JPEG segment holds besides its length, `Exif\0\0` and the block.
const MAX_JPEG_EXIF: usize = u16::MAX as usize - 2 - 6;
/// What stands before a negative prompt.
const NEGATIVE: &str = "\nNegative prompt: ";
/// What enlarging adds, in the words of AUTOMATIC1111's extras.
const UPSCALE_FACTOR: &str = "Postprocess upscale by";
const UPSCALER: &str = "Postprocess upscaler";
/// What a guard found.
const SAFETY: &str = "Safety";
/// Compressed text beyond this is not unpacked.
const MAX_TEXT: usize = 1 << 20;

/// All that is needed to draw a picture again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The caption.
    pub prompt: String,
    /// What guidance led away from, in the place of the model's caption of nothing in particular.
    #[serde(default)]
    pub negative_prompt: Option<String>,
    /// The picture's own seed.
    pub seed: u64,
    /// Guidance, temperature, cuts.
    pub sampling: SamplingOptions,
    /// Token order.
    pub order: Order,
    /// Passes of the transformer over the picture.
    pub steps: usize,
    /// The model's name.
    pub model: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Cosine of picture and prompt in a CLIP's space, where it was chosen by that.
    #[serde(default)]
    pub clip_score: Option<f32>,
    /// How it was enlarged afterwards: the size above is that of what was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscale: Option<Upscaled>,
    /// What a guard found in it, as [`Verdict::record`](crate::safety::Verdict::record) says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<String>,
    /// The model's licence, where it is known. The text has it if it forbids commercial use.
    #[serde(default)]
    pub licence: Option<String>,
    /// The program and its version.
    pub version: String,
}

/// How a picture was enlarged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upscaled {
    /// How many times as wide and as high it became.
    pub factor: usize,
    /// The name of the network that enlarged it.
    pub upscaler: String,
}

/// This program and its version, for [`Settings::version`].
pub fn version() -> String {
    format!("impasto {}", env!("CARGO_PKG_VERSION"))
}

impl Settings {
    /// Those of an image that was generated, for a file that shows it as `picture` (a grid shows more than one).
    pub fn of_generated(
        model: &str,
        prompt: &str,
        image: &GeneratedImage,
        sampling: &SamplingOptions,
        (order, picture): (Order, &Image),
    ) -> Self {
        let positions = image.image_ids.len();
        Settings {
            prompt: prompt.to_owned(),
            negative_prompt: None,
            seed: image.seed,
            sampling: sampling.clone(),
            order,
            steps: match order {
                Order::Raster => positions,
                Order::Parallel { steps } | Order::Confidence { steps } => steps.min(positions),
            },
            model: model.to_owned(),
            width: picture.width,
            height: picture.height,
            clip_score: image.clip_score,
            upscale: None,
            safety: None,
            licence: None,
            version: version(),
        }
    }

    /// The `parameters` text.
    pub fn parameters(&self) -> String {
        let sampling = &self.sampling;
        let mut pairs = vec![
            ("Steps", self.steps.to_string()),
            ("Sampler", self.order.to_string()),
            ("CFG scale", sampling.guidance_scale.to_string()),
            ("Seed", self.seed.to_string()),
            ("Size", format!("{}x{}", self.width, self.height)),
            ("Model", self.model.clone()),
            ("Temperature", sampling.temperature.to_string()),
        ];
        pairs.extend(sampling.top_k.map(|top_k| ("Top-k", top_k.to_string())));
        pairs.extend(sampling.top_p.map(|top_p| ("Top-p", top_p.to_string())));
        pairs.extend(
            self.clip_score
                .map(|score| ("CLIP score", score.to_string())),
        );
        let licence = self
            .licence
            .as_ref()
            .filter(|licence| hub::forbids_commerce(licence));
        pairs.extend(licence.map(|licence| ("Model licence", licence.clone())));
        pairs.push(("Version", self.version.clone()));
        let line: Vec<String> = pairs
            .into_iter()
            .map(|(key, value)| format!("{key}: {}", quoted(value)))
            .collect();
        let negative = match &self.negative_prompt {
            Some(negative) => format!("{NEGATIVE}{negative}"),
            None => String::new(),
        };
        let text = format!("{}{negative}\n{}", self.prompt, line.join(", "));
        let text = match &self.upscale {
            Some(upscale) => with_upscale(&text, upscale.factor, &upscale.upscaler),
            None => text,
        };
        match &self.safety {
            Some(found) => format!("{text}, {SAFETY}: {}", quoted(found.clone())),
            None => text,
        }
    }

    /// Reads what [`Settings::parameters`] wrote. Pairs that are not known are skipped.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::invalid("parameters", reason);
        let (prompt, line) = text.rsplit_once('\n').ok_or_else(|| {
            bad("expected a prompt and a line of settings, got one line".to_owned())
        })?;
        let (prompt, negative) = match prompt.rsplit_once(NEGATIVE) {
            Some((prompt, negative)) => (prompt, Some(negative.to_owned())),
            None => (prompt, None),
        };
        let pairs = pairs(line)?;
        let find = |key: &str| {
            pairs
                .iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.as_str())
        };
        let required = |key: &'static str| {
            find(key).ok_or_else(|| bad(format!("expected \"{key}: …\", got \"{line}\"")))
        };
        fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T> {
            text.parse().map_err(|_| {
                Error::invalid(
                    "parameters",
                    format!("expected a number as {key}, got \"{text}\""),
                )
            })
        }
        let optional = |key: &'static str| find(key).map(|text| (key, text));
        let size = required("Size")?;
        let (width, height) = size
            .split_once('x')
            .ok_or_else(|| bad(format!("expected WIDTHxHEIGHT as Size, got \"{size}\"")))?;
        let sampling = SamplingOptions {
            guidance_scale: number("CFG scale", required("CFG scale")?)?,
            temperature: number("Temperature", required("Temperature")?)?,
            top_k: optional("Top-k")
                .map(|(key, text)| number(key, text))
                .transpose()?,
            top_p: optional("Top-p")
                .map(|(key, text)| number(key, text))
                .transpose()?,
        };
        sampling.validate()?;
        Ok(Settings {
            prompt: prompt.to_owned(),
            negative_prompt: negative,
            seed: number("Seed", required("Seed")?)?,
            sampling,
            order: required("Sampler")?.parse()?,
            steps: number("Steps", required("Steps")?)?,
            model: required("Model")?.to_owned(),
            width: number("Size", width)?,
            height: number("Size", height)?,
            clip_score: optional("CLIP score")
                .map(|(key, text)| number(key, text))
                .transpose()?,
            upscale: optional(UPSCALE_FACTOR)
                .zip(find(UPSCALER))
                .map(|((key, text), upscaler)| {
                    Ok(Upscaled {
                        factor: number(key, text)?,
                        upscaler: upscaler.to_owned(),
                    })
                })
                .transpose()?,
            safety: find(SAFETY).map(str::to_owned),
            licence: find("Model licence").map(str::to_owned),
            version: required("Version")?.to_owned(),
        })
    }
}

/// A `parameters` text, which may be empty, of a picture that was enlarged afterwards, in the words of AUTOMATIC1111's
/// extras (`modules/postprocessing.py`). The settings before stay as they are: `Size` is what was drawn.
pub fn with_upscale(parameters: &str, factor: usize, upscaler: &str) -> String {
    let before = match parameters {
        "" => String::new(),
        text => format!("{text}, "),
    };
    let upscaler = quoted(upscaler.to_owned());
    format!("{before}{UPSCALE_FACTOR}: {factor}, {UPSCALER}: {upscaler}")
}

/// A value as A1111's `quote` writes it.
fn quoted(value: String) -> String {
    if value.is_empty() || value.contains([',', '\n', ':', '"']) {
        serde_json::Value::String(value).to_string()
    } else {
        value
    }
}

/// The pairs of a settings line.
fn pairs(line: &str) -> Result<Vec<(String, String)>> {
    let bad = || {
        Error::invalid(
            "parameters",
            format!("expected \"Key: value, …\", got \"{line}\""),
        )
    };
    let mut pairs = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(": ").ok_or_else(bad)?;
        let (value, after) = if after.starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = strings.next().ok_or_else(bad)?.map_err(|_| bad())?;
            (value, &after[strings.byte_offset()..])
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(',').trim_start();
    }
    Ok(pairs)
}

/// The bytes of a picture file that says how it was made. `quality` from 1 to 100 counts for JPEG only.
pub fn encode(picture: &Image, format: Format, quality: u8, parameters: &str) -> Result<Vec<u8>> {
    let samples = Samples {
        width: picture.width,
        height: picture.height,
        colour: ExtendedColorType::Rgb8,
        bytes: picture.rgb.clone(),
        profile: None,
    };
    encode_samples(&samples, format, quality, parameters)
}

/// [`encode`] of any samples that the format holds.
pub fn encode_samples(
    samples: &Samples,
    format: Format,
    quality: u8,
    parameters: &str,
) -> Result<Vec<u8>> {
    let (width, height) = (samples.width as u32, samples.height as u32);
    let failed = |e: &dyn std::fmt::Display| {
        Error::invalid(
            "picture",
            format!("{width}x{height} can't be encoded with its settings: {e}"),
        )
    };
    let mut bytes = Vec::new();
    let profile = samples.profile.clone();
    match format {
        Format::Png => {
            png_with_text(&mut bytes, samples, parameters).map_err(|e| failed(&e))?;
        }
        Format::Jpeg => {
            let block = exif::user_comment(parameters);
            // The encoder would wrap the segment's 16-bit length around.
            if block.len() > MAX_JPEG_EXIF {
                return Err(Error::invalid(
                    "settings",
                    format!(
                        "are {} bytes long, expected at most {MAX_JPEG_EXIF} in a JPEG (PNG holds more)",
                        block.len()
                    ),
                ));
            }
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100));
            encoder.set_exif_metadata(block).map_err(|e| failed(&e))?;
            if let Some(profile) = profile {
                encoder.set_icc_profile(profile).map_err(|e| failed(&e))?;
            }
            encoder
                .write_image(&samples.bytes, width, height, samples.colour)
                .map_err(|e| failed(&e))?;
        }
        Format::Webp => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder
                .set_exif_metadata(exif::user_comment(parameters))
                .map_err(|e| failed(&e))?;
            if let Some(profile) = profile {
                encoder.set_icc_profile(profile).map_err(|e| failed(&e))?;
            }
            encoder
                .write_image(&samples.bytes, width, height, samples.colour)
                .map_err(|e| failed(&e))?;
        }
    }
    Ok(bytes)
}

fn png_with_text(
    bytes: &mut Vec<u8>,
    samples: &Samples,
    parameters: &str,
) -> Result<(), png::EncodingError> {
    let mut info = png::Info::with_size(samples.width as u32, samples.height as u32);
    info.icc_profile = samples.profile.as_deref().map(Into::into);
    let mut encoder = png::Encoder::with_info(bytes, info)?;
    let colour = samples.colour;
    encoder.set_color(match colour.channel_count() {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    let depth = colour.bits_per_pixel() / u16::from(colour.channel_count());
    encoder.set_depth(if depth == 16 {
        png::BitDepth::Sixteen
    } else {
        png::BitDepth::Eight
    });
    encoder.set_compression(png::Compression::Balanced);
    // NUL ends the keyword and is not allowed in the text of either chunk.
    let text = parameters.replace('\0', " ");
    if text.chars().all(|letter| u32::from(letter) < 256) {
        encoder.add_text_chunk(KEYWORD.to_owned(), text)?;
    } else {
        encoder.add_itxt_chunk(KEYWORD.to_owned(), text)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&samples.bytes)?;
    writer.finish()
}

/// The `parameters` text of a PNG, JPEG or WebP file, if it has one. A file that is none of these has
/// none either: that is for [`Image::decode`] to say.
pub fn read_parameters(bytes: &[u8]) -> Option<String> {
    png_text(bytes).or_else(|| {
        let reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .ok()?;
        let block = reader.into_decoder().ok()?.exif_metadata().ok()??;
        exif::read_user_comment(&block)
    })
}

fn png_text(bytes: &[u8]) -> Option<String> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().ok()?;
    if let Some(text) = known_text(reader.info()) {
        return Some(text);
    }
    // Chunks may also stand after the pixels.
    reader.finish().ok()?;
    known_text(reader.info())
}

fn known_text(info: &png::Info) -> Option<String> {
    let latin1 = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == KEYWORD)
        .map(|chunk| chunk.text.clone());
    let utf8 = || {
        let chunk = info
            .utf8_text
            .iter()
            .find(|chunk| chunk.keyword == KEYWORD)?;
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT).ok()?;
        chunk.get_text().ok()
    };
    let compressed = || {
        let chunk = info
            .compressed_latin1_text
            .iter()
            .find(|chunk| chunk.keyword == KEYWORD)?;
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT).ok()?;
        chunk.get_text().ok()
    };
    latin1.or_else(utf8).or_else(compressed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMATS: [Format; 3] = [Format::Png, Format::Jpeg, Format::Webp];

    pub(super) fn settings(prompt: &str) -> Settings {
        Settings {
            prompt: prompt.to_owned(),
            negative_prompt: None,
            seed: u64::MAX,
            sampling: SamplingOptions {
                guidance_scale: 3.5,
                temperature: 0.9,
                top_k: Some(256),
                top_p: Some(0.95),
            },
            order: Order::Parallel { steps: 8 },
            steps: 8,
            model: "impasto-mini".to_owned(),
            width: 64,
            height: 64,
            clip_score: Some(0.25),
            upscale: None,
            safety: None,
            licence: None,
            version: "impasto 0.1.0".to_owned(),
        }
    }

    fn picture() -> Image {
        let mut picture = Image::filled(16, 8, [200, 30, 30]);
        picture.rgb[5] = 77;
        picture
    }

    #[test]
    fn an_enlarged_picture_says_what_was_drawn_and_how_it_was_enlarged() {
        let drawn = settings("a cat");
        let enlarged = Settings {
            upscale: Some(Upscaled {
                factor: 4,
                upscaler: "a, b".into(),
            }),
            ..drawn.clone()
        };
        let flagged = Settings {
            safety: Some("violence 0.91; hate 0.50 blurred".into()),
            ..enlarged.clone()
        };
        assert_eq!(Settings::parse(&flagged.parameters()).unwrap(), flagged);
        let text = enlarged.parameters();
        assert_eq!(text, with_upscale(&drawn.parameters(), 4, "a, b"));
        assert_eq!(Settings::parse(&text).unwrap(), enlarged);
    }

    #[test]
    fn the_text_is_in_the_known_form() {
        assert_eq!(
            settings("a turtle, \"red\"").parameters(),
            "a turtle, \"red\"\nSteps: 8, Sampler: \"parallel:8\", CFG scale: 3.5, \
             Seed: 18446744073709551615, Size: 64x64, Model: impasto-mini, Temperature: 0.9, \
             Top-k: 256, Top-p: 0.95, CLIP score: 0.25, Version: impasto 0.1.0"
        );
    }

    #[test]
    fn every_format_keeps_settings_and_pixels() {
        for prompt in ["a turtle", "Schildkröte: grün, groß", "黄色背景上的乌龟 🐢"] {
            for format in FORMATS {
                let text = settings(prompt).parameters();
                let bytes = encode(&picture(), format, 95, &text).unwrap();
                assert_eq!(read_parameters(&bytes), Some(text), "{format:?}");
                let read = Settings::parse(&read_parameters(&bytes).unwrap()).unwrap();
                assert_eq!(read, settings(prompt), "{format:?}");
                let decoded = Image::decode(&bytes, "x").unwrap();
                if format == Format::Jpeg {
                    assert_eq!((decoded.width, decoded.height), (16, 8));
                } else {
                    assert_eq!(decoded, picture(), "{format:?}");
                }
            }
        }
    }

    #[test]
    fn chinese_goes_into_itxt_and_latin_into_text() {
        let bytes = |prompt| encode(&picture(), Format::Png, 95, prompt).unwrap();
        let holds = |bytes: &[u8], kind: &[u8]| bytes.windows(4).any(|window| window == kind);
        assert!(holds(&bytes("grün"), b"tEXt") && !holds(&bytes("grün"), b"iTXt"));
        assert!(holds(&bytes("乌龟"), b"iTXt") && !holds(&bytes("乌龟"), b"tEXt"));
    }

    #[test]
    fn a_picture_without_settings_has_none() {
        for format in FORMATS {
            assert_eq!(
                read_parameters(&picture().encode(format, 90).unwrap()),
                None
            );
        }
        assert_eq!(read_parameters(b"no picture"), None);
    }

    #[test]
    fn text_behind_the_pixels_is_found() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3]).unwrap();
        let chunk = png::text_metadata::ZTXtChunk::new(KEYWORD, "late");
        writer.write_text_chunk(&chunk).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_parameters(&bytes).as_deref(), Some("late"));
    }

    /// The encoder wraps a segment's length around, which makes a file that no one can read.
    #[test]
    fn settings_too_long_for_a_jpeg_are_refused() {
        let longest = (MAX_JPEG_EXIF - exif::user_comment("").len()) / 2;
        let fits = encode(&picture(), Format::Jpeg, 95, &"a".repeat(longest)).unwrap();
        assert_eq!(read_parameters(&fits).unwrap().len(), longest);
        let error = encode(&picture(), Format::Jpeg, 95, &"a".repeat(longest + 1)).unwrap_err();
        assert!(
            error.to_string().contains("expected at most 65527"),
            "{error}"
        );
    }

    #[test]
    fn a_prompt_of_several_lines_comes_back() {
        let settings = settings("one\nSteps: 3, Seed: 4\nthree");
        assert_eq!(Settings::parse(&settings.parameters()).unwrap(), settings);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |text: &str| Settings::parse(text).unwrap_err().to_string();
        assert!(error("a turtle").contains("got one line"));
        assert!(error("a turtle\nSteps: 3").contains("expected \"Size: …\""));
        let text = settings("a turtle")
            .parameters()
            .replace("Seed: 1", "Seed: x");
        assert!(error(&text).contains("expected a number as Seed"));
    }

    proptest! {
        #[test]
        fn settings_come_back(
            prompt in "\\PC{1,60}", negative in proptest::option::of("\\PC{0,40}"), model in "\\PC{0,20}", seed: u64, guidance in 0.0f32..20.0,
            temperature in 0.0f32..5.0, top_k in proptest::option::of(1usize..10_000),
            top_p in proptest::option::of(0.001f32..=1.0),
        ) {
            let settings = Settings {
                prompt, negative_prompt: negative, seed, order: Order::Raster,
                // A value is trimmed at its end by whoever reads the line.
                model: model.trim().to_owned(),
                sampling: SamplingOptions { guidance_scale: guidance, temperature, top_k, top_p },
                ..settings("")
            };
            prop_assert_eq!(Settings::parse(&settings.parameters()).unwrap(), settings);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Settings::parse(&format!("x\n{text}"));
            let _ = read_parameters(&bytes);
        }

        #[test]
        fn a_damaged_file_never_panics(at in 0usize..10_000, value: u8, kind in 0usize..3) {
            let text = settings("乌龟").parameters();
            let mut bytes = encode(&picture(), FORMATS[kind], 90, &text).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = read_parameters(&bytes);
        }
    }
}
