//! What a model does with pictures of a training set and with others of the same kind.

use std::collections::HashMap;
use std::ops::ControlFlow;

use impasto_privacy::pictures::Fingerprint;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::AuditOptions;
use crate::data::pairs::Pairs;
use crate::families::{Condition, PromptText};
use crate::image::Image;
use crate::model::Model;
use crate::observer::{Event, Observer};
use crate::request::{Generate, SamplingOverrides, Session};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A picture of one of the sets, once for all of its copies.
pub(super) struct Subject {
    /// Its name in the data.
    pub key: String,
    /// How many pairs have this picture.
    pub copies: usize,
    /// One of its captions.
    pub caption: String,
    /// The picture at the model's size.
    pub picture: Image,
    /// Its image ids.
    pub image_ids: Vec<u32>,
    /// Its mean colours, for copies and distances.
    pub print: Fingerprint,
    /// The same as numbers.
    pub colours: Vec<f32>,
}

/// What was measured of a picture.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// ln p of its ids given its caption, in nats.
    pub conditional: f64,
    /// ln p of its ids given no caption.
    pub unconditional: f64,
    /// Share of the ids after the prefix that the model completes as they are.
    pub completed: f64,
    /// Share of the ids that the model draws from the caption as they are.
    pub drawn: f64,
    /// The colours of what it drew.
    pub drawn_colours: Vec<f32>,
}

/// Cells along a side in which distances are measured.
const CELLS: usize = 16;

fn print(picture: &Image) -> Result<Fingerprint> {
    Fingerprint::of(picture.width, picture.height, &picture.rgb)
        .ok_or_else(|| Error::invalid("picture", "has no pixels"))
}

/// The root of the mean squared difference of colours, 0 to 255.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    let sum: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    f64::from(sum / a.len().max(1) as f32).sqrt()
}

