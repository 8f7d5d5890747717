//! The composed-scene benchmark over a whole model.

use rayon::prelude::*;
use serde::Serialize;

use super::detector::Detector;
use super::scenes::{Accuracy, Prompt, PromptKind, Scores, Tally, score};
use crate::data::scenes::{Glyphs, World, render};
use crate::image::Image;
use crate::image::metrics::{psnr, ssim};
use crate::judges::{self, Judgement};
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, Observer};
use crate::rank::Ranker;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// How the benchmark is run.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Number of prompts; one picture each.
    pub prompts: usize,
    /// Pictures drawn of each prompt, of which the best is taken.
    pub best_of: usize,
    /// Seed of the prompts; pictures are drawn with the seeds from `seed` on, `best_of` of them for each.
    pub seed: u64,
    /// Which prompts.
    pub kind: PromptKind,
    /// How ids are drawn.
    pub sampling: SamplingOptions,
    /// Token order.
    pub order: Order,
}

/// What the benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct ScenesReport {
    /// The model's name.
    pub model: String,
    /// The world's name.
    pub world: String,
    /// The settings.
    pub options: Options,
    /// Where the best of several pictures was taken: what it was chosen from.
    pub choice: Option<Choice>,
    /// Another CLIP that compared each picture with its prompt, and the mean cosine.
    pub judged_by: Option<(String, f64)>,
    /// Pictures that the model drew.
    pub drawn: Tally,
    /// The floor: rendered pictures of the same prompts through the image tokenizer alone.
    pub reconstructed: Tally,
    /// The detector itself, on rendered pictures.
    pub rendered: Tally,
    /// Mean PSNR of the reconstructions in dB, data range 255.
    pub reconstruction_psnr: f64,
    /// Mean SSIM of the reconstructions.
    pub reconstruction_ssim: f64,
    /// Share of the codebook that the rendered pictures use.
    pub code_usage: f64,
}

/// What was chosen from, and whether the choice was worth the drawing.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The names of the model, where it says how well captions describe pictures, and of the CLIP.
    pub by: Vec<String>,
    /// The first picture of each prompt: what would have been drawn without a choice.
    pub first: Tally,
    /// Prompts with a picture of which all is right.
    pub any: Accuracy,
    /// Prompts whose first picture is wrong somewhere, and the chosen one nowhere.
    pub mended: u64,
    /// Prompts whose first picture is right, and the chosen one wrong somewhere.
    pub spoilt: u64,
}

/// Pictures drawn in one batch.
const BATCH: usize = 16;

/// CLIPs beside the detector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clips<'a> {
    /// Has a say which of several pictures of one prompt is best.
    pub chooser: Option<&'a Ranker>,
    /// Only compares; not the one that chooses, whose liking is what the choice was made for.
    pub judge: Option<&'a Ranker>,
}

/// Draws a picture for each prompt and judges it. `observer` gets the pictures done and to do.
/// `show` gets every prompt's caption and picture.
pub fn run(
    model: &Model,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    clips: Clips<'_>,
    observer: &mut dyn Observer,
    show: &mut dyn FnMut(&str, &Image),
) -> Result<ScenesReport> {
    if options.prompts == 0 {
        return Err(Error::invalid("prompts", "expected 1 or more, got 0"));
    }
    let nobody = clips.chooser.is_none() && !judges::model_judges(model);
    if options.best_of == 0 || (options.best_of > 1 && nobody) {
        let reason = format!(
            "expected 1, or more and a CLIP that chooses, got {}",
            options.best_of
        );
        return Err(Error::invalid("best of", reason));
    }
    check_size(model, world)?;
    options.kind.check(world)?;
    let detector = Detector::new(world, glyphs)?;
    let prompts = options.kind.prompts(world, options.seed, options.prompts);
    let mut report = ScenesReport {
        model: model.name().to_owned(),
        world: world.name.clone(),
        options: options.clone(),
        choice: (options.best_of > 1).then(|| Choice::by(model, clips.chooser)),
        judged_by: clips.judge.map(|clip| (clip.model.name().to_owned(), 0.0)),
        drawn: Tally::default(),
        reconstructed: Tally::default(),
        rendered: Tally::default(),
        reconstruction_psnr: 0.0,
        reconstruction_ssim: 0.0,
        code_usage: 0.0,
    };
    let mut all_ids = Vec::with_capacity(prompts.len());
    for (start, prompts) in (0..).step_by(BATCH).zip(prompts.chunks(BATCH)) {
        let (mut drawn, likelihoods) = draw_each(model, prompts, start, options, observer)?;
        if let Some(choice) = &mut report.choice {
            let of = |prompt: &Prompt, picture: &Image| {
                Ok(score(world, &prompt.scene, &detector.detect(picture)?))
            };
            let drawings = prompts.iter().zip(drawn.chunks(options.best_of));
            let mut chosen = Vec::with_capacity(prompts.len());
            for ((prompt, pictures), likelihoods) in
                drawings.zip(likelihoods.chunks(options.best_of))
            {
                let order = best_first(model, clips.chooser, prompt, (pictures, likelihoods))?;
                let judged: Result<Vec<Scores>> = pictures
                    .par_iter()
                    .map(|picture| of(prompt, picture))
                    .collect();
                choice.add(prompt, &judged?, order[0]);
                chosen.push(pictures[order[0]].clone());
            }
            drawn = chosen;
        }
        if let (Some(judge), Some((_, mean))) = (clips.judge, &mut report.judged_by) {
            for (prompt, picture) in prompts.iter().zip(&drawn) {
                let caption = std::slice::from_ref(&prompt.caption);
                let scores =
                    judge.score(caption, std::slice::from_ref(picture), LongCaption::Refuse)?;
                *mean += f64::from(scores.cosine(0, 0)) / options.prompts as f64;
            }
        }
        let rendered: Vec<Image> = prompts
            .iter()
            .map(|prompt| render(&prompt.scene, glyphs))
            .collect();
        let ids = model.image_tokenizer().encode(&rendered, model.device())?;
        let reconstructed = model.image_tokenizer().decode(&ids)?;
        all_ids.extend(ids);
        for (prompt, picture) in prompts.iter().zip(&drawn) {
            show(&prompt.caption, picture);
        }
        for (rendered, reconstructed) in rendered.iter().zip(&reconstructed) {
            report.reconstruction_psnr += psnr(rendered, reconstructed) / options.prompts as f64;
            report.reconstruction_ssim += ssim(rendered, reconstructed) / options.prompts as f64;
        }
        for (pictures, tally) in [
            (&drawn, &mut report.drawn),
            (&reconstructed, &mut report.reconstructed),
            (&rendered, &mut report.rendered),
        ] {
            let detections: Result<Vec<_>> = pictures
                .par_iter()
                .map(|picture| detector.detect(picture))
                .collect();
            for (prompt, detection) in prompts.iter().zip(detections?) {
                tally.add(&prompt.scene, &score(world, &prompt.scene, &detection));
            }
        }
        if observer
            .event(&items(start + prompts.len(), options.prompts))
            .is_break()
        {
            return Err(Error::Stopped);
        }
    }
    let codes = model.image_tokenizer().config().codebook_size();
    report.code_usage = crate::models::image_tokenizer::CodeUsage::of(&all_ids, codes).share;
    Ok(report)
}

