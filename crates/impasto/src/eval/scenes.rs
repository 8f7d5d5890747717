//! The composed-scene benchmark: are things, colours, counts, places and backgrounds those of the prompt?
//!
//! Prompts are held-out combinations; pictures are judged by the [`Detector`](super::detector::Detector).
//! Definitions follow GenEval where it has one (an object counts when it is there; a relation when all boxes
//! agree with it).

use serde::{Deserialize, Serialize};

use super::detector::{DetectedThing, Detection};
use crate::data::scenes::{Arrangement, Grammar, Language, Place, Relation, Scene, Split, World};
use crate::{Error, Result};

/// One question of the benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// What has to be drawn.
    pub scene: Scene,
    /// Its words.
    pub caption: String,
}

/// How much a prompt says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionLength {
    /// The plainest wording: a sentence for one and two kinds of things, several for three and four.
    #[default]
    Plain,
    /// Several sentences for any number of kinds, in which an early word decides what a later one means.
    Long,
}

/// Which prompts a benchmark takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptKind {
    /// Which combinations.
    pub split: Split,
    /// The language of the captions.
    pub language: Language,
    /// Their length.
    pub length: CaptionLength,
}

impl PromptKind {
    /// Refuses what the world has no scenes or no captions for.
    pub fn check(&self, world: &World) -> Result<()> {
        world.check_split(self.split)?;
        if self.length == CaptionLength::Long && world.grammar != Grammar::Rich {
            let reason = format!("the world {} has no long ones", world.name);
            return Err(Error::invalid("captions", reason));
        }
        Ok(())
    }

    /// The first `n` prompts of a seed, of a world that [`PromptKind::check`] has passed.
    pub fn prompts(&self, world: &World, seed: u64, n: usize) -> Vec<Prompt> {
        (0..n as u64)
            .map(|index| {
                let scene = world.scene(seed, index, self.split);
                let caption = match self.length {
                    CaptionLength::Plain => world.caption(&scene, self.language, 0),
                    CaptionLength::Long => world.long_caption(&scene, self.language, 0),
                };
                Prompt { scene, caption }
            })
            .collect()
    }
}

/// The benchmark's prompts: held-out combinations, each in its plainest wording.
pub fn held_out_prompts(world: &World, seed: u64, n: usize, language: Language) -> Vec<Prompt> {
    let kind = PromptKind {
        split: Split::HeldOut,
        language,
        length: CaptionLength::Plain,
    };
    kind.prompts(world, seed, n)
}

/// What a picture got right; `None` where the prompt does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// Every kind of thing in the prompt is there at least once.
    pub object: Option<bool>,
    /// All things found are drawn in the prompt's style. Asked only in worlds whose captions name it.
    pub style: Option<bool>,
    /// All things standing for a kind whose colour the prompt names are in that colour. Asked only where
    /// a colour is named.
    pub colour: Option<bool>,
    /// There are exactly as many things as the prompt says, whatever they are.
    pub count: Option<bool>,
    /// The things are where the prompt says: all of them at the place, or all of the first kind on their
    /// side of all of the second. Asked only where the prompt says a place.
    pub place: Option<bool>,
    /// The background is of the kind and colour in the prompt.
    pub background: Option<bool>,
}

impl Scores {
    /// Whether everything that was asked is right.
    pub fn all(&self) -> bool {
        [
            self.object,
            self.style,
            self.colour,
            self.count,
            self.place,
            self.background,
        ]
        .into_iter()
        .flatten()
        .all(|right| right)
    }
}

