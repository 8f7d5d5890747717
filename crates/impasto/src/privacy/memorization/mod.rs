//! What a model has memorized of its training pictures, by comparison with held-out pictures of the same kind.
//!
//! Three attacks that need nothing but the model and the pictures:
//! - a picture is drawn from the caption of each training picture, and is compared with it, with all training pictures and
//!   with the held-out ones (Carlini et al. 2023, arXiv:2301.13188, section 4);
//! - the lower half of each training picture is completed from its upper half, greedily (Carlini et al. 2021,
//!   arXiv:2012.07805, for texts);
//! - ln p of a picture given its caption minus ln p given none is higher for pictures that were trained on (Zhai et al.
//!   2024, arXiv:2405.14800, for diffusion models).
//!
//! Pictures that are easy to guess come out of any good model. So a picture is called memorized only if it comes out, and
//! the model finds it far likelier, without its caption, than it finds any held-out picture, and so likely that it comes
//! out of draws without a caption, too.

mod measure;
mod verdict;

use impasto_privacy::membership::{Separation, StrongestTest, strongest};
use impasto_privacy::pictures::{Fingerprint, TwinOptions, twins};
use serde::Serialize;

use self::measure::{Measured, Subject, completion, draw, measure, nearest, subjects};
use self::verdict::REPRODUCED;
pub use self::verdict::Threshold;
use crate::data::pairs::Pairs;
use crate::image::Image;
use crate::model::Model;
use crate::observer::Observer;
use crate::work::Request;
use crate::{Error, Result};

/// How much is audited.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AuditOptions {
    /// The most distinct training pictures; where there are more, those with the most copies.
    pub training: usize,
    /// The most held-out pictures.
    pub held_out: usize,
    /// Seed of what is drawn and chosen.
    pub seed: u64,
    /// The most pictures that are shown, the worst first.
    pub shown: usize,
}

impl Default for AuditOptions {
    fn default() -> Self {
        AuditOptions {
            training: 2000,
            held_out: 500,
            seed: 0,
            shown: 16,
        }
    }
}

/// What was measured of a picture.
#[derive(Clone, Debug, Serialize)]
pub struct AuditedPicture {
    /// Its name in the data.
    pub key: String,
    /// How many pairs have it.
    pub copies: usize,
    /// The caption that was used.
    pub caption: String,
    /// ln p of it given the caption, in nats.
    pub conditional: f64,
    /// ln p of it given no caption.
    pub unconditional: f64,
    /// Share of the ids of its lower half that the model completes as they are.
    pub completed: f64,
    /// Share of its ids that the model draws from the caption as they are.
    pub drawn: f64,
    /// Distance of what was drawn to the nearest training picture divided by that to the nearest held-out one.
    pub distance_ratio: f64,
    /// The nearest training picture.
    pub nearest: String,
    /// Whether it is memorized.
    pub memorized: bool,
}

/// A set of pictures as a whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AuditedSet {
    /// Distinct pictures.
    pub pictures: usize,
    /// Pairs that have them.
    pub pairs: usize,
    /// Mean share of the ids of the lower half that are completed as they are.
    pub completed: f64,
    /// Pictures of which nine tenths of these are.
    pub completed_pictures: usize,
    /// Mean share of the ids that are drawn as they are.
    pub drawn: f64,
    /// Pictures of which nine tenths of these are.
    pub drawn_pictures: usize,
    /// Median of the distance ratios.
    pub distance_ratio: f64,
}

/// How well scores separate training pictures from held-out ones.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Membership {
    /// ln p given the caption.
    pub conditional: Separation,
    /// ln p given no caption.
    pub unconditional: Separation,
    /// ln p given the caption minus ln p given none.
    pub difference: Separation,
    /// The best of the three; none where all of their intervals hold 0.5.
    pub strongest: Option<StrongestTest>,
}

