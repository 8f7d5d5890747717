#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use impasto_safety::{Action, Category, Mode, Policy};
use proptest::prelude::*;

use super::*;
use crate::image::Image;
use crate::import::damage::damage;
use crate::import::goldens::{Expected, assert_within, copied, golden, numbers};
use crate::safety::{Checker, Guard, PictureChecker};

const CHECKERS: [&str; 3] = ["checker", "checker_published", "checker_gelu"];
const CLASSIFIERS: [&str; 3] = ["vit", "vit_published", "vit_bicubic"];

fn folder(set: &str) -> PathBuf {
    golden("safety", set)
}

fn opened(set: &str) -> PublishedChecker {
    let (checker, report) = load(&folder(set), &Device::flex()).unwrap();
    assert!(report.is_complete(), "{}", report.summary());
    checker
}

fn tensor(expected: &Expected, name: &str) -> Tensor<4> {
    let (values, shape) = expected.tensor(name);
    let shape: [usize; 4] = shape.try_into().unwrap();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn pictures(set: &str, count: usize) -> Vec<Image> {
    let path = |i: usize| folder(set).join(format!("{i}.png"));
    (0..count).map(|i| Image::open(path(i)).unwrap()).collect()
}

/// Cosines and scores within 1e-4, decisions equal.
#[test]
fn stable_diffusions_checker_decides_as_diffusers_does() {
    for set in CHECKERS {
        let PublishedChecker::Concepts { model, .. } = opened(set) else {
            panic!("{set} is no checker of concepts");
        };
        let expected = Expected::of(&folder(set));
        let pixels = tensor(&expected, "pixels");
        let (special, cosines) = model.cosines(pixels.clone());
        assert_within(&numbers(special), &expected.floats("special"), 1e-4, set);
        assert_within(&numbers(cosines), &expected.floats("cosines"), 1e-4, set);
        let scores = model.scores(pixels, 0.0).unwrap();
        let flat = |of: fn(&crate::models::safety_checker::ConceptScores) -> &Vec<f32>| {
            scores.iter().flat_map(of).copied().collect::<Vec<f32>>()
        };
        let special = flat(|scores| &scores.special);
        assert_within(&special, &expected.floats("special_scores"), 1e-4, set);
        let concepts = flat(|scores| &scores.concepts);
        assert_within(&concepts, &expected.floats("scores"), 1e-4, set);
        let flagged: Vec<f32> = scores
            .iter()
            .map(|scores| f32::from(u8::from(scores.is_flagged())))
            .collect();
        assert_eq!(flagged, expected.floats("flagged"), "{set}");
        assert!(flagged.contains(&1.0) && flagged.contains(&0.0), "{set}");
    }
}

/// From the file of the picture to the decision.
#[test]
fn pictures_are_prepared_as_the_checkers_training_did_it() {
    for set in CHECKERS {
        let checker = Checker::load(&folder(set), &Policy::default(), &Device::flex()).unwrap();
        let expected = Expected::of(&folder(set)).floats("flagged");
        let scores = checker.check(&pictures(set, expected.len())).unwrap();
        for (scores, flagged) in scores.iter().zip(&expected) {
            assert_eq!(scores[0].category, Category::Sexual);
            assert_eq!(scores[0].flagged, Some(*flagged == 1.0), "{set}");
            assert_eq!(scores[0].score > 0.5, *flagged == 1.0, "{set} {scores:?}");
        }
    }
}

#[test]
fn classifiers_compute_what_transformers_does() {
    for set in CLASSIFIERS {
        let PublishedChecker::Classifier {
            model,
            filter,
            normalisation,
        } = opened(set)
        else {
            panic!("{set} is no classifier");
        };
        let expected = Expected::of(&folder(set));
        let logits = numbers(model.forward(tensor(&expected, "pixels")));
        assert_within(&logits, &expected.floats("logits"), 1e-4, set);
        let shares = model
            .probabilities(tensor(&expected, "pixels"))
            .unwrap()
            .concat();
        assert_within(&shares, &expected.floats("probabilities"), 1e-4, set);
        // The bytes are Pillow's; a division rounds in another order.
        let size = model.config().image_size;
        let (values, shape) = expected.tensor("pixels");
        let own: Vec<f32> = pictures(set, shape[0])
            .iter()
            .flat_map(|picture| normalisation.apply(&picture.squash(size, filter).unwrap()))
            .collect();
        assert_within(&own, &values, 1e-5, set);
    }
}

#[test]
fn labels_are_sorted_into_categories() {
    let load = |set: &str, text: &str| {
        let policy = Policy::parse(text).unwrap();
        Checker::load(&folder(set), &policy, &Device::flex())
    };
    let checker = load("vit_published", "").unwrap();
    let shares = Expected::of(&folder("vit_published")).floats("probabilities");
    let scores = checker.check(&pictures("vit_published", 4)).unwrap();
    for (scores, shares) in scores.iter().zip(shares.chunks(5)) {
        assert_eq!((scores.len(), scores[0].category), (1, Category::Sexual));
        // hentai, porn, sexy.
        assert!((scores[0].score - (shares[1] + shares[3] + shares[4])).abs() < 1e-4);
    }
    let text = "pictures: {labels: {drawings: hate}}";
    let scores = load("vit_published", text)
        .unwrap()
        .check(&pictures("vit_published", 1))
        .unwrap();
    assert_eq!(scores[0].len(), 2);
    let error = load("vit_published", "pictures: {labels: {cats: hate}}")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no label \"cats\"") && error.contains("hentai"),
        "{error}"
    );
}

