//! What a scene is called: complete captions (things, counts, colours, place, background, style) in several
//! wordings, in English and Chinese.

use serde::{Deserialize, Serialize};

use super::scene::{Arrangement, Kind, Place, Relation, Scene};
use super::world::{Background, BackgroundKind, Style, World};

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

/// Wordings per language.
pub const WORDINGS: usize = 6;

impl World {
    /// One caption; `wording` counts round [`WORDINGS`]. Wording 0 is the plainest.
    pub fn caption(&self, scene: &Scene, language: Language, wording: usize) -> String {
        match language {
            Language::English => self.english(scene, wording % WORDINGS),
            Language::Chinese => self.chinese(scene, wording % WORDINGS),
        }
    }

    /// All wordings in both languages.
    pub fn all_captions(&self, scene: &Scene) -> Vec<String> {
        Language::ALL
            .into_iter()
            .flat_map(|language| (0..WORDINGS).map(move |w| (language, w)))
            .map(|(language, wording)| self.caption(scene, language, wording))
            .collect()
    }

    fn english(&self, scene: &Scene, wording: usize) -> String {
        let first = self.english_things(&scene.kinds[0]);
        let plural = scene.kinds[0].count() > 1;
        let (subject, place, plural) = match (scene.arrangement, scene.kinds.get(1)) {
            (Arrangement::Related(relation), Some(other)) => {
                let second = self.english_things(other);
                match wording {
                    // Told from the other side.
                    2 | 5 => {
                        let relation = english_relation(relation.converse(), wording);
                        (
                            second,
                            Some(format!("{relation} {first}")),
                            other.count() > 1,
                        )
                    }
                    _ => {
                        let relation = english_relation(relation, wording);
                        (first, Some(format!("{relation} {second}")), plural)
                    }
                }
            }
            (Arrangement::At(place), _) => (
                first,
                Some(english_place(place, wording).to_string()),
                plural,
            ),
            _ => (first, None, plural),
        };
        let place = place.map_or(String::new(), |place| format!(" {place}"));
        let on = english_ground(scene.background, wording);
        let style = match scene.style {
            Style::Flat => "",
            Style::Pixels => ", pixel art",
            Style::Outline => ", line drawing",
            Style::Grey => ", in shades of grey",
            Style::Sticker => ", sticker",
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
                if plural { "are" } else { "is" }
            ),
            _ => format!(
                "{}: {subject}{place}",
                english_ground_alone(scene.background)
            ),
        };
        sentence + style
    }

    fn english_things(&self, kind: &Kind) -> String {
        let thing = &self.things[kind.thing];
        let colour = kind
            .colour
            .map_or(String::new(), |c| format!("{} ", c.english()));
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
        // "红色乌龟" and "红色的乌龟" are both usual.
        let of = wording % 2 == 1;
        let first = self.chinese_things(&scene.kinds[0], of);
        let ground = chinese_ground(scene.background);
        let alone = chinese_ground_alone(scene.background);
        let style = match scene.style {
            Style::Flat => "",
            Style::Pixels => "，像素风格",
            Style::Outline => "，线描风格",
            Style::Grey => "，灰色调",
            Style::Sticker => "，贴纸风格",
        };
        let sentence = match (scene.arrangement, scene.kinds.get(1)) {
            (Arrangement::Related(relation), Some(other)) => {
                let second = self.chinese_things(other, of);
                let side = chinese_side(relation);
                let back = chinese_side(relation.converse());
                match wording {
                    0 => format!("{ground}，{first}在{second}的{side}"),
                    1 => format!("{first}在{second}的{side}，{alone}"),
                    2 => format!("{ground}，{second}在{first}的{back}"),
                    3 => format!("一张图片：{first}在{second}{side}，{alone}"),
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
                    3 => format!("一张图片：{place}有{first}，{alone}"),
                    4 => format!("{alone}，{place}是{first}"),
                    _ => format!("{first}位于{place}，{alone}"),
                }
            }
            _ => match wording {
                0 => format!("{ground}的{first}"),
                1 => format!("{first}，{alone}"),
                2 => format!("{ground}有{first}"),
                3 => format!("一张图片：{first}，{alone}"),
                4 => format!("{alone}，{first}"),
                _ => format!("{first}在{ground}"),
            },
        };
        sentence + style
    }

    fn chinese_things(&self, kind: &Kind, of: bool) -> String {
        let thing = &self.things[kind.thing];
        let number = ["零", "一", "两", "三", "四"]
            .get(kind.count())
            .map_or_else(|| kind.count().to_string(), |word| (*word).to_string());
        let colour = match kind.colour {
            Some(colour) if of => format!("{}的", colour.chinese()),
            Some(colour) => colour.chinese().to_string(),
            None => String::new(),
        };
        format!("{number}{}{colour}{}", thing.measure, thing.chinese)
    }
}

/// "a" or "an", by sound as far as the first letters tell.
fn article(words: &str) -> &'static str {
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
fn english_ground(background: Background, wording: usize) -> String {
    match background.kind {
        BackgroundKind::SkyAndGrass => "on the grass under a blue sky".into(),
        BackgroundKind::Night => "under the night sky".into(),
        BackgroundKind::Sea => "in the sea".into(),
        BackgroundKind::Room => "in a room".into(),
        _ => {
            let preposition = if wording == 4 { "against" } else { "on" };
            let ground = english_ground_alone(background);
            format!("{preposition} {} {ground}", article(&ground))
        }
    }
}

/// "yellow background"
fn english_ground_alone(background: Background) -> String {
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
fn chinese_ground(background: Background) -> String {
    match background.kind {
        BackgroundKind::SkyAndGrass => "蓝天下的草地上".into(),
        BackgroundKind::Night => "夜空下".into(),
        BackgroundKind::Sea => "大海里".into(),
        BackgroundKind::Room => "房间里".into(),
        _ => chinese_ground_alone(background) + "上",
    }
}

/// "黄色背景"
fn chinese_ground_alone(background: Background) -> String {
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
    }
}
