//! What a picture shows, found by an exact and deterministic search over a world.
//!
//! Every picture of a world is a known background with known sprites in boxes, so it is judged by explaining
//! it: the background that most pixels agree with, then the set of boxes, each with the sprite that explains
//! its pixels best, which together leave the least unexplained. Nothing is trained, and no threshold depends
//! on who drew the picture: blurred and half-drawn things are given to the nearest thing of the world, as long
//! as they are nearer to it than to the empty background.
//!
//! Boxes can be taken at all of the grid's places when the grid is coarse; in worlds with free positions they
//! are those that hold a piece of foreground tightly.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::canvas::{
    Canvas, GLANCE_PIXELS, THUMBNAIL_PIXELS, ThingBox, difference, glance, shrink,
};
use crate::data::scenes::{Background, Colour, Glyphs, Style, World};
use crate::image::Image;
use crate::{Error, Result};

/// A thing found in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectedThing {
    /// Index into the world's things.
    pub thing: usize,
    /// The colour it is painted in; `None` is natural.
    pub colour: Option<Colour>,
    /// How it is drawn. Where two styles look alike, either of them.
    pub style: Style,
    /// The middle of its box in px: x, y.
    pub centre: (f32, f32),
    /// The box's size in px.
    pub size: usize,
    /// How well it is drawn: 1 is exactly the sprite, 0 no nearer to it than the empty background is.
    pub score: f32,
}

/// All that is found in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The nearest of the world's backgrounds.
    pub background: Background,
    /// The things, from the most to the least visible.
    pub things: Vec<DetectedThing>,
}

/// Finds the things of one world in pictures. Cheap to clone; used from many threads.
#[derive(Clone)]
pub struct Detector {
    inner: Arc<Inner>,
}

struct Inner {
    world: World,
    glyphs: Glyphs,
    looks: Vec<Look>,
    /// For every look its thumbnail: red, green, blue (premultiplied) and alpha planes.
    thumbnails: Vec<[[f32; THUMBNAIL_PIXELS]; 4]>,
    /// The thumbnails once more, a third as wide and high.
    glances: Vec<[[f32; GLANCE_PIXELS]; 4]>,
    backgrounds: Vec<(Background, Arc<Image>)>,
}

/// One way in which a thing can look.
#[derive(Clone, Copy)]
struct Look {
    thing: usize,
    colour: Option<Colour>,
    style: Style,
}

/// Looks that go from the glance to the comparison of thumbnails: this many, or one in [`GLANCED_SHARE`] if
/// that is more.
const GLANCED: usize = 128;
const GLANCED_SHARE: usize = 40;
/// Looks that go from the coarse comparison to the exact one.
const SHORT_LIST: usize = 12;
/// Boxes among which the best set is searched.
const MAX_CANDIDATES: usize = 64;
/// Of these, boxes around about one middle: those beside a striking thing would else leave no room for a faint one's.
const MAX_RIVALS: usize = 8;
/// Boxes that are looked at in worlds with free positions.
const MAX_PLACES: usize = 32;
/// Things in a picture at most: more than any scene has, so that too many are seen as too many.
const MAX_THINGS: usize = 6;
/// From this score on a thing counts as drawn.
const MIN_SCORE: f32 = 0.2;
/// The share of its own visibility that a thing must earn to be worth being reported.
const COST: f32 = 0.12;
/// Distances from the background, summed over the channels, are cut off here: foreground of any colour then
/// weighs the same in the search for the background.
const FAR: i32 = 90;

/// A box with its best look.
#[derive(Clone, Copy)]
struct Candidate {
    place: ThingBox,
    look: usize,
    /// The squared error that it takes off the picture.
    gain: f32,
    /// What it would take off if it were drawn exactly.
    visibility: f32,
}

impl Candidate {
    fn worth(&self) -> f32 {
        self.gain - COST * self.visibility
    }
}

