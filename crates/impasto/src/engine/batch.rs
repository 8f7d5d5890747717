//! Sampling image ids: a running batch that requests join at any step and leave when they are done.
//!
//! A request's rows that know the same number of ids in front form a *cohort*: they run the same number of inputs in
//! each pass. Whenever several cohorts have one input a row to run, they run it in one pass of the net.
//!
//! An image that is alone is drawn from drafts (see `drafts.rs`): several ids a pass.
//!
//! Nets in raster order do not see the known ids after a hole while they fill it. Several tries at one canvas are
//! then a particle filter (see `particles.rs`): known ids after a sampled one weigh the tries.

mod drafting;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;

use super::confidence::{ConfidencePass, confidence_passes};
use super::drafts::Drafts;
use super::logits::Logits;
use super::model::{AutoregressiveModel, DecodeState, Input, Prompted, Rows, Sizes};
use super::particles::resampled;
use super::row::Row;
use crate::canvas::{Canvas, Conditioning};
use crate::models::dalle::Order;
use crate::nn::ops;
use crate::observer::{Event, Observer};
use crate::random::RandomStream;
use crate::sampling::{Sampler, SamplingOptions};
use crate::{Error, Result};

/// How canvases are filled.
#[derive(Clone, Debug)]
pub struct FillOptions {
    /// Guidance, temperature, cuts.
    pub sampling: SamplingOptions,
    /// In which order, and how many at a time, ids are sampled.
    pub order: Order,
    /// How known ids condition the net.
    pub conditioning: Conditioning,
    /// How many consecutive rows are tries at one canvas.
    pub tries: usize,
}

/// An image to fill.
#[derive(Clone, Debug)]
pub struct InfillRow<P> {
    /// What it shows.
    pub prompt: Arc<P>,
    /// The prompt of nothing in particular, for guidance.
    pub unconditional: Arc<P>,
    /// What is known of it.
    pub canvas: Arc<Canvas>,
    /// The seed of the masked ids.
    pub seed: u64,
}

/// Images to fill in one batch, each as it would be alone.
#[derive(Clone, Debug)]
pub struct FillRequest<P> {
    /// The images.
    pub rows: Vec<InfillRow<P>>,
    /// How.
    pub options: FillOptions,
}

/// An image that was filled.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledTokens {
    /// Row-major.
    pub image_ids: Vec<u32>,
    /// ln p of the sampled ids given the prompt and the ids before them, in nats; without guidance, logit biases,
    /// temperature and cuts.
    pub log_likelihood: f64,
}

/// Names a request in a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Fills all rows of a request and reports each step.
pub fn fill<M: AutoregressiveModel>(
    model: &M,
    request: &FillRequest<M::Prompt>,
    observer: &mut dyn Observer,
) -> Result<Vec<SampledTokens>> {
    fill_in(Batch::new(model), request, observer)
}

/// [`fill`] in an empty batch.
pub fn fill_in<M: AutoregressiveModel>(
    mut batch: Batch<'_, M>,
    request: &FillRequest<M::Prompt>,
    observer: &mut dyn Observer,
) -> Result<Vec<SampledTokens>> {
    let ticket = batch.join(request)?;
    loop {
        let going = batch.step()?;
        let (done, total) = batch.progress(ticket);
        let image_ids = batch.image_ids(ticket);
        let event = Event::Tokens {
            done,
            total,
            image_ids: &image_ids,
        };
        if observer.event(&event).is_break() {
            return Err(Error::Stopped);
        }
        if !going {
            break;
        }
    }
    batch.take(ticket).ok_or(Error::Stopped)
}

/// An image to sample from its caption alone.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// The caption's ids, as the net reads them.
    pub text_ids: Vec<u32>,
    /// Its seed.
    pub seed: u64,
}

