//! What a model makes of parts: holes in held-out scenes, captions of them, variations of them.
//!
//! A hole is a random rectangle that covers one thing of a scene and 10 to 60 % of the picture. The caption is
//! given; the [`Detector`] has to find the named thing with its middle in the hole. The same holes are drawn with
//! known ids first as a prefix, and with known ids forced in raster order, with and without look-ahead.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::detector::{Detection, Detector};
use super::diversity::{mean_and_interval, mean_distance};
use super::scenes::{Accuracy, Prompt, Tally, held_out_prompts, score};
use crate::canvas::Conditioning;
use crate::data::scenes::{Glyphs, Language, Scene, SceneBox, World, render};
use crate::edit::{self, Area, Choice, EditRequest, Mask, VaryRequest, edit, vary};
use crate::families::Search;
use crate::image::{Image, Original};
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, NoObserver, Observer};
use crate::rank::Ranker;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// How the measurement is run.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Held-out scenes; one hole and one caption each.
    pub scenes: usize,
    /// Of these, how many are varied.
    pub varied: usize,
    /// Seed of scenes and holes; scene number i is drawn with the seed `seed + i`.
    pub seed: u64,
    /// Language of the captions that are given.
    pub language: Language,
    /// How ids are drawn.
    pub sampling: SamplingOptions,
    /// Token order.
    pub order: Order,
}

/// Holes drawn in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Holes {
    /// The thing that was hidden is in the hole.
    pub object: Accuracy,
    /// It is there in its colour; asked where the caption names one.
    pub colour: Accuracy,
    /// The whole picture against the caption, as `eval scenes` judges it.
    pub picture: Tally,
}

/// Captions of whole scenes, by beam search.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Captions {
    /// Every kind of thing is named.
    pub object: Accuracy,
    /// Every painted thing is named with its colour; asked where there is one.
    pub colour: Accuracy,
    /// It is one of the captions that the scene has.
    pub exact: Accuracy,
}

