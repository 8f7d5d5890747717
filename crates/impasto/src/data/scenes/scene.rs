//! Scenes, and the grammar that draws them from a seed.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::background::{Background, BackgroundKind};
use super::colour::Colour;
use super::style::Style;
use super::world::{Grammar, World};

/// Which side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// For training: nine combinations in ten.
    Train,
    /// For the benchmark: never seen in training.
    HeldOut,
    /// For the benchmark, in worlds of a rich grammar: things in styles that training never shows them in,
    /// otherwise combined as in training.
    UnseenPair,
}

/// One of nine places in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Place {
    TopLeft,
    Top,
    TopRight,
    Left,
    Centre,
    Right,
    BottomLeft,
    Bottom,
    BottomRight,
}

impl Place {
    /// All of them, row by row.
    pub const ALL: [Place; 9] = [
        Place::TopLeft,
        Place::Top,
        Place::TopRight,
        Place::Left,
        Place::Centre,
        Place::Right,
        Place::BottomLeft,
        Place::Bottom,
        Place::BottomRight,
    ];

    /// Column and row, each 0, 1 or 2.
    pub fn column_row(self) -> (usize, usize) {
        (self as usize % 3, self as usize / 3)
    }
}

/// Where the first kind of things is, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// All of them.
    pub const ALL: [Relation; 4] = [
        Relation::LeftOf,
        Relation::RightOf,
        Relation::Above,
        Relation::Below,
    ];

    /// The same fact described from the other side.
    pub fn converse(self) -> Self {
        match self {
            Relation::LeftOf => Relation::RightOf,
            Relation::RightOf => Relation::LeftOf,
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
        }
    }
}

/// How the things of a scene are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrangement {
    /// Anywhere.
    Free,
    /// All of them at one place.
    At(Place),
    /// The first kind so related to the second.
    Related(Relation),
    /// Three or four kinds, one thing each, in a quadrant of its own: clockwise from the top left, where the
    /// boxes say which ([`SceneBox::quadrant`]).
    Quadrants,
}

/// A square that holds one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SceneBox {
    /// Left edge in px.
    pub x: usize,
    /// Top edge in px.
    pub y: usize,
    /// Width and height in px.
    pub size: usize,
}

impl SceneBox {
    /// The corner of a picture `picture_size` px wide that its middle is in.
    pub fn quadrant(&self, picture_size: usize) -> Place {
        let is_right = self.x * 2 + self.size > picture_size;
        let is_low = self.y * 2 + self.size > picture_size;
        match (is_right, is_low) {
            (false, false) => Place::TopLeft,
            (true, false) => Place::TopRight,
            (false, true) => Place::BottomLeft,
            (true, true) => Place::BottomRight,
        }
    }
}

/// Things of one kind and colour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Index into [`World::things`].
    pub thing: usize,
    /// The colour it is painted in; `None` is natural.
    pub colour: Option<Colour>,
    /// Where each of them is: as many boxes as things.
    pub boxes: Vec<SceneBox>,
}

impl Kind {
    /// How many things.
    pub fn count(&self) -> usize {
        self.boxes.len()
    }
}

/// Everything that a picture shows, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// One to four kinds of things.
    pub kinds: Vec<Kind>,
    /// Their arrangement.
    pub arrangement: Arrangement,
    /// What is behind them.
    pub background: Background,
    /// How they are drawn.
    pub style: Style,
}