impl Detector {
    /// Prepares every look of every thing: a moment for small worlds, seconds for the full one.
    pub fn new(world: &World, glyphs: &Glyphs) -> Result<Self> {
        world.check()?;
        let mut looks = Vec::new();
        for thing in 0..world.things.len() {
            for &style in &world.styles {
                for colour in world.looks(thing) {
                    // The grammar paints nothing in these styles.
                    if colour.is_none() || !matches!(style, Style::Grey | Style::Outline) {
                        looks.push(Look {
                            thing,
                            colour,
                            style,
                        });
                    }
                }
            }
        }
        let sizes = world.all_sizes();
        let middle = sizes[sizes.len() / 2];
        let thumbnails: Vec<[[f32; THUMBNAIL_PIXELS]; 4]> = looks
            .par_iter()
            .map(|look| {
                let sprite = glyphs.sprite(look.thing, look.colour, middle, look.style);
                let mut planes = [[0.0; THUMBNAIL_PIXELS]; 4];
                for (channel, plane) in planes.iter_mut().enumerate() {
                    let values: Vec<f32> = sprite.pixels.iter().map(|px| px[channel]).collect();
                    *plane = shrink(
                        &values,
                        middle,
                        ThingBox {
                            x: 0,
                            y: 0,
                            size: middle,
                        },
                    );
                }
                planes
            })
            .collect();
        let glances = thumbnails
            .par_iter()
            .map(|planes| planes.map(|p| glance(&p)))
            .collect();
        let backgrounds = world
            .backgrounds
            .iter()
            .map(|&b| (b, glyphs.background(b)))
            .collect();
        let inner = Inner {
            world: world.clone(),
            glyphs: glyphs.clone(),
            looks,
            thumbnails,
            glances,
            backgrounds,
        };
        Ok(Detector {
            inner: Arc::new(inner),
        })
    }

    /// What the picture shows. It must have the world's size.
    pub fn detect(&self, picture: &Image) -> Result<Detection> {
        let size = self.inner.world.picture_size;
        if (picture.width, picture.height) != (size, size) || picture.rgb.len() != size * size * 3 {
            return Err(Error::invalid(
                "picture",
                format!(
                    "expected {size}x{size} as the world's, got {}x{}",
                    picture.width, picture.height
                ),
            ));
        }
        let (background, empty) = self.background(picture);
        let canvas = Canvas::new(picture, empty);
        let mut candidates: Vec<Candidate> = self
            .places(&canvas)
            .into_iter()
            .filter_map(|place| self.candidate(&canvas, place))
            .collect();
        candidates.sort_by(|a, b| b.worth().total_cmp(&a.worth()));
        let candidates = thinned(candidates);
        let mut best = (0.0, Vec::new());
        let tolerance = if self.is_coarse() { 0 } else { 4 };
        search(&candidates, tolerance, 0, 0.0, &mut Vec::new(), &mut best);
        let mut things: Vec<Candidate> = best.1.into_iter().map(|i| candidates[i]).collect();
        things.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        let things = things
            .into_iter()
            .map(|candidate| {
                let look = self.inner.looks[candidate.look];
                let ThingBox { x, y, size } = candidate.place;
                let half = size as f32 / 2.0;
                DetectedThing {
                    thing: look.thing,
                    colour: look.colour,
                    style: look.style,
                    centre: (x as f32 + half, y as f32 + half),
                    size,
                    score: candidate.gain / candidate.visibility,
                }
            })
            .collect();
        Ok(Detection { background, things })
    }

    /// Whether trying every place of the grid is cheap.
    fn is_coarse(&self) -> bool {
        self.inner.world.snap * 16 >= self.inner.world.picture_size.min(128)
    }

    fn background(&self, picture: &Image) -> (Background, &Image) {
        let distance = |empty: &Image| -> i64 {
            picture
                .rgb
                .chunks_exact(3)
                .zip(empty.rgb.chunks_exact(3))
                .map(|(a, b)| {
                    let sum: i32 = (0..3)
                        .map(|c| (i32::from(a[c]) - i32::from(b[c])).abs())
                        .sum();
                    i64::from(sum.min(FAR))
                })
                .sum()
        };
        let mut nearest = 0;
        let mut least = i64::MAX;
        for (i, (_, empty)) in self.inner.backgrounds.iter().enumerate() {
            let distance = distance(empty);
            if distance < least {
                (nearest, least) = (i, distance);
            }
        }
        let (background, empty) = &self.inner.backgrounds[nearest];
        (*background, empty)
    }