/// Judges what was found in a picture by the scene of its prompt.
///
/// A thing found stands for the kind that it is. A thing of no kind in the prompt stands for the one kind that
/// was not found (or for the only kind): a red fox in place of a red cat has the wrong object and the right
/// colour. A thing's own colour counts as its colour: a tomato is red.
pub fn score(world: &World, scene: &Scene, detection: &Detection) -> Scores {
    let found = &detection.things;
    let is_there = |thing: usize| found.iter().any(|f| f.thing == thing);
    let missing: Vec<usize> = (0..scene.kinds.len())
        .filter(|&kind| !is_there(scene.kinds[kind].thing))
        .collect();
    // Which kind each found thing stands for.
    let stands_for = |f: &DetectedThing| -> Option<usize> {
        let kind = scene.kinds.iter().position(|kind| kind.thing == f.thing);
        kind.or(match (missing.as_slice(), scene.kinds.len()) {
            (&[kind], _) => Some(kind),
            (_, 1) => Some(0),
            _ => None,
        })
    };
    let of_kind = |kind: usize| -> Vec<&DetectedThing> {
        found
            .iter()
            .filter(|f| stands_for(f) == Some(kind))
            .collect()
    };

    let colours: Vec<bool> = scene
        .kinds
        .iter()
        .enumerate()
        .filter_map(|(i, kind)| kind.colour.map(|colour| (i, colour)))
        .map(|(i, colour)| {
            let own = of_kind(i);
            let is =
                |f: &&DetectedThing| f.colour.or(world.things[f.thing].natural) == Some(colour);
            !own.is_empty() && own.iter().all(is)
        })
        .collect();
    let count: usize = scene.kinds.iter().map(|kind| kind.count()).sum();
    let place = match scene.arrangement {
        Arrangement::Free => None,
        Arrangement::At(place) => {
            let single = count == 1;
            let at = |f: &DetectedThing| is_at(place, f, world.picture_size, single);
            Some(!found.is_empty() && found.iter().all(at))
        }
        Arrangement::Related(relation) => {
            let (first, second) = (of_kind(0), of_kind(1));
            let related = first
                .iter()
                .all(|a| second.iter().all(|b| is_related(relation, a, b)));
            Some(!first.is_empty() && !second.is_empty() && related)
        }
        Arrangement::Quadrants => Some((0..scene.kinds.len()).all(|i| {
            let own = of_kind(i);
            let quadrant = scene.kinds[i]
                .boxes
                .first()
                .map(|b| b.quadrant(world.picture_size));
            let is_there = |f: &&DetectedThing| {
                let half = world.picture_size as f32 / 2.0;
                let place = match (f.centre.0 > half, f.centre.1 > half) {
                    (false, false) => Place::TopLeft,
                    (true, false) => Place::TopRight,
                    (false, true) => Place::BottomLeft,
                    (true, true) => Place::BottomRight,
                };
                Some(place) == quadrant
            };
            !own.is_empty() && own.iter().all(is_there)
        })),
    };
    Scores {
        object: Some(missing.is_empty()),
        style: (world.grammar == Grammar::Rich)
            .then(|| !found.is_empty() && found.iter().all(|f| f.style == scene.style)),
        colour: (!colours.is_empty()).then(|| colours.iter().all(|&right| right)),
        count: Some(found.len() == count),
        place,
        background: Some(detection.background == scene.background),
    }
}

/// A single thing is at one of nine places when it is within the outer quarters (or the middle half) of the
/// way that its box can go; one of several when it is in the named half of the picture.
fn is_at(place: Place, thing: &DetectedThing, picture_size: usize, single: bool) -> bool {
    let (column, row) = place.column_row();
    let fits = |centre: f32, third: usize| {
        if single {
            let way = (picture_size - thing.size.min(picture_size - 1)) as f32;
            let share = (centre - thing.size as f32 / 2.0) / way;
            match third {
                0 => share < 0.25,
                1 => (0.25..=0.75).contains(&share),
                _ => share > 0.75,
            }
        } else {
            let share = centre / picture_size as f32;
            match third {
                0 => share < 0.5,
                // The other direction says it: "at the top" is anywhere from left to right.
                1 => true,
                _ => share > 0.5,
            }
        }
    };
    fits(thing.centre.0, column) && fits(thing.centre.1, row)
}

