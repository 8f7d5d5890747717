//! Captions of a rich grammar for one or two kinds of things: most wordings name the style, some the size.

use serde::{Deserialize, Serialize};

use super::scene::Scene;
use super::style::Style;
use super::wording::{Statement, Words, english_ground, english_ground_alone};
use super::world::World;

/// Wordings per language.
pub(super) const STYLED_WORDINGS: usize = 8;

/// A size that captions have a word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeWord {
    /// The smallest of the sizes of single things.
    Small,
    /// The largest.
    Large,
}

impl SizeWord {
    fn english(self) -> &'static str {
        match self {
            SizeWord::Small => "small",
            SizeWord::Large => "large",
        }
    }

    fn chinese(self) -> &'static str {
        match self {
            SizeWord::Small => "小的",
            SizeWord::Large => "大的",
        }
    }
}

impl World {
    /// The size that captions of a single thing may name: that of the smallest and of the largest box, unless the
    /// thing's name has such a word in it.
    pub fn size_word(&self, scene: &Scene) -> Option<SizeWord> {
        const OF_NAMES: [&str; 5] = ["small", "large", "little", "big", "tiny"];
        let [kind] = &scene.kinds[..] else {
            return None;
        };
        let &[place] = &kind.boxes[..] else {
            return None;
        };
        let thing = &self.things[kind.thing];
        if thing
            .english
            .split([' ', '-'])
            .any(|w| OF_NAMES.contains(&w))
            || thing.chinese.contains(['小', '大'])
        {
            return None;
        }
        let sizes = &self.sizes.one;
        let (least, most) = (sizes.iter().min()?, sizes.iter().max()?);
        if least == most {
            None
        } else if place.size == *least {
            Some(SizeWord::Small)
        } else {
            (place.size == *most).then_some(SizeWord::Large)
        }
    }

    pub(super) fn styled_english(&self, scene: &Scene, wording: usize) -> String {
        let style = scene.style;
        let words = Words {
            size: match wording {
                1 | 4 | 7 => self.size_word(scene).map(SizeWord::english),
                _ => None,
            },
            style: (wording == 3).then(|| adjective(style)),
        };
        // Described from the other side.
        let converse = matches!(wording, 2 | 5);
        let Statement {
            subject,
            place,
            is_plural,
        } = self.english_statement(scene, wording, converse, words);
        let on = english_ground(scene.background, wording);
        let ground = english_ground_alone(scene.background);
        match wording {
            0 => format!("{subject}{place} {on}, in {}", label(style)),
            1 => format!("{} {subject}{place} {on}", picture_of(style)),
            2 => format!("{on}, {subject}{place}, {}", manner(scene)),
            3 | 6 => format!("{subject}{place}, {ground}"),
            4 => {
                let verb = if is_plural { "are" } else { "is" };
                format!("there {verb} {subject}{place} {on}")
            }
            5 => format!("{}: {subject}{place}, {ground}", label(style)),
            _ => format!("draw {subject}{place} {on} {}", like(style)),
        }
    }

    pub(super) fn styled_chinese(&self, scene: &Scene, wording: usize) -> String {
        let (usual, other) = (chinese_label(scene), chinese_other_label(scene));
        let size = match wording {
            1 | 4 | 7 => self.size_word(scene).map_or("", SizeWord::chinese),
            _ => "",
        };
        let sentence = |form: usize, picture: &str| {
            self.chinese_sentence(scene, form, wording % 2 == 1, size, picture)
        };
        match wording {
            0 => format!("{}，{usual}", sentence(0, "")),
            1 => format!("{}，{other}", sentence(1, "")),
            2 => format!("{usual}：{}", sentence(2, "")),
            3 => sentence(3, &format!("一张{other}的图片")),
            4 => sentence(4, ""),
            5 => format!("{}，{usual}", sentence(5, "")),
            6 => sentence(3, &format!("画一张{usual}的图")),
            _ => sentence(1, ""),
        }
    }
}

