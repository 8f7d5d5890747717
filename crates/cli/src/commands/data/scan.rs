//! `impasto data scan`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use impasto::privacy::captions::captions::{Category, Scanner};
use impasto::privacy::captions::{CaptionReport, names, scan, write_redacted};

use super::source;
use crate::terminal::{self, in_line, shown};

/// See [`super::DataAction`].
#[derive(Args)]
pub(super) struct Flags {
    /// A folder of pictures with same-stem .txt, a .jsonl or .csv list, or .tar or .tar.gz files; pictures are not read
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Search for these kinds alone
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    only: Vec<Kind>,
    /// Names that are always found, one a line, beside the lists in the program
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// What looks like a name and is none, one a line
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,
    /// Write the data with placeholders in the place of what is found: a .jsonl list, or a new folder with copies of the
    /// pictures. The data itself is not changed
    #[arg(long, value_name = "FILE|DIR")]
    redact: Option<PathBuf>,
    /// Print what is found as it is, instead of its place alone
    #[arg(long)]
    show: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Email,
    Identity,
    Card,
    Account,
    Phone,
    Name,
}

impl From<Kind> for Category {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Email => Category::Email,
            Kind::Identity => Category::Identity,
            Kind::Card => Category::Card,
            Kind::Account => Category::Account,
            Kind::Phone => Category::Phone,
            Kind::Name => Category::Name,
        }
    }
}

/// Searches and reports.
pub(super) fn run(flags: Flags) -> Result<()> {
    let lists = names(flags.names.as_deref(), flags.allow.as_deref())?;
    let mut scanner = Scanner::new(&lists);
    if !flags.only.is_empty() {
        let kinds: Vec<Category> = flags.only.iter().map(|&kind| kind.into()).collect();
        scanner = scanner.of_categories(&kinds);
    }
    let (list, unreadable) = source(flags.paths)?.captions()?;
    let report = scan(&list, unreadable, &scanner, flags.show);
    match flags.json {
        true => terminal::json(&report)?,
        false => print(&report)?,
    }
    if let Some(output) = &flags.redact {
        let changed = write_redacted(&list, &scanner, output)?;
        terminal::note(format_args!(
            "{}: {changed} of {} captions redacted",
            shown(output),
            report.captions
        ));
    } else if report.captions_with_findings > 0 {
        anyhow::bail!(
            "{} of {} captions have personal data; --redact writes a copy without it",
            report.captions_with_findings,
            report.captions
        );
    }
    if let [first, ..] = &report.unreadable[..] {
        anyhow::bail!(
            "{} rows or captions can't be read, the first one: {} {}",
            report.unreadable.len(),
            in_line(&first.key),
            in_line(&first.reason)
        );
    }
    Ok(())
}

fn print(report: &CaptionReport) -> Result<()> {
    for found in &report.findings {
        let text = found
            .text
            .as_deref()
            .map_or(String::new(), |text| format!("\t{}", in_line(text)));
        terminal::result(format_args!(
            "{}\tcaption {}\tcharacters {} to {}\t{}{text}",
            in_line(&found.key),
            found.caption + 1,
            found.start + 1,
            found.end,
            name(found.category)
        ))?;
    }
    let counts: Vec<String> = report
        .counts
        .iter()
        .map(|(&category, count)| format!("{count} {}", name(category)))
        .collect();
    terminal::note(format_args!(
        "{} captions of {} pictures, {} with personal data{}{}",
        report.captions,
        report.pictures,
        report.captions_with_findings,
        if counts.is_empty() { "" } else { ": " },
        counts.join(", ")
    ));
    Ok(())
}

fn name(category: Category) -> &'static str {
    match category {
        Category::Email => "e-mail",
        Category::Identity => "identity number",
        Category::Card => "card number",
        Category::Account => "account number",
        Category::Phone => "phone",
        Category::Name => "name",
    }
}