fn is_related(relation: Relation, a: &DetectedThing, b: &DetectedThing) -> bool {
    match relation {
        Relation::LeftOf => a.centre.0 < b.centre.0,
        Relation::RightOf => a.centre.0 > b.centre.0,
        Relation::Above => a.centre.1 < b.centre.1,
        Relation::Below => a.centre.1 > b.centre.1,
    }
}

/// Right answers of one attribute, with a 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Right ones.
    pub right: u64,
    /// Asked ones.
    pub asked: u64,
    /// `right / asked`; 0 when none was asked.
    pub accuracy: f64,
    /// The 95 % Wilson score interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Accuracy {
    pub(super) fn count(&mut self, answer: Option<bool>) {
        let Some(right) = answer else { return };
        self.asked += 1;
        self.right += u64::from(right);
        let (n, p) = (self.asked as f64, self.right as f64 / self.asked as f64);
        // Two-sided 95 % of the normal distribution.
        const Z: f64 = 1.959_963_984_540_054;
        let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        self.accuracy = p;
        (self.low, self.high) = ((centre - half).max(0.0), (centre + half).min(1.0));
    }
}

/// The benchmark's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Pictures judged.
    pub pictures: u64,
    /// See [`Scores::object`].
    pub object: Accuracy,
    /// See [`Scores::style`].
    pub style: Accuracy,
    /// See [`Scores::colour`].
    pub colour: Accuracy,
    /// See [`Scores::count`].
    pub count: Accuracy,
    /// See [`Scores::place`].
    pub place: Accuracy,
    /// See [`Scores::background`].
    pub background: Accuracy,
    /// See [`Scores::all`].
    pub all: Accuracy,
    /// The same of the prompts with one, two, three and four kinds of things.
    pub all_by_kinds: [Accuracy; 4],
}

impl Tally {
    /// Counts one picture of a scene.
    pub fn add(&mut self, scene: &Scene, scores: &Scores) {
        self.pictures += 1;
        self.object.count(scores.object);
        self.style.count(scores.style);
        self.colour.count(scores.colour);
        self.count.count(scores.count);
        self.place.count(scores.place);
        self.background.count(scores.background);
        self.all.count(Some(scores.all()));
        let kinds = scene.kinds.len().clamp(1, self.all_by_kinds.len());
        self.all_by_kinds[kinds - 1].count(Some(scores.all()));
    }

