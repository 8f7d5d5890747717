//! Drawing on what is there: holes of any shape in pictures of any size.
//!
//! A square window around the hole is scaled to the model's size and encoded, its hole filled smoothly so that
//! what was in it leaves no trace. Ids whose patch is wholly known stay; the others are masked
//! ([`crate::canvas`]). An id whose patch is known in part leans towards what the known pixels say, and is read
//! off the picture again once the rest is drawn. The drawn pixels are scaled back, their seam closed inside the
//! mask, and put into the picture; no other pixel is touched.

pub mod damage;
mod mask;
mod region;
mod seam;
mod sides;
mod vary;
mod windows;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use mask::{Area, Mask};
pub use region::{Canvassed, Region};
pub use sides::Sides;
pub use vary::{Choice, VaryRequest, vary};

use crate::canvas::{Canvas, Conditioning};
use crate::engine::{FillOptions, SampledTokens};
use crate::families::{Condition, Conditioned, Infill, PromptText};
use crate::image::{Image, Original};
use crate::judges::{self, Judgement};
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, Observer};
use crate::rank::Ranker;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// What to draw in a hole.
#[derive(Clone, Debug)]
pub struct EditRequest<'a> {
    /// What the whole picture shows; without words the surroundings alone decide.
    pub prompt: Option<String>,
    /// What guidance leads away from, in the place of the model's caption of nothing in particular.
    pub negative_prompt: Option<String>,
    /// Candidates; number i has the seed `seed + i`.
    pub n: usize,
    /// Seed of the first candidate.
    pub seed: u64,
    /// Guidance, temperature, cuts.
    pub sampling: SamplingOptions,
    /// In which order, and how many at a time, ids are drawn.
    pub order: Order,
    /// How known ids condition the model; see [`crate::families::Generator::conditioning`].
    pub conditioning: Conditioning,
    /// Fillings of each window for each candidate, of which the best is taken ([`crate::judges`]); 1 or more.
    pub tries: usize,
    /// Has a say in that, with the same weight as the likelihood, where there is a prompt. One that is too long for it
    /// is cut.
    pub ranker: Option<&'a Ranker>,
    /// Side of the windows in pixels of the picture; by the hole's thickness if not given.
    pub window: Option<usize>,
    /// What is done with a prompt that is too long.
    pub long: LongCaption,
}

/// A candidate.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The smallest rectangle around the mask.
    pub area: Area,
    /// Its pixels.
    pub picture: Image,
    /// Its seed.
    pub seed: u64,
    /// Of several candidates or tries, how likely it is.
    pub likelihood: Option<EditLikelihood>,
    /// Ids that were drawn.
    pub tokens: usize,
}

/// How likely a candidate is, by which it was compared with others.
#[derive(Clone, Copy, Debug, Default)]
pub struct EditLikelihood {
    /// ln p of all windows' ids given the caption, in raster order, in nats: what was drawn and what was
    /// known, so it says how well they go together.
    pub given: f64,
    /// What candidates are compared by, the higher, the better: the same with guidance, as ids are drawn, so that how far
    /// the caption speaks for it counts more. By a model that predicts captions after images, where there is one, their
    /// [agreement](judges::agreement).
    pub score: f64,
}

impl Edited {
    /// What candidates are ordered by; the same for all where there is only one.
    pub fn score(&self) -> f64 {
        self.likelihood.map_or(0.0, |likelihood| likelihood.score)
    }

