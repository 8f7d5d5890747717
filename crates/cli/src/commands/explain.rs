//! `impasto explain`: which words shaped which patches of a picture.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use impasto::checkpoint::ClipModel;
use impasto::explain::{Explanation, Method, clip_relevance, heat_map, load_clip, page};
use impasto::files;
use impasto::image::{Format, Image};
use impasto::model::Model;
use impasto::observer::Event;
use impasto::provenance::{self, Settings};
use impasto::request::{Explain, ExplainOutcome, Generate};
use serde::Serialize;

use crate::arguments::{LongCaptionFlags, ModelFlags, find_model, prompt, random_seed};
use crate::failure::Usage;
use crate::terminal::{self, shown};
use crate::{outputs, pictures};

/// Explain pictures: which patches each word shaped, how unsure the model was, which codes it nearly took
///
/// Writes one HTML page for each picture that needs nothing else: point at a word to see its patches, and at a patch to
/// see its words and alternatives. A picture from anywhere is encoded first, its middle square; the prompt of a picture of
/// ours is inside its file. Without a picture one is drawn.
#[derive(Args)]
pub struct Arguments {
    /// The pictures
    #[arg(value_name = "IMAGE", required_unless_present = "prompt")]
    images: Vec<PathBuf>,
    /// What the pictures show, or what to draw [default: the prompt in each picture's file]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    /// Without pictures: the seed of the one that is drawn [default: random, printed to stderr]
    #[arg(long, allow_negative_numbers = true, conflicts_with = "images")]
    seed: Option<u64>,
    #[command(flatten)]
    model: ModelFlags,
    /// How the patches of a word are found: likelihood, likelihood-orders, divergence, divergence-orders, attention,
    /// rollout or gradient; see docs/trust.md [default: the best one that the model can do]
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// Also show where a CLIP looks: how much each patch and each word counts for the similarity of picture and prompt
    /// (`impasto-clip` is embedded; or a pulled one, or a folder or file)
    #[arg(long, value_name = "NAME|DIR")]
    clip: Option<String>,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// The page (replaced if it exists), or a folder (ending with /) [default: a new file in the current folder]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// Also write a heat map of each word, one of the entropies, and with --clip the CLIP's, as PNG into this folder
    #[arg(long, value_name = "DIR")]
    maps: Option<PathBuf>,
    /// Print one JSON document: maps (nats), probabilities, entropies (nats), alternatives, paths
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ExplainReport {
    pictures: Vec<Reported>,
}

#[derive(Serialize)]
struct Reported {
    /// The picture's file; none for one that was drawn.
    #[serde(serialize_with = "outputs::lossy")]
    path: Option<PathBuf>,
    #[serde(serialize_with = "impasto::files::lossy")]
    page: PathBuf,
    #[serde(flatten)]
    explanation: Explanation,
}

/// Explains, writes and reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let count = arguments.images.len().max(1);
    let target = PageTarget::plan(arguments.output.as_deref(), count)?;
    if let Some(maps) = &arguments.maps {
        std::fs::create_dir_all(maps).map_err(impasto::Error::io("create", maps))?;
        files::check_writable(maps)?;
    }
    let model = arguments.model.open()?;
    if let Some(method) = arguments.method {
        method.check(&model)?;
    }
    let clip = match &arguments.clip {
        Some(clip) => Some(load_clip(&find_model(clip)?, model.device())?),
        None => None,
    };
    terminal::catch_interrupts()?;
    let opened = (&model, clip.as_ref());
    let mut report = ExplainReport {
        pictures: Vec::new(),
    };
    if arguments.images.is_empty() {
        let (request, stem) = arguments.drawn(&model)?;
        report
            .pictures
            .push(arguments.explain(opened, &request, &stem, None, &target)?);
    }
    let mut left_out = 0;
    for path in &arguments.images {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let explained = arguments
            .request(path)
            .and_then(|request| arguments.explain(opened, &request, &stem, Some(path), &target));
        match explained {
            Ok(explained) => report.pictures.push(explained),
            Err(error) if count == 1 || terminal::stop_requested() => return Err(error),
            Err(error) => {
                left_out += 1;
                terminal::note(format_args!("skipped {}: {error:#}", shown(path)));
            }
        }
    }
    if arguments.json {
        terminal::json(&report)?;
    }
    pictures::finish(left_out, count, "explained")
}

