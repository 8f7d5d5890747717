//! Results of two devices against each other.

use burn::tensor::{Int, Tensor};

use crate::error::Reason;
use crate::sampling::log_prob;
use crate::{Error, Result};

/// What a check computed, part by part.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    parts: Vec<(String, Numbers)>,
}

#[derive(Clone, Debug)]
enum Numbers {
    /// Any numbers; `least` is what their norm counts for at least.
    Floats {
        shape: Vec<usize>,
        values: Vec<f32>,
        least: f64,
    },
    /// Ids that are the best of a row of scores.
    Best { ids: Vec<u32>, scores: Scores },
    /// Ids that were drawn one after the other.
    Sampled {
        ids: Vec<u32>,
        /// Logits of each given the ones before it.
        logits: Scores,
        /// The random number in 0..1 of each.
        uniforms: Vec<f64>,
    },
}

/// `[rows][columns]`, row after row.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    values: Vec<f32>,
    columns: usize,
}

impl Scores {
    /// Scores from a matrix; the first `columns` of each row.
    pub fn of(matrix: Tensor<2>, columns: usize) -> Result<Self> {
        let matrix = matrix.narrow(1, 0, columns);
        Ok(Scores {
            values: floats(matrix)?,
            columns,
        })
    }

    fn row(&self, row: usize) -> Option<&[f32]> {
        self.values.chunks(self.columns).nth(row)
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec()
        .map_err(|e| Error::invalid("result", Reason::of(e)))
}

impl Values {
    /// How many numbers the first part has.
    pub fn first_count(&self) -> usize {
        match self.parts.first() {
            Some((_, Numbers::Floats { values, .. })) => values.len(),
            _ => 0,
        }
    }

    /// Numbers.
    pub fn add<const D: usize>(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor<D>,
    ) -> Result<()> {
        self.add_least(name, tensor, 0.0)
    }

    /// Numbers whose norm counts for at least `least`: gradients that are next to nothing beside others have only
    /// rounding in them.
    pub fn add_least<const D: usize>(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor<D>,
        least: f64,
    ) -> Result<()> {
        let shape = tensor.dims().to_vec();
        let values = floats(tensor)?;
        let numbers = Numbers::Floats {
            shape,
            values,
            least,
        };
        self.parts.push((name.into(), numbers));
        Ok(())
    }

    /// Numbers from the host.
    pub fn add_host(&mut self, name: impl Into<String>, values: Vec<f32>) {
        let numbers = Numbers::Floats {
            shape: vec![values.len()],
            values,
            least: 0.0,
        };
        self.parts.push((name.into(), numbers));
    }

    /// Whole numbers, as they are.
    pub fn add_ints<const D: usize>(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor<D, Int>,
    ) -> Result<()> {
        let ints: Vec<i64> = tensor
            .into_data()
            .convert::<i64>()
            .try_into_vec()
            .map_err(|e| Error::invalid("result", Reason::of(e)))?;
        self.add_host(name, ints.into_iter().map(|int| int as f32).collect());
        Ok(())
    }

    /// Ids that are the best of a row of scores each.
    pub fn add_best(&mut self, name: impl Into<String>, ids: Vec<u32>, scores: Scores) {
        self.parts
            .push((name.into(), Numbers::Best { ids, scores }));
    }

    /// Drawn ids; see [`Numbers::Sampled`].
    pub fn add_drawn(
        &mut self,
        name: impl Into<String>,
        ids: Vec<u32>,
        logits: Scores,
        uniforms: Vec<f64>,
    ) {
        let drawn = Numbers::Sampled {
            ids,
            logits,
            uniforms,
        };
        self.parts.push((name.into(), drawn));
    }
}

/// The largest error of all parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compared {
    /// None: there is no number.
    pub error: Option<f64>,
    /// Where the error is.
    pub detail: Option<String>,
}

impl Compared {
    pub fn failed(detail: String) -> Self {
        Compared {
            error: None,
            detail: Some(detail),
        }
    }
}

/// Compares part by part; the worst counts.
pub(super) fn compare(reference: &Values, found: &Values) -> Compared {
    if reference.parts.len() != found.parts.len() || reference.parts.is_empty() {
        return Compared::failed(format!(
            "{} results, expected {}",
            found.parts.len(),
            reference.parts.len()
        ));
    }
    let mut worst = Compared {
        error: Some(0.0),
        detail: None,
    };
    for ((name, reference), (_, found)) in reference.parts.iter().zip(&found.parts) {
        match apart(reference, found) {
            Err(reason) => return Compared::failed(format!("{name}: {reason}")),
            Ok((error, more)) => {
                if worst.error.is_none_or(|worst| error >= worst) {
                    worst = Compared {
                        error: Some(error),
                        detail: Some(match more {
                            Some(more) => format!("{name}: {more}"),
                            None => name.clone(),
                        }),
                    };
                }
            }
        }
    }
    worst
}

