//! What a scene is called: complete captions (things, counts, colours, place, background, style) in several
//! wordings, in English and Chinese.

use serde::{Deserialize, Serialize};

use super::long_captions::LONG_WORDINGS;
use super::scene::{Arrangement, Kind, Place, Relation, Scene};
use super::style::Style;
use super::styled_captions::STYLED_WORDINGS;
use super::world::{Background, BackgroundKind, Grammar, World};

/// A caption's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// Both.
    pub const ALL: [Language; 2] = [Language::English, Language::Chinese];
}

/// Wordings per language, of a plain grammar.
pub const WORDINGS: usize = 6;

impl World {
    /// One caption; `wording` counts round [`World::wordings`]. Wording 0 is the plainest, and names the style.
    pub fn caption(&self, scene: &Scene, language: Language, wording: usize) -> String {
        let wording = wording % self.wordings(scene);
        match (self.grammar, scene.arrangement, language) {
            (_, Arrangement::Quadrants, _) => self.long_caption(scene, language, wording),
            (Grammar::Plain, _, Language::English) => self.english(scene, wording),
            (Grammar::Plain, _, Language::Chinese) => self.chinese(scene, wording),
            (Grammar::Rich, _, _) if wording >= STYLED_WORDINGS => {
                // Two of the long ones, others for another thing.
                let shift = scene.kinds.first().map_or(0, |kind| kind.thing);
                let wording = 2 * (wording - STYLED_WORDINGS) + shift;
                self.long_caption(scene, language, wording)
            }
            (Grammar::Rich, _, Language::English) => self.styled_english(scene, wording),
            (Grammar::Rich, _, Language::Chinese) => self.styled_chinese(scene, wording),
        }
    }

    /// How many captions a scene has in each language.
    pub fn wordings(&self, scene: &Scene) -> usize {
        match (self.grammar, scene.arrangement) {
            (_, Arrangement::Quadrants) => LONG_WORDINGS,
            (Grammar::Plain, _) => WORDINGS,
            (Grammar::Rich, _) => STYLED_WORDINGS + 2,
        }
    }

    /// All wordings in both languages.
    pub fn all_captions(&self, scene: &Scene) -> Vec<String> {
        Language::ALL
            .into_iter()
            .flat_map(|language| (0..self.wordings(scene)).map(move |w| (language, w)))
            .map(|(language, wording)| self.caption(scene, language, wording))
            .collect()
    }

    fn english(&self, scene: &Scene, wording: usize) -> String {
        // Described from the other side.
        let converse = matches!(wording, 2 | 5);
        let Statement {
            subject,
            place,
            is_plural,
        } = self.english_statement(scene, wording, converse, Words::default());
        let on = english_ground(scene.background, wording);
        let style = match scene.style {
            Style::Pixels => ", pixel art",
            Style::Outline => ", line drawing",
            Style::Grey => ", in shades of grey",
            Style::Sticker => ", sticker",
            _ => "",
        };
        let sentence = match wording {
            0 => format!("{subject}{place} {on}"),
            1 => format!("a picture of {subject}{place} {on}"),
            2 => format!("{on}, {subject}{place}"),
            3 => format!(
                "{subject}{place}, {}",
                english_ground_alone(scene.background)
            ),
            4 => format!(
                "there {} {subject}{place} {on}",
                if is_plural { "are" } else { "is" }
            ),
            _ => format!(
                "{}: {subject}{place}",
                english_ground_alone(scene.background)
            ),
        };
        sentence + style
    }

    /// What is where, of one or two kinds; in `converse` the second kind is the subject.
    pub(super) fn english_statement(
        &self,
        scene: &Scene,
        wording: usize,
        converse: bool,
        words: Words,
    ) -> Statement {
        let things = |kind: &Kind| self.english_things(kind, words);
        let first = &scene.kinds[0];
        let (subject, place) = match (scene.arrangement, scene.kinds.get(1)) {
            (Arrangement::Related(relation), Some(second)) => {
                let (subject, other, relation) = if converse {
                    (second, first, relation.converse())
                } else {
                    (first, second, relation)
                };
                let relation = english_relation(relation, wording);
                (subject, format!(" {relation} {}", things(other)))
            }
            (Arrangement::At(place), _) => (first, format!(" {}", english_place(place, wording))),
            _ => (first, String::new()),
        };
        Statement {
            subject: things(subject),
            place,
            is_plural: subject.count() > 1,
        }
    }

    /// "a small red 3D turtle", "two cats"
    pub(super) fn english_things(&self, kind: &Kind, words: Words) -> String {
        let thing = &self.things[kind.thing];
        let word = |word: Option<&str>| word.map_or(String::new(), |word| format!("{word} "));
        let colour = word(kind.colour.map(|c| c.english()));
        let colour = format!("{}{colour}{}", word(words.size), word(words.style));
        match kind.count() {
            1 => {
                let words = format!("{colour}{}", thing.english);
                format!("{} {words}", article(&words))
            }
            count => {
                let number = ["no", "one", "two", "three", "four"]
                    .get(count)
                    .map_or_else(|| count.to_string(), |word| (*word).to_string());
                format!("{number} {colour}{}", thing.plural)
            }
        }
    }

