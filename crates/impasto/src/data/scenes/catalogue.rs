//! The things of the world `full`: every emoji that is a thing, has one colour bitmap in the font and a name
//! in both languages in CLDR's annotations (the `tts` ones, Unicode's common locale data).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::Event;
use rayon::prelude::*;

use super::art::Pack;
use super::colour::Colour;
use super::font::{Font, Sources};
use super::glyph::Glyph;
use super::sprites::Sprite;
use super::style::Style;
use super::things::{Thing, small};
use crate::error::{Cause, Reason};
use crate::error::{Hint, LocatedFile};
use crate::{Error, Result};

/// Reads font and annotations; the things come in the order of their code points.
pub(super) fn things(sources: &Sources) -> Result<Vec<Thing>> {
    let english = annotations(&sources.cldr.join("en.xml"))?;
    let chinese = annotations(&sources.cldr.join("zh.xml"))?;
    let font = Font::open(&sources.font)?;
    let mut drawer = font.drawer()?;
    let by_hand = small();
    let mut taken: HashSet<String> = HashSet::new();
    let mut things = Vec::new();
    let mut glyphs = Vec::new();
    for (emoji, name) in &english {
        let Some(chinese) = chinese.get(emoji) else {
            continue;
        };
        if !is_thing(emoji) || !is_plain_name(name) {
            continue;
        }
        // Two things of one name could not be distinguished.
        if taken.contains(name.as_str()) || taken.contains(chinese.as_str()) {
            continue;
        }
        let Some(glyph) = drawer.draw(emoji) else {
            continue;
        };
        taken.insert(name.clone());
        taken.insert(chinese.clone());
        let (english, plural) = numbers(name);
        let bare = |text: &str| text.replace('\u{fe0f}', "");
        let measure = by_hand
            .iter()
            .find(|thing| bare(&thing.emoji) == *emoji)
            .map_or_else(
                || measure(emoji, chinese).to_string(),
                |thing| thing.measure.clone(),
            );
        let chinese = if is_expression(emoji) {
            format!("{chinese}表情")
        } else {
            chinese.clone()
        };
        glyphs.push(glyph);
        things.push(Thing {
            emoji: emoji.clone(),
            english,
            plural,
            chinese,
            measure,
            natural: None,
        });
    }
    things
        .par_iter_mut()
        .zip(&glyphs)
        .for_each(|(thing, glyph)| thing.natural = natural(glyph));
    if things.len() < 2 {
        return Err(Error::bad_file(
            &sources.font,
            format!(
                "has colour bitmaps for {} of the things named in CLDR",
                things.len()
            ),
        ));
    }
    Ok(things)
}

/// Those of `things` that every style has a picture for.
pub(super) fn drawn_in(
    styles: &[Style],
    things: Vec<Thing>,
    sources: &Sources,
) -> Result<Vec<Thing>> {
    let packs = styles
        .iter()
        .filter_map(|style| style.pack())
        .map(|name| Pack::open(&sources.art, name))
        .collect::<Result<Vec<_>>>()?;
    let mut things: Vec<Thing> = things
        .into_iter()
        .filter(|thing| {
            !SIGNS.contains(thing.emoji.trim_end_matches('\u{fe0f}'))
                && packs.iter().all(|pack| pack.has(&thing.emoji))
        })
        .collect();
    for thing in &mut things {
        let better = NAMES.iter().find(|(emoji, ..)| *emoji == thing.emoji);
        if let Some(&(_, english, plural)) = better {
            thing.english = english.into();
            thing.plural = plural.into();
        }
    }
    Ok(things)
}

/// What the blocks of pictures have besides things: signs, operators, views in a frame of their own, and a gesture
/// that nobody asks for.
const SIGNS: &str = "☑☢☣☪☯☸♠♣♥♨♾⚜⚠⛎✖✡✳✴❇➕➖➗➰➿🌁🌃🌄🌅🌆🌇🌉🌌🌐🌠🎆🎇🎑🎦🏙🏞💟💤💱💹📳📴📶🔕🔯🕳🖕🗾🚮🚰🚸🚹🚺🚻🚼🚾\
                     🛐🛗🛣🛤";

