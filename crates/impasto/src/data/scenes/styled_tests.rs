#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::masters::Master;
use super::*;
use crate::image::Image;

/// Eight shipped things in two styles, from the pictures beside the tests.
fn tiny() -> (World, Glyphs) {
    let world = World::tiny_styles();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/src/data/scenes/fixtures/art");
    let sources = Sources {
        font: "no font".into(),
        cldr: "none".into(),
        art: fixtures.into(),
    };
    let glyphs = Glyphs::load(&world, &sources).unwrap();
    (world, glyphs)
}

/// Forty-eight things in all styles: enough for scenes and captions, which need no pictures.
fn worded() -> World {
    World::styled(things::small(), &Style::ART)
}

fn scenes(world: &World, n: u64, split: Split) -> Vec<Scene> {
    (0..n).map(|i| world.scene(5, i, split)).collect()
}

#[test]
fn worlds_of_styles_are_valid_and_survive_json() {
    for world in [World::tiny_styles(), worded()] {
        world.check().unwrap();
        let text = serde_json::to_string(&world).unwrap();
        assert_eq!(serde_json::from_str::<World>(&text).unwrap(), world);
    }
    // What was written before there were styles by artists reads and writes as before.
    let plain = serde_json::to_string(&World::small()).unwrap();
    assert!(!plain.contains("grammar") && !plain.contains("many_kinds_share"));
    let names: Vec<String> = Style::ART
        .iter()
        .map(|style| serde_json::to_string(style).unwrap())
        .collect();
    assert_eq!(
        names.join(" "),
        r#""noto" "fluent-3d" "fluent-flat" "high-contrast" "twemoji""#
    );
    for style in Style::ART {
        assert_eq!(
            serde_json::to_string(&style).unwrap(),
            format!("\"{}\"", style.name())
        );
        assert!(style.pack().is_none_or(|pack| pack == style.name()));
    }
}

#[test]
fn a_missing_pack_names_the_recipe_and_the_flag() {
    let sources = Sources {
        art: "/no/such/art".into(),
        ..Sources::default()
    };
    let error = Glyphs::load(&World::tiny_styles(), &sources).err().unwrap();
    assert!(
        error.to_string().contains("/no/such/art/fluent-3d"),
        "{error}"
    );
    let expected = crate::error::Hint::Locate {
        file: crate::error::LocatedFile::Art,
        install: "run recipes/art/fetch",
    };
    assert_eq!(error.hint(), Some(expected));
}

#[test]
fn a_pack_without_a_picture_or_under_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("twemoji");
    std::fs::create_dir(&pack).unwrap();
    let info = |name: &str| {
        let source = PackSource {
            npm: "none".into(),
            version: "1".into(),
        };
        let info = PackInfo {
            name: name.into(),
            license: "MIT".into(),
            attribution: "nobody".into(),
            source,
        };
        std::fs::write(pack.join("pack.json"), serde_json::to_vec(&info).unwrap()).unwrap();
    };
    info("noto");
    let error = Pack::open(folder.path(), "twemoji").unwrap_err();
    assert!(
        error.to_string().contains("expected the pack twemoji"),
        "{error}"
    );
    info("twemoji");
    std::fs::write(pack.join("1f422.webp"), b"no picture").unwrap();
    let pack = Pack::open(folder.path(), "twemoji").unwrap();
    assert!(pack.has("🐢") && !pack.has("🐱") && !pack.has("🐢🐢"));
    assert!(matches!(
        pack.glyph("🐢"),
        Err(crate::Error::BadFile { .. })
    ));
    let error = pack.glyph("🐱").unwrap_err();
    assert!(
        error.to_string().contains("has no picture for 🐱"),
        "{error}"
    );
}

fn ink(sprite: &Sprite) -> usize {
    sprite.pixels.iter().filter(|px| px[3] > 127.0).count()
}

#[test]
fn every_thing_is_seen_in_every_style_and_keeps_to_its_box() {
    let (world, glyphs) = tiny();
    every_thing_is_seen(&world, &glyphs);
}