/// Samples an image of each caption in one batch. `unconditional` are the ids of no caption, for guidance.
pub fn sample<M: AutoregressiveModel>(
    model: &M,
    specs: &[SampleSpec],
    unconditional: &[u32],
    sampling: &SamplingOptions,
    order: Order,
    observer: &mut dyn Observer,
) -> Result<Vec<SampledTokens>> {
    let unconditional = |_: &[u32]| unconditional.to_vec();
    sample_guided(model, specs, &unconditional, sampling, order, observer)
}

/// [`sample`] of nets whose ids of no caption depend on the caption's: `unconditional` gives those for it.
pub fn sample_guided<M: AutoregressiveModel>(
    model: &M,
    specs: &[SampleSpec],
    unconditional: &dyn Fn(&[u32]) -> Vec<u32>,
    sampling: &SamplingOptions,
    order: Order,
    observer: &mut dyn Observer,
) -> Result<Vec<SampledTokens>> {
    let request = request_of(model, specs, unconditional, sampling, order)?;
    fill(model, &request, observer)
}

/// The request of [`sample_guided`].
pub fn request_of<M: AutoregressiveModel>(
    model: &M,
    specs: &[SampleSpec],
    unconditional: &dyn Fn(&[u32]) -> Vec<u32>,
    sampling: &SamplingOptions,
    order: Order,
) -> Result<FillRequest<M::Prompt>> {
    let canvas = Arc::new(Canvas::blank(model.sizes().positions));
    // What neighbours have in common is read once, and run once for all of them.
    let read = |ids: &[u32], last: &mut Option<(Vec<u32>, Arc<M::Prompt>)>| {
        if let Some((_, read)) = last.as_ref().filter(|(same, _)| same == ids) {
            return Ok(read.clone());
        }
        let prompt = Arc::new(model.read(ids)?);
        *last = Some((ids.to_vec(), prompt.clone()));
        Ok(prompt)
    };
    let (mut last, mut last_unconditional) = (None, None);
    let mut rows: Vec<InfillRow<M::Prompt>> = Vec::with_capacity(specs.len());
    for spec in specs {
        let unconditional = unconditional(&spec.text_ids);
        rows.push(InfillRow {
            prompt: read(&spec.text_ids, &mut last)?,
            unconditional: read(&unconditional, &mut last_unconditional)?,
            canvas: canvas.clone(),
            seed: spec.seed,
        });
    }
    Ok(FillRequest {
        rows,
        options: FillOptions {
            sampling: sampling.clone(),
            order,
            conditioning: match model.parallel_passes() {
                Some(_) => Conditioning::Prefix,
                None => Conditioning::TeacherForced,
            },
            tries: 1,
        },
    })
}

/// Requests that are decoded together.
#[derive(Debug)]
pub struct Batch<'m, M: AutoregressiveModel> {
    model: &'m M,
    cohorts: Vec<Cohort<M>>,
    tickets: u64,
    drafts: bool,
}

impl<'m, M: AutoregressiveModel> Batch<'m, M> {
    /// One without requests.
    pub fn new(model: &'m M) -> Self {
        Batch {
            model,
            cohorts: Vec::new(),
            tickets: 0,
            // Elsewhere the logits of a position depend on how many are computed beside it, in their last bits.
            drafts: ops::is_cpu(&model.device()),
        }
    }

    /// One id of each image a pass, for measurements: the images are the same.
    pub fn without_drafts(mut self) -> Self {
        self.drafts = false;
        self
    }

