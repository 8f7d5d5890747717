//! A pass over several positions of one image, of which all but the first follow on drafts.

use super::{AutoregressiveModel, Cohort, Input, Logits, Rows};
use crate::Result;
use crate::engine::row::Drawn;

/// Positions that follow each other in the order of a row, and the drafts for them.
struct Drafted {
    positions: Vec<usize>,
    ids: Vec<u32>,
}

impl<M: AutoregressiveModel> Cohort<M> {
    /// Samples the next id of the only row, and those after it for as long as the drafts of the ones before were right.
    pub(super) fn draft(&mut self, model: &M) -> Result<()> {
        let Some(next) = self.next else {
            return Ok(());
        };
        if model.rewindable(self.state(model)?).is_none() {
            return self.step(model);
        }
        let count = self.drafts.count(self.sizes.positions - next);
        let drafted = self.drafted(next, count);
        if count == 1 {
            self.step(model)?;
            // Whether the draft would have been right is learned all the same.
            let (position, ids) = (drafted.positions[0], &self.rows[0].image_ids);
            if let Some(id) = ids[position] {
                self.drafts.observe(drafted.ids[0], position, id, ids);
            }
            return Ok(());
        }
        let mut inputs = vec![self.rows[0].input(next)];
        inputs.extend((1..count).map(|i| Input {
            token: Some((drafted.positions[i - 1] as u32, drafted.ids[i - 1])),
            target: drafted.positions[i] as u32,
        }));
        let inputs = vec![inputs; if self.guidance.is_some() { 2 } else { 1 }];
        let group = Rows {
            inputs: &inputs,
            state: self.state(model)?,
        };
        let logits = Logits::of(model.step(&mut [group], count)?)?;
        let drawn = self.draw_all(&logits, &drafted.positions)?;
        let valid = self.keep_valid(&drafted, &drawn);
        self.run = next + valid;
        if let Some(state) = model.rewindable(self.state(model)?) {
            state.rewind(count - valid);
        }
        self.next = Some(self.run - 1);
        self.advance();
        Ok(())
    }

    /// Drafts for the positions from place `next` of the order on; known ids are what they are.
    fn drafted(&self, next: usize, count: usize) -> Drafted {
        let row = &self.rows[0];
        let order = row.order[next..next + count].iter();
        let positions: Vec<usize> = order.map(|&position| position as usize).collect();
        let mut before = row.image_ids.clone();
        let ids = positions.iter().map(|&position| {
            let id = before[position].unwrap_or_else(|| self.drafts.guess(position, &before));
            before[position] = Some(id);
            id
        });
        let ids = ids.collect();
        Drafted { positions, ids }
    }

    /// What is sampled at each position if the drafts before it are right; nothing where the id is known.
    fn draw_all(&self, logits: &Logits, positions: &[usize]) -> Result<Vec<Option<Drawn>>> {
        let (row, codes) = (&self.rows[0], self.sizes.codebook_size);
        let is_guided = self.guidance.is_some();
        let mut draws: Vec<_> = (0..)
            .zip(positions)
            .map(|(index, &position)| {
                let draw = move || {
                    let unconditional = is_guided.then(|| logits.at(1, index));
                    match row.canvas.image_ids[position] {
                        Some(_) => Ok(None),
                        None => row
                            .draw(logits.at(0, index), unconditional, codes, position)
                            .map(Some),
                    }
                };
                (draw, Ok(None))
            })
            .collect();
        impasto_kernels::for_each_item(&mut draws, |(draw, drawn)| *drawn = draw());
        draws.into_iter().map(|(_, drawn)| drawn).collect()
    }

    /// Keeps the ids up to the first that its draft was not, and those after it as the next drafts. Returns how many
    /// positions are filled.
    fn keep_valid(&mut self, drafted: &Drafted, drawn: &[Option<Drawn>]) -> usize {
        let row = &mut self.rows[0];
        let mut places = drafted.positions.iter().zip(&drafted.ids).zip(drawn);
        let mut valid = 0;
        for ((&position, &draft), drawn) in &mut places {
            valid += 1;
            let Some(drawn) = *drawn else {
                continue;
            };
            row.keep(drawn, position);
            self.drafts
                .observe(draft, position, drawn.id, &row.image_ids);
            if draft != drawn.id {
                break;
            }
        }
        for ((&position, _), drawn) in places {
            if let Some(drawn) = drawn {
                self.drafts.keep(position, drawn.id);
            }
        }
        valid
    }
}