/// The nearest of `others`, except one of them, and its distance.
pub(super) fn nearest(
    colours: &[f32],
    others: &[Subject],
    except: Option<usize>,
) -> Option<(usize, f64)> {
    let of = |(index, other): (usize, &Subject)| {
        (Some(index) != except).then(|| (index, distance(colours, &other.colours)))
    };
    let distances = others.iter().enumerate().filter_map(of);
    distances.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The distinct pictures of pairs, those with the most copies first where there are more than `limit`; a seed chooses
/// among equals, and one caption of each.
pub(super) fn subjects(
    model: &Model,
    pairs: &Pairs,
    limit: usize,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Vec<Subject>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut distinct: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<[u8; 32], usize> = HashMap::new();
    for index in 0..pairs.len() {
        match known.get(pairs.digest(index)) {
            Some(&at) => distinct[at].push(index),
            None => {
                known.insert(*pairs.digest(index), distinct.len());
                distinct.push(vec![index]);
            }
        }
    }
    let mut chosen: Vec<(usize, u64, Vec<usize>)> = distinct
        .into_iter()
        .map(|copies| (copies.len(), rng.random::<u64>(), copies))
        .collect();
    chosen.sort_by_key(|&(copies, number, _)| (std::cmp::Reverse(copies), number));
    chosen.truncate(limit);
    chosen.sort_by(|a, b| a.2[0].cmp(&b.2[0]));
    let size = model.picture_size();
    let mut subjects = Vec::with_capacity(chosen.len());
    const CHUNK: usize = 64;
    for chunk in chosen.chunks(CHUNK) {
        let captions: Vec<String> = chunk
            .iter()
            .map(|(_, number, copies)| {
                let of = &pairs.captions(copies[(number % copies.len() as u64) as usize]);
                of[(number / 7919 % of.len() as u64) as usize].clone()
            })
            .collect();
        let pictures = chunk
            .par_iter()
            .map(|(_, _, copies)| Ok(pairs.sample(copies[0], size)?.picture))
            .collect::<Result<Vec<Image>>>()?;
        let ids = model.image_tokenizer().encode(&pictures, model.device())?;
        for (((picture, image_ids), caption), (_, _, copies)) in
            pictures.into_iter().zip(ids).zip(captions).zip(chunk)
        {
            let print = print(&picture)?;
            subjects.push(Subject {
                key: pairs.key(copies[0]).to_owned(),
                copies: copies.len(),
                caption,
                colours: print.colours::<CELLS>(),
                print,
                picture,
                image_ids,
            });
        }
        stop(observer, subjects.len(), chosen.len())?;
    }
    Ok(subjects)
}

/// Reports progress and stops where that is requested.
pub(super) fn stop(observer: &mut dyn Observer, done: usize, total: usize) -> Result<()> {
    match observer.event(&Event::Items { done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    }
}

/// Measures each of the subjects.
pub(super) fn measure(
    model: &Model,
    subjects: &[Subject],
    options: &AuditOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<Measured>> {
    let generator = model.generator()?;
    let mut measured = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let read = generator.read(PromptText {
            prompt: Some(&subject.caption),
            negative: None,
            long: LongCaption::Truncate,
        })?;
        let ids = std::slice::from_ref(&subject.image_ids);
        let of = |condition| -> Result<f64> {
            let found = read.log_likelihoods(condition, ids)?;
            Ok(found.first().copied().unwrap_or_default())
        };
        measured.push(Measured {
            conditional: of(Condition::Prompt)?,
            unconditional: of(Condition::Unconditional)?,
            ..Measured::default()
        });
        stop(observer, measured.len(), subjects.len())?;
    }
    let completions = run(model, subjects, observer, |_, subject| {
        completion(model, subject)
    })?;
    let prefix = prefix(model);
    for ((measured, subject), (ids, _)) in measured.iter_mut().zip(subjects).zip(completions) {
        measured.completed = equal(&ids[prefix..], &subject.image_ids[prefix..]);
    }
    let drawn = run(model, subjects, observer, |index, subject| {
        draw(subject, options.seed.wrapping_add(index as u64))
    })?;
    for ((measured, subject), (ids, picture)) in measured.iter_mut().zip(subjects).zip(drawn) {
        measured.drawn = equal(&ids, &subject.image_ids);
        measured.drawn_colours = print(&picture)?.colours::<CELLS>();
    }
    Ok(measured)
}

/// The share of ids that are equal.
fn equal(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(1) as f64
}

/// Ids of the upper half.
fn prefix(model: &Model) -> usize {
    let grid = model.grid();
    grid / 2 * grid
}

/// The likeliest lower half.
pub(super) fn completion(model: &Model, subject: &Subject) -> Generate {
    Generate {
        sampling: SamplingOverrides {
            guidance_scale: Some(1.0),
            temperature: Some(0.0),
            ..SamplingOverrides::default()
        },
        prefix_ids: subject.image_ids[..prefix(model)].to_vec(),
        long: LongCaption::Truncate,
        ..Generate::new(subject.caption.as_str(), 0)
    }
}

/// A picture of the caption, as an attacker would draw it: by the model's own settings.
pub(super) fn draw(subject: &Subject, seed: u64) -> Generate {
    Generate {
        long: LongCaption::Truncate,
        ..Generate::new(subject.caption.as_str(), seed)
    }
}

/// Runs a request for each subject, many in one batch.
fn run(
    model: &Model,
    subjects: &[Subject],
    observer: &mut dyn Observer,
    request: impl Fn(usize, &Subject) -> Generate,
) -> Result<Vec<(Vec<u32>, Image)>> {
    const BATCH: usize = 32;
    let mut session = Session::new(model)?;
    let mut found = Vec::with_capacity(subjects.len());
    for (number, chunk) in subjects.chunks(BATCH).enumerate() {
        let mut tickets = Vec::with_capacity(chunk.len());
        for (place, subject) in chunk.iter().enumerate() {
            tickets.push(session.join(&request(number * BATCH + place, subject))?);
        }
        while session.step()? {
            stop(observer, found.len(), subjects.len())?;
        }
        for ticket in tickets {
            let outcome = session.take(ticket)?;
            let image = outcome.and_then(|outcome| outcome.images.into_iter().next());
            let image = image.ok_or_else(|| Error::invalid("audit", "an image is missing"))?;
            found.push((image.image_ids, image.picture));
        }
        stop(observer, found.len(), subjects.len())?;
    }
    Ok(found)
}