/// Better names than those that follow by rule: emoji, one, several.
const NAMES: [(&str, &str, &str); 12] = [
    ("⛅", "sun behind cloud", "suns behind clouds"),
    ("🌤", "sun behind small cloud", "suns behind small clouds"),
    ("🌥", "sun behind large cloud", "suns behind large clouds"),
    ("🌦", "sun behind rain cloud", "suns behind rain clouds"),
    ("🎿", "pair of skis", "pairs of skis"),
    ("🦏", "rhinoceros", "rhinoceroses"),
    ("🥹", "face holding back tears", "faces holding back tears"),
    ("🎭", "pair of theatre masks", "pairs of theatre masks"),
    ("💫", "dizzy star", "dizzy stars"),
    ("🏸", "badminton racket", "badminton rackets"),
    ("🗻", "Mount Fuji", "Mount Fujis"),
    ("🍳", "frying pan with egg", "frying pans with egg"),
];

/// The spoken names of an annotations file, by character.
fn annotations(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = match crate::files::read_to_string(path) {
        Ok(text) => text,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                what: "CLDR annotations",
                path: path.to_path_buf(),
                hint: Hint::Locate {
                    file: LocatedFile::Cldr,
                    install: "install Debian's package unicode-cldr-core",
                },
            });
        }
        Err(error) => return Err(error),
    };
    let bad = |e: Cause| Error::bad_file(path, Reason::of(e));
    let mut reader = Reader::from_str(&text);
    let mut names = BTreeMap::new();
    let mut current: Option<String> = None;
    loop {
        match reader.read_event().map_err(|e| bad(e.into()))? {
            Event::Start(tag) if tag.name().as_ref() == b"annotation" => {
                let mut character = None;
                let mut spoken = false;
                for attribute in tag.attributes() {
                    let attribute = attribute.map_err(|e| bad(e.into()))?;
                    let value = attribute.unescape_value().map_err(|e| bad(e.into()))?;
                    match attribute.key.as_ref() {
                        b"cp" => character = Some(value.into_owned()),
                        b"type" => spoken = value == "tts",
                        _ => {}
                    }
                }
                current = character.filter(|_| spoken);
            }
            Event::Text(name) => {
                if let Some(character) = current.take() {
                    let name = name.decode().map_err(|e| bad(e.into()))?;
                    names.insert(character, name.trim().to_string());
                }
            }
            Event::End(_) => current = None,
            Event::Eof => break,
            _ => {}
        }
    }
    if names.is_empty() {
        return Err(Error::bad_file(
            path,
            "expected CLDR annotations, found no spoken names",
        ));
    }
    Ok(names)
}

/// Single characters of the pictographic blocks; no flags, skin tones, joined people, zodiac or clock faces.
fn is_thing(emoji: &str) -> bool {
    let mut characters = emoji.chars().filter(|&c| c != '\u{fe0f}');
    let (Some(character), None) = (characters.next(), characters.next()) else {
        return false;
    };
    let code = character as u32;
    let pictographic = matches!(code,
        0x231A..=0x231B | 0x23F0..=0x23F3 | 0x2600..=0x27BF | 0x2B50
        | 0x1F300..=0x1F64F | 0x1F680..=0x1F6FF | 0x1F900..=0x1F9FF | 0x1FA70..=0x1FAFF);
    let symbol = matches!(code,
        0x2648..=0x2653 | 0x1F3FB..=0x1F3FF | 0x1F500..=0x1F506 | 0x1F518..=0x1F524
        | 0x1F530..=0x1F549 | 0x1F54E | 0x1F550..=0x1F567 | 0x1F6C2..=0x1F6C5);
    pictographic && !symbol
}

/// Words only, and none that contradicts a painted thing or names a sign.
fn is_plain_name(name: &str) -> bool {
    const NOT: [&str; 26] = [
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "pink",
        "white",
        "black",
        "brown",
        "dark",
        "button",
        "arrow",
        "sign",
        "symbol",
        "mark",
        "keycap",
        "square",
        "circle",
        "diamond",
        "cross",
        "prohibited",
        "no",
        "non-potable",
        "hair",
        "recycling",
    ];
    name.chars()
        .all(|c| c.is_alphabetic() || " -’'".contains(c))
        && !name.split_whitespace().any(|word| NOT.contains(&word))
}

