//! What a model has memorized of its training pictures, by comparison with held-out pictures of the same kind.
//!
//! Three attacks that need nothing but the model and the pictures:
//! - a picture is drawn from the caption of each training picture, and is compared with all training pictures and with the
//!   held-out ones (Carlini et al. 2023, arXiv:2301.13188, section 4);
//! - the lower half of each training picture is completed from its upper half, greedily (Carlini et al. 2021,
//!   arXiv:2012.07805, for texts);
//! - ln p of a picture given its caption minus ln p given none is higher for pictures that were trained on (Zhai et al.
//!   2024, arXiv:2405.14800, for diffusion models).

mod measure;

use impasto_privacy::membership::Separation;
use serde::Serialize;

use self::measure::{Measured, Subject, colours, measure, nearest, subjects};
use crate::data::pairs::Pairs;
use crate::model::Model;
use crate::observer::Observer;
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
}

impl Default for AuditOptions {
    fn default() -> Self {
        AuditOptions {
            training: 2000,
            held_out: 500,
            seed: 0,
        }
    }
}

/// Raw.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// key
    pub key: String,
    /// copies
    pub copies: usize,
    /// cond
    pub conditional: f64,
    /// uncond
    pub unconditional: f64,
    /// completed
    pub completed: f64,
    /// drawn equals own
    pub drawn_equal: f64,
    /// own
    pub own: f64,
    /// nearest training
    pub nearest_training: f64,
    /// is the nearest its own
    pub nearest_key: String,
    /// nearest held
    pub nearest_held: f64,
}

/// Report.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// t
    pub training: Vec<Row>,
    /// h
    pub held_out: Vec<Row>,
    /// m
    pub membership: Option<Separation>,
}

/// Audits.
pub fn audit(
    model: &Model,
    training: &Pairs,
    held_out: &Pairs,
    options: &AuditOptions,
    observer: &mut dyn Observer,
) -> Result<AuditReport> {
    let training = subjects(model, training, options.training, options.seed, observer)?;
    let held_out = subjects(model, held_out, options.held_out, options.seed, observer)?;
    if training.is_empty() || held_out.is_empty() {
        return Err(Error::invalid(
            "data",
            "expected training and held-out pictures",
        ));
    }
    let of_training = measure(model, &training, options, observer)?;
    let of_held_out = measure(model, &held_out, options, observer)?;
    let row = |subject: &Subject, found: &Measured, own: Option<usize>| -> Result<Row> {
        let drawn = match &found.drawn {
            Some(picture) => colours(picture)?,
            None => Vec::new(),
        };
        let near = nearest(&drawn, &training, None);
        let held = nearest(&drawn, &held_out, own);
        let equal = found.drawn_ids.iter().zip(&subject.image_ids);
        Ok(Row {
            key: subject.key.clone(),
            copies: subject.copies,
            conditional: found.conditional,
            unconditional: found.unconditional,
            completed: found.completed,
            drawn_equal: equal.filter(|(a, b)| a == b).count() as f64
                / subject.image_ids.len() as f64,
            own: measure::distance(&drawn, &subject.colours),
            nearest_training: near.map_or(f64::NAN, |near| near.1),
            nearest_key: near.map_or(String::new(), |near| training[near.0].key.clone()),
            nearest_held: held.map_or(f64::NAN, |held| held.1),
        })
    };
    let rows = |subjects: &[Subject], found: &[Measured], own: bool| -> Result<Vec<Row>> {
        subjects
            .iter()
            .zip(found)
            .enumerate()
            .map(|(i, (s, f))| row(s, f, own.then_some(i)))
            .collect()
    };
    let (t, h) = (
        rows(&training, &of_training, false)?,
        rows(&held_out, &of_held_out, true)?,
    );
    let score = |rows: &[Row]| -> Vec<f64> {
        rows.iter()
            .map(|r| r.conditional - r.unconditional)
            .collect()
    };
    let membership = Separation::of(&score(&t), &score(&h), 0);
    Ok(AuditReport {
        training: t,
        held_out: h,
        membership,
    })
}