    fn chinese(&self, scene: &Scene, wording: usize) -> String {
        let style = match scene.style {
            Style::Pixels => "，像素风格",
            Style::Outline => "，线描风格",
            Style::Grey => "，灰色调",
            Style::Sticker => "，贴纸风格",
            _ => "",
        };
        // "红色乌龟" and "红色的乌龟" are both usual.
        let of = wording % 2 == 1;
        self.chinese_sentence(scene, wording, of, "", "一张图片") + style
    }

    /// What is where, of one or two kinds, on which ground, in one of six wordings; `picture` stands where one of
    /// them begins with the words for "a picture".
    pub(super) fn chinese_sentence(
        &self,
        scene: &Scene,
        wording: usize,
        of: bool,
        size: &str,
        picture: &str,
    ) -> String {
        let first = self.chinese_things(&scene.kinds[0], of, size);
        let ground = chinese_ground(scene.background);
        let alone = chinese_ground_alone(scene.background);
        match (scene.arrangement, scene.kinds.get(1)) {
            (Arrangement::Related(relation), Some(other)) => {
                let second = self.chinese_things(other, of, size);
                let side = chinese_side(relation);
                let back = chinese_side(relation.converse());
                match wording {
                    0 => format!("{ground}，{first}在{second}的{side}"),
                    1 => format!("{first}在{second}的{side}，{alone}"),
                    2 => format!("{ground}，{second}在{first}的{back}"),
                    3 => format!("{picture}：{first}在{second}{side}，{alone}"),
                    4 => format!("{ground}，{second}的{side}有{first}"),
                    _ => format!("{alone}，{first}的{back}是{second}"),
                }
            }
            (Arrangement::At(place), _) => {
                let place = chinese_place(place);
                match wording {
                    0 => format!("{ground}{place}的{first}"),
                    1 => format!("{first}在{place}，{alone}"),
                    2 => format!("{ground}有{first}，在{place}"),
                    3 => format!("{picture}：{place}有{first}，{alone}"),
                    4 => format!("{alone}，{place}是{first}"),
                    _ => format!("{first}位于{place}，{alone}"),
                }
            }
            _ => match wording {
                0 => format!("{ground}的{first}"),
                1 => format!("{first}，{alone}"),
                2 => format!("{ground}有{first}"),
                3 => format!("{picture}：{first}，{alone}"),
                4 => format!("{alone}，{first}"),
                _ => format!("{first}在{ground}"),
            },
        }
    }

    /// "一只小的红色乌龟"
    pub(super) fn chinese_things(&self, kind: &Kind, of: bool, size: &str) -> String {
        let thing = &self.things[kind.thing];
        let number = ["零", "一", "两", "三", "四"]
            .get(kind.count())
            .map_or_else(|| kind.count().to_string(), |word| (*word).to_string());
        let colour = match kind.colour {
            Some(colour) if of => format!("{}的", colour.chinese()),
            Some(colour) => colour.chinese().to_string(),
            None => String::new(),
        };
        format!("{number}{}{size}{colour}{}", thing.measure, thing.chinese)
    }
}

/// Words that a thing may have besides its colour: "a **small** red **3D** turtle".
#[derive(Clone, Copy, Default)]
pub(super) struct Words {
    pub size: Option<&'static str>,
    pub style: Option<&'static str>,
}

/// The parts of a sentence.
pub(super) struct Statement {
    pub subject: String,
    /// With a space before it, or empty.
    pub place: String,
    pub is_plural: bool,
}

/// "a" or "an", by sound as far as the first letters show it.
pub(super) fn article(words: &str) -> &'static str {
    let lower = words.to_lowercase();
    let consonant = ["uni", "eu", "ewe", "one", "once", "use", "ufo", "u-"];
    let silent = ["hour", "honest", "heir"];
    if silent.iter().any(|start| lower.starts_with(start)) {
        return "an";
    }
    match lower.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u') if !consonant.iter().any(|s| lower.starts_with(s)) => {
            "an"
        }
        _ => "a",
    }
}

fn english_relation(relation: Relation, wording: usize) -> &'static str {
    match (relation, wording) {
        (Relation::LeftOf, 3) => "left of",
        (Relation::LeftOf, _) => "to the left of",
        (Relation::RightOf, 3) => "right of",
        (Relation::RightOf, _) => "to the right of",
        (Relation::Above, 4) => "over",
        (Relation::Above, _) => "above",
        (Relation::Below, 4) => "under",
        (Relation::Below, _) => "below",
    }
}