impl Arguments {
    /// The request for a picture's file.
    fn request(&self, path: &Path) -> Result<Explain> {
        let bytes = files::read_at_most(path, impasto::image::MAX_FILE_BYTES)?;
        let image = Image::decode(&bytes, path)?;
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None => {
                let settings = provenance::read_parameters(&bytes)
                    .map(|text| Settings::parse(&text).map(|settings| settings.prompt));
                match settings {
                    Some(prompt) => prompt.with_context(|| shown(path).to_string())?,
                    None => {
                        return Err(Usage::new(
                            format!("{} has no prompt inside", shown(path)),
                            "give what it shows with --prompt",
                        )
                        .into());
                    }
                }
            }
        };
        Ok(Explain {
            prompt,
            method: self.method,
            long: self.long.what(),
            image_ids: Vec::new(),
            image: Some(Arc::new(image)),
        })
    }

    /// Draws a picture of the prompt; the request for it and the stem of its page's name.
    fn drawn(&self, model: &Model) -> Result<(Explain, String)> {
        let Some(prompt) = &self.prompt else {
            anyhow::bail!("expected pictures or --prompt");
        };
        let seed = self.seed.unwrap_or_else(random_seed);
        terminal::note(format_args!("seed: {seed}"));
        let request = Generate {
            long: self.long.what(),
            ..Generate::new(prompt, seed)
        };
        let bar = terminal::bar(1, "tokens")?;
        let outcome = model.run(&request, &mut |event: &Event<'_>| {
            if let Event::Tokens { done, total, .. } = event {
                bar.set_length(*total as u64);
                bar.set_position(*done as u64);
            }
            terminal::go_on()
        });
        bar.finish_and_clear();
        let image_ids = outcome?.images.swap_remove(0).image_ids;
        let request = Explain {
            prompt: prompt.clone(),
            method: self.method,
            long: self.long.what(),
            image_ids,
            image: None,
        };
        Ok((request, format!("{}-{seed}", outputs::file_stem(prompt))))
    }

    fn explain(
        &self,
        (model, clip): (&Model, Option<&ClipModel>),
        request: &Explain,
        stem: &str,
        path: Option<&Path>,
        target: &PageTarget,
    ) -> Result<Reported> {
        let mut outcome = explained(model, request)?;
        if let Some(clip) = clip {
            let found = clip_relevance(clip, &request.prompt, &outcome.picture, request.long)?;
            outcome.explanation.clip = Some(found);
        }
        let html = page(model, &outcome.explanation, &outcome.picture)?;
        let page = target.write(html.as_bytes(), stem)?;
        if let Some(folder) = &self.maps {
            write_maps(folder, stem, &outcome)?;
        }
        if !self.json {
            terminal::result(shown(&page))?;
        }
        Ok(Reported {
            path: path.map(Path::to_path_buf),
            page,
            explanation: outcome.explanation,
        })
    }
}

/// Explains one picture, with a bar.
pub fn explained(model: &Model, request: &Explain) -> Result<ExplainOutcome> {
    let bar = terminal::bar(1, "words")?;
    let outcome = model.run(request, &mut terminal::items(&bar));
    bar.finish_and_clear();
    Ok(outcome?)
}

/// A heat map of each word, numbered in their order, one of the entropies, and one of the CLIP's patches.
fn write_maps(folder: &Path, stem: &str, outcome: &ExplainOutcome) -> Result<()> {
    let Explanation {
        words,
        patches,
        grid,
        clip,
        ..
    } = &outcome.explanation;
    let entropies: Vec<f64> = patches.iter().map(|patch| patch.entropy).collect();
    let words = words.iter().enumerate().map(|(number, word)| {
        let name = format!(
            "{stem}.{:02}-{}.png",
            number + 1,
            outputs::file_stem(&word.word)
        );
        (name, &word.map, *grid)
    });
    let entropy = (format!("{stem}.entropy.png"), &entropies, *grid);
    let clip = clip.as_ref();
    let clip = clip.map(|clip| (format!("{stem}.clip.png"), &clip.patches, clip.grid));
    for (name, map, grid) in words.chain(std::iter::once(entropy)).chain(clip) {
        let heat = heat_map(&outcome.picture, map, grid)?;
        files::write_atomic(folder.join(name), &heat.encode(Format::Png, 100)?)?;
    }
    Ok(())
}

/// Where pages go.
enum PageTarget {
    File(PathBuf),
    Folder(PathBuf),
}

impl PageTarget {
    /// Checked before any work.
    fn plan(output: Option<&Path>, count: usize) -> Result<Self> {
        let Some(output) = output else {
            files::check_writable(".")?;
            return Ok(PageTarget::Folder(PathBuf::new()));
        };
        if outputs::is_folder(output) {
            outputs::make_folder(output)?;
            return Ok(PageTarget::Folder(output.to_path_buf()));
        }
        let is_page = output
            .extension()
            .is_some_and(|extension| extension == "html");
        if count > 1 || !is_page {
            return Err(Usage::new(
                match count {
                    1 => format!("{} is no name of a page", output.display()),
                    _ => format!("{count} pages can't all be written to {}", output.display()),
                },
                "give a name that ends with .html, or a folder (ending with /)",
            )
            .into());
        }
        outputs::check_plain(output)?;
        Ok(PageTarget::File(output.to_path_buf()))
    }

    fn write(&self, bytes: &[u8], stem: &str) -> Result<PathBuf> {
        match self {
            PageTarget::File(path) => {
                files::write_atomic(path, bytes)?;
                Ok(path.clone())
            }
            PageTarget::Folder(folder) => outputs::write_new(folder, stem, "explain.html", bytes),
        }
    }
}
