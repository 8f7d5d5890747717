#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use rayon::prelude::*;

use super::*;

fn tiny() -> (World, Glyphs) {
    let world = World::tiny();
    let glyphs = Glyphs::load(
        &world,
        &Sources {
            font: "no font".into(),
            cldr: "none".into(),
            ..Sources::default()
        },
    );
    (world, glyphs.unwrap())
}

#[test]
fn presets_are_valid_and_small_has_48_things() {
    World::tiny().check().unwrap();
    World::small().check().unwrap();
    assert_eq!(World::tiny().things.len(), 8);
    let small = World::small();
    assert_eq!(small.things.len(), 48);
    for names in [
        small
            .things
            .iter()
            .map(|t| &t.emoji)
            .collect::<HashSet<_>>(),
        small.things.iter().map(|t| &t.english).collect(),
        small.things.iter().map(|t| &t.chinese).collect(),
    ] {
        assert_eq!(names.len(), 48);
    }
}

#[test]
fn worlds_survive_json() {
    for world in [World::tiny(), World::small()] {
        let text = serde_json::to_string(&world).unwrap();
        assert_eq!(serde_json::from_str::<World>(&text).unwrap(), world);
    }
}

#[test]
fn impossible_worlds_are_refused() {
    let broken: [fn(&mut World); 6] = [
        |w| w.picture_size = 100,
        |w| w.snap = 0,
        |w| w.things.truncate(1),
        |w| w.sizes.many = vec![40],
        |w| w.backgrounds[0].colour = None,
        |w| w.natural_share = f64::NAN,
    ];
    for (i, breaking) in broken.iter().enumerate() {
        let mut world = World::small();
        breaking(&mut world);
        assert!(world.check().is_err(), "case {i}");
    }
}

#[test]
fn a_missing_font_names_the_package() {
    let sources = Sources {
        font: "/no/such/font.ttf".into(),
        cldr: "none".into(),
        ..Sources::default()
    };
    let error = Glyphs::load(&World::small(), &sources).err().unwrap();
    assert!(error.to_string().contains("/no/such/font.ttf"), "{error}");
    let expected = crate::error::Hint::Locate {
        file: crate::error::LocatedFile::Font,
        install: "install Debian's package fonts-noto-color-emoji",
    };
    assert_eq!(error.hint(), Some(expected));
}

#[test]
fn the_same_seed_and_index_give_the_same_scene_and_picture() {
    let (world, glyphs) = tiny();
    let (other_world, other_glyphs) = tiny();
    for index in 0..50 {
        let scene = world.scene(7, index, Split::Train);
        let again = other_world.scene(7, index, Split::Train);
        assert_eq!(scene, again);
        assert_eq!(render(&scene, &glyphs), render(&again, &other_glyphs));
    }
    assert_ne!(
        (0..9)
            .map(|i| world.scene(7, i, Split::Train))
            .collect::<Vec<_>>(),
        (0..9)
            .map(|i| world.scene(8, i, Split::Train))
            .collect::<Vec<_>>()
    );
}

/// The split must hold for what a scene combines, in either order of mention, not for its pixels only.
#[test]
fn no_combination_is_on_both_sides() {
    for world in [World::tiny(), World::small()] {
        let combinations = |split| -> HashSet<String> {
            (0..4000u64)
                .into_par_iter()
                .map(|i| {
                    let scene = world.scene(3, i, split);
                    assert_eq!(world.split_of(&scene), split);
                    let mut told_back = scene.clone();
                    if let Arrangement::Related(relation) = scene.arrangement {
                        told_back.kinds.reverse();
                        told_back.arrangement = Arrangement::Related(relation.converse());
                    }
                    assert_eq!(world.combination(&told_back), world.combination(&scene));
                    world.combination(&scene)
                })
                .collect()
        };
        let train = combinations(Split::Train);
        let held_out = combinations(Split::HeldOut);
        assert!(train.is_disjoint(&held_out));
        assert!(held_out.len() > 300, "{}", held_out.len());
    }
}

#[test]
fn one_combination_in_ten_is_held_out() {
    let world = World::small();
    let mut seen = HashSet::new();
    let mut held_out = 0;
    for index in 0..2000 {
        for split in [Split::Train, Split::HeldOut] {
            // Count what a plain draw would give: nine Train scenes to one HeldOut would say nothing.
            let scene = world.scene(1, index, split);
            let mut moved = scene.clone();
            for background in &world.backgrounds {
                moved.background = *background;
                if seen.insert(world.combination(&moved)) {
                    held_out += usize::from(world.split_of(&moved) == Split::HeldOut);
                }
            }
        }
    }
    // More than 100,000 combinations, two in 33 × 2 of them chosen by side: 10 % within a point or so,
    // plus (1 − 0.1) / 66 for those.
    let share = held_out as f64 / seen.len() as f64;
    assert!((0.09..0.13).contains(&share), "{share} of {}", seen.len());
}

