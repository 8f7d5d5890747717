//! `impasto selftest`: a line a check, a summary, a code.

use crate::program::Program;

#[test]
fn the_cpu_agrees_with_itself() {
    let printed = Program::new().expect(&[
        "selftest",
        "--device",
        "cpu",
        "--only",
        "ops/linear",
        "--precision",
        "all",
    ]);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("result"), "{printed}");
    // Three shapes, two forms, three precisions; the smallest shape is not judged in bf16.
    let checks = &lines[1..lines.len() - 1];
    assert_eq!(checks.len(), 16, "{printed}");
    for line in checks {
        assert!(line.starts_with("ok "), "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.contains(&"f32") {
            assert!(words.contains(&"0"), "no error 0 in {line}");
        }
    }
    assert_eq!(lines[lines.len() - 1], "16 passed, 0 failed, 0 skipped");
}

#[test]
fn json_holds_every_check_and_the_device() {
    let report = Program::new().json(&[
        "selftest",
        "--device",
        "cpu",
        "--only",
        "models/dalle",
        "--precision",
        "tf32",
        "--seed",
        "3",
        "--json",
    ]);
    assert!(report["device"].as_str().unwrap().starts_with("cpu"));
    assert_eq!(report["seed"], 3);
    assert_eq!(report["failed"], 0);
    let outcomes = report["outcomes"].as_array().unwrap();
    assert_eq!(report["passed"], outcomes.len());
    assert!(outcomes.len() >= 9, "{}", outcomes.len());
    for outcome in outcomes {
        assert_eq!(outcome["result"], "ok");
        assert_eq!(outcome["precision"], "tf32");
        assert_eq!(outcome["error"], 0.0);
        assert!(outcome["milliseconds"].as_f64().unwrap() >= 0.0);
    }
}

#[test]
fn what_can_not_be_checked_is_refused() {
    let program = Program::new();
    program.refuses(
        1,
        &["selftest", "--device", "cpu", "--only", "no such check"],
        &["only", "\"no such check\""],
    );
    program.refuses(2, &["selftest", "--precision", "f64"], &["f64"]);
    program.refuses(1, &["selftest", "--device", "abacus"], &["device abacus"]);
}
