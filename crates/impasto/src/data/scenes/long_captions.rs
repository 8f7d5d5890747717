//! Captions of several sentences, in which a word early on decides what a later one means: the style of everything,
//! the colour of what has no other, the corner and the direction that a list follows.

use super::colour::Colour;
use super::scene::{Arrangement, Kind, Place, Scene};
use super::style::Style;
use super::styled_captions::{chinese_label, chinese_other_label, label, like};
use super::wording::{
    Language, Statement, Words, article, chinese_ground, english_ground, english_ground_alone,
};
use super::world::World;

/// Wordings per language.
pub(super) const LONG_WORDINGS: usize = 5;

/// Bytes of an English caption above which nothing is said twice: with the longest names it stays below 128 ids of a
/// byte-level tokenizer of 4096, which takes four bytes to an id here.
const LONGEST: usize = 440;

/// The corners clockwise.
const CORNERS: [Place; 4] = [
    Place::TopLeft,
    Place::TopRight,
    Place::BottomRight,
    Place::BottomLeft,
];

type Pairs<'a> = Vec<(&'a Kind, &'a Kind)>;

/// The kinds of a scene by the corner they stand in, clockwise from the top left.
struct Corners<'a> {
    kinds: [Option<&'a Kind>; 4],
}

impl<'a> Corners<'a> {
    fn of(world: &World, scene: &'a Scene) -> Self {
        let mut kinds = [None; 4];
        for kind in &scene.kinds {
            let corner = kind.boxes.first().map(|b| b.quadrant(world.picture_size));
            if let Some(at) = CORNERS.iter().position(|&c| Some(c) == corner) {
                kinds[at] = Some(kind);
            }
        }
        Corners { kinds }
    }

    /// The corner without anything.
    fn empty(&self) -> Option<usize> {
        self.kinds.iter().position(Option::is_none)
    }

    /// Where a walk round all things begins and whether it is clockwise: after the empty corner, else anywhere.
    fn walk(&self, scene: &Scene) -> (usize, bool) {
        let sum: usize = scene.kinds.iter().map(|kind| kind.thing).sum();
        let clockwise = sum.is_multiple_of(2);
        let start = match self.empty() {
            Some(empty) if clockwise => (empty + 1) % 4,
            Some(empty) => (empty + 3) % 4,
            None => sum / 2 % 4,
        };
        (start, clockwise)
    }

    /// Those side by side, the left one first, and those one above the other, the upper one first.
    fn neighbours(&self) -> (Pairs<'a>, Pairs<'a>) {
        let [a, b, c, d] = self.kinds;
        let both = |pairs: [(Option<&'a Kind>, Option<&'a Kind>); 2]| -> Pairs<'a> {
            pairs.into_iter().filter_map(|(x, y)| x.zip(y)).collect()
        };
        (both([(a, b), (d, c)]), both([(a, d), (b, c)]))
    }

    /// The kinds in the order of such a walk.
    fn along(&self, (start, clockwise): (usize, bool)) -> Vec<&'a Kind> {
        let step = if clockwise { 1 } else { 3 };
        (0..4)
            .filter_map(|i| self.kinds[(start + i * step) % 4])
            .collect()
    }
}

/// The look that most kinds of a scene have, natural where that is as frequent as any.
fn usual_colour(scene: &Scene) -> Option<Colour> {
    let count = |colour| scene.kinds.iter().filter(|k| k.colour == colour).count();
    scene
        .kinds
        .iter()
        .map(|kind| kind.colour)
        .filter(|&colour| count(colour) >= 2 && count(colour) > count(None))
        .max_by_key(|&colour| count(colour))
        .flatten()
}

impl World {
    /// A caption of several sentences from which everything in the scene follows; `wording` counts round five. Of
    /// three and four kinds these are all the captions that [`World::all_captions`] has, of fewer some.
    pub fn long_caption(&self, scene: &Scene, language: Language, wording: usize) -> String {
        let wording = wording % LONG_WORDINGS;
        match (scene.arrangement, language) {
            (Arrangement::Quadrants, Language::English) => {
                let caption = self.long_english(scene, wording);
                let recap = self.english_recap(scene);
                if caption.len() + recap.len() > LONGEST {
                    return caption;
                }
                caption + &recap
            }
            (Arrangement::Quadrants, Language::Chinese) => {
                self.long_chinese(scene, wording) + &self.chinese_recap(scene)
            }
            (_, Language::English) => self.slow_english(scene, wording),
            (_, Language::Chinese) => self.slow_chinese(scene, wording),
        }
    }