    /// The boxes worth looking at.
    fn places(&self, canvas: &Canvas) -> Vec<ThingBox> {
        let world = &self.inner.world;
        let coarse = self.is_coarse();
        let mut places = Vec::new();
        for size in world.all_sizes() {
            for y in (0..=world.picture_size - size).step_by(world.snap) {
                for x in (0..=world.picture_size - size).step_by(world.snap) {
                    let place = ThingBox { x, y, size };
                    if coarse {
                        // No look can gain more than all that is seen.
                        if canvas.energy(place) > least_gain(place) {
                            places.push((0, place));
                        }
                    } else if let Some(looseness) = canvas.looseness(place) {
                        places.push((looseness, place));
                    }
                }
            }
        }
        if !coarse {
            // Of boxes around one middle the tightest few stand for all: the exact comparison tries their
            // neighbours.
            places.sort_by_key(|&(looseness, place)| (looseness, place.y, place.x, place.size));
            let mut kept: Vec<(usize, ThingBox)> = Vec::new();
            for (looseness, place) in places {
                let near = kept
                    .iter()
                    .filter(|(_, other)| place.is_near(*other))
                    .count();
                if near < 2 {
                    kept.push((looseness, place));
                }
            }
            kept.truncate(MAX_PLACES);
            places = kept;
        }
        places.into_iter().map(|(_, place)| place).collect()
    }

    /// What a box most probably holds, if anything at all.
    fn candidate(&self, canvas: &Canvas, place: ThingBox) -> Option<Candidate> {
        let mut best = self.best_look(canvas, place)?;
        if !self.is_coarse() {
            // A box that is a little off favours a wrong look, and a wrong look a wrong box: by turns they
            // find each other.
            for _ in 0..3 {
                let settled = self.settled(canvas, best);
                if settled.place == best.place {
                    break;
                }
                best = settled;
                match self.best_look(canvas, best.place) {
                    Some(again) if again.gain > best.gain => best = again,
                    _ => break,
                }
            }
        }
        let drawn = best.gain > MIN_SCORE * best.visibility && best.gain > least_gain(best.place);
        drawn.then_some(best)
    }

    /// The look that explains a box's pixels best.
    fn best_look(&self, canvas: &Canvas, place: ThingBox) -> Option<Candidate> {
        let Inner {
            looks,
            thumbnails,
            glances,
            ..
        } = &*self.inner;
        let seen: [[f32; THUMBNAIL_PIXELS]; 3] =
            std::array::from_fn(|c| shrink(&canvas.difference[c], canvas.size, place));
        let empty: [[f32; THUMBNAIL_PIXELS]; 3] =
            std::array::from_fn(|c| shrink(&canvas.empty[c], canvas.size, place));
        let (seen_glance, empty_glance) = (seen.map(|p| glance(&p)), empty.map(|p| glance(&p)));
        let mut glanced: Vec<(f32, usize)> = glances
            .iter()
            .enumerate()
            .map(|(look, glance)| (difference(&seen_glance, &empty_glance, glance), look))
            .collect();
        let by_error = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let enough = GLANCED.max(glanced.len() / GLANCED_SHARE);
        if enough < glanced.len() {
            glanced.select_nth_unstable_by(enough, by_error);
            glanced.truncate(enough);
        }
        let mut list: Vec<(f32, usize)> = glanced
            .into_iter()
            .map(|(_, look)| (difference(&seen, &empty, &thumbnails[look]), look))
            .collect();
        list.sort_by(by_error);
        list.truncate(SHORT_LIST);
        let nothing = canvas.energy(place);
        let mut best: Option<Candidate> = None;
        for (_, look) in list {
            let Look {
                thing,
                colour,
                style,
            } = looks[look];
            let sprite = self.inner.glyphs.sprite(thing, colour, place.size, style);
            let (error, visibility) = canvas.compare(&sprite.pixels, place);
            let candidate = Candidate {
                place,
                look,
                gain: nothing - error,
                visibility,
            };
            if best.is_none_or(|best| candidate.gain > best.gain) {
                best = Some(candidate);
            }
        }
        best
    }

    /// The same look in the neighbouring boxes and sizes, as long as they are better.
    fn settled(&self, canvas: &Canvas, start: Candidate) -> Candidate {
        let world = &self.inner.world;
        let sizes = world.all_sizes();
        let Look {
            thing,
            colour,
            style,
        } = self.inner.looks[start.look];
        let mut best = start;
        loop {
            let from = best.place;
            let at = sizes
                .iter()
                .position(|&size| size == from.size)
                .unwrap_or(0);
            for &size in &sizes[at.saturating_sub(1)..(at + 2).min(sizes.len())] {
                let sprite = self.inner.glyphs.sprite(thing, colour, size, style);
                for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                    // The middle stays when the size changes.
                    let moved = |start: usize, steps: isize| -> Option<usize> {
                        let middle = (start + from.size / 2).checked_sub(size / 2)?;
                        let to = middle.checked_add_signed(steps * world.snap as isize)?;
                        let to = to - to % world.snap;
                        (to + size <= world.picture_size).then_some(to)
                    };
                    let (Some(x), Some(y)) = (moved(from.x, dx), moved(from.y, dy)) else {
                        continue;
                    };
                    let place = ThingBox { x, y, size };
                    let (error, visibility) = canvas.compare(&sprite.pixels, place);
                    let gain = canvas.energy(place) - error;
                    if gain > best.gain {
                        best = Candidate {
                            place,
                            gain,
                            visibility,
                            ..best
                        };
                    }
                }
            }
            if best.place == from {
                return best;
            }
        }
    }
}

