//! `impasto model`: what models are here, and what they are.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::checkpoint::{EMBEDDED_NAME, ModelSource, WeightFormat};
use impasto::families::{self, MachineSpeeds, ModelFiles, ModelInfo};
use serde::Serialize;

use crate::arguments::find_model;
use crate::terminal;

/// Show models: architecture, parameters, licence, memory; merge adapters into them
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a model's architecture, licence, size and peak memory, without loading it
    Info {
        /// Name of the embedded or of a pulled model, or a checkpoint folder
        #[arg(default_value = EMBEDDED_NAME, value_name = "NAME|DIR")]
        model: String,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Merge an adapter into its model and write the result
    Merge {
        /// The model that the adapter was trained on, by name or folder
        #[arg(value_name = "NAME|DIR")]
        model: String,
        /// The adapter's folder, written by `train dalle` with "lora" in its config
        #[arg(value_name = "ADAPTER")]
        adapter: PathBuf,
        /// Output folder
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
    /// List the embedded model and the checkpoint folders in a folder
    List {
        /// Where to look for checkpoint folders
        #[arg(default_value = "models")]
        folder: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Reports, merges, lists.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Info { model, json } => {
            let info = families::info(&ModelFiles::find(&find_model(&model)?)?)?;
            let machine = info.drawing.as_ref().map(|_| MachineSpeeds::measure());
            let expected = match (&info.drawing, &machine) {
                (Some(work), Some(machine)) => Some((work.seconds(machine), machine.bandwidth)),
                _ => None,
            };
            if json {
                return terminal::json(&Expected {
                    info: &info,
                    expected_seconds: expected.map(|(seconds, _)| seconds),
                    bandwidth: expected.map(|(_, bandwidth)| bandwidth),
                });
            }
            terminal::result(describe(&info, expected))
        }
        Command::Merge {
            model,
            adapter,
            output,
        } => {
            families::merge(&ModelFiles::find(&find_model(&model)?)?, &adapter, &output)?;
            terminal::result(terminal::shown(&output))
        }
        Command::List { folder, json } => list(&folder, json),
    }
}

/// What a model is, and what is expected of it on this machine.
#[derive(Serialize)]
struct Expected<'a> {
    #[serde(flatten)]
    info: &'a ModelInfo,
    /// Seconds of drawing a picture on the CPU, loading left out.
    expected_seconds: Option<f64>,
    /// Bytes a second that this machine's memory was read with for that.
    bandwidth: Option<f64>,
}

fn describe(info: &ModelInfo, expected: Option<(f64, f64)>) -> String {
    let image = &info.image_tokenizer;
    let size = image.picture_size();
    let mut rows = vec![
        ("model", info.name.clone()),
        ("licence", info.licence.clone()),
        ("picture", format!("{size}x{size} pixels")),
    ];
    if let Some(transformer) = &info.transformer {
        let layers = &transformer.layers;
        let parameters = info.dalle_parameters;
        rows.push(("transformer", format!("{layers}, {parameters} parameters")));
    }
    rows.push((
        "image tokenizer",
        format!(
            "{grid}x{grid} grid, {} codes, {} parameters",
            image.codebook_size(),
            info.image_tokenizer_parameters,
            grid = image.grid()
        ),
    ));
    if let Some(transformer) = &info.transformer {
        rows.push((
            "text",
            format!(
                "{} ids, captions of at most {} tokens",
                transformer.text_vocab_size, transformer.text_length
            ),
        ));
    }
    if let Some(sampling) = &info.sampling {
        rows.push((
            "sampling",
            format!(
                "guidance {}, temperature {}, top-k {}, top-p {}",
                sampling.guidance_scale,
                sampling.temperature,
                or_off(sampling.top_k),
                or_off(sampling.top_p)
            ),
        ));
    }
    let weights = mebibytes(info.weight_bytes);
    let formats: Vec<&str> = info.formats.iter().map(|&(format, _)| format).collect();
    let formats = match (info.precision, &formats[..]) {
        (WeightFormat::F32, []) => "published form".to_owned(),
        (WeightFormat::F32, formats) => formats.join(" and "),
        // Packed ones, and what is not packed.
        (packed, _) => format!("{packed}"),
    };
    rows.push(("weights", format!("{weights} in {formats}")));
    let (one, some, many) = (
        info.peak_memory_bytes,
        info.peak_memory_bytes_of_16,
        info.peak_memory_bytes_of_many,
    );
    rows.push((
        "peak memory",
        format!(
            "about {} for one picture, {} for 16, {} for more",
            mebibytes(one),
            mebibytes(some),
            mebibytes(many)
        ),
    ));
    if let Some((seconds, bandwidth)) = expected {
        // Small models take longer than their weights.
        let seconds = match seconds {
            ..1.0 => "about a second".to_owned(),
            seconds => format!("about {seconds:.0} s"),
        };
        rows.push((
            "time",
            format!(
                "{seconds} for one picture on this CPU, whose memory gives {:.0} GB/s",
                bandwidth / 1e9
            ),
        ));
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:<16} {value}"))
        .collect();
    lines.join("\n")
}

fn or_off(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "off".to_owned(), |value| value.to_string())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[derive(Serialize)]
struct Listed {
    /// What `--model` takes.
    model: String,
    name: Option<String>,
    licence: Option<String>,
    weight_bytes: Option<u64>,
    /// Why it can't be used.
    error: Option<String>,
}

fn list(folder: &Path, json: bool) -> Result<()> {
    let mut sources = vec![(
        EMBEDDED_NAME.to_owned(),
        ModelSource::Embedded(EMBEDDED_NAME),
    )];
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            let mut folders = Vec::new();
            for entry in entries {
                let path = entry.map_err(impasto::Error::io("read", folder))?.path();
                if path.join("config.json").is_file() {
                    folders.push(path);
                }
            }
            folders.sort();
            let named = folders
                .into_iter()
                .map(|path| (path.display().to_string(), ModelSource::Dir(path)));
            sources.extend(named);
        }
        // The default folder need not be there: the embedded model always is.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder == Path::new("models") => {}
        Err(e) => return Err(impasto::Error::io("read", folder)(e).into()),
    }
    let listed: Vec<Listed> = sources.into_iter().map(look).collect();
    if json {
        return terminal::json(&listed);
    }
    for model in listed {
        let what = match (model.error, model.name, model.licence, model.weight_bytes) {
            (None, Some(name), Some(licence), Some(bytes)) => {
                format!("{name}, {licence}, {}", mebibytes(bytes))
            }
            (error, ..) => format!("unusable: {}", error.unwrap_or_default()),
        };
        terminal::result(format_args!("{}\t{what}", model.model))?;
    }
    Ok(())
}

fn look((model, source): (String, ModelSource)) -> Listed {
    let found = ModelFiles::find(&source).and_then(|files| families::info(&files));
    let found = found.map(|info| (info.name, info.licence, info.weight_bytes));
    match found {
        Ok((name, licence, bytes)) => Listed {
            model,
            name: Some(name),
            licence: Some(licence),
            weight_bytes: Some(bytes),
            error: None,
        },
        Err(error) => Listed {
            model,
            name: None,
            licence: None,
            weight_bytes: None,
            error: Some(error.to_string()),
        },
    }
}