    /// The rows of the table: name and accuracy. The style, and numbers of kinds, are left out where never asked.
    pub fn rows(&self) -> Vec<(&'static str, Accuracy)> {
        let mut rows = vec![
            ("object", self.object),
            ("style", self.style),
            ("colour", self.colour),
            ("count", self.count),
            ("place", self.place),
            ("background", self.background),
            ("all", self.all),
        ];
        let kinds = ["  one kind", "  two kinds", "  three kinds", "  four kinds"];
        rows.extend(kinds.into_iter().zip(self.all_by_kinds));
        rows.retain(|(name, row)| row.asked > 0 || !(*name == "style" || name.starts_with(' ')));
        rows
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::scenes::{Background, BackgroundKind, Colour, Kind, SceneBox, Style};

    fn found(thing: usize, colour: Option<Colour>, x: f32, y: f32) -> DetectedThing {
        DetectedThing {
            thing,
            colour,
            style: Style::Flat,
            centre: (x, y),
            size: 32,
            score: 1.0,
        }
    }

    /// A red 1 to the left of a natural 2, at night.
    fn scene() -> Scene {
        let kind = |thing, colour, x| Kind {
            thing,
            colour,
            boxes: vec![SceneBox { x, y: 16, size: 32 }],
        };
        Scene {
            kinds: vec![kind(1, Some(Colour::Red), 0), kind(2, None, 32)],
            arrangement: Arrangement::Related(Relation::LeftOf),
            background: Background {
                kind: BackgroundKind::Night,
                colour: None,
            },
            style: Style::Flat,
        }
    }

    fn judged(things: Vec<DetectedThing>) -> Scores {
        let scene = scene();
        let background = scene.background;
        score(&World::tiny(), &scene, &Detection { background, things })
    }

    #[test]
    fn the_exact_picture_is_right_in_all() {
        let red = Some(Colour::Red);
        let scores = judged(vec![found(1, red, 16.0, 32.0), found(2, None, 48.0, 32.0)]);
        assert!(scores.all(), "{scores:?}");
    }

    #[test]
    fn each_attribute_is_judged_apart() {
        let red = Some(Colour::Red);
        // The wrong way round.
        let scores = judged(vec![found(1, red, 48.0, 32.0), found(2, None, 16.0, 32.0)]);
        assert_eq!((scores.object, scores.place), (Some(true), Some(false)));
        // The wrong colour.
        let scores = judged(vec![found(1, None, 16.0, 32.0), found(2, None, 48.0, 32.0)]);
        assert_eq!((scores.colour, scores.place), (Some(false), Some(true)));
        // Another thing in the right colour and place.
        let scores = judged(vec![found(5, red, 16.0, 32.0), found(2, None, 48.0, 32.0)]);
        assert_eq!(scores.object, Some(false));
        assert_eq!(
            (scores.colour, scores.place, scores.count),
            (Some(true), Some(true), Some(true))
        );
        // One too many.
        let scores = judged(vec![
            found(1, red, 16.0, 16.0),
            found(1, red, 16.0, 48.0),
            found(2, None, 48.0, 32.0),
        ]);
        assert_eq!((scores.object, scores.count), (Some(true), Some(false)));
        // Nothing at all.
        let scores = judged(vec![]);
        assert_eq!(
            (
                scores.object,
                scores.colour,
                scores.count,
                scores.place,
                scores.background
            ),
            (
                Some(false),
                Some(false),
                Some(false),
                Some(false),
                Some(true)
            )
        );
    }

    #[test]
    fn a_thing_of_red_nature_is_red() {
        let world = World::tiny();
        let apple = world
            .things
            .iter()
            .position(|t| t.english == "apple")
            .unwrap();
        assert_eq!(world.things[apple].natural, Some(Colour::Red));
        let scores = judged(vec![
            found(apple, None, 16.0, 32.0),
            found(2, None, 48.0, 32.0),
        ]);
        assert_eq!(scores.colour, Some(true));
    }

    #[test]
    fn places_are_thirds_for_one_and_halves_for_several() {
        let at = |place, x, y, single| is_at(place, &found(0, None, x, y), 64, single);
        assert!(at(Place::TopLeft, 16.0, 16.0, true) && !at(Place::TopLeft, 32.0, 16.0, true));
        assert!(at(Place::Centre, 32.0, 32.0, true) && !at(Place::Centre, 48.0, 32.0, true));
        assert!(at(Place::Top, 32.0, 18.0, true) && !at(Place::Top, 16.0, 16.0, true));
        assert!(at(Place::Top, 16.0, 24.0, false) && !at(Place::Top, 16.0, 40.0, false));
        assert!(at(Place::Right, 48.0, 16.0, false) && at(Place::Right, 40.0, 48.0, false));
    }

    /// Against Wilson's interval as tabulated: 8 of 10 is [0.490, 0.943].
    #[test]
    fn intervals_are_wilsons() {
        let mut accuracy = Accuracy::default();
        (0..10).for_each(|i| accuracy.count(Some(i < 8)));
        accuracy.count(None);
        assert_eq!((accuracy.right, accuracy.asked), (8, 10));
        assert!((accuracy.low - 0.4902).abs() < 1e-3 && (accuracy.high - 0.9433).abs() < 1e-3);
    }

    #[test]
    fn prompts_are_held_out_and_reproducible() {
        let world = World::small();
        let prompts = held_out_prompts(&world, 4, 50, Language::Chinese);
        assert_eq!(prompts, held_out_prompts(&world, 4, 50, Language::Chinese));
        for prompt in &prompts {
            assert_eq!(world.split_of(&prompt.scene), Split::HeldOut);
            assert_eq!(
                prompt.caption,
                world.caption(&prompt.scene, Language::Chinese, 0)
            );
        }
    }
}