/// Variations of one strength.
#[derive(Clone, Debug, Serialize)]
pub struct Variety {
    /// The share of ids drawn anew.
    pub strength: f64,
    /// Mean over the scenes of the mean distance of two variations: the root of their pixels' mean squared
    /// difference, 0 to 255.
    pub distance: f64,
    /// Lower end of its 95 % interval (normal, over scenes).
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct EditsReport {
    /// The model's name.
    pub model: String,
    /// The world's name.
    pub world: String,
    /// The settings.
    pub options: Options,
    /// Mean share of the picture that the holes take.
    pub hole_share: f64,
    /// Known ids first, as a prefix.
    pub known_first: Holes,
    /// Known ids forced in raster order.
    pub raster_forced: Holes,
    /// The CLIP that had a say in what is best.
    pub chosen_by: Option<String>,
    /// Known ids first, as a prefix, the best of [`edit::TRIES`] by their likelihood and the CLIP.
    pub known_first_best: Holes,
    /// Known ids forced in raster order, likewise.
    pub raster_forced_best: Holes,
    /// The floor: the unbroken scenes through the image tokenizer.
    pub reconstructed: Holes,
    /// Whether pixels outside the holes stayed as they were, in all pictures of all ways.
    pub outside_unchanged: Accuracy,
    /// Captions.
    pub captions: Captions,
    /// Variations.
    pub varieties: Vec<Variety>,
}

/// Strengths that are varied with.
const STRENGTHS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Variations of each scene and strength.
const VARIATIONS: usize = 4;
/// The beam of the captions.
const BEAM: usize = 8;

/// One held-out scene with a hole.
struct Case {
    prompt: Prompt,
    /// The kind of the hidden thing.
    kind: usize,
    hole: Area,
}

/// Measures. `ranker` has a say in which of several tries at a hole is best. `observer` gets the scenes' parts done and to do. `show` gets each scene's caption, and the pictures:
/// the scene, with its hole, known ids first, raster forced, and the best of both.
pub fn run(
    model: &Model,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    ranker: Option<&Ranker>,
    observer: &mut dyn Observer,
    show: &mut dyn FnMut(&str, &[Image]),
) -> Result<EditsReport> {
    if options.scenes == 0 {
        return Err(Error::invalid("scenes", "expected 1 or more, got 0"));
    }
    super::run::check_size(model, world)?;
    let size = world.picture_size;
    let generator = model.generator()?;
    let captioner = model.captioner().ok();
    // Models of raster order know no other way.
    let prefix = generator.conditioning();
    let detector = Detector::new(world, glyphs)?;
    let cases: Vec<Case> = held_out_prompts(world, options.seed, options.scenes, options.language)
        .into_iter()
        .enumerate()
        .map(|(index, prompt)| Case::of(prompt, size, options.seed, index as u64))
        .collect();
    let rendered: Vec<Image> = cases
        .iter()
        .map(|case| render(&case.prompt.scene, glyphs))
        .collect();
    let varied = options.varied.min(options.scenes);
    // Four ways and a caption each; five strengths.
    let total = 5 * cases.len() + STRENGTHS.len() * varied;
    let mut done = 0;
    let mut step = |observer: &mut dyn Observer| {
        done += 1;
        if observer.event(&Event::Items { done, total }).is_break() {
            return Err(Error::Stopped);
        }
        Ok(())
    };
    let mut outside_unchanged = Accuracy::default();
    let mut drawn = Vec::new();
    for (conditioning, tries) in [
        (prefix, 1),
        (Conditioning::TeacherForced, 1),
        (prefix, edit::TRIES),
        (Conditioning::TeacherForced, edit::TRIES),
    ] {
        let mut pictures = Vec::with_capacity(cases.len());
        for (index, (case, picture)) in cases.iter().zip(&rendered).enumerate() {
            let request = EditRequest {
                prompt: Some(case.prompt.caption.clone()),
                negative_prompt: None,
                n: 1,
                seed: options.seed.wrapping_add(index as u64),
                sampling: options.sampling.clone(),
                order: options.order,
                conditioning,
                tries,
                ranker,
                window: None,
                long: LongCaption::Refuse,
            };
            let mask = Mask::of_area(size, size, case.hole)?;
            let broken = Original::from(&blanked(picture, case.hole));
            let edits = edit(model, &broken, &mask, &request, &mut NoObserver)?;
            let mut edited = broken.clone();
            for candidate in edits.candidates.iter().take(1) {
                candidate.apply(&mut edited, &mask);
            }
            let same = (0..size * size).all(|at| {
                let (x, y) = (at % size, at / size);
                mask.asks(x, y) || edited.same_at(&broken, x, y)
            });
            outside_unchanged.count(Some(same));
            pictures.push(edited.picture());
            step(observer)?;
        }
        drawn.push(pictures);
    }
    for (index, case) in cases.iter().enumerate() {
        let pictures = [
            rendered[index].clone(),
            blanked(&rendered[index], case.hole),
            drawn[0][index].clone(),
            drawn[1][index].clone(),
            drawn[2][index].clone(),
            drawn[3][index].clone(),
        ];
        show(&case.prompt.caption, &pictures);
    }
    let ids = model.image_tokenizer().encode(&rendered, model.device())?;
    drawn.push(model.image_tokenizer().decode(&ids)?);
    let mut judged = Vec::with_capacity(drawn.len());
    for pictures in &drawn {
        judged.push(judge(world, &detector, &cases, pictures)?);
    }
    let mut counted = Captions::default();
    for (case, picture) in cases.iter().zip(&rendered) {
        if let Some(captioner) = captioner {
            let search = match captioner.ranks_captions() {
                true => Search::Sampling {
                    options: captioner.text_sampling(),
                    seed: options.seed,
                },
                false => Search::Beam { width: BEAM },
            };
            let best = captioner.captions(picture, 1, &search, None, observer)?;
            let text = best.first().map_or("", |caption| caption.text.as_str());
            counted.count(world, &case.prompt.scene, text);
        }
        step(observer)?;
    }
    let mut varieties = Vec::with_capacity(STRENGTHS.len());
    for strength in STRENGTHS.into_iter().filter(|_| varied > 0) {
        let mut distances = Vec::with_capacity(varied);
        for (index, (case, picture)) in cases.iter().zip(&rendered).take(varied).enumerate() {
            let request = VaryRequest {
                prompt: Some(case.prompt.caption.clone()),
                negative_prompt: None,
                strength,
                choice: Choice::Random,
                n: VARIATIONS,
                seed: options.seed.wrapping_add((index * VARIATIONS) as u64),
                sampling: options.sampling.clone(),
                order: options.order,
                conditioning: prefix,
                tries: 1,
                long: LongCaption::Refuse,
            };
            let variations = vary(model, picture, &request, &mut NoObserver)?;
            let pictures: Vec<&Image> = variations.iter().map(|drawn| &drawn.picture).collect();
            distances.push(mean_distance(&pictures));
            step(observer)?;
        }
        varieties.push(Variety::of(strength, &distances));
    }
    let area = (size * size) as f64;
    let holes = cases.iter().map(|case| case.hole.width * case.hole.height);
    let [
        known_first,
        raster_forced,
        known_first_best,
        raster_forced_best,
        reconstructed,
    ] = <[Holes; 5]>::try_from(judged).map_err(|_| Error::invalid("holes", "lost"))?;
    Ok(EditsReport {
        model: model.name().to_owned(),
        world: world.name.clone(),
        options: options.clone(),
        hole_share: holes.sum::<usize>() as f64 / area / cases.len() as f64,
        known_first,
        raster_forced,
        chosen_by: ranker.map(|ranker| ranker.model.name().to_owned()),
        known_first_best,
        raster_forced_best,
        reconstructed,
        outside_unchanged,
        captions: counted,
        varieties,
    })
}

impl Case {
    /// Hides one thing of a scene.
    fn of(prompt: Prompt, size: usize, seed: u64, index: u64) -> Self {
        // Not the stream that the scene itself was drawn from.
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x5bd1_e995);
        random.set_stream(index);
        let kind = random.random_range(0..prompt.scene.kinds.len());
        let boxes = &prompt.scene.kinds[kind].boxes;
        let hidden = boxes[random.random_range(0..boxes.len())];
        let hole = hole(hidden, size, &mut random);
        Case { prompt, kind, hole }
    }
}

