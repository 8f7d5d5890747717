//! That a wrong result fails its check, and that the CPU passes against itself.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use burn::tensor::Tensor;

use super::check::forward;
use super::compare::Scores;
use super::*;

/// A check whose second computation (the device's) may differ from its first (the reference's).
fn faulty(
    name: &str,
    kind: Kind,
    fault: impl Fn(&mut Room, &mut Values) -> Result<()> + 'static,
) -> Check {
    let calls = Cell::new(0);
    forward(name, "4".to_owned(), kind, move |room| {
        calls.set(calls.get() + 1);
        let mut values = Values::default();
        if calls.get() % 2 == 0 {
            fault(room, &mut values)?;
        } else {
            values.add_host("numbers", vec![3.0, 0.0, 0.0, 4.0]);
        }
        Ok(values)
    })
}

fn host(values: &mut Values, numbers: [f32; 4]) -> Result<()> {
    values.add_host("numbers", numbers.to_vec());
    Ok(())
}

fn run_all(checks: Vec<Check>, precisions: &[Precision]) -> SelfTestReport {
    let options = Options {
        precisions: precisions.to_vec(),
        ..Options::default()
    };
    let go_on = &mut |_: &Outcome| ControlFlow::Continue(());
    run_checks(checks, &options, &Device::flex(), go_on).unwrap()
}

#[test]
fn wrong_results_fail_and_the_others_go_on() {
    let checks = vec![
        faulty("right", Kind::Moved, |_, values| {
            host(values, [3.0, 0.0, 0.0, 4.0])
        }),
        faulty("off", Kind::Product, |_, values| {
            host(values, [3.0, 0.0, 1e-3, 4.0])
        }),
        faulty("no number", Kind::Product, |_, values| {
            host(values, [3.0, f32::NAN, 0.0, 4.0])
        }),
        faulty("infinite", Kind::Product, |_, values| {
            host(values, [3.0, f32::INFINITY, 0.0, 4.0])
        }),
        faulty("shape", Kind::Product, |room, values| {
            values.add("numbers", Tensor::<2>::zeros([2, 2], &room.device))
        }),
        faulty("nothing", Kind::Product, |_, _| Ok(())),
        faulty("panic", Kind::Product, |_, _| panic!("the kernel of {}", 7)),
        faulty("error", Kind::Product, |_, _| {
            Err(Error::invalid("x", "too large"))
        }),
        faulty("right again", Kind::Moved, |_, values| {
            host(values, [3.0, 0.0, 0.0, 4.0])
        }),
    ];
    let report = run_all(checks, &[Precision::F32]);
    let results: Vec<(&str, bool)> = report
        .outcomes
        .iter()
        .map(|outcome| (outcome.name.as_str(), outcome.passed))
        .collect();
    let expected = [
        ("right", true),
        ("off", false),
        ("no number", false),
        ("infinite", false),
        ("shape", false),
        ("nothing", false),
        ("panic", false),
        ("error", false),
        ("right again", true),
    ];
    assert_eq!(results, expected);
    assert_eq!((report.passed, report.failed), (2, 7));
    assert_eq!(report.summary(), "2 passed, 7 failed, 0 skipped");
    let detail = |name: &str| {
        let mut outcomes = report.outcomes.iter();
        let outcome = outcomes.find(|outcome| outcome.name == name).unwrap();
        (outcome.error, outcome.detail.clone().unwrap_or_default())
    };
    // ‖(0, 0, 1e-3, 0)‖ / ‖(3, 0, 0, 4)‖.
    let (error, text) = detail("off");
    assert!((error.unwrap() - 2e-4).abs() < 1e-9, "{error:?}");
    assert!(text.contains("within tf32's tolerance"), "{text}");
    for (name, part) in [
        ("no number", "NaN at place 1"),
        ("infinite", "inf at place 1"),
        ("shape", "shape [2, 2], expected [4]"),
        ("nothing", "0 results, expected 1"),
        ("panic", "the kernel of 7"),
        ("error", "x: too large"),
    ] {
        let (error, text) = detail(name);
        assert_eq!(error, None, "{name}");
        assert!(text.contains(part), "{name}: {text}");
    }
}

#[test]
fn one_computation_is_judged_in_f32_and_in_tf32() {
    let check = || {
        faulty("off", Kind::Product, |_, values| {
            host(values, [3.0, 0.0, 1e-3, 4.0])
        })
    };
    let report = run_all(vec![check()], &[Precision::Tf32, Precision::F32]);
    let found: Vec<(Precision, bool)> = report
        .outcomes
        .iter()
        .map(|outcome| (outcome.precision, outcome.passed))
        .collect();
    assert_eq!(found, [(Precision::F32, false), (Precision::Tf32, true)]);
}

/// Scores of two rows of three.
fn scores() -> Scores {
    let scores = Tensor::<2>::from_data([[0.0, 1.0, 0.999], [0.0, 0.5, 1.0]], &Device::flex());
    Scores::of(scores, 3).unwrap()
}