/// Smileys: their Chinese names are moods, not nouns.
fn is_expression(emoji: &str) -> bool {
    emoji.chars().next().is_some_and(|c| {
        matches!(c as u32,
            0x1F600..=0x1F637 | 0x1F641..=0x1F644 | 0x1F910..=0x1F917 | 0x1F920..=0x1F92F
            | 0x1F970..=0x1F976 | 0x1F978..=0x1F97A | 0x2639..=0x263A | 0x1FAE0..=0x1FAE5)
    })
}

/// Words that a name's head ends before: "faces with tears", "pages facing up".
const AFTER_HEAD: [&str; 12] = [
    " of ",
    " with ",
    " without ",
    " in ",
    " on ",
    " over ",
    " and ",
    " showing ",
    " facing ",
    " pointing ",
    " tilted ",
    " for ",
];

/// One and several, in English.
fn numbers(name: &str) -> (String, String) {
    const PAIRS: [&str; 8] = [
        "glasses",
        "sunglasses",
        "scissors",
        "socks",
        "shoes",
        "chopsticks",
        "jeans",
        "gloves",
    ];
    let first = name.split_whitespace().next().unwrap_or_default();
    let last = name.split_whitespace().last().unwrap_or_default();
    // "people running"
    if ["person", "man", "woman"].contains(&first) && first != last {
        return (
            name.to_string(),
            format!("{}{}", plural_word(first), &name[first.len()..]),
        );
    }
    let head_end = AFTER_HEAD
        .iter()
        .filter_map(|word| name.find(word))
        .min()
        .unwrap_or(name.len());
    let (head, rest) = name.split_at(head_end);
    // Names that are plural already.
    let is_plural = head.ends_with('s')
        && !["ss", "us", "is", "as", "lens"]
            .iter()
            .any(|end| head.ends_with(end));
    if is_plural {
        let (one, several) = if PAIRS.iter().any(|pair| head.ends_with(pair)) {
            ("pair", "pairs")
        } else {
            ("set", "sets")
        };
        return (format!("{one} of {name}"), format!("{several} of {name}"));
    }
    let start = head.rfind([' ', '-']).map_or(0, |space| space + 1);
    (
        name.to_string(),
        format!("{}{}{rest}", &head[..start], plural_word(&head[start..])),
    )
}

fn plural_word(word: &str) -> String {
    const IRREGULAR: [(&str, &str); 23] = [
        ("mouse", "mice"),
        ("man", "men"),
        ("woman", "women"),
        ("child", "children"),
        ("person", "people"),
        ("foot", "feet"),
        ("tooth", "teeth"),
        ("goose", "geese"),
        ("fish", "fish"),
        ("sheep", "sheep"),
        ("deer", "deer"),
        ("ox", "oxen"),
        ("leaf", "leaves"),
        ("knife", "knives"),
        ("wolf", "wolves"),
        ("loaf", "loaves"),
        ("shrimp", "shrimp"),
        ("squid", "squid"),
        ("bison", "bison"),
        ("cactus", "cacti"),
        ("potato", "potatoes"),
        ("tomato", "tomatoes"),
        ("mango", "mangoes"),
    ];
    if let Some((_, plural)) = IRREGULAR.iter().find(|(one, _)| *one == word) {
        return (*plural).to_string();
    }
    if let Some(stem) = word
        .strip_suffix("man")
        .filter(|stem| !stem.ends_with("hu"))
    {
        return format!("{stem}men");
    }
    if ["s", "x", "z", "ch", "sh"]
        .iter()
        .any(|end| word.ends_with(end))
    {
        return format!("{word}es");
    }
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{word}s"),
    }
}

