//! The command `impasto`: arguments in, work in the library, files and lines out.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130
//! stopped.

mod arguments;
mod commands;
mod failure;
mod outputs;
mod pictures;
mod preview;
mod provenance;
mod safety;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pictures from words, with models that you can train yourself.
#[derive(Parser)]
#[command(name = "impasto", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(commands::generate::Arguments),
    Edit(commands::edit::Arguments),
    Complete(commands::complete::Arguments),
    Vary(commands::vary::Arguments),
    Upscale(commands::upscale::Arguments),
    Caption(commands::caption::Arguments),
    Ask(commands::ask::Arguments),
    Model(commands::model::Arguments),
    Explain(commands::explain::Arguments),
    Likelihood(commands::likelihood::Arguments),
    Reconstruct(commands::reconstruct::Arguments),
    Tokens(commands::tokens::Arguments),
    Embed(commands::embed::Arguments),
    Score(commands::score::Arguments),
    Index(commands::index::Arguments),
    Safety(commands::safety::Arguments),
    Search(commands::search::Arguments),
    Eval(commands::eval::Arguments),
    Data(commands::data::Arguments),
    Audit(commands::audit::Arguments),
    Train(commands::train::Arguments),
    Pull(commands::pull::Arguments),
    Import(commands::import::Arguments),
    Quantize(commands::quantize::Arguments),
    Verify(commands::verify::Arguments),
    Provenance(commands::provenance::Arguments),
    Bench(commands::bench::Arguments),
    Serve(commands::serve::Arguments),
    Selftest(commands::selftest::Arguments),
    Doctor(commands::doctor::Arguments),
}

fn main() -> ExitCode {
    std::panic::set_hook(impasto::panics::hook(std::panic::take_hook()));
    impasto::device::keep_freed_memory();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error),
    };
    let result = match arguments.command {
        Command::Generate(arguments) => commands::generate::run(arguments),
        Command::Edit(arguments) => commands::edit::run(arguments),
        Command::Complete(arguments) => commands::complete::run(arguments),
        Command::Vary(arguments) => commands::vary::run(arguments),
        Command::Upscale(arguments) => commands::upscale::run(arguments),
        Command::Caption(arguments) => commands::caption::run(arguments),
        Command::Ask(arguments) => commands::ask::run(arguments),
        Command::Model(arguments) => commands::model::run(arguments),
        Command::Explain(arguments) => commands::explain::run(arguments),
        Command::Likelihood(arguments) => commands::likelihood::run(arguments),
        Command::Reconstruct(arguments) => commands::reconstruct::run(arguments),
        Command::Tokens(arguments) => commands::tokens::run(arguments),
        Command::Embed(arguments) => commands::embed::run(arguments),
        Command::Score(arguments) => commands::score::run(arguments),
        Command::Safety(arguments) => commands::safety::run(arguments),
        Command::Index(arguments) => commands::index::run(arguments),
        Command::Search(arguments) => commands::search::run(arguments),
        Command::Eval(arguments) => commands::eval::run(arguments),
        Command::Data(arguments) => commands::data::run(arguments),
        Command::Audit(arguments) => commands::audit::run(arguments),
        Command::Train(arguments) => commands::train::run(arguments),
        Command::Pull(arguments) => commands::pull::run(arguments),
        Command::Import(arguments) => commands::import::run(arguments),
        Command::Bench(arguments) => commands::bench::run(arguments),
        Command::Quantize(arguments) => commands::quantize::run(arguments),
        Command::Verify(arguments) => commands::verify::run(arguments),
        Command::Provenance(arguments) => commands::provenance::run(arguments),
        Command::Serve(arguments) => commands::serve::run(arguments),
        Command::Selftest(arguments) => commands::selftest::run(arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
