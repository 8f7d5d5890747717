//! Published upscalers against what PyTorch makes of the same files (`reference/write_upscaler_goldens.py`), and damage.

#![allow(clippy::unwrap_used)]

use burn::tensor::TensorData;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::ModelSource;
use crate::image::{Format, Image, Original, Planes};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    Expected, assert_within, copied, golden as golden_of, numbers, refusal,
};
use crate::observer::{Event, NoObserver};
use crate::upscale::{Upscale, Upscaler};

const SETS: [&str; 7] = [
    "rrdb_x4",
    "rrdb_x2",
    "rrdb_wide",
    "rrdb_old_names",
    "compact_x4",
    "compact_x3",
    "safetensors",
];

fn golden(set: &str) -> PathBuf {
    // The reference's answer is a safetensors file, too.
    weights_beside(&golden_of("upscaler", set))
}

fn weights_beside(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    files
        .find(|path| !path.ends_with("expected.safetensors"))
        .unwrap()
}

fn open(path: &Path) -> Result<PublishedUpscaler> {
    load(path, &Device::flex())
}

fn upscaler(set: &str) -> Upscaler {
    let source = ModelSource::Published {
        path: golden(set),
        needs: Vec::new(),
    };
    Upscaler::load(&source, &Device::flex(), None).unwrap()
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden_of("upscaler", set))
}

/// A picture with transparency, of a PNG's samples.
fn original(set: &str) -> Original {
    let (samples, shape) = expected(set).tensor("picture");
    let [channels, height, width] = shape[..] else {
        panic!("{shape:?}")
    };
    let area = height * width;
    let mut original = Original::from(&Image::filled(width, height, [0; 3])).with_transparency();
    original.set_planes(
        (0..width, 0..height),
        &Planes {
            colours: samples[..3 * area].iter().map(|x| x / 255.0).collect(),
            opacity: Some(
                samples[3 * area..channels * area]
                    .iter()
                    .map(|x| x / 255.0)
                    .collect(),
            ),
        },
    );
    original
}

#[test]
fn pixels_are_the_references() {
    for set in SETS {
        let expected = expected(set);
        let found = open(&golden(set)).unwrap();
        assert!(
            found.report.is_complete(),
            "{set}: {}",
            found.report.summary()
        );
        let (input, shape) = expected.tensor("input");
        let input = input.iter().map(|x| x / 255.0).collect::<Vec<f32>>();
        let input = TensorData::new(input, shape);
        let output = found
            .net
            .forward(burn::tensor::Tensor::from_data(input, &Device::flex()));
        let (wanted, shape) = expected.tensor("output");
        assert_eq!(output.dims()[..], shape[..], "{set}");
        assert_within(&numbers(output), &wanted, 1e-4, set);
    }
}

#[test]
fn whole_pictures_with_transparency_are_the_references() {
    for set in SETS {
        let upscaler = upscaler(set);
        let outcome = upscaler
            .run(&Upscale::new(original(set)), &mut NoObserver)
            .unwrap();
        let (wanted, shape) = expected(set).tensor("enhanced");
        let (columns, rows): (Vec<usize>, Vec<usize>) =
            ((0..shape[2]).collect(), (0..shape[1]).collect());
        assert_eq!(
            [outcome.image.height(), outcome.image.width()],
            shape[1..],
            "{set}"
        );
        let planes = outcome.image.planes(&columns, &rows);
        let found = [planes.colours, planes.opacity.unwrap()].concat();
        // Half a step of 8 bits, which the reference rounds to as well, and 1e-3.
        assert_within(&found, &wanted, 0.5 / 255.0 + 1e-3, set);
        assert_eq!(
            (outcome.tiles, outcome.factor),
            (1, upscaler.config().scale())
        );
    }
}

/// Numbers of the whole picture, in 0..1.
fn pixels(image: &Original) -> Vec<f32> {
    let sides = [image.width(), image.height()].map(|side| (0..side).collect::<Vec<_>>());
    image.planes(&sides[0], &sides[1]).colours
}

#[test]
fn tiles_change_nothing_but_what_is_near_their_seams() {
    let noise = |width: usize, height: usize| {
        let value = |i: usize| (i * 7919 % 251) as u8;
        let rgb = (0..3 * width * height).map(value).collect();
        Original::from(&Image::new(width, height, rgb).unwrap())
    };
    for (set, width, height, small, large) in [
        ("compact_x4", 47, 35, 16, 32),
        ("rrdb_x2", 190, 120, 48, 96),
    ] {
        let upscaler = upscaler(set);
        let config = upscaler.config();
        let (scale, reach) = (config.scale(), config.reach());
        let run = |overlap: usize, tile: Option<usize>| {
            let request = Upscale {
                tile,
                overlap,
                ..Upscale::new(noise(width, height))
            };
            let outcome = upscaler.run(&request, &mut NoObserver).unwrap();
            (pixels(&outcome.image), outcome.tiles)
        };
        let (whole, tiles) = run(0, None);
        assert_eq!(tiles, 1);
        // One step of 8 bits where rounding falls the other way.
        let step = 1.01 / 255.0;
        let (tiled, tiles) = run(reach, Some(small));
        assert!(tiles > 8, "{set}: {tiles}");
        assert_within(&tiled, &whole, step, set);
        let differ = tiled.iter().zip(&whole).filter(|(a, b)| a != b).count();
        assert!(
            differ < whole.len() / 1000,
            "{set}: {differ} of {}",
            whole.len()
        );
        // With less overlap, only what is nearer to a seam than what is missing.
        let (overlap, tile) = (2, large);
        let (tiled, _) = run(overlap, Some(tile));
        let lengths = [width, height].map(|side| {
            let spans = crate::upscale::spans(side, tile, overlap, config.step());
            spans
                .into_iter()
                .map(|span| span.written.start)
                .skip(1)
                .collect::<Vec<_>>()
        });
        let near = |at: usize, seams: &[usize]| {
            let far = scale * (reach - overlap);
            seams.iter().any(|seam| at.abs_diff(scale * seam) <= far)
        };
        let (mut inside, mut changed) = (0, 0);
        for (i, (a, b)) in tiled.iter().zip(&whole).enumerate() {
            let at = i % (scale * scale * width * height);
            let (x, y) = (at % (scale * width), at / (scale * width));
            if near(x, &lengths[0]) || near(y, &lengths[1]) {
                changed += usize::from((a - b).abs() > step);
            } else {
                inside += 1;
                assert!((a - b).abs() <= step, "{set} at {x}, {y}: {a} {b}");
            }
        }
        assert!(inside > 500 && changed > 100, "{set}: {inside}, {changed}");
    }
}

