//! Thresholds of concepts from labelled pictures, with their curves.
//!
//! The pictures of a concept stand in a folder of its name; pictures in all other folders don't show it.

use std::path::Path;

use plotters::prelude::*;
use serde::Serialize;

use super::concepts::{Concepts, cosines};
use impasto_privacy::membership::auc;

use crate::error::Reason;
use crate::image::Image;
use crate::observer::{Event, Observer};
use crate::rank::Ranker;
use crate::search::pictures_below;
use crate::{Error, Result};

/// How well a threshold divides pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The cosine from which a picture counts as showing the concept.
    pub threshold: f32,
    /// The share of those that show it that are found.
    pub recall: f64,
    /// The share of the others that are found, too.
    pub false_alarms: f64,
}

/// The calibration of a concept.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// Its name.
    pub name: String,
    /// Pictures that show it.
    pub positives: usize,
    /// Pictures that don't.
    pub negatives: usize,
    /// The lowest threshold with no more false alarms than allowed.
    pub chosen: Point,
    /// The chance that a picture that shows it has a higher cosine than one that doesn't (area under the curve of
    /// `recall` over `false_alarms`).
    pub auc: f64,
    /// All thresholds, from the highest.
    pub curve: Vec<Point>,
}

/// Pictures embedded at once.
const BATCH: usize = 32;

/// Sets the thresholds of `concepts` by the pictures below `folder`: the lowest ones with a share of at most
/// `false_alarms`. Pictures that can't be read are passed to `skipped`.
///
/// # Errors
/// Where a concept has no pictures or there are no others, and [`Error::Stopped`].
pub fn calibrate(
    concepts: &mut Concepts,
    clip: &Ranker,
    folder: &Path,
    false_alarms: f64,
    skipped: &mut dyn FnMut(&Path, &Error),
    observer: &mut dyn Observer,
) -> Result<Vec<Calibrated>> {
    let directions = concepts.directions(clip)?;
    let listing = pictures_below(folder)?;
    let mut labels: Vec<String> = Vec::new();
    let mut scores: Vec<Vec<f32>> = Vec::new();
    let mut batch: Vec<(String, Image)> = Vec::new();
    let all = listing.pictures.len();
    for (number, listed) in listing.pictures.iter().enumerate() {
        let relative = listed.strip_prefix(folder).unwrap_or(listed);
        let label = relative
            .components()
            .next()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        match Image::open(listed) {
            Ok(picture) => batch.push((label.unwrap_or_default(), picture)),
            Err(error) => skipped(listed, &error),
        }
        if batch.len() == BATCH || number + 1 == all {
            let (names, pictures): (Vec<String>, Vec<Image>) =
                std::mem::take(&mut batch).into_iter().unzip();
            if !pictures.is_empty() {
                scores.extend(cosines(clip, &directions, &pictures)?);
                labels.extend(names);
            }
            let done = number + 1;
            if observer
                .event(&Event::Items { done, total: all })
                .is_break()
            {
                return Err(Error::Stopped);
            }
        }
    }
    let mut calibrated = Vec::with_capacity(concepts.concepts.len());
    for (place, concept) in concepts.concepts.iter_mut().enumerate() {
        let of = |positive: bool| -> Vec<f32> {
            let both = labels.iter().zip(&scores);
            both.filter(|(label, _)| (**label == concept.name) == positive)
                .map(|(_, scores)| scores[place])
                .collect()
        };
        let (positives, negatives) = (of(true), of(false));
        if positives.is_empty() || negatives.is_empty() {
            let reason = format!(
                "{}: has {} pictures of {:?} and {} others, expected some of both, in folders by their names",
                folder.display(),
                positives.len(),
                concept.name,
                negatives.len()
            );
            return Err(Error::invalid("pictures", reason));
        }
        let curve = curve(&positives, &negatives);
        let fits = |point: &&Point| point.false_alarms <= false_alarms;
        // The first point finds nothing, and has no false alarms.
        let chosen = *curve.iter().rev().find(fits).unwrap_or(&curve[0]);
        concept.threshold = Some(chosen.threshold);
        calibrated.push(Calibrated {
            name: concept.name.clone(),
            positives: positives.len(),
            negatives: negatives.len(),
            chosen,
            auc: auc(&wide(&positives), &wide(&negatives)),
            curve,
        });
    }
    Ok(calibrated)
}