    /// Adds a request. Its rows start with the next step.
    ///
    /// # Errors
    /// Names what does not fit the net: canvases, sampling options, the order, tries.
    pub fn join(&mut self, request: &FillRequest<M::Prompt>) -> Result<Ticket> {
        let sizes = self.model.sizes();
        let FillOptions {
            sampling,
            order,
            conditioning,
            tries,
        } = &request.options;
        sampling.validate()?;
        if self.model.parallel_passes().is_none()
            && (*order != Order::Raster || *conditioning != Conditioning::TeacherForced)
        {
            return Err(Error::invalid(
                "order",
                format!("the model supports raster order only, got {order}"),
            ));
        }
        let same = |tries: &[InfillRow<M::Prompt>]| {
            let canvas = &tries[0].canvas;
            tries.iter().all(|row| row.canvas == *canvas)
        };
        let mut chunks = request.rows.chunks((*tries).max(1));
        if *tries == 0 || !chunks.all(|chunk| chunk.len() == *tries && same(chunk)) {
            return Err(Error::invalid(
                "tries",
                format!("expected {tries} consecutive rows of each canvas"),
            ));
        }
        // Rows that know the same number of ids in front run the same number of inputs in the first pass.
        let mut groups = BTreeMap::<usize, Vec<Row<M::Prompt>>>::new();
        for (number, row) in request.rows.iter().enumerate() {
            row.canvas.check(sizes.positions, sizes.codebook_size)?;
            let order = conditioning.order(&row.canvas, *order, row.seed);
            let known = order
                .iter()
                .take_while(|&&position| row.canvas.image_ids[position as usize].is_some());
            groups.entry(known.count()).or_default().push(Row {
                number,
                prompt: row.prompt.clone(),
                unconditional: row.unconditional.clone(),
                image_ids: row.canvas.image_ids.clone(),
                canvas: row.canvas.clone(),
                order,
                sampler: Sampler::new(sampling, row.seed),
                seed: row.seed,
                log_likelihood: 0.0,
                log_weight: 0.0,
            });
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        for (known, rows) in groups {
            self.cohorts
                .push(Cohort::new(ticket, rows, known, request, self.model));
        }
        Ok(ticket)
    }

    /// Whether there is nothing left to sample.
    pub fn is_idle(&self) -> bool {
        self.cohorts.iter().all(Cohort::is_done)
    }

    /// One step of every request: those that have one input a row to run are run together. Returns whether there is
    /// more to do.
    pub fn step(&mut self) -> Result<bool> {
        let model = self.model;
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for cohort in self.cohorts.iter_mut().filter(|cohort| !cohort.is_done()) {
            match cohort.runs_one_input() {
                true => together.push(cohort),
                false => alone.push(cohort),
            }
        }
        match (&mut together[..], self.drafts && alone.is_empty()) {
            ([only], true) if only.rows.len() == 1 => only.draft(model)?,
            _ => {
                for cohort in alone {
                    cohort.step(model)?;
                }
                step_together(model, &mut together)?;
            }
        }
        Ok(!self.is_idle())
    }

    /// Positions filled so far and in all, over all rows of a request.
    pub fn progress(&self, ticket: Ticket) -> (usize, usize) {
        let mut counts = (0, 0);
        for cohort in self.of(ticket) {
            counts.0 += cohort.done() * cohort.rows.len();
            counts.1 += cohort.sizes.positions * cohort.rows.len();
        }
        counts
    }

    /// The image ids of a request's rows so far, by the rows' numbers; none where they are not sampled yet.
    pub fn image_ids(&self, ticket: Ticket) -> Vec<&[Option<u32>]> {
        let mut rows: Vec<(usize, &[Option<u32>])> = self
            .of(ticket)
            .flat_map(|cohort| &cohort.rows)
            .map(|row| (row.number, row.image_ids.as_slice()))
            .collect();
        rows.sort_by_key(|&(number, _)| number);
        rows.into_iter().map(|(_, ids)| ids).collect()
    }

    /// Removes a request, done or not, and returns its images if all are done.
    pub fn take(&mut self, ticket: Ticket) -> Option<Vec<SampledTokens>> {
        let (own, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cohorts)
            .into_iter()
            .partition(|cohort| cohort.ticket == ticket);
        self.cohorts = others;
        let done = own.iter().all(Cohort::is_done);
        let mut rows: Vec<Row<M::Prompt>> =
            own.into_iter().flat_map(|cohort| cohort.rows).collect();
        rows.sort_by_key(|row| row.number);
        let images = rows.into_iter().map(|row| {
            Some(SampledTokens {
                image_ids: row.image_ids.into_iter().collect::<Option<_>>()?,
                log_likelihood: row.log_likelihood,
            })
        });
        match done {
            true => images.collect(),
            false => None,
        }
    }

    /// Requests whose images are all done.
    pub fn finished(&self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> = self.cohorts.iter().map(|cohort| cohort.ticket).collect();
        tickets.dedup();
        tickets.retain(|&ticket| self.of(ticket).all(Cohort::is_done));
        tickets
    }

    fn of(&self, ticket: Ticket) -> impl Iterator<Item = &Cohort<M>> {
        self.cohorts
            .iter()
            .filter(move |cohort| cohort.ticket == ticket)
    }
}

/// One pass of cohorts that have one input a row to run.
fn step_together<M: AutoregressiveModel>(model: &M, cohorts: &mut [&mut Cohort<M>]) -> Result<()> {
    if let [only] = cohorts {
        return only.step(model);
    }
    let inputs: Vec<Vec<Vec<Input>>> = cohorts
        .iter()
        .map(|cohort| cohort.inputs(cohort.run..cohort.run + 1))
        .collect();
    let mut groups = Vec::with_capacity(cohorts.len());
    for (cohort, inputs) in cohorts.iter_mut().zip(&inputs) {
        if let Some(state) = &mut cohort.state {
            groups.push(Rows { inputs, state });
        }
    }
    if groups.is_empty() {
        return Ok(());
    }
    let logits = Logits::of(model.step(&mut groups, 1)?)?;
    let mut first = 0;
    let mut ready = Vec::with_capacity(cohorts.len());
    for (cohort, inputs) in cohorts.iter_mut().zip(&inputs) {
        let own = logits.part(first, inputs.len());
        first += inputs.len();
        cohort.run += 1;
        ready.push((&mut **cohort, own));
    }
    absorb(&mut ready, 0)
}

/// Samples the next ids of cohorts from number `index` of their logits, and finds the places after them.
fn absorb<M: AutoregressiveModel>(
    ready: &mut [(&mut Cohort<M>, Logits)],
    index: usize,
) -> Result<()> {
    let mut tasks = Vec::new();
    for (cohort, logits) in ready.iter_mut() {
        let Some(next) = cohort.next else {
            continue;
        };
        cohort.resample(logits, next);
        let (count, weighs) = (cohort.rows.len(), cohort.tries > 1);
        let (logits, guidance, codes) = (&*logits, cohort.guidance, cohort.sizes.codebook_size);
        tasks.extend(cohort.rows.iter_mut().enumerate().map(|(number, row)| {
            let position = row.order[next] as usize;
            let conditional = logits.at(number, index);
            let unconditional = guidance.map(|_| logits.at(count + number, index));
            let work = move || match row.canvas.image_ids[position] {
                None => row.sample(conditional, unconditional, codes, position),
                Some(_) if weighs => row.weigh(conditional, unconditional.zip(guidance), position),
                Some(_) => Ok(()),
            };
            (work, Ok(()))
        }));
    }
    impasto_kernels::for_each_item(&mut tasks, |(work, outcome)| *outcome = work());
    tasks
        .into_iter()
        .try_for_each(|(_, outcome): (_, Result<()>)| outcome)?;
    for (cohort, _) in ready {
        cohort.advance();
    }
    Ok(())
}

/// Known ids that are run and weighed in one pass: their logits are all in memory.
pub(super) const WEIGHED: usize = 16;

/// Rows of a request that run the same number of inputs in each pass.
#[derive(Debug)]
struct Cohort<M: AutoregressiveModel> {
    ticket: Ticket,
    rows: Vec<Row<M::Prompt>>,
    sizes: Sizes,
    /// The scale of guidance; the unconditional rows come after the others in every pass.
    guidance: Option<f64>,
    tries: usize,
    /// One for each canvas's tries.
    resampling: Vec<ChaCha8Rng>,
    state: Option<M::State>,
    /// Inputs that were run, the start among them.
    run: usize,
    /// The next place of the orders where an id is sampled; none if all are.
    next: Option<usize>,
    /// The further passes, where each samples several ids.
    passes: Option<std::vec::IntoIter<ParallelPass>>,
    drafts: Drafts,
}

/// A pass that samples several ids of each row.
#[derive(Clone, Copy, Debug)]
enum ParallelPass {
    /// The next ones of the order, this many.
    InOrder(usize),
    /// All that are masked, of which the most confident ones are kept.
    Confidence(ConfidencePass),
}

impl<M: AutoregressiveModel> Cohort<M> {
    fn new(
        ticket: Ticket,
        rows: Vec<Row<M::Prompt>>,
        known: usize,
        request: &FillRequest<M::Prompt>,
        model: &M,
    ) -> Self {
        let sizes = model.sizes();
        let (options, masked) = (&request.options, sizes.positions - known);
        let passes: Option<Vec<ParallelPass>> = match (options.order, options.conditioning) {
            _ if masked == 0 => None,
            (Order::Parallel { steps }, Conditioning::Prefix) => {
                let sizes = pass_sizes(masked, steps).into_iter();
                Some(sizes.map(ParallelPass::InOrder).collect())
            }
            (Order::Confidence { steps }, Conditioning::Prefix) => {
                let schedule = model
                    .parallel_passes()
                    .map_or_else(Default::default, |passes| passes.mask_schedule(known));
                let passes = confidence_passes(schedule, masked, sizes.positions, steps);
                Some(passes.into_iter().map(ParallelPass::Confidence).collect())
            }
            _ => None,
        };
        let resampling = rows
            .chunks(options.tries)
            .map(|tries| RandomStream::Resampling.of(tries[0].seed));
        let guided = options.sampling.needs_unconditional();
        Cohort {
            ticket,
            sizes,
            guidance: guided.then(|| f64::from(options.sampling.guidance_scale)),
            tries: options.tries,
            resampling: resampling.collect(),
            rows,
            state: None,
            run: 0,
            next: (known < sizes.positions).then_some(known),
            passes: passes.map(Vec::into_iter),
            drafts: Drafts::new(sizes.positions),
        }
    }

    fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Positions that are filled.
    fn done(&self) -> usize {
        self.next.unwrap_or(self.sizes.positions)
    }

    /// Whether the next pass runs one input of each row.
    fn runs_one_input(&self) -> bool {
        self.state.is_some() && self.passes.is_none() && self.next == Some(self.run)
    }

    /// The state of the rows, which start with the first pass.
    fn state(&mut self, model: &M) -> Result<&mut M::State> {
        if self.state.is_none() {
            let mut prompted = neighbours(self.rows.iter().map(|row| &row.prompt));
            if self.guidance.is_some() {
                prompted.extend(neighbours(self.rows.iter().map(|row| &row.unconditional)));
            }
            let mut state = model.prefill(&prompted)?;
            let seeds = self.rows.iter().map(|row| row.seed);
            let mut seeds: Vec<u64> = seeds.collect();
            if self.guidance.is_some() {
                seeds.extend_from_within(..);
            }
            model.seed(&seeds, &mut state);
            self.state = Some(state);
        }
        self.state
            .as_mut()
            .ok_or_else(|| Error::invalid("rows", "expected rows that have started"))
    }

    /// The inputs with these numbers of each row, and once more of each without its prompt.
    fn inputs(&self, numbers: Range<usize>) -> Vec<Vec<Input>> {
        let of = |row: &Row<M::Prompt>| numbers.clone().map(|index| row.input(index)).collect();
        let mut inputs: Vec<Vec<Input>> = self.rows.iter().map(of).collect();
        if self.guidance.is_some() {
            inputs.extend(inputs.clone());
        }
        inputs
    }