#[test]
fn another_best_id_counts_by_its_score() {
    let with = |ids: [u32; 2]| {
        let mut values = Values::default();
        values.add_best("ids", ids.to_vec(), scores());
        values
    };
    let error = |ids| compare::compare(&with([1, 2]), &with(ids));
    assert_eq!(error([1, 2]).error, Some(0.0));
    let near = error([2, 2]);
    assert!((near.error.unwrap() - 1e-3).abs() < 1e-6, "{near:?}");
    let far = error([1, 0]);
    assert_eq!(far.error, Some(1.0));
    assert!(
        far.detail
            .unwrap()
            .contains("the first at 1: 0, expected 2")
    );
    assert_eq!(error([1, 3]).error, None);
}

#[test]
fn another_drawn_id_counts_by_the_random_number() {
    let with = |ids: [u32; 2], uniforms: &[f64]| {
        let mut values = Values::default();
        values.add_drawn("ids", ids.to_vec(), scores(), uniforms.to_vec());
        values
    };
    // The second row's probabilities, summed up: e^0, e^0.5 and e^1 of their sum.
    let [a, b, c] = [0f64, 0.5, 1.0].map(f64::exp);
    let border = (a + b) / (a + b + c);
    let error = |other, uniform: f64| {
        let uniforms = [0.5, uniform];
        compare::compare(&with([1, 2], &uniforms), &with([1, other], &uniforms))
    };
    assert_eq!(error(2, border + 0.1).error, Some(0.0));
    let near = error(1, border + 1e-6);
    assert!((near.error.unwrap() - 1e-6).abs() < 1e-9, "{near:?}");
    let far = error(1, border + 0.1);
    assert!((far.error.unwrap() - 0.1).abs() < 1e-6, "{far:?}");
    let text = far.detail.unwrap();
    assert!(
        text.contains("from place 1 of 2 on: 1, expected 2"),
        "{text}"
    );
    assert!(text.contains("5.000e-1"), "{text}");
    // Without a random number: by the logits.
    let greedy = compare::compare(&with([1, 2], &[]), &with([2, 0], &[]));
    assert!((greedy.error.unwrap() - 1e-3).abs() < 1e-6, "{greedy:?}");
}

#[test]
fn negligible_gradients_count_beside_the_others() {
    let with = |numbers: [f32; 2]| {
        let mut values = Values::default();
        let tensor = Tensor::<1>::from_data(numbers, &Device::flex());
        values.add_least("gradient", tensor, 1.0).unwrap();
        values
    };
    let compared = compare::compare(&with([1e-7, 0.0]), &with([-1e-7, 0.0]));
    assert!(
        (compared.error.unwrap() - 2e-7).abs() < 1e-12,
        "{compared:?}"
    );
}

#[test]
fn devices_without_bf16_skip_it_and_say_so() {
    let options = Options {
        only: Some("ops/gelu".to_owned()),
        ..Options::default()
    };
    let mut skipped = Vec::new();
    let checks: Vec<Check> = ops::checks()
        .into_iter()
        .filter(|check| check.name == "ops/gelu")
        .collect();
    for check in &checks {
        let outcomes = judge(check, &options, &Device::flex(), false, &mut skipped);
        assert_eq!(outcomes.len(), 1);
    }
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].count, checks.len());
    let report = SelfTestReport {
        version: "",
        seed: 0,
        passed: 3,
        failed: 0,
        skipped,
        outcomes: Vec::new(),
    };
    let expected = "3 passed, 0 failed, 3 skipped (the device does not compute in bf16)";
    assert_eq!(report.summary(), expected);
}

#[test]
fn the_cpu_agrees_with_itself_in_everything() {
    // In f32 it is the same computation twice; in bf16 Burn's operations against our kernels.
    let report = run(&Options::default(), &Device::flex(), &mut |outcome| {
        assert!(outcome.passed, "{outcome:?}");
        if outcome.precision == Precision::F32 {
            assert_eq!(outcome.error, Some(0.0), "{outcome:?}");
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(report.passed > 100, "{}", report.passed);
    // Everything that the issue names is there.
    for name in [
        "ops/linear",
        "ops/attention, causal",
        "ops/extend",
        "ops/adamw",
        "models/dalle",
        "models/dalle_bart",
        "models/dalle_pytorch",
        "models/vqgan",
        "models/dvae",
        "models/taming_vqgan",
        "models/discrete_vae",
        "models/clip",
        "drawing/dalle",
        "training/dalle, adamw",
        "training/dalle, muon",
        "training/vqgan, adamw",
    ] {
        assert!(
            report.outcomes.iter().any(|outcome| outcome.name == name),
            "no {name}"
        );
    }
}

#[test]
fn another_seed_is_another_input() {
    let values = |seed| {
        let mut room = Room::new(&Device::flex(), Precision::F32, true, seed, "x");
        room.numbers(3)
    };
    assert_eq!(values(1), values(1));
    assert_ne!(values(1), values(2));
}

#[test]
fn stopping_stops() {
    let options = Options {
        only: Some("ops/gelu".to_owned()),
        ..Options::default()
    };
    let mut seen = 0;
    let stopped = run(&options, &Device::flex(), &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(seen, 1);
}