    fn long_english(&self, scene: &Scene, wording: usize) -> String {
        let corners = Corners::of(self, scene);
        let things = |kind: &Kind| self.english_things(kind, Words::default());
        let number = if scene.kinds.len() == 3 {
            "three"
        } else {
            "four"
        };
        let on = english_ground(scene.background, 0);
        let ground = with_article(&english_ground_alone(scene.background));
        let style = label(scene.style);
        match wording {
            0 => {
                let at = corner_list(&corners, |place, kind| {
                    format!("in the {} corner {}", english_corner(place), things(kind))
                });
                let empty = corners.empty().map_or(String::new(), |corner| {
                    format!(
                        " The {} corner stays empty.",
                        english_corner(CORNERS[corner])
                    )
                });
                format!(
                    "Everything here is drawn in {style}, {on}. There are {number} things: {}.{empty}",
                    english_list(&at)
                )
            }
            1 => {
                let usual = usual_colour(scene);
                let rule = match usual {
                    Some(colour) => {
                        format!("All things are {} unless said otherwise", colour.english())
                    }
                    None => "No thing is painted unless a colour is named".to_string(),
                };
                let at = corner_list(&corners, |place, kind| {
                    format!(
                        "{} at the {}",
                        self.but_for(usual, kind),
                        english_corner(place)
                    )
                });
                format!(
                    "{rule}, and all are drawn {}. The picture shows, {on}, {}.",
                    like(scene.style),
                    english_list(&at)
                )
            }
            2 => {
                let walk = corners.walk(scene);
                let list: Vec<String> = corners.along(walk).into_iter().map(things).collect();
                let direction = if walk.1 { "clockwise" } else { "anticlockwise" };
                let rest = if scene.kinds.len() == 3 {
                    "; the last corner is empty"
                } else {
                    ""
                };
                format!(
                    "The first thing named stands in the {} corner, and the others follow {direction}, one \
                     in each corner{rest}. In {style}, {on}, these are {}.",
                    english_corner(CORNERS[walk.0]),
                    english_list(&list)
                )
            }
            3 => {
                let row = |left: Option<&Kind>, right: Option<&Kind>| match (left, right) {
                    (Some(left), Some(right)) => {
                        format!(
                            "{} on the left and {} on the right",
                            things(left),
                            things(right)
                        )
                    }
                    (Some(only), None) => format!("only {} on the left", things(only)),
                    (None, Some(only)) => format!("only {} on the right", things(only)),
                    (None, None) => "nothing".to_string(),
                };
                let [a, b, c, d] = corners.kinds;
                format!(
                    "The picture has two rows and {ground}. The upper row has {}. The lower row has {}. \
                     What was named here, all {number} things, is shown in {style}.",
                    row(a, b),
                    row(d, c)
                )
            }
            _ => {
                let (start, clockwise) = corners.walk(scene);
                let mut sentence = String::new();
                for step in [1, 3, 2] {
                    let at = (start + step) % 4;
                    if let Some(kind) = corners.kinds[at] {
                        let relation = english_side(start, at);
                        sentence += &format!(", {relation} it {}", things(kind));
                    }
                }
                let first = corners.kinds[start].map_or(String::new(), things);
                let opening = if clockwise {
                    "Start with"
                } else {
                    "Begin with"
                };
                format!(
                    "{opening} {first} in the {} corner. Around it are the others{}. All {number} of them are \
                     {on}, and the whole picture is in {style}.",
                    english_corner(CORNERS[start]),
                    sentence.replacen(", ", ": ", 1)
                )
            }
        }
    }

    /// The same seen once more: the first two neighbours in a row and in a column.
    fn english_recap(&self, scene: &Scene) -> String {
        let (rows, columns) = Corners::of(self, scene).neighbours();
        let name = |kind: &Kind| format!("the {}", self.things[kind.thing].english);
        match (rows.first(), columns.first()) {
            (Some((left, right)), Some((upper, lower))) => format!(
                " So {} is left of {}, and {} is below {}.",
                name(left),
                name(right),
                name(lower),
                name(upper)
            ),
            _ => String::new(),
        }
    }