    /// Runs inputs and returns the logits after the last `n_logits` of them.
    fn logits(&mut self, model: &M, numbers: Range<usize>, n_logits: usize) -> Result<Logits> {
        let inputs = self.inputs(numbers.clone());
        let state = self.state(model)?;
        let group = Rows {
            inputs: &inputs,
            state,
        };
        let logits: Tensor<3> = model.step(&mut [group], n_logits)?;
        self.run = numbers.end;
        Logits::of(logits)
    }

    /// Samples the next id of each row, or those of the next pass.
    fn step(&mut self, model: &M) -> Result<()> {
        let Some(next) = self.next else {
            return Ok(());
        };
        if let Some(pass) = self.passes.as_mut().and_then(Iterator::next) {
            return self.parallel_pass(model, next, pass);
        }
        // The known prefix has the same weight for all tries.
        let weighs = self.run > 0 && self.tries > 1;
        while weighs && self.run + WEIGHED <= next {
            let first = self.run;
            let logits = self.logits(model, first..first + WEIGHED, WEIGHED)?;
            for index in 0..WEIGHED {
                self.weigh_all(&logits, index, first + index)?;
            }
        }
        let first = self.run;
        let count = if weighs { next + 1 - first } else { 1 };
        let logits = self.logits(model, first..next + 1, count)?;
        for index in 0..count - 1 {
            self.weigh_all(&logits, index, first + index)?;
        }
        absorb(&mut [(self, logits)], count - 1)
    }