/// Refuses a model that draws at another size than the world.
pub(super) fn check_size(model: &Model, world: &World) -> Result<()> {
    if world.picture_size == model.picture_size() {
        return Ok(());
    }
    let reason = format!(
        "{} is drawn at {} px, the model draws {} px",
        world.name,
        world.picture_size,
        model.picture_size()
    );
    Err(Error::invalid("world", reason))
}

/// As many pictures of each prompt as are wanted, one prompt's after another's, and their ln p(picture | prompt); the
/// first prompt is number `start`.
fn draw_each(
    model: &Model,
    prompts: &[Prompt],
    start: usize,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<(Vec<Image>, Vec<f64>)> {
    let generator = model.generator()?;
    let tries = options.best_of;
    let mut specs = Vec::with_capacity(prompts.len() * tries);
    for (number, prompt) in prompts.iter().enumerate() {
        for attempt in 0..tries {
            let number = ((start + number) * tries + attempt) as u64;
            specs.push((prompt.caption.as_str(), options.seed.wrapping_add(number)));
        }
    }
    let mut pictures = Vec::with_capacity(specs.len());
    let mut likelihoods = Vec::with_capacity(specs.len());
    for specs in specs.chunks(BATCH) {
        let done = start + pictures.len() / tries;
        let mut observer = |_: &Event<'_>| observer.event(&items(done, options.prompts));
        let sampling = &options.sampling;
        let sampled = generator.sample(
            specs,
            LongCaption::Refuse,
            sampling,
            options.order,
            &mut observer,
        )?;
        likelihoods.extend(sampled.iter().map(|image| image.log_likelihood));
        let ids: Vec<Vec<u32>> = sampled.into_iter().map(|image| image.image_ids).collect();
        pictures.extend(model.image_tokenizer().decode(&ids)?);
    }
    Ok((pictures, likelihoods))
}

/// The pictures of a prompt by number, the best first, as [`Generate::kept`](crate::Generate::kept) orders them.
fn best_first(
    model: &Model,
    ranker: Option<&Ranker>,
    prompt: &Prompt,
    (pictures, likelihoods): (&[Image], &[f64]),
) -> Result<Vec<usize>> {
    let nats = judges::caption_nats(model, &prompt.caption, LongCaption::Refuse, pictures)?;
    let positions = model.grid().pow(2);
    let agreement = |nats: Vec<f64>| {
        let both = nats.into_iter().zip(likelihoods);
        let both = both.map(|(nats, &likelihood)| judges::agreement(nats, likelihood, positions));
        both.collect()
    };
    let cosines = |ranker| judges::cosines(ranker, &prompt.caption, LongCaption::Refuse, pictures);
    let judgement = Judgement {
        model: nats.map(agreement),
        cosines: ranker.map(cosines).transpose()?,
    };
    let all: Vec<usize> = (0..pictures.len()).collect();
    Ok(judgement.order(&all))
}

fn items<'a>(done: usize, total: usize) -> Event<'a> {
    Event::Items { done, total }
}

impl Choice {
    fn by(model: &Model, ranker: Option<&Ranker>) -> Self {
        let model = judges::model_judges(model).then(|| model.name());
        let clip = ranker.map(|ranker| ranker.model.name());
        Choice {
            by: model.into_iter().chain(clip).map(str::to_owned).collect(),
            first: Tally::default(),
            any: Accuracy::default(),
            mended: 0,
            spoilt: 0,
        }
    }

    /// Counts what was `chosen` of a prompt's pictures, which were `judged` by the detector.
    fn add(&mut self, prompt: &Prompt, judged: &[Scores], chosen: usize) {
        let (first, chosen) = (&judged[0], judged[chosen].all());
        self.first.add(&prompt.scene, first);
        self.any.count(Some(judged.iter().any(Scores::all)));
        self.mended += u64::from(!first.all() && chosen);
        self.spoilt += u64::from(first.all() && !chosen);
    }
}