fn every_thing_is_seen(world: &World, glyphs: &Glyphs) {
    for thing in 0..world.things.len() {
        for &style in &world.styles {
            for size in world.all_sizes() {
                let sprite = glyphs.sprite(thing, None, size, style);
                let name = &world.things[thing].english;
                // Even a thin thing (a needle, a dash) inks one pixel in fifty.
                assert!(
                    ink(&sprite) * 50 > size * size,
                    "{name}, {style:?}: {} of {size}²",
                    ink(&sprite)
                );
                assert_eq!((sprite.size, sprite.pixels.len()), (size, size * size));
            }
        }
    }
}

/// The whole world, where its packages are installed and `recipes/art/fetch` was run.
#[test]
fn the_world_styles_has_a_thousand_things_in_five_styles() {
    let art: PathBuf = concat!(env!("CARGO_MANIFEST_DIR"), "/../../art").into();
    let sources = Sources {
        art,
        ..Sources::default()
    };
    let packs = Style::ART.iter().filter_map(|style| style.pack());
    let mut needed: Vec<PathBuf> = packs.map(|pack| sources.art.join(pack)).collect();
    needed.extend([sources.font.clone(), sources.cldr.join("zh.xml")]);
    if let Some(missing) = needed.iter().find(|path| !path.exists()) {
        #[allow(clippy::print_stderr)]
        {
            eprintln!(
                "left out: {} is missing (recipes/art/fetch)",
                missing.display()
            );
        }
        return;
    }
    let world = World::preset("styles", &sources).unwrap();
    world.check_split(Split::UnseenPair).unwrap();
    assert!(world.things.len() >= 1000, "{}", world.things.len());
    assert_eq!((world.picture_size, world.snap), (128, 8));
    let glyphs = Glyphs::load(&world, &sources).unwrap();
    for thing in 0..world.things.len() {
        for &style in &world.styles {
            let sprite = glyphs.sprite(thing, None, 56, style);
            let name = &world.things[thing].english;
            assert!(ink(&sprite) > 60, "{name}, {style:?}: {}", ink(&sprite));
        }
    }
    // With the longest names, too, at most 128 ids of a trained tokenizer of 4096: it takes 3.6 bytes to an id in
    // English captions of rare names (4.2 in others), more than 5 in Chinese ones.
    let is_chinese = |caption: &str| caption.chars().any(|c| ('一'..='龥').contains(&c));
    for scene in scenes(&world, 4000, Split::Train) {
        for caption in world.all_captions(&scene) {
            let limit = if is_chinese(&caption) { 620 } else { 440 };
            assert!(caption.len() <= limit, "{} bytes: {caption}", caption.len());
        }
    }
}

#[test]
fn the_same_scene_gives_the_same_bytes() {
    let (world, glyphs) = tiny();
    let (_, again) = tiny();
    for scene in scenes(&world, 60, Split::Train) {
        let picture = render(&scene, &glyphs);
        assert_eq!(picture, render(&scene, &glyphs));
        assert_eq!(picture, render(&scene, &again));
    }
}

/// What the detector compares with is what was drawn.
#[test]
fn sprites_are_what_is_drawn() {
    let (world, glyphs) = tiny();
    for scene in scenes(&world, 60, Split::Train) {
        let drawn = render(&scene, &glyphs);
        let empty = glyphs.background(scene.background);
        let mut expected: Vec<f32> = empty.rgb.iter().map(|&v| f32::from(v)).collect();
        for kind in &scene.kinds {
            let colour = scene.style.drawn_colour(kind.colour, scene.background.kind);
            for place in &kind.boxes {
                let sprite = glyphs.sprite(kind.thing, colour, place.size, scene.style);
                for (i, px) in sprite.pixels.iter().enumerate() {
                    let (x, y) = (place.x + i % place.size, place.y + i / place.size);
                    let under = &mut expected[(y * 128 + x) * 3..][..3];
                    for channel in 0..3 {
                        under[channel] = under[channel] * (1.0 - px[3] / 255.0) + px[channel];
                    }
                }
            }
        }
        // Shadow and ink are rounded to bytes one after the other.
        let worst = expected
            .iter()
            .zip(&drawn.rgb)
            .map(|(a, &b)| (a - f32::from(b)).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1.6, "{worst}");
    }
}

