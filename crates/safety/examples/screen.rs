//! Screens lines of stdin: prints those that belong to a category, with what was found in them.
//!
//!     cargo run --release -p impasto-safety --example screen < /usr/share/dict/words

#![allow(clippy::print_stdout)]

use std::io::BufRead;

use impasto_safety::{Filter, Mode, Policy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter::embedded()?;
    let policy = Policy::of(Mode::Flag);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let screening = filter.screen(&line);
        for (category, _, score) in policy.decide(&screening) {
            let matches = screening
                .matches
                .iter()
                .filter(|found| found.category == category);
            let terms: Vec<String> = matches
                .map(|found| format!("{} {:?}", found.term, found.disguise))
                .collect();
            println!("{category}\t{score:.2}\t{line}\t{}", terms.join("; "));
        }
    }
    Ok(())
}