    /// Puts the candidate into its picture: pixels that the mask does not ask for stay as they are.
    pub fn apply(&self, original: &mut Original, mask: &Mask) {
        original.paint(self.area.x, self.area.y, &self.picture, |x, y| {
            mask.asks(x, y)
        });
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Edits {
    /// The highest score first.
    pub candidates: Vec<Edited>,
    /// The windows that were drawn, in pixels of the picture.
    pub windows: Vec<Area>,
}

/// Fillings drawn in one batch.
const BATCH: usize = 16;
/// What [`EditRequest::tries`] usually is.
pub const TRIES: usize = crate::families::USUAL_TRIES;

/// The side of the windows that [`edit`] takes for a mask if none is given.
pub fn window_for(mask: &Mask, model: &Model) -> usize {
    windows::side_for(mask, model.image_tokenizer().config().picture_size())
}

/// Draws what the mask covers. `observer` gets the ids done and to do.
pub fn edit(
    model: &Model,
    original: &Original,
    mask: &Mask,
    request: &EditRequest<'_>,
    observer: &mut dyn Observer,
) -> Result<Edits> {
    mask.check(original.width(), original.height())?;
    if request.n == 0 {
        return Err(Error::invalid("n", "expected 1 or more candidates, got 0"));
    }
    if request.tries == 0 || request.tries > BATCH {
        let reason = format!("expected 1 to {BATCH}, got {}", request.tries);
        return Err(Error::invalid("tries", reason));
    }
    let text = PromptText {
        prompt: request.prompt.as_deref(),
        negative: request.negative_prompt.as_deref(),
        long: request.long,
    };
    let words = Words::of(model, text, &request.sampling)?;
    let side = request.window.unwrap_or_else(|| window_for(mask, model));
    let windows = windows::plan(mask, side)?;
    let (Some(area), Some(region)) = (mask.bounds(), windows.iter().copied().reduce(Area::joined))
    else {
        return Err(Error::invalid("mask", "is empty"));
    };
    let positions = model.image_tokenizer().config().grid().pow(2);
    let total = positions * windows.len() * request.n;
    let untouched = original.region(region.x, region.y, region.width, region.height);
    let mut candidates = Vec::with_capacity(request.n);
    let batch = BATCH / request.tries;
    for first in (0..request.n).step_by(batch) {
        let rows = batch.min(request.n - first);
        let seeds: Vec<u64> = (first..first + rows)
            .map(|i| request.seed.wrapping_add(i as u64))
            .collect();
        // All that the windows see, of each candidate.
        let mut pictures = vec![untouched.clone(); rows];
        let mut open = mask.crop(region);
        let mut likelihoods = vec![None; rows];
        let mut tokens = 0;
        for (number, window) in windows.iter().enumerate() {
            let within = Area {
                x: window.x - region.x,
                y: window.y - region.y,
                ..*window
            };
            let job = Window {
                model,
                request,
                words: &words,
                open: open.crop(within),
                number,
            };
            let views: Vec<Image> = pictures.iter().map(|all| cut(all, within)).collect();
            let before = positions * (first * windows.len() + number * rows);
            let drawn = job.draw(&views, &seeds, &mut |done, image_ids| {
                observer.event(&Event::Tokens {
                    done: before + done,
                    total,
                    image_ids,
                })
            })?;
            for ((picture, drawn), likelihood) in
                pictures.iter_mut().zip(&drawn).zip(&mut likelihoods)
            {
                paste(picture, within, &drawn.picture);
                *likelihood = drawn.likelihood.map(|of_window| {
                    let before: EditLikelihood = likelihood.unwrap_or_default();
                    EditLikelihood {
                        given: before.given + of_window.given,
                        score: before.score + of_window.score,
                    }
                });
            }
            tokens += drawn.first().map_or(0, |drawn| drawn.tokens);
            for y in within.y..within.y + within.height {
                open.asked[y * open.width + within.x..][..within.width].fill(false);
            }
        }
        let of_mask = Area {
            x: area.x - region.x,
            y: area.y - region.y,
            ..area
        };
        for ((picture, seed), likelihood) in pictures.iter().zip(seeds).zip(likelihoods) {
            candidates.push(Edited {
                area,
                picture: cut(picture, of_mask),
                seed,
                likelihood,
                tokens,
            });
        }
    }
    candidates.sort_by(|a, b| b.score().total_cmp(&a.score()));
    Ok(Edits {
        candidates,
        windows,
    })
}

/// A prompt that is read, and how strongly it is followed.
struct Words<'a> {
    read: Box<dyn Conditioned + 'a>,
    sampling: SamplingOptions,
}

impl<'a> Words<'a> {
    fn of(model: &'a Model, text: PromptText<'_>, sampling: &SamplingOptions) -> Result<Self> {
        let mut sampling = sampling.clone();
        text.check(&sampling)?;
        if text.prompt.is_none() && text.negative.is_none() {
            // Nothing to be guided towards.
            sampling.guidance_scale = 1.0;
        }
        Ok(Words {
            read: model.generator()?.read(text)?,
            sampling,
        })
    }
}

/// One window of all candidates.
struct Window<'a> {
    model: &'a Model,
    request: &'a EditRequest<'a>,
    words: &'a Words<'a>,
    /// What of it is still to be drawn.
    open: Mask,
    number: usize,
}