/// A disc in black, as the pack of icons has its shapes.
fn disc() -> Glyph {
    let inked = |i: usize| {
        let (x, y) = ((i % 100) as f32 - 49.5, (i / 100) as f32 - 49.5);
        if x.hypot(y) < 49.0 { 255 } else { 0 }
    };
    let rgba = (0..100 * 100).flat_map(|i| [0, 0, 0, inked(i)]).collect();
    Glyph {
        width: 100,
        height: 100,
        rgba,
    }
}

#[test]
fn one_ink_is_black_or_the_colour_and_white_on_dark_grounds() {
    let style = Style::HighContrast;
    let meadow = BackgroundKind::Meadow;
    assert_eq!(style.drawn_colour(None, meadow), None);
    assert_eq!(
        style.drawn_colour(Some(Colour::Red), meadow),
        Some(Colour::Red)
    );
    let night = BackgroundKind::NightSky;
    assert_eq!(style.drawn_colour(None, night), Some(Colour::White));
    assert_eq!(
        style.drawn_colour(Some(Colour::Red), night),
        Some(Colour::Red)
    );
    assert_eq!(Style::Twemoji.drawn_colour(None, night), None);
    let master = Master::new(&disc(), 56, style);
    for (colour, tone) in [
        (None, [0, 0, 0]),
        (Some(Colour::White), [245, 245, 245]),
        (Some(Colour::Red), [222, 38, 38]),
    ] {
        let mut picture = Image::filled(128, 128, [120; 3]);
        master.draw(colour, &mut picture, (8, 64));
        let at = |x: usize, y: usize| &picture.rgb[(y * 128 + x) * 3..][..3];
        assert_eq!(at(8 + 28, 64 + 28), tone);
        assert_eq!(at(8 + 28, 64 + 2), tone);
        // Outside of its box, and in the box's corner, nothing changes.
        for (x, y) in [(7, 92), (64, 92), (36, 63), (36, 120), (8, 64), (63, 119)] {
            assert_eq!(at(x, y), [120; 3], "{x}, {y}");
        }
    }
}

#[test]
fn volumes_throw_a_soft_shadow_and_nothing_else_does() {
    for (style, is_darker) in [(Style::Fluent3d, true), (Style::Twemoji, false)] {
        let mut picture = Image::filled(128, 128, [200; 3]);
        Master::new(&disc(), 104, style).draw(None, &mut picture, (0, 0));
        let grey = |x: usize, y: usize| picture.rgb[(y * 128 + x) * 3];
        // To the right of the disc's foot: in its shadow, and not black.
        let (x, y) = (70, 97);
        assert_eq!(
            grey(x, y) < 196 && grey(x, y) > 100,
            is_darker,
            "{style:?}: {}",
            grey(x, y)
        );
        assert_eq!(grey(103, 60), 200);
    }
}

#[test]
fn no_training_scene_shows_a_held_out_pair() {
    let world = worded();
    let is_held_out = |scene: &Scene, kind: &Kind| world.is_held_out_pair(kind.thing, scene.style);
    for split in [Split::Train, Split::HeldOut] {
        for scene in scenes(&world, 10_000, split) {
            assert_eq!(world.split_of(&scene), split);
            assert!(!scene.kinds.iter().any(|kind| is_held_out(&scene, kind)));
        }
    }
    // Families of scenes keep to it as well.
    for member in 0..500 {
        let scene = world.hard_negative_scene(1, member / 8, member % 8, Split::Train);
        assert!(!scene.kinds.iter().any(|kind| is_held_out(&scene, kind)));
    }
    let mut seen = BTreeSet::new();
    for scene in scenes(&world, 2_000, Split::UnseenPair) {
        assert!(scene.kinds.iter().all(|kind| is_held_out(&scene, kind)));
        assert_ne!(scene.arrangement, Arrangement::Quadrants);
        // The same things in a trained style would be a training scene.
        let mut trained = scene.clone();
        trained.style = Style::Flat;
        assert_ne!(world.split_of(&trained), Split::HeldOut);
        seen.extend(
            scene
                .kinds
                .iter()
                .map(|kind| (kind.thing, scene.style.name())),
        );
    }
    let pairs = (0..world.things.len())
        .flat_map(|thing| Style::ART.map(|style| (thing, style)))
        .filter(|&(thing, style)| world.is_held_out_pair(thing, style))
        .count();
    assert_eq!(seen.len(), pairs, "every held-out pair is asked for");
    // Of 240 pairs a tenth, give or take two standard deviations.
    assert!((15..=33).contains(&pairs), "{pairs}");
}

