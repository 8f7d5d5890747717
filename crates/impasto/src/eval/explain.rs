//! Do maps of words point at the things that the words name? On held-out composed scenes, whose boxes are known.
//!
//! The scene is rendered and encoded, so what is measured is the explanation, not the drawing. A thing's map is the sum of
//! the maps of the words of its name.

use std::ops::{ControlFlow, Range};

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::detector::Detector;
use super::scenes::{Accuracy, held_out_prompts};
use crate::checkpoint::ClipModel;
use crate::data::scenes::{Glyphs, Kind, Language, World, render};
use crate::explain::{Method, clip_relevance, maps, resized_map, strongest, words};
use crate::image::Image;
use crate::model::Model;
use crate::observer::{Event, Observer};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Held-out scenes, one caption each.
    pub scenes: usize,
    /// Of these, the scenes whose patches are deleted and inserted: each takes many detections.
    pub erased: usize,
    /// Their seed.
    pub seed: u64,
    /// Language of the captions.
    pub language: Language,
    /// The methods.
    pub methods: Vec<Method>,
}

/// What was found of one method.
#[derive(Clone, Debug, Serialize)]
pub struct MethodReport {
    /// Its name; "random" are random maps, "clip" is a CLIP's relevance.
    pub method: String,
    /// Pointing game (Zhang et al. 2016, arXiv:1608.00507, section 4.2): things whose map has its largest value at a patch
    /// whose middle is in one of the thing's boxes.
    pub pointing: Accuracy,
    /// The mean over things of the intersection over union of the patches above the threshold and those in the boxes.
    pub iou: f64,
    /// The threshold as a share of a map's largest value, the best one on other scenes.
    pub threshold: f64,
    /// Deletion (Petsiuk et al. 2018, arXiv:1806.07421, section 3.3): patches become bare background, those with the
    /// largest values first; the area under the share of pictures in which the detector finds the thing. Less is better.
    /// None where no scene was erased.
    pub deletion_auc: Option<f64>,
    /// Insertion: patches are put onto the bare background in the same order. More is better.
    pub insertion_auc: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainReport {
    /// The model's name.
    pub model: String,
    /// The CLIP's name, where one was measured, too.
    pub clip: Option<String>,
    /// The world's name.
    pub world: String,
    /// The settings.
    pub options: Options,
    /// Things pointed at.
    pub things: usize,
    /// The mean share of the patches that are in a thing's boxes.
    pub box_share: f64,
    /// Random maps, then the methods.
    pub methods: Vec<MethodReport>,
}

/// Parts of the patches that are deleted, and inserted, one after the other.
const STEPS: usize = 8;
/// Shares of a map's largest value that thresholds are chosen among.
const THRESHOLDS: usize = 19;

/// A thing in a picture and what each method says of its words.
struct Thing {
    thing: usize,
    /// Of each patch, whether its middle is in a box.
    inside: Vec<bool>,
    /// Random first.
    maps: Vec<Vec<f64>>,
}

/// Measures; with a CLIP also its relevance of patches for the thing's name alone. `observer` gets the scenes done and to do.
pub fn run(
    model: &Model,
    clip: Option<&ClipModel>,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<ExplainReport> {
    if options.scenes == 0 {
        return Err(Error::invalid("scenes", "expected 1 or more, got 0"));
    }
    for method in &options.methods {
        method.check(model)?;
    }
    let calibration = options.scenes.div_ceil(5);
    let total = options.scenes + calibration;
    let mut done = 0;
    let mut next = || {
        let event = Event::Items { done, total };
        done += 1;
        match observer.event(&event) {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(()),
        }
    };
    // Thresholds are chosen on scenes of another seed.
    let rows = 1 + options.methods.len() + usize::from(clip.is_some());
    let mut tried = vec![[0.0; THRESHOLDS]; rows];
    let language = options.language;
    for prompt in held_out_prompts(world, options.seed.wrapping_add(1), calibration, language) {
        next()?;
        let picture = render(&prompt.scene, glyphs);
        for thing in things(
            model,
            clip,
            world,
            &prompt.scene.kinds,
            &prompt.caption,
            &picture,
            options,
        )? {
            for (sums, map) in tried.iter_mut().zip(&thing.maps) {
                for (number, sum) in sums.iter_mut().enumerate() {
                    *sum += iou(map, &thing.inside, threshold(number));
                }
            }
        }
    }
    let names = options.methods.iter().map(|method| method.name());
    let mut methods: Vec<MethodReport> = std::iter::once("random")
        .chain(names)
        .chain(clip.map(|_| "clip"))
        .zip(&tried)
        .map(|(name, sums)| MethodReport {
            method: name.to_owned(),
            pointing: Accuracy::default(),
            iou: 0.0,
            threshold: threshold(strongest(sums)),
            deletion_auc: None,
            insertion_auc: None,
        })
        .collect();
    let detector = Detector::new(world, glyphs)?;
    let (mut count, mut erased, mut box_share) = (0, 0, 0.0);
    let prompts = held_out_prompts(world, options.seed, options.scenes, language);
    for (number, prompt) in prompts.iter().enumerate() {
        next()?;
        let picture = render(&prompt.scene, glyphs);
        let bare = glyphs.background(prompt.scene.background);
        for thing in things(
            model,
            clip,
            world,
            &prompt.scene.kinds,
            &prompt.caption,
            &picture,
            options,
        )? {
            count += 1;
            let inside = thing.inside.iter().filter(|&&inside| inside).count();
            box_share += inside as f64 / thing.inside.len() as f64;
            for (report, map) in methods.iter_mut().zip(&thing.maps) {
                report.pointing.count(Some(thing.inside[strongest(map)]));
                report.iou += iou(map, &thing.inside, report.threshold);
            }
            if number >= options.erased {
                continue;
            }
            erased += 1;
            let curves: Result<Vec<[f64; 2]>> = thing
                .maps
                .par_iter()
                .map(|map| {
                    Ok([
                        area(&detector, thing.thing, map, &picture, &bare)?,
                        area(&detector, thing.thing, map, &bare, &picture)?,
                    ])
                })
                .collect();
            for (report, [deletion, insertion]) in methods.iter_mut().zip(curves?) {
                *report.deletion_auc.get_or_insert(0.0) += deletion;
                *report.insertion_auc.get_or_insert(0.0) += insertion;
            }
        }
    }
    for report in &mut methods {
        report.iou /= f64::from(count.max(1));
        for sum in [&mut report.deletion_auc, &mut report.insertion_auc] {
            *sum = sum.map(|sum| sum / f64::from(erased.max(1)));
        }
    }
    Ok(ExplainReport {
        model: model.name().to_owned(),
        clip: clip.map(|clip| clip.config.name.clone()),
        world: world.name.clone(),
        options: options.clone(),
        things: count as usize,
        box_share: box_share / f64::from(count.max(1)),
        methods,
    })
}

fn threshold(number: usize) -> f64 {
    (number + 1) as f64 / (THRESHOLDS + 1) as f64
}

/// The things of a picture that its caption names, with their maps.
fn things(
    model: &Model,
    clip: Option<&ClipModel>,
    world: &World,
    kinds: &[Kind],
    caption: &str,
    picture: &Image,
    options: &Options,
) -> Result<Vec<Thing>> {
    let image_ids = model.encode(picture)?;
    let grid = model.grid();
    let all = words(caption);
    let mut things = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let thing = &world.things[kind.thing];
        let name = match (options.language, kind.count()) {
            (Language::Chinese, _) => &thing.chinese,
            (Language::English, 1) => &thing.english,
            (Language::English, _) => &thing.plural,
        };
        let Some(name) = find(caption, name) else {
            let reason = format!("\"{caption}\" does not name {}", thing.english);
            return Err(Error::invalid("world", reason));
        };
        let of_name = all
            .iter()
            .filter(|word| word.start < name.end && name.start < word.end);
        let spans: Vec<Range<usize>> = of_name.cloned().collect();
        let positions = image_ids.len();
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        // Another map for each picture and thing.
        random.set_stream(image_ids.iter().fold(kind.thing as u64, |hash, &id| {
            hash.wrapping_mul(1_000_003).wrapping_add(u64::from(id))
        }));
        let mut of_thing: Vec<Vec<f64>> =
            vec![(0..positions).map(|_| random.random::<f64>()).collect()];
        for &method in &options.methods {
            let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
            let maps = maps(
                model,
                caption,
                &spans,
                &image_ids,
                method,
                LongCaption::Refuse,
                go_on,
            )?;
            let sum = |position: usize| -> f64 { maps.iter().map(|map| map[position]).sum() };
            of_thing.push((0..positions).map(sum).collect());
        }
        if let Some(clip) = clip {
            let found = clip_relevance(clip, &caption[name], picture, LongCaption::Refuse)?;
            of_thing.push(resized_map(&found.patches, found.grid, grid));
        }
        let patch = picture.width / grid;
        let inside = |position: usize| {
            let middle = |number: usize| number * patch + patch / 2;
            let (x, y) = (middle(position % grid), middle(position / grid));
            let holds = |start: usize, size: usize, at: usize| (start..start + size).contains(&at);
            let mut boxes = kind.boxes.iter();
            boxes.any(|b| holds(b.x, b.size, x) && holds(b.y, b.size, y))
        };
        things.push(Thing {
            thing: kind.thing,
            inside: (0..positions).map(inside).collect(),
            maps: of_thing,
        });
    }
    Ok(things)
}

/// Where a name stands in a caption, and not within another English word.
fn find(caption: &str, name: &str) -> Option<Range<usize>> {
    let is_latin =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    caption
        .match_indices(name)
        .map(|(start, name)| start..start + name.len())
        .find(|at| {
            !is_latin(caption[..at.start].chars().next_back())
                && !is_latin(caption[at.end..].chars().next())
        })
}

/// Intersection over union of the patches of at least a share of the map's largest value and those inside.
fn iou(map: &[f64], inside: &[bool], threshold: f64) -> f64 {
    let least = threshold * map[strongest(map)];
    let (mut both, mut any) = (0, 0);
    for (&value, &inside) in map.iter().zip(inside) {
        let marked = value >= least && value > 0.0;
        both += u32::from(marked && inside);
        any += u32::from(marked || inside);
    }
    f64::from(both) / f64::from(any.max(1))
}

/// The area under the curve of "the detector finds the thing" while patches of `from` become those of `to`, the patches
/// with the largest values first (trapezoid rule).
fn area(detector: &Detector, thing: usize, map: &[f64], from: &Image, to: &Image) -> Result<f64> {
    let mut order: Vec<usize> = (0..map.len()).collect();
    order.sort_by(|&a, &b| map[b].total_cmp(&map[a]).then(a.cmp(&b)));
    let grid = map.len().isqrt();
    let patch = from.width / grid;
    let mut picture = from.clone();
    let mut curve = Vec::with_capacity(STEPS + 1);
    for step in 0..=STEPS {
        if step > 0 {
            let part = |step: usize| step * order.len() / STEPS;
            for &position in &order[part(step - 1)..part(step)] {
                for y in position / grid * patch..(position / grid + 1) * patch {
                    let row = 3 * (y * from.width + position % grid * patch);
                    picture.rgb[row..row + 3 * patch]
                        .copy_from_slice(&to.rgb[row..row + 3 * patch]);
                }
            }
        }
        let found = detector.detect(&picture)?;
        curve.push(f64::from(u8::from(
            found.things.iter().any(|f| f.thing == thing),
        )));
    }
    let pairs = curve.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    Ok(pairs.sum::<f64>() / STEPS as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn overlap_counts_patches_above_the_share() {
        let map = [1.0, 0.6, 0.4, -1.0];
        let inside = [true, false, true, false];
        assert_eq!(iou(&map, &inside, 0.5), 1.0 / 3.0);
        assert_eq!(iou(&map, &inside, 0.9), 0.5);
        assert_eq!(iou(&[0.0; 4], &inside, 0.5), 0.0);
    }

    #[test]
    fn a_name_within_another_word_is_not_it() {
        assert_eq!(find("a cathedral and a cat", "cat"), Some(18..21));
        assert_eq!(find("两只猫", "猫"), Some(6..9));
        assert_eq!(find("a category", "cat"), None);
    }

    /// With the thing's own box as the map, deletion ends soon and insertion succeeds soon; with its opposite neither.
    #[test]
    fn areas_rank_a_perfect_map_before_its_opposite() {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Default::default()).unwrap();
        let detector = Detector::new(&world, &glyphs).unwrap();
        let scene = world.scene(3, 0, crate::data::scenes::Split::Train);
        let (kind, picture) = (&scene.kinds[0], render(&scene, &glyphs));
        let bare = glyphs.background(scene.background);
        let map = |sign: f64| -> Vec<f64> {
            let inside = |position: usize| {
                let (x, y) = (position % 8 * 8 + 4, position / 8 * 8 + 4);
                kind.boxes
                    .iter()
                    .any(|b| (b.x..b.x + b.size).contains(&x) && (b.y..b.y + b.size).contains(&y))
            };
            (0..64)
                .map(|position| sign * f64::from(u8::from(inside(position))))
                .collect()
        };
        let of = |sign, from: &Image, to: &Image| {
            area(&detector, kind.thing, &map(sign), from, to).unwrap()
        };
        assert!(of(1.0, &picture, &bare) < of(-1.0, &picture, &bare));
        assert!(of(1.0, &bare, &picture) > of(-1.0, &bare, &picture));
    }
}