/// A rectangle around a thing that takes 10 to 60 % of the picture, or the thing's own box if that is more.
fn hole(thing: SceneBox, size: usize, random: &mut ChaCha8Rng) -> Area {
    let area = random.random_range(0.1..0.6) * (size * size) as f64;
    let wanted = area.sqrt() * random.random_range(-0.4f64..0.4).exp();
    let width = (wanted.round() as usize).clamp(thing.size, size);
    let height = ((area / width as f64).round() as usize).clamp(thing.size, size);
    let mut start = |from: usize, length: usize| {
        let least = (from + thing.size).saturating_sub(length);
        let most = from.min(size - length);
        random.random_range(least..=most)
    };
    let (x, y) = (start(thing.x, width), start(thing.y, height));
    Area {
        x,
        y,
        width,
        height,
    }
}

/// The picture with a black hole.
fn blanked(picture: &Image, hole: Area) -> Image {
    let mut picture = picture.clone();
    for y in hole.y..hole.y + hole.height {
        let start = 3 * (y * picture.width + hole.x);
        picture.rgb[start..start + 3 * hole.width].fill(0);
    }
    picture
}

fn judge(world: &World, detector: &Detector, cases: &[Case], pictures: &[Image]) -> Result<Holes> {
    let detections: Vec<Detection> = pictures
        .par_iter()
        .map(|picture| detector.detect(picture))
        .collect::<Result<_>>()?;
    let mut holes = Holes::default();
    for (case, detection) in cases.iter().zip(&detections) {
        let scene = &case.prompt.scene;
        let hidden = &scene.kinds[case.kind];
        let within = |x: f32, y: f32| case.hole.contains(x as usize, y as usize);
        let found: Vec<_> = detection
            .things
            .iter()
            .filter(|found| found.thing == hidden.thing && within(found.centre.0, found.centre.1))
            .collect();
        holes.object.count(Some(!found.is_empty()));
        let natural = world.things[hidden.thing].natural;
        let coloured = hidden.colour.map(|colour| {
            let is =
                |found: &&super::detector::DetectedThing| found.colour.or(natural) == Some(colour);
            found.iter().any(is)
        });
        holes.colour.count(coloured);
        holes.picture.add(scene, &score(world, scene, detection));
    }
    Ok(holes)
}

impl Captions {
    fn count(&mut self, world: &World, scene: &Scene, text: &str) {
        let named = named_things(world, text);
        let all = scene.kinds.iter().all(|kind| named.contains(&kind.thing));
        self.object.count(Some(all));
        let colours: Vec<bool> = scene
            .kinds
            .iter()
            .filter_map(|kind| Some((kind, kind.colour?)))
            .map(|(kind, colour)| {
                let thing = &world.things[kind.thing];
                let (english, chinese) = (colour.english(), colour.chinese());
                [
                    format!("{english} {}", thing.english),
                    format!("{english} {}", thing.plural),
                    format!("{chinese}{}", thing.chinese),
                    format!("{chinese}的{}", thing.chinese),
                ]
                .iter()
                .any(|phrase| text.contains(phrase))
            })
            .collect();
        self.colour
            .count((!colours.is_empty()).then(|| colours.iter().all(|&right| right)));
        let exact = world.all_captions(scene).iter().any(|own| own == text);
        self.exact.count(Some(exact));
    }
}