    /// The same for all neighbours: Chinese says it in fewer ids.
    fn chinese_recap(&self, scene: &Scene) -> String {
        let (rows, columns) = Corners::of(self, scene).neighbours();
        let list = |pairs: &[(&Kind, &Kind)], side: &str| -> Vec<String> {
            let name = |kind: &Kind| self.things[kind.thing].chinese.clone();
            pairs
                .iter()
                .map(|(a, b)| format!("{}在{}的{side}", name(a), name(b)))
                .collect()
        };
        format!(
            "横着看，{}；竖着看，{}。",
            list(&rows, "左边").join("，"),
            list(&columns, "上面").join("，")
        )
    }

    /// A thing where all have the colour `usual` unless it is said.
    fn but_for(&self, usual: Option<Colour>, kind: &Kind) -> String {
        let thing = &self.things[kind.thing].english;
        let words = match (usual, kind.colour) {
            (None, Some(colour)) => format!("{} {thing}", colour.english()),
            (usual, own) if usual == own => thing.clone(),
            (_, Some(colour)) => format!("{} {thing}", colour.english()),
            (_, None) => format!("unpainted {thing}"),
        };
        with_article(&words)
    }

    fn long_chinese(&self, scene: &Scene, wording: usize) -> String {
        let corners = Corners::of(self, scene);
        let of = wording % 2 == 1;
        let things = |kind: &Kind| self.chinese_things(kind, of, "");
        let number = if scene.kinds.len() == 3 { "三" } else { "四" };
        let ground = chinese_ground(scene.background);
        let (style, other) = (chinese_label(scene), chinese_other_label(scene));
        match wording {
            0 => {
                let at = corner_list(&corners, |place, kind| {
                    format!("{}有{}", chinese_corner(place), things(kind))
                });
                let empty = corners.empty().map_or(String::new(), |corner| {
                    format!("{}空着。", chinese_corner(CORNERS[corner]))
                });
                format!(
                    "这里的所有东西都是{style}的，它们在{ground}。画面里一共有{number}样东西：{}。{empty}",
                    at.join("，")
                )
            }
            1 => {
                let usual = usual_colour(scene);
                let rule = match usual {
                    Some(colour) => format!("除非另有说明，所有东西都是{}的", colour.chinese()),
                    None => "没有说明颜色的东西都保持本色".to_string(),
                };
                let at = corner_list(&corners, |place, kind| {
                    let bare = Kind {
                        colour: kind.colour.filter(|_| kind.colour != usual),
                        ..kind.clone()
                    };
                    let own = if kind.colour.is_none() && usual.is_some() {
                        "本色的"
                    } else {
                        ""
                    };
                    let words = self.chinese_things(&bare, of, own);
                    format!("{}是{words}", chinese_corner(place))
                });
                format!("{rule}，画面采用{other}。{ground}，{}。", at.join("，"))
            }
            2 => {
                let walk = corners.walk(scene);
                let list: Vec<String> = corners.along(walk).into_iter().map(things).collect();
                let direction = if walk.1 { "顺时针" } else { "逆时针" };
                let rest = if scene.kinds.len() == 3 {
                    "，最后一个角空着"
                } else {
                    ""
                };
                format!(
                    "第一样东西在{}，其余的按{direction}方向依次排列，每个角一样{rest}。{style}，{ground}，它们依次是{}。",
                    chinese_corner(CORNERS[walk.0]),
                    list.join("、")
                )
            }
            3 => {
                let row = |left: Option<&Kind>, right: Option<&Kind>| match (left, right) {
                    (Some(left), Some(right)) => {
                        format!("左边是{}，右边是{}", things(left), things(right))
                    }
                    (Some(only), None) => format!("只有左边的{}", things(only)),
                    (None, Some(only)) => format!("只有右边的{}", things(only)),
                    (None, None) => "什么都没有".to_string(),
                };
                let [a, b, c, d] = corners.kinds;
                format!(
                    "画面分成上下两排，都在{ground}。上面一排：{}。下面一排：{}。以上{number}样东西全部采用{other}。",
                    row(a, b),
                    row(d, c)
                )
            }
            _ => {
                let (start, _) = corners.walk(scene);
                let mut sentence = String::new();
                for step in [1, 3, 2] {
                    let at = (start + step) % 4;
                    if let Some(kind) = corners.kinds[at] {
                        sentence += &format!("，它的{}是{}", chinese_side(start, at), things(kind));
                    }
                }
                let first = corners.kinds[start].map_or(String::new(), things);
                format!(
                    "先看{}的{first}{sentence}。这{number}样东西都在{ground}，整幅画是{style}。",
                    chinese_corner(CORNERS[start]),
                )
            }
        }
    }