/// All thresholds that divide the pictures, from one above all of them.
fn curve(positives: &[f32], negatives: &[f32]) -> Vec<Point> {
    let mut thresholds: Vec<f32> = positives.iter().chain(negatives).copied().collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let share = |scores: &[f32], threshold: f32| {
        let found = scores.iter().filter(|score| **score >= threshold).count();
        found as f64 / scores.len() as f64
    };
    let point = |threshold: f32| Point {
        threshold,
        recall: share(positives, threshold),
        false_alarms: share(negatives, threshold),
    };
    // Between two cosines a threshold is as far from both as it can be.
    let between = thresholds.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    let above = thresholds
        .first()
        .map_or(1.0, |highest| (highest + 0.01).min(1.0));
    std::iter::once(above).chain(between).map(point).collect()
}

fn wide(scores: &[f32]) -> Vec<f64> {
    scores.iter().copied().map(f64::from).collect()
}

/// Recall and false alarms over the threshold, a panel each concept, with the chosen threshold: an SVG.
///
/// # Errors
/// None that a caller can cause.
pub fn draw(calibrated: &[Calibrated]) -> Result<String> {
    drawn(calibrated).map_err(|reason| Error::invalid("plot", reason))
}

fn drawn(calibrated: &[Calibrated]) -> Result<String, Reason> {
    let text = |e: &dyn std::fmt::Display| Reason::from(e.to_string());
    let mut svg = String::new();
    {
        let size = (640, 220 * calibrated.len().max(1) as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|e| text(&e))?;
        for (panel, one) in root
            .split_evenly((calibrated.len().max(1), 1))
            .iter()
            .zip(calibrated)
        {
            let low = one.curve.last().map_or(0.0, |point| point.threshold);
            let high = one.curve.first().map_or(1.0, |point| point.threshold);
            let Point {
                threshold,
                recall,
                false_alarms,
            } = one.chosen;
            let caption = format!(
                "{}: from {threshold:.3}, recall {:.1} %, false alarms {:.1} %, AUC {:.3}",
                one.name,
                100.0 * recall,
                100.0 * false_alarms,
                one.auc
            );
            let mut chart = ChartBuilder::on(panel)
                .margin(6)
                .caption(caption, ("sans-serif", 14))
                .x_label_area_size(30)
                .y_label_area_size(40)
                .build_cartesian_2d(low..high.max(low + 1e-3), 0.0..1.0)
                .map_err(|e| text(&e))?;
            chart
                .configure_mesh()
                .disable_mesh()
                .x_desc("cosine; blue: recall, red: false alarms")
                .draw()
                .map_err(|e| text(&e))?;
            let line = |value: fn(&Point) -> f64| {
                one.curve
                    .iter()
                    .map(move |point| (point.threshold, value(point)))
            };
            for (points, colour) in [
                (line(|point| point.recall).collect::<Vec<_>>(), &BLUE),
                (line(|point| point.false_alarms).collect(), &RED),
                (vec![(threshold, 0.0), (threshold, 1.0)], &BLACK),
            ] {
                chart
                    .draw_series(LineSeries::new(points, colour))
                    .map_err(|e| text(&e))?;
            }
        }
        root.present().map_err(|e| text(&e))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_lowest_threshold_within_the_allowed_false_alarms_is_chosen() {
        let positives = [0.9, 0.8, 0.7, 0.3];
        let negatives = [0.6, 0.4, 0.2, 0.1];
        let curve = curve(&positives, &negatives);
        let at = |alarms: f64| {
            *curve
                .iter()
                .rev()
                .find(|point| point.false_alarms <= alarms)
                .unwrap()
        };
        assert_eq!((at(0.0).threshold, at(0.0).recall), (0.65, 0.75));
        assert_eq!((at(0.5).recall, at(0.5).false_alarms), (1.0, 0.5));
        assert!((auc(&wide(&positives), &wide(&negatives)) - 14.0 / 16.0).abs() < 1e-12);
        let one = Calibrated {
            name: "a & b".into(),
            positives: 4,
            negatives: 4,
            chosen: at(0.0),
            auc: 0.9,
            curve,
        };
        let svg = draw(&[one]).unwrap();
        assert!(
            svg.contains("recall 75.0 %") && svg.contains("a &amp; b"),
            "{svg}"
        );
    }
}