/// Receives the number of ids done and the ids so far of each try; may stop the work.
type Progress<'a> = dyn FnMut(usize, &[&[Option<u32>]]) -> ControlFlow<()> + Send + 'a;

/// A window drawn.
struct DrawnWindow {
    picture: Image,
    likelihood: Option<EditLikelihood>,
    tokens: usize,
}

impl Window<'_> {
    fn draw(
        &self,
        views: &[Image],
        seeds: &[u64],
        progress: &mut Progress<'_>,
    ) -> Result<Vec<DrawnWindow>> {
        let (image, request) = (self.model.image_tokenizer(), self.request);
        let (tokenizer, device) = (image.config(), self.model.device());
        let (size, grid) = (tokenizer.picture_size(), tokenizer.grid());
        let filled: Vec<Image> = views
            .iter()
            .map(|view| seam::fill_hole(view, &self.open).resize(size, size))
            .collect::<Result<_>>()?;
        let shares = asked_shares(&self.open, grid);
        let asked: Vec<u32> = positions_where(&shares, |share| share > 0.0);
        let partly: Vec<u32> = positions_where(&shares, |share| share > 0.0 && share < 1.0);
        let ids = image.encode(&filled, device)?;
        let evidence = if partly.is_empty() {
            vec![Vec::new(); views.len()]
        } else {
            image.evidence(&filled, device)?
        };
        let codes = tokenizer.codebook_size();
        let tries = request.tries;
        let mut fillings = Vec::with_capacity(views.len() * tries);
        for ((ids, evidence), &seed) in ids.iter().zip(&evidence).zip(seeds) {
            let mut canvas = Canvas::of(ids).masked(asked.iter().copied());
            for &position in &partly {
                let known = (1.0 - shares[position as usize]) as f32;
                let of_position = &evidence[position as usize * codes..][..codes];
                canvas
                    .logit_biases
                    .insert(position, of_position.iter().map(|v| v * known).collect());
            }
            let canvas = Arc::new(canvas);
            for attempt in 0..tries {
                fillings.push(Infill {
                    canvas: canvas.clone(),
                    seed: own_seed(seed, self.number * tries + attempt),
                });
            }
        }
        let options = FillOptions {
            sampling: self.words.sampling.clone(),
            order: request.order,
            conditioning: request.conditioning,
            tries,
        };
        let read = &self.words.read;
        let drawn = read.fill(&fillings, &options, &mut |event: &Event<'_>| match event {
            // Each view counts once, however many tries it has.
            Event::Tokens {
                done, image_ids, ..
            } => progress(done / tries, image_ids),
            _ => ControlFlow::Continue(()),
        })?;
        let best = self.best(drawn, tries)?;
        let mut drawn_ids: Vec<Vec<u32>> = best.iter().map(|best| best.image_ids.clone()).collect();
        let mut pictures = image.decode(&drawn_ids)?;
        if !partly.is_empty() {
            // With the hole drawn, ids of half-known patches follow from pixels alone.
            let open = scaled(&self.open, size);
            let whole: Vec<Image> = filled
                .iter()
                .zip(&pictures)
                .map(|(known, drawn)| seam::close(known, drawn, &open, 0))
                .collect();
            for (ids, again) in drawn_ids.iter_mut().zip(image.encode(&whole, device)?) {
                for &position in &partly {
                    ids[position as usize] = again[position as usize];
                }
            }
            pictures = image.decode(&drawn_ids)?;
        }
        let side = self.open.width;
        // Half a patch: narrow enough to leave a thing its colour.
        let feather = (side / (2 * grid)).max(2);
        pictures
            .into_iter()
            .zip(views)
            .zip(best)
            .map(|((picture, view), best)| {
                let drawn = picture.resize(side, side)?;
                Ok(DrawnWindow {
                    picture: seam::close(view, &drawn, &self.open, feather),
                    likelihood: best.likelihood,
                    tokens: asked.len(),
                })
            })
            .collect()
    }
}