/// The things that a caption names, in English or Chinese; of names within names the longest counts, and
/// "orange" before another thing or a background is a colour.
fn named_things(world: &World, text: &str) -> Vec<usize> {
    let letter = |c: char| c.is_ascii_alphanumeric();
    // The length in bytes of the longest name at a place.
    let name_at = |at: usize| -> Option<(usize, usize)> {
        let rest = &text[at..];
        let names = world.things.iter().enumerate().flat_map(|(index, thing)| {
            [&thing.english, &thing.plural, &thing.chinese].map(|name| (name.as_str(), index))
        });
        names
            .filter(|(name, _)| {
                let Some(behind) = rest.strip_prefix(name) else {
                    return false;
                };
                // Chinese has no spaces between words.
                let english = name.starts_with(letter);
                let whole = !text[..at].ends_with(letter) && !behind.starts_with(letter);
                !name.is_empty() && (!english || whole)
            })
            .map(|(name, index)| (name.len(), index))
            .max()
    };
    let mut named = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let Some((length, thing)) = name_at(at) else {
            at += next.len_utf8();
            continue;
        };
        let behind = at + length;
        let follows = text[behind..].trim_start();
        let ground = ["background", "gradient", "striped", "dotted"]
            .iter()
            .any(|word| follows.starts_with(word));
        let start = text.len() - follows.len();
        let is_colour = start > behind && (ground || name_at(start).is_some());
        if !is_colour {
            named.push(thing);
        }
        at = behind;
    }
    named
}

impl Variety {
    fn of(strength: f64, distances: &[f64]) -> Self {
        let (distance, low, high) = mean_and_interval(distances);
        Variety {
            strength,
            distance,
            low,
            high,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hide_the_thing_and_keep_to_their_share() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for i in 0..500 {
            let size = [20, 24, 32][i % 3];
            let thing = SceneBox {
                x: random.random_range(0..=64 - size),
                y: random.random_range(0..=64 - size),
                size,
            };
            let hole = hole(thing, 64, &mut random);
            assert!(hole.x <= thing.x && hole.x + hole.width >= thing.x + size);
            assert!(hole.y <= thing.y && hole.y + hole.height >= thing.y + size);
            assert!(hole.x + hole.width <= 64 && hole.y + hole.height <= 64);
            let share = (hole.width * hole.height) as f64 / 4096.0;
            // Rounding and the picture's sides move it a little.
            assert!((0.09..0.63).contains(&share), "{share}");
        }
    }

    #[test]
    fn captions_name_things_in_both_languages() {
        let world = World::small();
        let index = |name: &str| world.things.iter().position(|t| t.english == name);
        let names = |text: &str| -> Vec<Option<usize>> {
            named_things(&world, text).into_iter().map(Some).collect()
        };
        assert_eq!(
            names("two orange cats to the left of a mouse on an orange background"),
            [index("cat"), index("mouse")]
        );
        assert_eq!(names("an orange in a room"), [index("orange")]);
        assert_eq!(
            names("夜空下，一头鲸鱼在两条鱼的左边"),
            [index("whale"), index("fish")]
        );
        assert_eq!(names("a cartoon of starlight"), []);
        assert_eq!(names("three bunches of grapes"), [index("bunch of grapes")]);
    }

    #[test]
    fn a_scenes_own_captions_are_right_and_others_are_not() {
        let world = World::small();
        let prompts = held_out_prompts(&world, 1, 60, Language::English);
        let mut own = Captions::default();
        let mut others = Captions::default();
        for (i, prompt) in prompts.iter().enumerate() {
            for caption in world.all_captions(&prompt.scene) {
                own.count(&world, &prompt.scene, &caption);
            }
            let other = &prompts[(i + 1) % prompts.len()].caption;
            others.count(&world, &prompt.scene, other);
        }
        assert_eq!(own.exact.right, own.exact.asked);
        assert_eq!(own.object.right, own.object.asked);
        assert_eq!(own.colour.right, own.colour.asked);
        assert!(own.colour.asked > 100);
        assert!(others.object.accuracy < 0.2 && others.exact.right == 0);
    }
}