#[test]
fn worlds_without_held_out_pairs_refuse_that_split() {
    for world in [World::tiny(), World::small()] {
        world.check_split(Split::Train).unwrap();
        let error = world.check_split(Split::UnseenPair).unwrap_err();
        assert!(
            error.to_string().contains("no scenes on that side"),
            "{error}"
        );
    }
    worded().check_split(Split::UnseenPair).unwrap();
}

#[test]
fn scenes_have_the_shares_and_sizes_that_the_world_says() {
    let world = worded();
    let n = 6000;
    let scenes = scenes(&world, n, Split::Train);
    let share = |is: &dyn Fn(&Scene) -> bool| {
        scenes.iter().filter(|scene| is(scene)).count() as f64 / n as f64
    };
    for (kinds, expected) in [(1..=1, 0.5), (2..=2, 0.3), (3..=4, 0.2)] {
        let found = share(&|scene| kinds.contains(&scene.kinds.len()));
        assert!((found - expected).abs() < 0.03, "{kinds:?}: {found}");
    }
    for style in Style::ART {
        let found = share(&|scene| scene.style == style);
        assert!((found - 0.2).abs() < 0.03, "{style:?}: {found}");
    }
    let single = share(&|s| s.kinds.len() == 1 && s.kinds[0].count() == 1);
    assert!((0.25..0.35).contains(&single), "{single}");
    for scene in &scenes {
        let sizes = match (scene.kinds.len(), scene.kinds[0].count()) {
            (1, 1) => &world.sizes.one,
            (1, 2) | (3..=4, _) => &world.sizes.two,
            (1, _) => &world.sizes.many,
            _ if scene.kinds.iter().map(Kind::count).sum::<usize>() == 2 => &world.sizes.two,
            _ => &world.sizes.many,
        };
        let boxes: Vec<SceneBox> = scene.kinds.iter().flat_map(|k| k.boxes.clone()).collect();
        for place in &boxes {
            assert!(sizes.contains(&place.size), "{scene:?}");
            assert!([place.x, place.y, place.size].iter().all(|v| v % 8 == 0));
        }
        if scene.arrangement == Arrangement::Quadrants {
            assert!(scene.kinds.iter().all(|kind| kind.count() == 1));
            let corners: Vec<Place> = boxes.iter().map(|b| b.quadrant(128)).collect();
            let clockwise = [
                Place::TopLeft,
                Place::TopRight,
                Place::BottomRight,
                Place::BottomLeft,
            ];
            let order: Vec<_> = corners
                .iter()
                .map(|c| clockwise.iter().position(|at| at == c).unwrap())
                .collect();
            assert!(order.is_sorted_by(|a, b| a < b), "{corners:?}");
        }
    }
}