/// The Chinese measure word, by the block's kind of thing and by the name's last character.
fn measure(emoji: &str, name: &str) -> &'static str {
    const BY_ENDING: [(&str, &str); 24] = [
        ("车", "辆"),
        ("船", "艘"),
        ("舟", "艘"),
        ("艇", "艘"),
        ("飞机", "架"),
        ("花", "朵"),
        ("玫瑰", "朵"),
        ("树", "棵"),
        ("书", "本"),
        ("本", "本"),
        ("刀", "把"),
        ("剑", "把"),
        ("伞", "把"),
        ("椅", "把"),
        ("帽", "顶"),
        ("蛇", "条"),
        ("鱼", "条"),
        ("裤", "条"),
        ("马", "匹"),
        ("牛", "头"),
        ("衣", "件"),
        ("鞋", "双"),
        ("灯", "盏"),
        ("脸", "张"),
    ];
    if let Some((_, measure)) = BY_ENDING.iter().find(|(ending, _)| name.ends_with(ending)) {
        return measure;
    }
    match emoji.chars().next().map_or(0, |c| c as u32) {
        0x1F400..=0x1F43F | 0x1F980..=0x1F9AE | 0x1FAB0..=0x1FAB3 => "只",
        _ => "个",
    }
}

/// The colour whose painting changes the glyph least, if that is hardly at all.
fn natural(glyph: &Glyph) -> Option<Colour> {
    // Of the small world's things, those whose name and colour go together differ by less than this from
    // their painting (root mean square over the inked pixels, of 255).
    const SAME: f32 = 46.0;
    const SIZE: usize = 32;
    let own = Sprite::new(glyph, None, SIZE, Style::Flat);
    let ink: f32 = own.pixels.iter().map(|px| px[3] / 255.0).sum();
    let distance = |colour| {
        let painted = Sprite::new(glyph, Some(colour), SIZE, Style::Flat);
        let square: f32 = own
            .pixels
            .iter()
            .zip(&painted.pixels)
            .map(|(a, b)| (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>())
            .sum();
        (square / (3.0 * ink.max(1.0))).sqrt()
    };
    Colour::OF_THINGS
        .into_iter()
        .map(|colour| (distance(colour), colour))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|&(distance, _)| distance < SAME)
        .map(|(_, colour)| colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_fall_on_the_head_of_a_name() {
        for (name, plural) in [
            ("cat face", "cat faces"),
            ("computer mouse", "computer mice"),
            ("face with tears of joy", "faces with tears of joy"),
            ("person in steamy room", "people in steamy room"),
            ("snowman without snow", "snowmen without snow"),
            ("backhand index pointing up", "backhand indexes pointing up"),
            ("cherry", "cherries"),
            ("bus", "buses"),
            ("grapes", "sets of grapes"),
            ("chopsticks", "pairs of chopsticks"),
        ] {
            assert_eq!(numbers(name).1, plural);
        }
    }

    #[test]
    fn flags_skin_tones_joined_people_and_signs_are_no_things() {
        for emoji in ["🇩🇪", "🏽", "👩‍🚀", "♈", "🕒", "1", "©", "👍🏽", "→"]
        {
            assert!(!is_thing(emoji), "{emoji}");
        }
        assert!(is_thing("🐢") && is_thing("☂️") && is_thing("🚗"));
        assert!(
            !is_plain_name("red heart") && !is_plain_name("OK button") && is_plain_name("t-shirt")
        );
    }

    #[test]
    fn annotations_keep_the_spoken_names_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("en.xml");
        let text = "<ldml><annotations><annotation cp=\"🐢\">slow | turtle</annotation>\
                    <annotation cp=\"🐢\" type=\"tts\">turtle</annotation></annotations></ldml>";
        std::fs::write(&path, text).expect("written");
        let names = annotations(&path).expect("read");
        assert_eq!(
            names,
            BTreeMap::from([("🐢".to_string(), "turtle".to_string())])
        );
        std::fs::write(&path, "<ldml><annotation").expect("written");
        assert!(matches!(annotations(&path), Err(Error::BadFile { .. })));
        let missing = annotations(&folder.path().join("zh.xml")).expect_err("missing");
        assert!(matches!(
            missing.hint(),
            Some(Hint::Locate {
                file: LocatedFile::Cldr,
                ..
            })
        ));
    }
}