    /// Finds the next place where an id is sampled.
    fn advance(&mut self) {
        let Some(next) = self.next else {
            return;
        };
        self.next = (next + 1..self.sizes.positions).find(|&place| {
            let masked =
                |row: &Row<M::Prompt>| row.canvas.image_ids[row.order[place] as usize].is_none();
            self.rows.iter().any(masked)
        });
    }

    fn weigh_all(&mut self, logits: &Logits, index: usize, place: usize) -> Result<()> {
        let count = self.rows.len();
        for (number, row) in self.rows.iter_mut().enumerate() {
            let unconditional = self
                .guidance
                .map(|scale| (logits.at(count + number, index), scale));
            let position = row.order[place] as usize;
            row.weigh(logits.at(number, index), unconditional, position)?;
        }
        Ok(())
    }

    /// Before an id is sampled, replaces the tries under which the known ids so far are unlikely by copies of others.
    fn resample(&mut self, logits: &mut Logits, next: usize) {
        if self.tries < 2 {
            return;
        }
        let mut sources: Vec<usize> = (0..self.rows.len()).collect();
        for (number, random) in self.resampling.iter_mut().enumerate() {
            let all = number * self.tries..(number + 1) * self.tries;
            // Only where this canvas is masked: the masks of others in the batch must not matter.
            let first = &self.rows[all.start];
            if first.canvas.image_ids[first.order[next] as usize].is_some() {
                continue;
            }
            let weights: Vec<f64> = self.rows[all.clone()]
                .iter()
                .map(|row| row.log_weight)
                .collect();
            if let Some(chosen) = resampled(&weights, random) {
                for (source, chosen) in sources[all.clone()].iter_mut().zip(chosen) {
                    *source = all.start + chosen;
                }
                for row in &mut self.rows[all] {
                    row.log_weight = 0.0;
                }
            }
        }
        if sources
            .iter()
            .enumerate()
            .all(|(row, &source)| row == source)
        {
            return;
        }
        let copies: Vec<(Vec<Option<u32>>, f64)> = sources
            .iter()
            .map(|&source| {
                let row = &self.rows[source];
                (row.image_ids.clone(), row.log_likelihood)
            })
            .collect();
        for (row, (image_ids, log_likelihood)) in self.rows.iter_mut().zip(copies) {
            (row.image_ids, row.log_likelihood) = (image_ids, log_likelihood);
        }
        if self.guidance.is_some() {
            let alone: Vec<usize> = sources.iter().map(|row| sources.len() + row).collect();
            sources.extend(alone);
        }
        if let Some(state) = &mut self.state {
            state.select_rows(&sources);
        }
        logits.select_rows(&sources);
    }