#[test]
fn captions_name_the_style_in_four_of_five_wordings_and_first() {
    let world = worded();
    let words: HashMap<Style, &[&str]> = HashMap::from([
        (Style::Noto, &["Noto", "谷歌表情"] as &[&str]),
        (Style::Fluent3d, &["3D", "立体"]),
        (Style::FluentFlat, &["flat", "扁平"]),
        (
            Style::HighContrast,
            &[
                "high-contrast",
                "high contrast",
                "black-and-white",
                "图标风格",
            ],
        ),
        (Style::Twemoji, &["Twemoji", "Twitter", "推特表情"]),
    ]);
    for scene in scenes(&world, 500, Split::Train) {
        let names = |caption: &str, style: Style| words[&style].iter().any(|w| caption.contains(w));
        let captions = world.all_captions(&scene);
        assert_eq!(captions.len(), 2 * world.wordings(&scene));
        assert_eq!(
            captions.iter().collect::<BTreeSet<_>>().len(),
            captions.len(),
            "{captions:?}"
        );
        for (language, at) in [
            (Language::English, 0),
            (Language::Chinese, captions.len() / 2),
        ] {
            assert_eq!(captions[at], world.caption(&scene, language, 0));
            assert!(names(&captions[at], scene.style), "{}", captions[at]);
        }
        let named = captions.iter().filter(|c| names(c, scene.style)).count();
        if scene.arrangement == Arrangement::Quadrants {
            assert_eq!(named, captions.len());
        } else {
            assert_eq!(named * 5, captions.len() * 4, "{captions:?}");
        }
        for caption in &captions {
            for style in Style::ART.into_iter().filter(|&style| style != scene.style) {
                assert!(!names(caption, style), "{style:?}: {caption}");
            }
            for wrong in ["  ", "a orange", "an red", " ,", "，，", "。，", ",,"] {
                assert!(!caption.contains(wrong), "{caption}");
            }
        }
    }
}

#[test]
fn a_named_size_is_the_things_size() {
    let world = worded();
    let mut named = 0;
    for scene in scenes(&world, 2000, Split::Train) {
        let is_single = scene.kinds.len() == 1 && scene.kinds[0].count() == 1;
        let size = scene.kinds[0].boxes[0].size;
        for caption in world.all_captions(&scene) {
            let says = |words: [&str; 2]| words.iter().any(|word| caption.contains(word));
            if says([" small ", "小的"]) {
                assert!(is_single && size == 56, "{caption}");
                named += 1;
            }
            if says([" large ", "大的"]) {
                assert!(is_single && size == 104, "{caption}");
                named += 1;
            }
        }
    }
    assert!(named > 1000, "{named}");
}