    /// One or two kinds, described at length.
    fn slow_english(&self, scene: &Scene, wording: usize) -> String {
        let Statement {
            subject,
            place,
            is_plural,
        } = self.english_statement(scene, 0, wording % 2 == 1, Words::default());
        let verb = if is_plural { "are" } else { "is" };
        let on = english_ground(scene.background, 0);
        let ground = with_article(&english_ground_alone(scene.background));
        let style = label(scene.style);
        match wording {
            0 => format!(
                "Everything here is drawn in {style}. There {verb} {subject}{place}, {on}, and nothing else is in the picture."
            ),
            1 => format!(
                "This is a picture {}. It shows {subject}{place}, and it has {ground}. There is nothing more to be seen.",
                picture_in(scene.style)
            ),
            2 => format!(
                "Take {ground} first, then add {subject}{place}. Nothing else is needed. The whole picture should be in {style}."
            ),
            3 => format!(
                "What is shown {on}, in {style}, is no more than this: {subject}{place}. The rest of the picture stays empty."
            ),
            _ => format!(
                "Keep to {style}, whatever comes. What comes {verb} {subject}{place}, {on}, and that is all there is."
            ),
        }
    }

    fn slow_chinese(&self, scene: &Scene, wording: usize) -> String {
        let sentence = self.chinese_sentence(scene, wording, wording % 2 == 1, "", "画面如下");
        let (style, other) = (chinese_label(scene), chinese_other_label(scene));
        match wording {
            0 => {
                format!("这里的所有东西都是{style}的。画面内容是：{sentence}。除此之外什么都没有。")
            }
            1 => format!("这是一幅{other}的画。{sentence}。画面里没有别的东西。"),
            2 => format!("{sentence}。画面的其余部分空着。整幅画采用{style}。"),
            3 => format!("{sentence}。以上就是全部内容，风格是{other}。"),
            _ => format!("无论后面说到什么，整幅画都是{style}。{sentence}。"),
        }
    }
}

/// "an orange background"
fn with_article(words: &str) -> String {
    format!("{} {words}", article(words))
}

fn picture_in(style: Style) -> String {
    format!("in {}", label(style))
}

/// What `say` makes of each corner's kind, clockwise from the top left.
fn corner_list(corners: &Corners, say: impl Fn(Place, &Kind) -> String) -> Vec<String> {
    CORNERS
        .iter()
        .zip(corners.kinds)
        .filter_map(|(&place, kind)| Some(say(place, kind?)))
        .collect()
}

/// "a, b and c"
fn english_list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn english_corner(place: Place) -> &'static str {
    match place {
        Place::TopLeft => "top left",
        Place::TopRight => "top right",
        Place::BottomRight => "bottom right",
        _ => "bottom left",
    }
}

fn chinese_corner(place: Place) -> &'static str {
    match place {
        Place::TopLeft => "左上角",
        Place::TopRight => "右上角",
        Place::BottomRight => "右下角",
        _ => "左下角",
    }
}

/// Where corner `at` is, seen from corner `from`: "to the right of" it.
fn english_side(from: usize, at: usize) -> &'static str {
    let ((x, y), (ax, ay)) = (CORNERS[from].column_row(), CORNERS[at].column_row());
    match (ax.cmp(&x), ay.cmp(&y)) {
        (std::cmp::Ordering::Greater, std::cmp::Ordering::Equal) => "to the right of",
        (std::cmp::Ordering::Less, std::cmp::Ordering::Equal) => "to the left of",
        (std::cmp::Ordering::Equal, std::cmp::Ordering::Greater) => "below",
        (std::cmp::Ordering::Equal, std::cmp::Ordering::Less) => "above",
        _ => "diagonally across from",
    }
}

fn chinese_side(from: usize, at: usize) -> &'static str {
    match english_side(from, at) {
        "to the right of" => "右边",
        "to the left of" => "左边",
        "below" => "下面",
        "above" => "上面",
        _ => "对角",
    }
}