fn english_place(place: Place, wording: usize) -> &'static str {
    let short = wording % 2 == 1;
    match place {
        Place::TopLeft if short => "at the top left",
        Place::TopLeft => "in the top left corner",
        Place::Top => "at the top",
        Place::TopRight if short => "at the top right",
        Place::TopRight => "in the top right corner",
        Place::Left => "on the left",
        Place::Centre if short => "in the centre",
        Place::Centre => "in the middle",
        Place::Right => "on the right",
        Place::BottomLeft if short => "at the bottom left",
        Place::BottomLeft => "in the bottom left corner",
        Place::Bottom => "at the bottom",
        Place::BottomRight if short => "at the bottom right",
        Place::BottomRight => "in the bottom right corner",
    }
}

/// "on a yellow background"
pub(super) fn english_ground(background: Background, wording: usize) -> String {
    match background.kind {
        BackgroundKind::SkyAndGrass => "on the grass under a blue sky".into(),
        BackgroundKind::Night => "under the night sky".into(),
        BackgroundKind::Sea => "in the sea".into(),
        BackgroundKind::Room => "in a room".into(),
        BackgroundKind::Table => "on a wooden table".into(),
        BackgroundKind::Meadow => "on a green meadow".into(),
        BackgroundKind::NightSky => "under a starry night sky".into(),
        BackgroundKind::Ocean => "at sea".into(),
        BackgroundKind::Parlour => "in a cosy room".into(),
        _ => {
            let preposition = if wording == 4 { "against" } else { "on" };
            let ground = english_ground_alone(background);
            format!("{preposition} {} {ground}", article(&ground))
        }
    }
}

/// "yellow background"
pub(super) fn english_ground_alone(background: Background) -> String {
    let colour = background.colour.map_or("", |c| c.english());
    match background.kind {
        BackgroundKind::Plain => format!("{colour} background"),
        BackgroundKind::Gradient => format!("{colour} gradient background"),
        BackgroundKind::Stripes => format!("{colour} striped background"),
        BackgroundKind::Dots => format!("{colour} dotted background"),
        BackgroundKind::SkyAndGrass => "blue sky and grass".into(),
        BackgroundKind::Night => "night sky".into(),
        BackgroundKind::Sea => "sea".into(),
        BackgroundKind::Room => "room".into(),
        BackgroundKind::Smooth => format!("{colour} background"),
        BackgroundKind::Fade => format!("{colour} gradient background"),
        BackgroundKind::Table => "wooden table".into(),
        BackgroundKind::Meadow => "green meadow".into(),
        BackgroundKind::NightSky => "starry night sky".into(),
        BackgroundKind::Ocean => "open sea".into(),
        BackgroundKind::Parlour => "cosy room".into(),
    }
}

fn chinese_side(relation: Relation) -> &'static str {
    match relation {
        Relation::LeftOf => "左边",
        Relation::RightOf => "右边",
        Relation::Above => "上面",
        Relation::Below => "下面",
    }
}

fn chinese_place(place: Place) -> &'static str {
    match place {
        Place::TopLeft => "左上角",
        Place::Top => "上方",
        Place::TopRight => "右上角",
        Place::Left => "左侧",
        Place::Centre => "中间",
        Place::Right => "右侧",
        Place::BottomLeft => "左下角",
        Place::Bottom => "下方",
        Place::BottomRight => "右下角",
    }
}

/// "黄色背景上"
pub(super) fn chinese_ground(background: Background) -> String {
    match background.kind {
        BackgroundKind::SkyAndGrass => "蓝天下的草地上".into(),
        BackgroundKind::Night => "夜空下".into(),
        BackgroundKind::Sea => "大海里".into(),
        BackgroundKind::Room => "房间里".into(),
        BackgroundKind::Table => "木桌上".into(),
        BackgroundKind::Meadow => "草地上".into(),
        BackgroundKind::NightSky => "星空下".into(),
        BackgroundKind::Ocean => "海面上".into(),
        BackgroundKind::Parlour => "温馨的房间里".into(),
        _ => chinese_ground_alone(background) + "上",
    }
}

/// "黄色背景"
pub(super) fn chinese_ground_alone(background: Background) -> String {
    let colour = background.colour.map_or("", |c| c.chinese());
    match background.kind {
        BackgroundKind::Plain => format!("{colour}背景"),
        BackgroundKind::Gradient => format!("{colour}渐变背景"),
        BackgroundKind::Stripes => format!("{colour}条纹背景"),
        BackgroundKind::Dots => format!("{colour}圆点背景"),
        BackgroundKind::SkyAndGrass => "蓝天草地".into(),
        BackgroundKind::Night => "夜空".into(),
        BackgroundKind::Sea => "大海".into(),
        BackgroundKind::Room => "房间".into(),
        BackgroundKind::Smooth => format!("{colour}背景"),
        BackgroundKind::Fade => format!("{colour}渐变背景"),
        BackgroundKind::Table => "木桌".into(),
        BackgroundKind::Meadow => "草地".into(),
        BackgroundKind::NightSky => "星空".into(),
        BackgroundKind::Ocean => "海面".into(),
        BackgroundKind::Parlour => "温馨的房间".into(),
    }
}