/// The best attempt at a window.
struct Best {
    image_ids: Vec<u32>,
    likelihood: Option<EditLikelihood>,
}

impl Window<'_> {
    /// Of each candidate's attempts the best.
    fn best(&self, drawn: Vec<SampledTokens>, tries: usize) -> Result<Vec<Best>> {
        let ids: Vec<Vec<u32>> = drawn.into_iter().map(|drawn| drawn.image_ids).collect();
        if tries == 1 && self.request.n == 1 {
            // Nothing is compared: no passes for it.
            let all = ids.into_iter().map(|image_ids| Best {
                image_ids,
                likelihood: None,
            });
            return Ok(all.collect());
        }
        let mut likelihoods = self.words.likelihoods(&ids)?;
        let mut cosines = None;
        let (model, ranker) = (self.model, self.request.ranker.filter(|_| tries > 1));
        let asked = judges::model_judges(model) || ranker.is_some();
        if let (Some(prompt), true) = (&self.request.prompt, asked) {
            let pictures = model.image_tokenizer().decode(&ids)?;
            let nats = judges::caption_nats(model, prompt, self.request.long, &pictures)?;
            for (likelihood, nats) in likelihoods.iter_mut().zip(nats.into_iter().flatten()) {
                let positions = model.grid().pow(2);
                likelihood.score = judges::agreement(nats, likelihood.score, positions);
            }
            let of = |ranker| judges::cosines(ranker, prompt, LongCaption::Truncate, &pictures);
            cosines = ranker.map(of).transpose()?;
        }
        let scores = likelihoods.iter().map(|likelihood| likelihood.score);
        let judgement = Judgement {
            model: Some(scores.collect()),
            cosines,
        };
        let attempts: Vec<usize> = (0..ids.len()).collect();
        let best = attempts.chunks(tries).filter_map(|attempts| {
            let best = *judgement.order(attempts).first()?;
            Some(Best {
                image_ids: ids[best].clone(),
                likelihood: Some(likelihoods[best]),
            })
        });
        Ok(best.collect())
    }
}

impl Words<'_> {
    /// How likely pictures are, given the prompt, and with guidance.
    fn likelihoods(&self, ids: &[Vec<u32>]) -> Result<Vec<EditLikelihood>> {
        let given = self.read.log_likelihoods(Condition::Prompt, ids)?;
        if !self.sampling.needs_unconditional() {
            let both = given.into_iter().map(|given| EditLikelihood {
                given,
                score: given,
            });
            return Ok(both.collect());
        }
        let scale = f64::from(self.sampling.guidance_scale);
        let alone = self.read.log_likelihoods(Condition::Unconditional, ids)?;
        let both = given.into_iter().zip(alone);
        let both = both.map(|(given, alone)| EditLikelihood {
            given,
            score: alone + (given - alone) * scale,
        });
        Ok(both.collect())
    }
}