#[test]
fn a_guard_says_what_is_done_about_pictures() {
    let policy = |text: &str| {
        let mut policy = Policy::parse(text).unwrap();
        policy.pictures.checker = Some("vit".into());
        let find = |_: &str| Ok(crate::checkpoint::ModelSource::Dir(folder("vit")));
        Guard::open(policy, &Device::flex(), find).unwrap()
    };
    let nothing = Default::default();
    let pictures = pictures("vit", 4);
    // Probabilities of "nsfw": 0.63, 0.31, 0.72, 0.24.
    for (text, expected) in [
        (
            "mode: flag",
            [Action::Flag, Action::Off, Action::Flag, Action::Off],
        ),
        (
            "categories: {sexual: blur}\nthresholds: {sexual: 0.7}",
            [Action::Off, Action::Off, Action::Blur, Action::Off],
        ),
        (
            "mode: refuse\nthreshold: 0.3",
            [Action::Refuse, Action::Refuse, Action::Refuse, Action::Off],
        ),
    ] {
        let guard = policy(text);
        let verdicts = guard.pictures(&pictures, &nothing).unwrap();
        let actions: Vec<Action> = verdicts
            .iter()
            .map(crate::safety::Verdict::action)
            .collect();
        assert_eq!(actions, expected, "{text}");
        // A score is always there.
        assert!(
            verdicts
                .iter()
                .all(|verdict| verdict.scores[&Category::Sexual] > 0.0)
        );
        assert_eq!(
            guard.may_hide_pictures(),
            text != "mode: flag" || guard.policy().action(Category::SexualMinors) >= Action::Blur
        );
    }
    let refused = policy("mode: refuse")
        .pictures(&pictures, &nothing)
        .unwrap();
    let error = refused[0].refuse("picture").unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Refused);
    assert!(
        error
            .to_string()
            .starts_with("picture: refused as sexual (0.63): nsfw 0.63"),
        "{error}"
    );
    assert!(!policy("mode: off").checks_pictures());
    assert_eq!(Policy::of(Mode::Off).action(Category::Sexual), Action::Off);
}

#[test]
fn what_does_not_fit_is_named() {
    let checks: [(&str, &str, &str, &str, &str); 9] = [
        (
            "checker",
            "config.json",
            "StableDiffusionSafetyChecker",
            "Other",
            "Other",
        ),
        (
            "checker",
            "config.json",
            "\"quick_gelu\"",
            "\"relu\"",
            "hidden_act",
        ),
        (
            "checker",
            "config.json",
            "\"hidden_size\": 32",
            "\"hidden_size\": 36",
            "does not fit",
        ),
        (
            "checker",
            "config.json",
            "\"image_size\": 28",
            "\"image_size\": 29",
            "multiple of patch_size",
        ),
        (
            "checker",
            "config.json",
            "\"intermediate_size\": 48",
            "\"intermediate_size\": 480000",
            "numbers",
        ),
        ("vit", "config.json", "\"gelu\"", "\"relu\"", "hidden_act"),
        (
            "vit",
            "config.json",
            "\"1\": \"nsfw\"",
            "\"2\": \"nsfw\"",
            "id2label",
        ),
        (
            "vit",
            "preprocessor_config.json",
            "\"resample\": 2",
            "\"resample\": 1",
            "resample is 1",
        ),
        (
            "vit",
            "preprocessor_config.json",
            "\"height\": 32",
            "\"height\": 33",
            "size is",
        ),
    ];
    for (set, file, from, to, named) in checks {
        let copy = copied(&folder(set));
        let path = copy.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{set} {file} {from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = load(copy.path(), &Device::flex())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{set} {from}: {error}");
    }
    let copy = copied(&folder("checker"));
    std::fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    assert!(load(copy.path(), &Device::flex()).is_err());
    assert!(is_published(&folder("checker")) && is_published(&folder("vit")));
    // Nor is it a CLIP, whose model_type it has.
    assert!(!crate::import::clip::is_published(&folder("checker")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_files_are_errors(which in 0usize..4, damage in damage()) {
        let (set, file) = [
            ("checker", "model.safetensors"), ("checker", "config.json"),
            ("checker_gelu", "pytorch_model.bin"), ("vit", "config.json"),
        ][which];
        let copy = copied(&folder(set));
        let path = copy.path().join(file);
        std::fs::write(&path, damage.of(std::fs::read(&path).unwrap())).unwrap();
        // An error, or other numbers.
        let _ = load(copy.path(), &Device::flex());
    }
}