#[test]
fn any_factor_is_reached() {
    let upscaler = upscaler("safetensors");
    assert_eq!(upscaler.config().scale(), 2);
    for (factor, tiles) in [(1, 1), (2, 1), (3, 2), (4, 2), (8, 3)] {
        let request = Upscale {
            factor: Some(factor),
            ..Upscale::new(Original::from(&Image::filled(9, 7, [200, 30, 90])))
        };
        let outcome = upscaler.run(&request, &mut NoObserver).unwrap();
        let (width, height) = (outcome.image.width(), outcome.image.height());
        assert_eq!(
            (width, height, outcome.tiles),
            (9 * factor, 7 * factor, tiles)
        );
        assert_eq!(outcome.image.describe(), "8-bit RGB");
    }
    let picture = Image::filled(9, 7, [200, 30, 90]);
    let large = upscaler.enlarge(&picture, 2, &mut NoObserver).unwrap();
    assert_eq!((large.width, large.height), (18, 14));
    for (request, expected) in [
        (
            Upscale {
                factor: Some(9),
                ..Upscale::new(Original::from(&picture))
            },
            "factor",
        ),
        (
            Upscale {
                tile: Some(3),
                ..Upscale::new(Original::from(&picture))
            },
            "tile",
        ),
        (
            Upscale {
                overlap: 9999,
                ..Upscale::new(Original::from(&picture))
            },
            "overlap",
        ),
        (
            Upscale {
                image: None,
                ..Upscale::new(Original::from(&picture))
            },
            "image",
        ),
        (
            Upscale::new(Original::from(&Image::filled(16_000, 2, [0; 3]))),
            "would be 32000x4 pixels",
        ),
    ] {
        let error = upscaler
            .run(&request, &mut NoObserver)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    // It stops between tiles.
    let request = Upscale {
        tile: Some(16),
        ..Upscale::new(Original::from(&Image::filled(40, 16, [9; 3])))
    };
    let mut seen = Vec::new();
    let stopped = upscaler.run(&request, &mut |event: &Event<'_>| {
        if let Event::Items { done, total } = event {
            seen.push((*done, *total));
        }
        match seen.len() {
            2 => std::ops::ControlFlow::Break(()),
            _ => std::ops::ControlFlow::Continue(()),
        }
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(seen, [(1, 3), (2, 3)]);
}

#[test]
fn every_kind_of_samples_stays() {
    let upscaler = upscaler("compact_x3");
    for original in crate::image::original_kinds() {
        let request = Upscale::new(original.clone());
        let outcome = upscaler.run(&request, &mut NoObserver).unwrap();
        assert_eq!(outcome.image.describe(), original.describe());
        outcome.image.samples(Format::Png);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let rewritten = |set: &str, change: &dyn Fn(&str) -> Option<String>| {
        let bytes = std::fs::read(golden(set)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors
            .iter()
            .filter_map(|(name, view)| Some((change(name)?, view)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
        refusal(&path, open)
    };
    let without = |gone: &'static str| {
        rewritten("safetensors", &move |name| {
            (name != gone).then(|| name.to_owned())
        })
    };
    for (gone, expected) in [
        ("body.0.weight", "is no upscaler"),
        ("body.1.weight", "other than PReLU"),
        ("body.3.weight", "missing: body.3.weight"),
        ("body.4.weight", "body.2.weight makes 16 channels"),
    ] {
        let error = without(gone);
        assert!(error.contains(expected), "{error}");
    }
    let error = rewritten("safetensors", &|name| {
        Some(name.replace("body.4.bias", "body.5.bias"))
    });
    assert!(
        error.contains("perhaps body.5.bias is body.4.bias"),
        "{error}"
    );
    // Folders with none and with several files of weights.
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(folder.path(), open).contains("upscaler"));
    let folder = copied(&golden_of("upscaler", "safetensors"));
    let error = refusal(folder.path(), open);
    assert!(error.contains("2 files of weights"), "{error}");
    std::fs::remove_file(folder.path().join("expected.safetensors")).unwrap();
    open(folder.path()).unwrap();
    // Other models.
    let decoder = golden_of("dalle_mini", "min_dalle").join("decoder.pt");
    let error = refusal(&decoder, open);
    assert!(error.contains("is no upscaler"), "{error}");
    refusal(&golden_of("clip", "openai").join("small.pt"), open);
    let embedded = ModelSource::parse(crate::checkpoint::EMBEDDED_NAME).unwrap();
    let error = Upscaler::load(&embedded, &Device::flex(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected an upscaler"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// An error of one line or a network, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        set in prop::sample::select(&SETS[..]),
        damage in damage(),
    ) {
        let file = golden(set);
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        open_damaged(file.parent().unwrap(), &name, &damage, |folder| open(&folder.join(&name)));
    }
}