/// The error and what is to be said about it, or why there is none.
fn apart(reference: &Numbers, found: &Numbers) -> Result<(f64, Option<String>), Reason> {
    match (reference, found) {
        (
            Numbers::Floats {
                shape,
                values,
                least,
            },
            Numbers::Floats {
                shape: found_shape,
                values: found,
                ..
            },
        ) => {
            if shape != found_shape {
                return Err(format!("shape {found_shape:?}, expected {shape:?}").into());
            }
            Ok((relative(values, found, *least)?, None))
        }
        (Numbers::Best { ids, scores }, Numbers::Best { ids: found, .. }) => {
            best(ids, scores, found)
        }
        (
            Numbers::Sampled {
                ids,
                logits,
                uniforms,
            },
            Numbers::Sampled { ids: found, .. },
        ) => drawn(ids, logits, uniforms, found),
        _ => Err("results of another kind".to_owned().into()),
    }
}

/// ‖found − reference‖ / max(‖reference‖, least); what is not finite has no error.
fn relative(reference: &[f32], found: &[f32], least: f64) -> Result<f64, Reason> {
    let finite = |name: &str, values: &[f32]| match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!("{} at place {at} of {name}", values[at])),
    };
    finite("the reference", reference)?;
    finite("the result", found)?;
    if reference.len() != found.len() {
        return Err(format!("{} numbers, expected {}", found.len(), reference.len()).into());
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = reference.iter().zip(found);
    let difference = norm(&mut pairs.map(|(&a, &b)| f64::from(b) - f64::from(a)));
    let scale = norm(&mut reference.iter().map(|&x| f64::from(x))).max(least);
    // A reference of zeros: what is found counts as it is.
    Ok(if scale > 0.0 {
        difference / scale
    } else {
        difference
    })
}

/// How much better, by the reference's scores, the reference's ids are than those found: the largest share of a
/// row's spread.
fn best(ids: &[u32], scores: &Scores, found: &[u32]) -> Result<(f64, Option<String>), Reason> {
    if ids.len() != found.len() {
        return Err(format!("{} ids, expected {}", found.len(), ids.len()).into());
    }
    let (mut error, mut differing, mut first) = (0f64, 0, None);
    for (row, (&id, &other)) in ids.iter().zip(found).enumerate() {
        if id == other {
            continue;
        }
        let margin = margin(scores, row, id, other)?;
        differing += 1;
        error = error.max(margin);
        first = first.or(Some((row, id, other, margin)));
    }
    Ok((error, first.map(|(row, id, other, margin)| {
        format!(
            "{differing} of {} ids differ, the first at {row}: {other}, expected {id}, whose score is better by {margin:.1e} of the spread",
            ids.len()
        )
    })))
}

/// By which share of the row's spread `id` scores above `other`.
fn margin(scores: &Scores, row: usize, id: u32, other: u32) -> Result<f64, Reason> {
    let row = scores.row(row).ok_or("no scores of this place")?;
    let (Some(&a), Some(&b)) = (row.get(id as usize), row.get(other as usize)) else {
        return Err(format!("id {other} is not below {}", row.len()).into());
    };
    let least = row.iter().copied().fold(f32::INFINITY, f32::min);
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let spread = f64::from(most) - f64::from(least);
    let margin = (f64::from(a) - f64::from(b)).abs() / spread;
    // A tie among equals is none of the device's errors; what is no number is.
    if spread == 0.0 {
        Ok(0.0)
    } else if margin.is_finite() {
        Ok(margin)
    } else {
        Err("scores that are not finite".to_owned().into())
    }
}

/// How far the first random number whose id differs lies from where the reference would draw that id.
fn drawn(
    ids: &[u32],
    logits: &Scores,
    uniforms: &[f64],
    found: &[u32],
) -> Result<(f64, Option<String>), Reason> {
    if ids.len() != found.len() {
        return Err(format!("{} ids, expected {}", found.len(), ids.len()).into());
    }
    let mut pairs = ids.iter().zip(found).enumerate();
    let Some((place, (&id, &other))) = pairs.find(|(_, (id, other))| id != other) else {
        return Ok((0.0, None));
    };
    let row = logits.row(place).ok_or("no logits of this place")?;
    if other as usize >= row.len() {
        return Err(format!("id {other} is not below {}", row.len()).into());
    }
    let below = |id: u32| -> f64 { (0..id as usize).map(|id| log_prob(row, id).exp()).sum() };
    let (start, end) = (below(other), below(other + 1));
    let error = match uniforms.get(place) {
        Some(&uniform) => (start - uniform).max(uniform - end).max(0.0),
        None => margin(logits, place, id, other)?,
    };
    let by = f64::from(row[id as usize]) - f64::from(row[other as usize]);
    if !error.is_finite() || !by.is_finite() {
        return Err("logits that are not finite".to_owned().into());
    }
    Ok((
        error,
        Some(format!(
            "ids differ from place {place} of {} on: {other}, expected {id}, whose logit is larger by {by:.3e}",
            ids.len()
        )),
    ))
}
