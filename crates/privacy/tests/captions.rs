//! The scanner's recall and precision on captions that `recipes/privacy/make-captions` wrote: 400 of them are beside this
//! file; `IMPASTO_CAPTIONS` names another list, whose table is printed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;

use impasto_privacy::captions::{Category, Names, Scanner};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    caption: String,
    private: Vec<Private>,
}

#[derive(Deserialize)]
struct Private {
    category: String,
    text: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    planted: usize,
    found: usize,
    reported: usize,
    right: usize,
}

fn name(category: Category) -> String {
    serde_json::to_value(category)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

fn judged(list: &str) -> (BTreeMap<String, Counts>, usize, usize) {
    let scanner = Scanner::new(&Names::default());
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let (mut clean, mut alarmed) = (0, 0);
    for line in list.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        let findings = scanner.scan(&row.caption);
        let place = |private: &Private| {
            let start = row.caption.find(&private.text).unwrap();
            start..start + private.text.len()
        };
        for private in &row.private {
            let place = place(private);
            let of = counts.entry(private.category.clone()).or_default();
            of.planted += 1;
            // All of its letters and digits, so that nothing of it is left in a redacted caption.
            let is_found = row.caption[place.clone()]
                .char_indices()
                .all(|(at, letter)| {
                    let at = place.start + at;
                    !letter.is_alphanumeric()
                        || findings.iter().any(|found| found.bytes.contains(&at))
                });
            of.found += usize::from(is_found);
            if !is_found && std::env::var_os("IMPASTO_CAPTIONS").is_some() {
                println!(
                    "missed\t{}\t{}\t{}",
                    private.category, private.text, row.caption
                );
            }
        }
        for finding in &findings {
            let of = counts.entry(name(finding.category)).or_default();
            of.reported += 1;
            let is_right = row.private.iter().any(|private| {
                let place = place(private);
                private.category == name(finding.category)
                    && place.start < finding.bytes.end
                    && finding.bytes.start < place.end
            });
            of.right += usize::from(is_right);
            if !is_right && std::env::var_os("IMPASTO_CAPTIONS").is_some() {
                println!(
                    "wrong\t{}\t{}\t{}",
                    name(finding.category),
                    &row.caption[finding.bytes.clone()],
                    row.caption
                );
            }
        }
        if row.private.is_empty() {
            clean += 1;
            alarmed += usize::from(!findings.is_empty());
        }
    }
    (counts, clean, alarmed)
}

#[test]
fn recall_and_precision_stay_what_they_are() {
    let list = match std::env::var_os("IMPASTO_CAPTIONS") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => include_str!("captions.jsonl").to_owned(),
    };
    let (counts, clean, alarmed) = judged(&list);
    for (category, of) in &counts {
        let recall = of.found as f64 / of.planted as f64;
        let precision = of.right as f64 / of.reported as f64;
        println!(
            "{category}\t{}/{} recall {recall:.4}\t{}/{} precision {precision:.4}",
            of.found, of.planted, of.right, of.reported
        );
        // Names are found by lists alone.
        let least = if category == "name" { 0.85 } else { 0.95 };
        assert!(recall >= least && precision >= 0.97, "{category}: {of:?}");
    }
    println!("{alarmed} of {clean} captions without personal data alarm");
    assert!(alarmed * 50 <= clean, "{alarmed} of {clean}");
}
