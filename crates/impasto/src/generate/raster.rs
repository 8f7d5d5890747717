//! Filling canvases with models that tell pictures in raster order only, as published ones do: all ids in that
//! order, those that are known in their places. Each id is asked once for every picture of a batch.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;

use super::{DrawnIds, Filling};
use crate::canvas::{Canvas, Caption};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Gets the ids of a picture known and to know, with all pictures' ids so far; may stop the work.
pub type Progress<'a> = dyn FnMut(usize, usize, &[Vec<u32>]) -> ControlFlow<()> + 'a;

/// A batch of pictures under way in a model that has read their caption.
pub(super) trait Teller {
    /// Tells each picture's next ids, of equal number, and asks for the one behind them. Before any is told, none
    /// asks for the first.
    ///
    /// # Shapes
    /// - returns: logits, `[batch, 1, vocabulary]`; the vocabulary begins with the codes
    fn tell(&mut self, newest: Vec<Vec<u32>>) -> Result<Tensor<3>>;
}

/// Canvases that go on from `beginning`, one for each seed.
pub(super) fn begun(beginning: &[u32], positions: usize, seeds: &[u64]) -> Result<Vec<Filling>> {
    if beginning.len() >= positions {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected fewer than {positions} ids, got {}",
                beginning.len()
            ),
        ));
    }
    // The teller knows the caption.
    let mut canvas = Canvas::blank(positions, Caption::Asked);
    for (known, &id) in canvas.image_ids.iter_mut().zip(beginning) {
        *known = Some(id);
    }
    let of = |&seed| Filling {
        canvas: canvas.clone(),
        seed,
    };
    Ok(seeds.iter().map(of).collect())
}

/// Fills canvases of `positions` ids below `codes`. `begin` makes a teller for so many pictures, and behind them
/// for the same ones without the caption where guidance asks for it.
pub(super) fn fill<T: Teller>(
    [positions, codes]: [usize; 2],
    fillings: &[Filling],
    options: &SamplingOptions,
    mut begin: impl FnMut(usize) -> Result<T>,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    options.validate()?;
    // What is known before anything is asked is told in one pass; rows that agree in its length go together.
    let mut groups = BTreeMap::<usize, Vec<usize>>::new();
    for (row, Filling { canvas, .. }) in fillings.iter().enumerate() {
        canvas.check_picture(positions, codes)?;
        let known = canvas.image_ids.iter().take_while(|id| id.is_some());
        groups.entry(known.count()).or_default().push(row);
    }
    let mut drawn = vec![None; fillings.len()];
    let mut finished = 0;
    for (known, rows) in groups {
        let group: Vec<&Filling> = rows.iter().map(|&row| &fillings[row]).collect();
        let mut batch = Batch::new(&group, options, codes);
        if known < positions {
            let mut teller = begin(rows.len())?;
            batch.go_on(&mut teller, known..positions, &mut |done, _, ids| {
                let share = finished * positions + done * rows.len();
                progress(share / fillings.len(), positions, ids)
            })?;
        }
        finished += rows.len();
        for (&row, ids) in rows.iter().zip(batch.drawn()) {
            drawn[row] = Some(ids);
        }
    }
    Ok(drawn.into_iter().flatten().collect())
}

/// Canvases with equally many ids in front of the first asked one.
struct Batch<'a> {
    canvases: Vec<&'a Canvas>,
    samplers: Vec<Sampler>,
    guided: bool,
    codes: usize,
    /// What is told or drawn so far, of equal length.
    image_ids: Vec<Vec<u32>>,
    log_likelihoods: Vec<f64>,
}

impl<'a> Batch<'a> {
    fn new(fillings: &[&'a Filling], options: &SamplingOptions, codes: usize) -> Self {
        Batch {
            canvases: fillings.iter().map(|filling| &filling.canvas).collect(),
            samplers: fillings
                .iter()
                .map(|filling| Sampler::new(options, filling.seed))
                .collect(),
            guided: options.needs_unconditional(),
            codes,
            image_ids: fillings
                .iter()
                .map(|filling| {
                    let ids = filling.canvas.image_ids.iter();
                    ids.map_while(|&id| id).collect()
                })
                .collect(),
            log_likelihoods: vec![0.0; fillings.len()],
        }
    }

    fn go_on(
        &mut self,
        teller: &mut impl Teller,
        asked: std::ops::Range<usize>,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let (mut told, end) = (0, asked.end);
        for position in asked {
            let newest = self.image_ids.iter().map(|ids| ids[told..].to_vec());
            let mut newest: Vec<Vec<u32>> = newest.collect();
            if self.guided {
                newest.extend(newest.clone());
            }
            told = position;
            self.sample(position, teller.tell(newest)?)?;
            if progress(position + 1, end, &self.image_ids).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// The id at `position` of every row: the known one, or one drawn from the row's logits.
    fn sample(&mut self, position: usize, logits: Tensor<3>) -> Result<()> {
        let [_, _, vocabulary] = logits.dims();
        let logits: Vec<f32> = logits
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        let rows = self.canvases.len();
        for (row, canvas) in self.canvases.iter().enumerate() {
            if let Some(id) = canvas.image_ids[position] {
                self.image_ids[row].push(id);
                continue;
            }
            let of = |row: usize| &logits[row * vocabulary..][..vocabulary];
            let unconditional = self.guided.then(|| &of(rows + row)[..self.codes]);
            let leaning = canvas.leanings.get(&(position as u32)).map(Vec::as_slice);
            let drawn = self.samplers[row].sample_leaning(
                &of(row)[..self.codes],
                unconditional,
                leaning,
                position as u64,
            )?;
            self.image_ids[row].push(drawn.id);
            // Of the whole vocabulary, as in training.
            self.log_likelihoods[row] += log_prob(of(row), drawn.id as usize);
        }
        Ok(())
    }

    fn drawn(self) -> impl Iterator<Item = DrawnIds> {
        let drawn = self.image_ids.into_iter().zip(self.log_likelihoods);
        drawn.map(|(image_ids, log_likelihood)| DrawnIds {
            image_ids,
            log_likelihood,
        })
    }
}
