//! What a scene is called: complete captions (things, counts, colours, place, background, style) in several
//! wordings, in English and Chinese.

use super::long_captions::LONG_WORDINGS;
use super::scene::{Arrangement, Kind, Scene};
use super::style::Style;
use super::styled_captions::STYLED_WORDINGS;
use super::wording::{
    Language, Statement, Words, article, chinese_ground, chinese_ground_alone, chinese_place,
    chinese_side, english_ground, english_ground_alone, english_place, english_relation,
};
use super::world::{Grammar, World};

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