/// Reads the English long captions back by their own rules: what they say has to be the scene.
#[test]
fn long_captions_say_where_everything_is_and_in_which_colour() {
    let world = worded();
    let corner_names = ["top left", "top right", "bottom right", "bottom left"];
    let corner_places = [
        Place::TopLeft,
        Place::TopRight,
        Place::BottomRight,
        Place::BottomLeft,
    ];
    let words = |kind: &Kind| {
        let colour = kind
            .colour
            .map_or(String::new(), |c| format!("{} ", c.english()));
        format!("{colour}{}", world.things[kind.thing].english)
    };
    let bare = |text: &str| -> String {
        let text = text.trim().trim_end_matches(['.', ';']);
        let text = text
            .strip_prefix("an ")
            .or(text.strip_prefix("a "))
            .unwrap_or(text);
        text.to_string()
    };
    let list = |text: &str| -> Vec<String> {
        text.replace(" and a", ", a")
            .split(", ")
            .map(&bare)
            .collect()
    };
    let mut seen = 0;
    for scene in scenes(&world, 4000, Split::Train) {
        if scene.arrangement != Arrangement::Quadrants {
            continue;
        }
        seen += 1;
        let there: Vec<(usize, String)> = scene
            .kinds
            .iter()
            .map(|kind| {
                let place = kind.boxes[0].quadrant(128);
                let corner = corner_places.iter().position(|&c| c == place).unwrap();
                (corner, words(kind))
            })
            .collect();
        let say = |wording| world.long_caption(&scene, Language::English, wording);

        // 0: corner by corner.
        let caption = say(0);
        for (corner, words) in &there {
            let phrase = format!("in the {} corner ", corner_names[*corner]);
            let rest = caption.split(&phrase).nth(1).unwrap();
            let rest = rest
                .strip_prefix("an ")
                .or(rest.strip_prefix("a "))
                .unwrap();
            assert!(rest.starts_with(words.as_str()), "{caption}");
        }

        // 1: a colour for all that have none of their own.
        let caption = say(1);
        let (rule, items) = caption.split_once(" The picture shows, ").unwrap();
        let usual = rule
            .strip_prefix("All things are ")
            .map(|rest| rest.split_once(' ').unwrap().0);
        for (corner, words) in &there {
            let end = format!(" at the {}", corner_names[*corner]);
            let (before, _) = items.split_once(&end).unwrap();
            // The last item that begins before: after the last article.
            let before = format!(" {before}");
            let start = [" a ", " an "]
                .iter()
                .filter_map(|article| Some(before.rfind(article)? + article.len()))
                .max()
                .unwrap();
            let item = &before[start..];
            let read = match (usual, item.strip_prefix("unpainted ")) {
                (_, Some(thing)) => thing.to_string(),
                (Some(colour), None) if world.things.iter().any(|t| t.english == item) => {
                    format!("{colour} {item}")
                }
                _ => item.to_string(),
            };
            // "bunch of grapes" has no article inside, so that the whole name is read.
            assert_eq!(&read, words, "{caption}");
        }

        // 2: a walk round the corners.
        let caption = say(2);
        let (rule, items) = caption.split_once(" these are ").unwrap();
        let (items, _) = items.split_once(". So ").unwrap();
        let start = corner_names
            .iter()
            .position(|name| rule.contains(&format!("stands in the {name} corner")))
            .unwrap();
        let step = if rule.contains("anticlockwise") { 3 } else { 1 };
        let mut read: Vec<(usize, String)> = list(items)
            .into_iter()
            .enumerate()
            .map(|(i, words)| ((start + i * step) % 4, words))
            .collect();
        read.sort();
        assert_eq!(read, there, "{caption}");

        // In all: the first neighbours, once more.
        let name = |corner: usize| {
            let kind = scene
                .kinds
                .iter()
                .find(|kind| kind.boxes[0].quadrant(128) == corner_places[corner]);
            kind.map(|kind| format!("the {}", world.things[kind.thing].english))
        };
        let pair = |pairs: [(usize, usize); 2]| {
            pairs
                .into_iter()
                .find_map(|(a, b)| name(a).zip(name(b)))
                .unwrap()
        };
        let ((left, right), (upper, lower)) = (pair([(0, 1), (3, 2)]), pair([(0, 3), (1, 2)]));
        let recap = format!(" So {left} is left of {right}, and {lower} is below {upper}.");
        assert!(
            (0..5).all(|wording| say(wording).ends_with(&recap)),
            "{caption}"
        );

        // 4: all seen from the first.
        let caption = say(4);
        let start = corner_names
            .iter()
            .position(|name| caption.contains(&format!("in the {name} corner. Around")))
            .unwrap();
        let (x, y) = corner_places[start].column_row();
        for (corner, words) in there.iter().filter(|(corner, _)| *corner != start) {
            let (ax, ay) = corner_places[*corner].column_row();
            let relation = match (ax != x, ay != y) {
                (true, false) if ax > x => "to the right of it",
                (true, false) => "to the left of it",
                (false, true) if ay > y => "below it",
                (false, true) => "above it",
                _ => "diagonally across from it",
            };
            let rest = caption.split(relation).nth(1).unwrap();
            assert!(
                bare(rest).starts_with(words.as_str()),
                "{relation} {words}: {caption}"
            );
        }
    }
    assert!(seen > 600, "{seen}");
}

#[test]
fn rearranged_scenes_have_the_same_captions_and_other_boxes() {
    for world in [World::small(), worded()] {
        for (i, scene) in scenes(&world, 60, Split::Train).iter().enumerate() {
            let others: Vec<Scene> = (0..8).map(|n| world.rearranged(scene, 3, n)).collect();
            assert_eq!(others[0], world.rearranged(scene, 3, 0));
            for other in &others {
                assert_eq!(world.combination(other), world.combination(scene));
                for language in [Language::English, Language::Chinese] {
                    assert_eq!(
                        world.caption(other, language, 0),
                        world.caption(scene, language, 0)
                    );
                }
            }
            let differs = others.iter().any(|other| other != &others[0]);
            assert!(differs, "scene {i}: {scene:?}");
        }
    }
}