#[test]
fn things_stay_inside_on_the_grid_and_apart() {
    for world in [World::tiny(), World::small()] {
        for index in 0..3000 {
            let scene = world.scene(11, index, Split::Train);
            let boxes: Vec<SceneBox> = scene
                .kinds
                .iter()
                .flat_map(|kind| kind.boxes.iter().copied())
                .collect();
            for (i, a) in boxes.iter().enumerate() {
                assert!(a.x + a.size <= world.picture_size && a.y + a.size <= world.picture_size);
                assert!(a.x % world.snap == 0 && a.y % world.snap == 0);
                for b in &boxes[..i] {
                    // Boxes may touch: each keeps a border of 1 px free.
                    let apart_x = a.x + a.size <= b.x || b.x + b.size <= a.x;
                    let apart_y = a.y + a.size <= b.y || b.y + b.size <= a.y;
                    assert!(apart_x || apart_y, "{scene:?}");
                }
            }
            for kind in &scene.kinds {
                if let Some(colour) = kind.colour {
                    assert_ne!(Some(colour), world.things[kind.thing].natural);
                    assert_ne!(Some(colour), scene.background.colour);
                }
            }
        }
    }
}

#[test]
fn sprites_keep_a_free_border() {
    let (world, glyphs) = tiny();
    for thing in 0..world.things.len() {
        let sprite = glyphs.sprite(thing, Some(Colour::Green), 32, Style::Flat);
        let inked = sprite.pixels.iter().filter(|px| px[3] > 127.0).count();
        assert!(inked > 150, "{}: {inked} px", world.things[thing].english);
        for i in 0..32 {
            for at in [i, 31 * 32 + i, i * 32, i * 32 + 31] {
                assert_eq!(sprite.pixels[at], [0.0; 4]);
            }
        }
    }
}

#[test]
fn painted_things_mostly_have_their_colour() {
    let (world, glyphs) = tiny();
    for thing in 0..world.things.len() {
        for colour in Colour::OF_THINGS {
            let sprite = glyphs.sprite(thing, Some(colour), 32, Style::Flat);
            let mut mean = [0.0f32; 3];
            for px in &sprite.pixels {
                (0..3).for_each(|c| mean[c] += px[c]);
            }
            // The nearest named tone by direction, brightness aside.
            let cosine = |a: [f32; 3], b: [f32; 3]| {
                let dot = |x: [f32; 3], y: [f32; 3]| x[0] * y[0] + x[1] * y[1] + x[2] * y[2];
                dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            };
            let nearest = Colour::OF_THINGS
                .into_iter()
                .max_by(|&a, &b| cosine(mean, a.paint()).total_cmp(&cosine(mean, b.paint())))
                .unwrap();
            assert_eq!(nearest, colour, "{}", world.things[thing].english);
        }
    }
}

fn scene_of(
    world: &World,
    words: &[(&str, Option<Colour>, usize)],
    arrangement: Arrangement,
    background: Background,
) -> Scene {
    let kinds = words
        .iter()
        .map(|&(name, colour, count)| Kind {
            thing: world.things.iter().position(|t| t.english == name).unwrap(),
            colour,
            boxes: vec![
                SceneBox {
                    x: 0,
                    y: 0,
                    size: 32
                };
                count
            ],
        })
        .collect();
    Scene {
        kinds,
        arrangement,
        background,
        style: Style::Flat,
    }
}

#[test]
fn captions_say_everything_in_both_languages() {
    let world = World::small();
    let yellow = Background {
        kind: BackgroundKind::Plain,
        colour: Some(Colour::Yellow),
    };
    let night = Background {
        kind: BackgroundKind::Night,
        colour: None,
    };
    let cats = scene_of(
        &world,
        &[("cat", None, 2), ("fish", Some(Colour::Red), 1)],
        Arrangement::Related(Relation::LeftOf),
        yellow,
    );
    assert_eq!(
        world.caption(&cats, Language::English, 0),
        "two cats to the left of a red fish on a yellow background"
    );
    assert_eq!(
        world.caption(&cats, Language::English, 2),
        "on a yellow background, a red fish to the right of two cats"
    );
    assert_eq!(
        world.caption(&cats, Language::Chinese, 0),
        "黄色背景上，两只猫在一条红色鱼的左边"
    );
    let turtle = scene_of(
        &world,
        &[("turtle", Some(Colour::Red), 1)],
        Arrangement::At(Place::TopLeft),
        night,
    );
    assert_eq!(
        world.caption(&turtle, Language::Chinese, 0),
        "夜空下左上角的一只红色乌龟"
    );
    assert_eq!(
        world.caption(&turtle, Language::English, 4),
        "there is a red turtle in the top left corner under the night sky"
    );
    let mice = scene_of(
        &world,
        &[("mouse", Some(Colour::Orange), 3)],
        Arrangement::Free,
        night,
    );
    assert_eq!(
        world.caption(&mice, Language::English, 4),
        "there are three orange mice under the night sky"
    );
    let umbrella = scene_of(
        &world,
        &[("umbrella", None, 1)],
        Arrangement::At(Place::Centre),
        night,
    );
    assert!(
        world
            .caption(&umbrella, Language::English, 0)
            .starts_with("an umbrella in the middle")
    );
}

#[test]
fn the_wordings_of_a_scene_differ() {
    let world = World::small();
    for index in 0..200 {
        let scene = world.scene(5, index, Split::Train);
        let captions = world.all_captions(&scene);
        assert_eq!(captions.len(), 2 * WORDINGS);
        let distinct: HashSet<_> = captions.iter().collect();
        assert_eq!(distinct.len(), captions.len(), "{captions:?}");
        for caption in &captions {
            assert!(
                !caption.contains("  ") && !caption.contains("a orange"),
                "{caption}"
            );
        }
    }
}