impl Membership {
    /// Of the three scores.
    fn of(conditional: Separation, unconditional: Separation, difference: Separation) -> Self {
        // Of equal ones the first: the likelihood with the caption is the test that was named before.
        let strongest = strongest(&[
            ("conditional", conditional),
            ("unconditional", unconditional),
            ("difference", difference),
        ]);
        Membership {
            conditional,
            unconditional,
            difference,
            strongest,
        }
    }
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// The model's name.
    pub model: String,
    /// What was audited.
    pub options: AuditOptions,
    /// The training pictures.
    pub training: AuditedSet,
    /// The held-out pictures.
    pub held_out: AuditedSet,
    /// Held-out pictures that are copies of training pictures, and are not used.
    pub held_out_copies: usize,
    /// Where memorized begins.
    pub threshold: Threshold,
    /// Half of the held-out pictures judged by a threshold from the other half, and the other way round: those that are
    /// called memorized, wrongly. None where there are fewer than 40, which are too few for it.
    pub false_alarms: Option<usize>,
    /// The training pictures that are memorized, the likeliest first.
    pub memorized: Vec<AuditedPicture>,
    /// How well the model gives away what it was trained on.
    pub membership: Membership,
    /// All training pictures.
    pub training_pictures: Vec<AuditedPicture>,
    /// All held-out pictures.
    pub held_out_pictures: Vec<AuditedPicture>,
    /// The worst ones, the memorized first: the training picture, the picture that the model completes from its upper
    /// half, the one that it draws from its caption.
    #[serde(skip)]
    pub shown: Vec<[Image; 3]>,
}

/// Audits a model. `observer` gets the pictures done in each of several parts.
///
/// # Errors
/// Fewer than 20 held-out pictures that are no copies; models that do not generate pictures; [`Error::Stopped`].
pub fn audit(
    model: &Model,
    training: &Pairs,
    held_out: &Pairs,
    options: &AuditOptions,
    observer: &mut dyn Observer,
) -> Result<AuditReport> {
    let pairs = training.len();
    let training = subjects(model, training, options.training, options.seed, observer)?;
    let mut held_out = subjects(model, held_out, options.held_out, options.seed, observer)?;
    if training.is_empty() {
        return Err(Error::invalid(
            "training data",
            "expected a picture or more, got none",
        ));
    }
    let found = held_out.len();
    leave_copies_out(&training, &mut held_out);
    let held_out_copies = found - held_out.len();
    if held_out.len() < 20 {
        let reason = format!(
            "expected 20 or more pictures that are no copies of training pictures, got {}",
            held_out.len()
        );
        return Err(Error::invalid("held-out data", reason));
    }
    let of_training = measure(model, &training, options, observer)?;
    let of_held_out = measure(model, &held_out, options, observer)?;
    let nats = |measured: &[Measured]| -> Vec<f64> {
        measured.iter().map(|found| found.unconditional).collect()
    };
    let threshold = |held_out: &[f64], tested| {
        Threshold::of(held_out, tested, pairs)
            .ok_or_else(|| Error::invalid("held-out data", "expected 20 or more pictures"))
    };
    let all = threshold(&nats(&of_held_out), training.len())?;
    let mut training_pictures = Vec::with_capacity(training.len());
    for (subject, found) in training.iter().zip(&of_training) {
        training_pictures.push(audited(subject, found, &training, &held_out, None, &all));
    }
    let mut held_out_pictures = Vec::with_capacity(held_out.len());
    for (index, (subject, found)) in held_out.iter().zip(&of_held_out).enumerate() {
        let own = Some(index);
        held_out_pictures.push(audited(subject, found, &training, &held_out, own, &all));
    }
    let false_alarms = cross_checked(&of_held_out, training.len(), pairs);
    let score = |measured: &[Measured], of: fn(&Measured) -> f64| -> Vec<f64> {
        measured.iter().map(of).collect()
    };
    let separation = |of: fn(&Measured) -> f64| {
        Separation::of(
            &score(&of_training, of),
            &score(&of_held_out, of),
            options.seed,
        )
        .ok_or_else(|| Error::invalid("data", "expected training and held-out pictures"))
    };
    let mut order: Vec<usize> = (0..training.len()).collect();
    order.sort_by(|&a, &b| {
        let of = |index: usize| {
            let picture: &AuditedPicture = &training_pictures[index];
            (!picture.memorized, -picture.unconditional)
        };
        let ((a, x), (b, y)) = (of(a), of(b));
        a.cmp(&b).then(x.total_cmp(&y))
    });
    let memorized = order.iter().map(|&index| &training_pictures[index]);
    let memorized = memorized
        .filter(|picture| picture.memorized)
        .cloned()
        .collect();
    let mut shown = Vec::new();
    for &index in order.iter().take(options.shown) {
        let subject = &training[index];
        let seed = options.seed.wrapping_add(index as u64);
        let mut picture = |request: crate::Generate| -> Result<Image> {
            let outcome = request.run(model, observer)?;
            let image = outcome.images.into_iter().next();
            image
                .map(|image| image.picture)
                .ok_or_else(|| Error::invalid("audit", "an image is missing"))
        };
        let completed = picture(completion(model, subject))?;
        let drawn = picture(draw(subject, seed))?;
        shown.push([subject.picture.clone(), completed, drawn]);
    }
    Ok(AuditReport {
        model: model.name().to_owned(),
        options: *options,
        training: summary(&training_pictures),
        held_out: summary(&held_out_pictures),
        held_out_copies,
        threshold: all,
        false_alarms,
        memorized,
        membership: Membership::of(
            separation(|found| found.conditional)?,
            separation(|found| found.unconditional)?,
            separation(|found| found.conditional - found.unconditional)?,
        ),
        training_pictures,
        held_out_pictures,
        shown,
    })
}

