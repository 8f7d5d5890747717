//! Words and phrases of captions in both languages: articles, relations, places, backgrounds.

use serde::{Deserialize, Serialize};

use super::background::{Background, BackgroundKind};
use super::scene::{Place, Relation};

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

pub(super) fn english_relation(relation: Relation, wording: usize) -> &'static str {
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

pub(super) fn english_place(place: Place, wording: usize) -> &'static str {
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

pub(super) fn chinese_side(relation: Relation) -> &'static str {
    match relation {
        Relation::LeftOf => "左边",
        Relation::RightOf => "右边",
        Relation::Above => "上面",
        Relation::Below => "下面",
    }
}

pub(super) fn chinese_place(place: Place) -> &'static str {
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