impl World {
    /// The scene of a seed and an index: always the same one, and never one of another split.
    ///
    /// The world must have passed [`World::check_split`]: without scenes of that split this never returns.
    pub fn scene(&self, seed: u64, index: u64, split: Split) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        loop {
            let Some(scene) = self.draw(split, &mut rng) else {
                continue;
            };
            if self.is_on_side(&scene, split) {
                return scene;
            }
        }
    }

    /// Member `member` of a family of scenes that have much in common: one of them differs from the others by a
    /// count, a colour, a place or a background. Always the same one, and never one of the other split.
    pub fn hard_negative_scene(&self, seed: u64, family: u64, member: u64, split: Split) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(family);
        let common = loop {
            if let Some(scene) = self.draw(split, &mut rng) {
                break scene;
            }
        };
        // The members' streams lie far after any family's.
        rng.set_stream((1 << 63) + family.wrapping_mul(1 << 20) + member);
        loop {
            let Some(scene) = self.vary(&common, split, &mut rng) else {
                continue;
            };
            if self.is_on_side(&scene, split) {
                return scene;
            }
        }
    }

    /// Scene `number` of those that have the captions of `scene` which name no size: the same things in other boxes.
    /// Always the same one.
    pub fn rearranged(&self, scene: &Scene, seed: u64, number: u64) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let mut other = scene.clone();
        match scene.arrangement {
            Arrangement::Quadrants => {
                let size = *pick(&self.sizes.two, &mut rng);
                for place in other.kinds.iter_mut().flat_map(|kind| &mut kind.boxes) {
                    let (column, row) = place.quadrant(self.picture_size).column_row();
                    *place = self.in_quadrant(size, row / 2 * 2 + column / 2, &mut rng);
                }
            }
            Arrangement::Related(relation) => {
                if let [a, b] = other.kinds.as_mut_slice() {
                    let (first, second) =
                        self.related_boxes(a.count(), b.count(), relation, &mut rng);
                    (a.boxes, b.boxes) = (first, second);
                }
            }
            Arrangement::Free | Arrangement::At(_) => {
                for kind in &mut other.kinds {
                    // One try in nine has the same place.
                    kind.boxes = loop {
                        let (boxes, arrangement) = self.boxes_of_one_kind(kind.count(), &mut rng);
                        if arrangement == scene.arrangement {
                            break boxes;
                        }
                    };
                }
            }
        }
        other
    }

    /// A scene of which most is `common`'s and the rest drawn anew.
    fn vary(&self, common: &Scene, split: Split, rng: &mut ChaCha8Rng) -> Option<Scene> {
        /// How often each of a scene's four parts stays.
        const KEPT: f64 = 0.7;
        let mut scene = self.draw(split, rng)?;
        if rng.random_bool(KEPT) {
            scene.background = common.background;
        }
        if rng.random_bool(KEPT) {
            // As many things in the same places, still the other scene's things.
            let others = std::mem::replace(&mut scene.kinds, common.kinds.clone());
            scene.arrangement = common.arrangement;
            for (kind, other) in scene.kinds.iter_mut().zip(others) {
                kind.thing = other.thing;
                kind.colour = other.colour;
            }
        }
        let keeps_things = rng.random_bool(KEPT);
        let keeps_colours = rng.random_bool(KEPT);
        for index in 0..scene.kinds.len() {
            let (mut thing, mut colour) = (scene.kinds[index].thing, scene.kinds[index].colour);
            if let Some(of_common) = common.kinds.get(index) {
                if keeps_things {
                    thing = of_common.thing;
                }
                if keeps_colours {
                    colour = of_common.colour;
                }
            }
            while scene.kinds[..index].iter().any(|kind| kind.thing == thing) {
                thing = (thing + 1) % self.things.len();
            }
            if !self.can_show(thing, colour, scene.background, scene.style) {
                colour = self.draw_colour(thing, scene.background, scene.style, rng);
            }
            scene.kinds[index].thing = thing;
            scene.kinds[index].colour = colour;
        }
        Some(scene)
    }

    /// A scene, or nothing where the style drawn has too few things on that side of the split.
    fn draw(&self, split: Split, rng: &mut ChaCha8Rng) -> Option<Scene> {
        // Each kind as often as any other, however many colours it has.
        let mut kinds: Vec<BackgroundKind> = self.backgrounds.iter().map(|b| b.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if self.grammar == Grammar::Rich {
            // Those of eight colours twice as often.
            let coloured: Vec<BackgroundKind> =
                kinds.iter().copied().filter(|k| k.is_coloured()).collect();
            kinds.extend(coloured);
        }
        let kind = *pick(&kinds, rng);
        let of_kind: Vec<Background> = self
            .backgrounds
            .iter()
            .filter(|b| b.kind == kind)
            .copied()
            .collect();
        let background = *pick(&of_kind, rng);
        let style = *pick(&self.styles, rng);
        let (many_kinds_share, two_kinds_share) = match split {
            // What is requested there is a thing in a style that it was never seen in.
            Split::UnseenPair => (0.0, self.two_kinds_share / 2.0),
            _ => (self.many_kinds_share, self.two_kinds_share),
        };
        if many_kinds_share > 0.0 && rng.random_bool(many_kinds_share) {
            return Some(Scene {
                kinds: self.kinds_in_quadrants(background, style, split, rng)?,
                arrangement: Arrangement::Quadrants,
                background,
                style,
            });
        }
        let first = self.draw_thing(style, split, &[], rng)?;
        let first_colour = self.draw_colour(first, background, style, rng);
        let (kinds, arrangement) = if rng.random_bool(two_kinds_share / (1.0 - many_kinds_share)) {
            let second = self.draw_thing(style, split, &[first], rng)?;
            let second_colour = self.draw_colour(second, background, style, rng);
            let (a, b) = *pick(&[(1, 1), (1, 1), (1, 1), (2, 1), (1, 2)], rng);
            let relation = *pick(&Relation::ALL, rng);
            let (boxes_a, boxes_b) = self.related_boxes(a, b, relation, rng);
            let kinds = vec![
                Kind {
                    thing: first,
                    colour: first_colour,
                    boxes: boxes_a,
                },
                Kind {
                    thing: second,
                    colour: second_colour,
                    boxes: boxes_b,
                },
            ];
            (kinds, Arrangement::Related(relation))
        } else {
            let counts: &[usize] = match self.grammar {
                Grammar::Plain => &[1, 1, 1, 2, 2, 3, 4],
                Grammar::Rich => &[1, 1, 1, 1, 1, 1, 2, 2, 3, 4],
            };
            let count = *pick(counts, rng);
            let (boxes, arrangement) = self.boxes_of_one_kind(count, rng);
            (
                vec![Kind {
                    thing: first,
                    colour: first_colour,
                    boxes,
                }],
                arrangement,
            )
        };
        Some(Scene {
            kinds,
            arrangement,
            background,
            style,
        })
    }

    /// A thing that is none of `others` (one at most where no pairs are held out), on that side of the held-out
    /// pairs in that style. Nothing after many tries in vain.
    fn draw_thing(
        &self,
        style: Style,
        split: Split,
        others: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Option<usize> {
        let count = self.things.len();
        if self.grammar == Grammar::Plain {
            return Some(match others {
                [] => rng.random_range(0..count),
                // Any of the others.
                [first, ..] => (first + rng.random_range(1..count)) % count,
            });
        }
        (0..256)
            .map(|_| rng.random_range(0..count as u32) as usize)
            .find(|thing| {
                !others.contains(thing)
                    && self.is_held_out_pair(*thing, style) == (split == Split::UnseenPair)
            })
    }

    /// Three or four kinds, clockwise from the top left.
    fn kinds_in_quadrants(
        &self,
        background: Background,
        style: Style,
        split: Split,
        rng: &mut ChaCha8Rng,
    ) -> Option<Vec<Kind>> {
        let size = *pick(&self.sizes.two, rng);
        let mut quadrants = vec![0, 1, 3, 2];
        if rng.random_bool(0.5) {
            quadrants.remove(rng.random_range(0..4u32) as usize);
        }
        let mut kinds: Vec<Kind> = Vec::with_capacity(4);
        let mut things = Vec::with_capacity(4);
        // Often a colour that most of them share, so that captions can say "all are red but one".
        let shared = *pick(&self.colours, rng);
        let share_colour = rng.random_bool(0.4);
        for quadrant in quadrants {
            let thing = self.draw_thing(style, split, &things, rng)?;
            things.push(thing);
            let drawn = self.draw_colour(thing, background, style, rng);
            let colour = if share_colour
                && rng.random_bool(0.75)
                && self.can_show(thing, Some(shared), background, style)
            {
                Some(shared)
            } else {
                drawn
            };
            kinds.push(Kind {
                thing,
                colour,
                boxes: vec![self.in_quadrant(size, quadrant, rng)],
            });
        }
        Some(kinds)
    }

    /// Natural, or a colour that is not the thing's own and not the background's.
    fn draw_colour(
        &self,
        thing: usize,
        background: Background,
        style: Style,
        rng: &mut ChaCha8Rng,
    ) -> Option<Colour> {
        let free: Vec<Colour> = self
            .looks(thing)
            .flatten()
            .filter(|&colour| self.can_show(thing, Some(colour), background, style))
            .collect();
        if free.is_empty() || rng.random_bool(self.natural_share) {
            return None;
        }
        Some(*pick(&free, rng))
    }

    /// Whether a thing has a look in that colour, and is seen in it on that background.
    fn can_show(
        &self,
        thing: usize,
        colour: Option<Colour>,
        background: Background,
        style: Style,
    ) -> bool {
        match colour {
            None => true,
            Some(colour) => {
                !background.hides(colour)
                    && style.shows_colours()
                    && self.looks(thing).any(|look| look == Some(colour))
            }
        }
    }

    fn boxes_of_one_kind(
        &self,
        count: usize,
        rng: &mut ChaCha8Rng,
    ) -> (Vec<SceneBox>, Arrangement) {
        if count == 1 {
            let size = *pick(&self.sizes.one, rng);
            let place = *pick(&Place::ALL, rng);
            let (column, row) = place.column_row();
            let x = self.third(size, column, rng);
            let y = self.third(size, row, rng);
            return (vec![SceneBox { x, y, size }], Arrangement::At(place));
        }
        let sizes = if count == 2 {
            &self.sizes.two
        } else {
            &self.sizes.many
        };
        let size = *pick(sizes, rng);
        let (quadrants, arrangement): (Vec<usize>, _) = if count == 2 && rng.random_bool(0.5) {
            let (quadrants, place) = *pick(
                &[
                    ([0, 1], Place::Top),
                    ([2, 3], Place::Bottom),
                    ([0, 2], Place::Left),
                    ([1, 3], Place::Right),
                ],
                rng,
            );
            (quadrants.to_vec(), Arrangement::At(place))
        } else {
            let mut quadrants = rand::seq::index::sample(rng, 4, count).into_vec();
            quadrants.sort_unstable();
            (quadrants, Arrangement::Free)
        };
        let boxes = quadrants
            .into_iter()
            .map(|q| self.in_quadrant(size, q, rng))
            .collect();
        (boxes, arrangement)
    }

    fn related_boxes(
        &self,
        a: usize,
        b: usize,
        relation: Relation,
        rng: &mut ChaCha8Rng,
    ) -> (Vec<SceneBox>, Vec<SceneBox>) {
        let size = *pick(
            if a + b == 2 {
                &self.sizes.two
            } else {
                &self.sizes.many
            },
            rng,
        );
        // The two halves' quadrants, the first kind's half first.
        let halves: [[usize; 2]; 2] = match relation {
            Relation::LeftOf => [[0, 2], [1, 3]],
            Relation::RightOf => [[1, 3], [0, 2]],
            Relation::Above => [[0, 1], [2, 3]],
            Relation::Below => [[2, 3], [0, 1]],
        };
        let beside = matches!(relation, Relation::LeftOf | Relation::RightOf);
        // Along the halves a single thing stays near the middle, the same for both kinds: the
        // relation is then plain to see.
        let middle = self.third(size, 1, rng);
        let mut place = |count: usize, half: [usize; 2]| -> Vec<SceneBox> {
            if count == 2 {
                return half
                    .into_iter()
                    .map(|q| self.in_quadrant(size, q, rng))
                    .collect();
            }
            let mut one = self.in_quadrant(size, half[0], rng);
            if beside {
                one.y = middle;
            } else {
                one.x = middle;
            }
            vec![one]
        };
        let boxes_a = place(a, halves[0]);
        let boxes_b = place(b, halves[1]);
        (boxes_a, boxes_b)
    }

    /// A box somewhere in one of the picture's four quarters.
    fn in_quadrant(&self, size: usize, quadrant: usize, rng: &mut ChaCha8Rng) -> SceneBox {
        let half = self.picture_size / 2;
        let steps = (half - size) / self.snap;
        SceneBox {
            x: quadrant % 2 * half + rng.random_range(0..=steps as u32) as usize * self.snap,
            y: quadrant / 2 * half + rng.random_range(0..=steps as u32) as usize * self.snap,
            size,
        }
    }

    /// A coordinate at the start (0), middle (1) or end (2) of the way that a box of `size` can go:
    /// one of the snapped ones nearest to the way's 0–12 %, 38–62 %, 88–100 %.
    fn third(&self, size: usize, third: usize, rng: &mut ChaCha8Rng) -> usize {
        let way = self.picture_size - size;
        let steps: Vec<usize> = (0..=way).step_by(self.snap).collect();
        let range = [0.0..=0.12, 0.38..=0.62, 0.88..=1.0][third].clone();
        let share = |x: usize| x as f64 / way.max(1) as f64;
        let within: Vec<usize> = steps
            .iter()
            .copied()
            .filter(|&x| range.contains(&share(x)))
            .collect();
        if within.is_empty() {
            // The grid is coarse: the nearest to the range's middle, either one of two equally near.
            let aim = [0.0, 0.5, 1.0][third];
            let far = |x: usize| (share(x) - aim).abs();
            let best = steps.iter().map(|&x| far(x)).fold(f64::INFINITY, f64::min);
            let nearest: Vec<usize> = steps
                .iter()
                .copied()
                .filter(|&x| far(x) < best + 1e-9)
                .collect();
            return *pick(&nearest, rng);
        }
        *pick(&within, rng)
    }
}

/// One of `items`, which a checked world never leaves empty.
fn pick<'a, T>(items: &'a [T], rng: &mut ChaCha8Rng) -> &'a T {
    &items[rng.random_range(0..items.len() as u32) as usize]
}