/// Windows and attempts draw with seeds of their own; the first one with the candidate's.
fn own_seed(seed: u64, number: usize) -> u64 {
    // The golden ratio's multiples spread evenly (Knuth, volume 3, section 6.4).
    seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn positions_where(shares: &[f64], test: impl Fn(f64) -> bool) -> Vec<u32> {
    let positions = shares.iter().enumerate().filter(|(_, share)| test(**share));
    positions.map(|(position, _)| position as u32).collect()
}

/// The share of masked pixels of each cell of the grid, row-major; a pixel on the border counts for both cells.
fn asked_shares(mask: &Mask, grid: usize) -> Vec<f64> {
    let span = |cell: usize, side: usize| {
        let start = cell * side / grid;
        start..((cell + 1) * side).div_ceil(grid)
    };
    let mut shares = Vec::with_capacity(grid * grid);
    for row in 0..grid {
        for column in 0..grid {
            let (rows, columns) = (span(row, mask.height), span(column, mask.width));
            let all = rows.len() * columns.len();
            let asked = rows
                .flat_map(|y| columns.clone().map(move |x| (x, y)))
                .filter(|&(x, y)| mask.asks(x, y))
                .count();
            shares.push(asked as f64 / all as f64);
        }
    }
    shares
}

/// The mask at another size: a pixel is masked if any of those that it stands for is.
fn scaled(mask: &Mask, size: usize) -> Mask {
    let shares = asked_shares(mask, size);
    Mask {
        width: size,
        height: size,
        asked: shares.into_iter().map(|share| share > 0.0).collect(),
    }
}

fn cut(picture: &Image, area: Area) -> Image {
    let mut rgb = Vec::with_capacity(3 * area.width * area.height);
    for y in area.y..area.y + area.height {
        let start = 3 * (y * picture.width + area.x);
        rgb.extend_from_slice(&picture.rgb[start..start + 3 * area.width]);
    }
    Image {
        width: area.width,
        height: area.height,
        rgb,
    }
}

fn paste(picture: &mut Image, area: Area, part: &Image) {
    for (row, rgb) in part.rgb.chunks_exact(3 * area.width).enumerate() {
        let start = 3 * ((area.y + row) * picture.width + area.x);
        picture.rgb[start..start + 3 * area.width].copy_from_slice(rgb);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shares_are_those_of_the_patches() {
        let mask = Mask::of_area(8, 8, "0,0,3,4".parse().unwrap()).unwrap();
        let shares = asked_shares(&mask, 4);
        let mut expected = [0.0; 16];
        (expected[0], expected[4]) = (1.0, 1.0);
        (expected[1], expected[5]) = (0.5, 0.5);
        assert_eq!(shares, expected);
        // Three pixels over two cells: the middle one belongs to both.
        let mask = Mask::of_area(3, 3, "1,0,1,3".parse().unwrap()).unwrap();
        assert_eq!(asked_shares(&mask, 2), [0.5; 4]);
        assert_eq!(scaled(&mask, 6).count(), 12);
    }

    #[test]
    fn cutting_and_pasting_are_inverse() {
        let rgb: Vec<u8> = (0..6 * 5 * 3).map(|v| v as u8).collect();
        let picture = Image::new(6, 5, rgb).unwrap();
        let area: Area = "2,1,3,4".parse().unwrap();
        let part = cut(&picture, area);
        let mut pasted = picture.clone();
        paste(&mut pasted, area, &Image::filled(3, 4, [0; 3]));
        assert_ne!(pasted, picture);
        paste(&mut pasted, area, &part);
        assert_eq!(pasted, picture);
    }

    #[test]
    fn seeds_of_windows_differ_and_the_first_is_the_candidates_own() {
        assert_eq!(own_seed(7, 0), 7);
        let seeds: std::collections::BTreeSet<u64> = (0..1000).map(|i| own_seed(7, i)).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