    /// Samples several ids of each row from one context, and adds them to it.
    fn parallel_pass(&mut self, model: &M, next: usize, pass: ParallelPass) -> Result<()> {
        let passes = model
            .parallel_passes()
            .ok_or_else(|| Error::invalid("order", "the model supports raster order only"))?;
        if self.run < next || self.state.is_none() {
            // All known ids but the last, which is the input of each query; the start stands in for it where nothing
            // is known.
            let inputs = self.inputs(0..next);
            passes.append(&inputs, self.state(model)?)?;
            self.run = next;
        }
        let (queried, count) = match pass {
            ParallelPass::InOrder(count) => (count, count),
            ParallelPass::Confidence(pass) => (self.sizes.positions - next, pass.kept),
        };
        let mut queries: Vec<Vec<Input>> = self
            .rows
            .iter()
            .map(|row| {
                let token = row.input(next).token;
                let targets = row.order[next..next + queried].iter();
                targets.map(|&target| Input { token, target }).collect()
            })
            .collect();
        if self.guidance.is_some() {
            queries.extend(queries.clone());
        }
        if let ParallelPass::Confidence(pass) = pass {
            passes.announce(pass.left, self.state(model)?);
        }
        let logits = Logits::of(passes.query(&queries, self.state(model)?)?)?;
        let rows = self.rows.len();
        let (guided, codes) = (self.guidance.is_some(), self.sizes.codebook_size);
        for (number, row) in self.rows.iter_mut().enumerate() {
            let at = |index: usize| {
                let unconditional = guided.then(|| logits.at(rows + number, index));
                (logits.at(number, index), unconditional)
            };
            match pass {
                ParallelPass::InOrder(count) => {
                    for index in 0..count {
                        let position = row.order[next + index] as usize;
                        let (conditional, unconditional) = at(index);
                        row.sample(conditional, unconditional, codes, position)?;
                    }
                }
                ParallelPass::Confidence(pass) => row.keep_confident(at, codes, next, pass)?,
            }
        }
        let end = next + count;
        self.next = (end < self.sizes.positions).then_some(end);
        if self.next.is_some() {
            // Added in order, all but the newest.
            let inputs = self.inputs(next..end);
            passes.append(&inputs, self.state(model)?)?;
            self.run = end;
        }
        Ok(())
    }
}

/// Consecutive rows of the same prompt as one group each.
fn neighbours<'a, P: 'a>(prompts: impl Iterator<Item = &'a Arc<P>>) -> Vec<Prompted<'a, P>> {
    let mut groups: Vec<Prompted<'a, P>> = Vec::new();
    for prompt in prompts {
        match groups.last_mut() {
            Some(group) if std::ptr::eq(group.prompt, prompt.as_ref()) => group.rows += 1,
            _ => groups.push(Prompted { prompt, rows: 1 }),
        }
    }
    groups
}

/// How many tokens each pass samples: few while little is known, by a cosine (MaskGIT, arXiv:2202.04200, section 3.3),
/// at least one each.
pub(crate) fn pass_sizes(positions: usize, steps: usize) -> Vec<usize> {
    let steps = steps.clamp(1, positions);
    let mut sizes = Vec::with_capacity(steps);
    let mut known = 0;
    for step in 1..=steps {
        let share = 1.0 - (std::f64::consts::FRAC_PI_2 * step as f64 / steps as f64).cos();
        let least = known + 1;
        let most = positions - (steps - step);
        let goal = if step == steps {
            positions
        } else {
            ((share * positions as f64).round() as usize).clamp(least, most)
        };
        sizes.push(goal - known);
        known = goal;
    }
    sizes
}