/// Whether nothing in the scene is painted: only then is an icon in one ink black and white.
fn is_unpainted(scene: &Scene) -> bool {
    scene.kinds.iter().all(|kind| kind.colour.is_none())
}

/// "in **flat style**"
pub(super) fn label(style: Style) -> &'static str {
    match style {
        Style::Noto | Style::Flat => "Noto style",
        Style::Fluent3d => "3D style",
        Style::FluentFlat => "flat style",
        Style::HighContrast => "high-contrast style",
        Style::Twemoji => "Twemoji style",
        Style::Pixels => "pixel style",
        Style::Outline => "line style",
        Style::Grey => "grey style",
        Style::Sticker => "sticker style",
    }
}

/// "a red **flat** turtle"
fn adjective(style: Style) -> &'static str {
    match style {
        Style::Noto | Style::Flat => "Noto",
        Style::Fluent3d => "3D",
        Style::FluentFlat => "flat",
        Style::HighContrast => "high-contrast",
        Style::Twemoji => "Twemoji",
        Style::Pixels => "pixelated",
        Style::Outline => "outlined",
        Style::Grey => "grey",
        Style::Sticker => "sticker",
    }
}

fn picture_of(style: Style) -> &'static str {
    match style {
        Style::Noto | Style::Flat => "a Noto emoji picture of",
        Style::Fluent3d => "a 3D render of",
        Style::FluentFlat => "a flat illustration of",
        Style::HighContrast => "a high-contrast icon of",
        Style::Twemoji => "a Twemoji picture of",
        Style::Pixels => "pixel art of",
        Style::Outline => "a line drawing of",
        Style::Grey => "a grey picture of",
        Style::Sticker => "a sticker of",
    }
}

/// After a comma.
fn manner(scene: &Scene) -> &'static str {
    match scene.style {
        Style::Noto | Style::Flat => "as Noto emoji",
        Style::Fluent3d => "rendered in 3D",
        Style::FluentFlat => "as flat art",
        Style::HighContrast if is_unpainted(scene) => "as a black-and-white icon",
        Style::HighContrast => "as a high-contrast icon",
        Style::Twemoji => "emoji in Twemoji style",
        Style::Pixels => "as pixel art",
        Style::Outline => "as a line drawing",
        Style::Grey => "in shades of grey",
        Style::Sticker => "as a sticker",
    }
}

/// "draw a turtle **as a flat picture**"
pub(super) fn like(style: Style) -> &'static str {
    match style {
        Style::Noto | Style::Flat => "like Google's Noto emoji",
        Style::Fluent3d => "as a soft 3D shape",
        Style::FluentFlat => "as a flat design",
        Style::HighContrast => "in a single ink with high contrast",
        Style::Twemoji => "like Twitter's emoji",
        Style::Pixels => "in coarse pixels",
        Style::Outline => "in lines",
        Style::Grey => "without colour",
        Style::Sticker => "with a white border",
    }
}

pub(super) fn chinese_label(scene: &Scene) -> &'static str {
    match scene.style {
        Style::Noto | Style::Flat => "谷歌表情风格",
        Style::Fluent3d => "立体风格",
        Style::FluentFlat => "扁平风格",
        Style::HighContrast => "高对比图标风格",
        Style::Twemoji => "推特表情风格",
        Style::Pixels => "像素风格",
        Style::Outline => "线描风格",
        Style::Grey => "灰色调",
        Style::Sticker => "贴纸风格",
    }
}

pub(super) fn chinese_other_label(scene: &Scene) -> &'static str {
    match scene.style {
        Style::Noto | Style::Flat => "Noto风格",
        Style::Fluent3d => "3D风格",
        Style::FluentFlat => "扁平插画风格",
        Style::HighContrast if is_unpainted(scene) => "黑白图标风格",
        Style::HighContrast => "单色图标风格",
        Style::Twemoji => "Twemoji风格",
        _ => chinese_label(scene),
    }
}