/// Held-out pictures that show what a training picture shows are no held-out pictures.
fn leave_copies_out(training: &[Subject], held_out: &mut Vec<Subject>) {
    let both = training.iter().chain(held_out.iter());
    let prints: Vec<Fingerprint> = both.map(|subject| subject.print.clone()).collect();
    let first = training.len() as u32;
    let found = twins(&prints, &TwinOptions::default(), &|_| true).unwrap_or_default();
    let mut is_copy = vec![false; held_out.len()];
    for twin in found {
        let (low, high) = (twin.whole.min(twin.part), twin.whole.max(twin.part));
        if low < first && high >= first {
            is_copy[(high - first) as usize] = true;
        }
    }
    let mut copies = is_copy.into_iter();
    held_out.retain(|_| !copies.next().unwrap_or_default());
}

fn audited(
    subject: &Subject,
    found: &Measured,
    training: &[Subject],
    held_out: &[Subject],
    own: Option<usize>,
    threshold: &Threshold,
) -> AuditedPicture {
    let near = nearest(&found.drawn_colours, training, None);
    let held = nearest(&found.drawn_colours, held_out, own);
    let distance = |found: Option<(usize, f64)>| found.map_or(0.0, |found| found.1);
    AuditedPicture {
        key: subject.key.clone(),
        copies: subject.copies,
        caption: subject.caption.clone(),
        conditional: found.conditional,
        unconditional: found.unconditional,
        completed: found.completed,
        drawn: found.drawn,
        // Both may be 0 for plain pictures.
        distance_ratio: (distance(near) + 1e-3) / (distance(held) + 1e-3),
        nearest: near.map_or(String::new(), |near| training[near.0].key.clone()),
        memorized: own.is_none()
            && threshold.is_memorized(found.unconditional, found.completed.max(found.drawn)),
    }
}

/// Held-out pictures that a threshold from the other half of them calls memorized.
fn cross_checked(held_out: &[Measured], tested: usize, pairs: usize) -> Option<usize> {
    let half = |rest: usize| {
        let places = held_out.iter().enumerate();
        places
            .filter(move |(place, _)| place % 2 == rest)
            .map(|(_, found)| found)
    };
    let mut alarms = 0;
    for rest in [0, 1] {
        let others: Vec<f64> = half(1 - rest).map(|found| found.unconditional).collect();
        let threshold = Threshold::of(&others, tested, pairs)?;
        let wrong = half(rest).filter(|found| {
            threshold.is_memorized(found.unconditional, found.completed.max(found.drawn))
        });
        alarms += wrong.count();
    }
    Some(alarms)
}

fn summary(pictures: &[AuditedPicture]) -> AuditedSet {
    let mean = |of: fn(&AuditedPicture) -> f64| {
        pictures.iter().map(of).sum::<f64>() / pictures.len().max(1) as f64
    };
    let reproduced = |of: fn(&AuditedPicture) -> f64| {
        pictures
            .iter()
            .filter(|&picture| of(picture) >= REPRODUCED)
            .count()
    };
    let mut ratios: Vec<f64> = pictures
        .iter()
        .map(|picture| picture.distance_ratio)
        .collect();
    ratios.sort_by(f64::total_cmp);
    AuditedSet {
        pictures: pictures.len(),
        pairs: pictures.iter().map(|picture| picture.copies).sum(),
        completed: mean(|picture| picture.completed),
        completed_pictures: reproduced(|picture| picture.completed),
        drawn: mean(|picture| picture.drawn),
        drawn_pictures: reproduced(|picture| picture.drawn),
        distance_ratio: ratios.get(ratios.len() / 2).copied().unwrap_or_default(),
    }
}