/// The squared error that a thing must take off a box: one that can hardly be seen even when it is drawn
/// exactly can't be distinguished from noise.
fn least_gain(place: ThingBox) -> f32 {
    (place.size * place.size) as f32 * 20.0
}

/// The worthiest candidates, of which each has few others around its middle; they come and go by falling worth.
fn thinned(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::with_capacity(MAX_CANDIDATES);
    for candidate in candidates {
        let rivals = kept
            .iter()
            .filter(|other| other.place.shares_middle(candidate.place))
            .count();
        if rivals < MAX_RIVALS {
            kept.push(candidate);
        }
        if kept.len() == MAX_CANDIDATES {
            break;
        }
    }
    kept
}

/// The heaviest set of boxes that don't overlap; candidates come by falling worth.
fn search(
    candidates: &[Candidate],
    tolerance: usize,
    from: usize,
    worth: f32,
    chosen: &mut Vec<usize>,
    best: &mut (f32, Vec<usize>),
) {
    if worth > best.0 {
        *best = (worth, chosen.clone());
    }
    let room = MAX_THINGS - chosen.len();
    for i in from..candidates.len() {
        // No later candidate is worth more, so this is the most that can still come.
        if worth + candidates[i].worth() * room as f32 <= best.0 {
            return;
        }
        let place = candidates[i].place;
        if chosen
            .iter()
            .any(|&j| candidates[j].place.overlaps(place, tolerance))
        {
            continue;
        }
        chosen.push(i);
        search(
            candidates,
            tolerance,
            i + 1,
            worth + candidates[i].worth(),
            chosen,
            best,
        );
        chosen.pop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::scenes::{Grammar, Language, Scene, Sources, Split, render};
    use crate::eval::scenes::{Tally, held_out_prompts, score};

    /// The picture after a Gaussian blur and uniform noise: worse than what an image tokenizer leaves.
    fn degraded(picture: &Image, sigma: f32, noise: u32, seed: u64) -> Image {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let size = picture.width as isize;
        let kernel: Vec<f32> = (-3i32..=3)
            .map(|i| (-(i * i) as f32 / (2.0 * sigma * sigma)).exp())
            .collect();
        let sum: f32 = kernel.iter().sum();
        let mut plane: Vec<f32> = picture.rgb.iter().map(|&v| f32::from(v)).collect();
        for (dx, dy) in [(1, 0), (0, 1)] {
            let before = plane.clone();
            for y in 0..size {
                for x in 0..size {
                    for c in 0..3 {
                        let at = |i: isize| {
                            let x = (x + dx * i).clamp(0, size - 1);
                            let y = (y + dy * i).clamp(0, size - 1);
                            before[((y * size + x) * 3 + c) as usize]
                        };
                        let mixed: f32 = (-3isize..=3)
                            .map(|i| kernel[(i + 3) as usize] * at(i))
                            .sum();
                        plane[((y * size + x) * 3 + c) as usize] = mixed / sum;
                    }
                }
            }
        }
        let rgb = plane
            .into_iter()
            .map(|v| {
                let off = rng.random_range(0..=2 * noise) as f32 - noise as f32;
                (v + off).round().clamp(0.0, 255.0) as u8
            })
            .collect();
        Image {
            width: picture.width,
            height: picture.height,
            rgb,
        }
    }

    fn tally(world: &World, glyphs: &Glyphs, n: usize, blurred: bool) -> Tally {
        let detector = Detector::new(world, glyphs).unwrap();
        let prompts = held_out_prompts(world, 2024, n, Language::English);
        let scores: Vec<_> = prompts
            .par_iter()
            .enumerate()
            .map(|(i, prompt)| {
                let mut picture = render(&prompt.scene, glyphs);
                if blurred {
                    picture = degraded(&picture, 0.7, 8, i as u64);
                }
                score(world, &prompt.scene, &detector.detect(&picture).unwrap())
            })
            .collect();
        let mut tally = Tally::default();
        for (prompt, scores) in prompts.iter().zip(&scores) {
            tally.add(&prompt.scene, scores);
        }
        tally
    }

    /// The project's bounds: 99 % as rendered, 95 % blurred and noisy.
    fn judged_rightly(world: &World, glyphs: &Glyphs, n: usize) {
        for (blurred, bound) in [(false, 0.99), (true, 0.95)] {
            let tally = tally(world, glyphs, n, blurred);
            assert_eq!(tally.style.asked > 0, world.grammar == Grammar::Rich);
            for (name, accuracy) in tally.rows() {
                assert!(
                    accuracy.accuracy >= bound,
                    "{} of {}, blurred: {blurred}: {accuracy:?}",
                    name,
                    world.name
                );
            }
        }
    }

    #[test]
    fn rendered_pictures_of_the_tiny_world_are_judged_rightly() {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Sources::default()).unwrap();
        judged_rightly(&world, &glyphs, 200);
    }

    /// Only where the font is installed: the benchmark can't be run without it either.
    #[test]
    fn rendered_pictures_of_the_small_world_are_judged_rightly() {
        let world = World::small();
        let sources = Sources::default();
        if !sources.font.exists() {
            return;
        }
        let glyphs = Glyphs::load(&world, &sources).unwrap();
        judged_rightly(&world, &glyphs, 150);
    }

    /// Only where the font and the art packs are installed.
    #[test]
    fn rendered_pictures_in_the_styles_of_artists_are_judged_rightly() {
        let sources = Sources {
            art: concat!(env!("CARGO_MANIFEST_DIR"), "/../../art").into(),
            ..Sources::default()
        };
        if !sources.font.exists() || !sources.art.exists() {
            return;
        }
        let world = World::styles_small(&sources).unwrap();
        let glyphs = Glyphs::load(&world, &sources).unwrap();
        judged_rightly(&world, &glyphs, 300);
    }

    #[test]
    fn a_faint_thing_is_found_beside_striking_ones() {
        let candidate = |x: usize, gain: f32| Candidate {
            place: ThingBox { x, y: 0, size: 48 },
            look: 0,
            gain,
            visibility: gain,
        };
        // A hundred boxes on and around a striking thing, and a faint one elsewhere.
        let mut candidates: Vec<Candidate> = (0..100)
            .map(|i| candidate(i % 10, 1000.0 - i as f32))
            .collect();
        candidates.push(candidate(72, 10.0));
        let kept = thinned(candidates);
        assert_eq!(kept.len(), MAX_RIVALS + 1);
        assert_eq!((kept[0].gain, kept[MAX_RIVALS].gain), (1000.0, 10.0));
    }

    #[test]
    fn boxes_and_colours_are_found_exactly() {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Sources::default()).unwrap();
        let detector = Detector::new(&world, &glyphs).unwrap();
        for index in 0..200 {
            let scene: Scene = world.scene(1, index, Split::HeldOut);
            let detection = detector.detect(&render(&scene, &glyphs)).unwrap();
            let mut wanted: Vec<_> = scene
                .kinds
                .iter()
                .flat_map(|kind| {
                    kind.boxes
                        .iter()
                        .map(|b| (kind.thing, b.x, b.y, b.size, kind.colour))
                })
                .collect();
            let mut found: Vec<_> = detection
                .things
                .iter()
                .map(|t| {
                    let corner = |centre: f32| (centre - t.size as f32 / 2.0) as usize;
                    (
                        t.thing,
                        corner(t.centre.0),
                        corner(t.centre.1),
                        t.size,
                        t.colour,
                    )
                })
                .collect();
            wanted.sort_unstable();
            found.sort_unstable();
            assert_eq!(wanted, found, "{scene:?}");
        }
    }

    #[test]
    fn an_empty_background_and_noise_hold_nothing() {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Sources::default()).unwrap();
        let detector = Detector::new(&world, &glyphs).unwrap();
        for &background in &world.backgrounds {
            let picture = degraded(&glyphs.background(background), 0.7, 8, 1);
            let detection = detector.detect(&picture).unwrap();
            assert_eq!(detection.background, background);
            assert!(detection.things.is_empty(), "{detection:?}");
        }
    }

    #[test]
    fn a_picture_of_another_size_is_refused() {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Sources::default()).unwrap();
        let detector = Detector::new(&world, &glyphs).unwrap();
        let picture = Image {
            width: 32,
            height: 32,
            rgb: vec![0; 32 * 32 * 3],
        };
        let error = detector.detect(&picture).unwrap_err();
        assert!(error.to_string().contains("expected 64x64"), "{error}");
    }
}
