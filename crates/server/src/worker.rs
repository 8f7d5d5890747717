//! The two threads of a model: one decodes, the other turns what is decoded into files and rows.
//!
//! The first one keeps a running batch. Before each step it takes jobs in and lets cancelled ones go, so that a place is
//! free within one token. Edits and variations are not decoded in that batch: while one runs, each of its own steps is
//! followed by a step of the batch.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use impasto::engine::Ticket;
use impasto::error::ErrorKind;
use impasto::image::{Format, Image, Original};
use impasto::models::dalle::Order;
use impasto::observer::Event;
use impasto::provenance::{Encoding, Parent, Settings, Upscaled, Written};
use impasto::request::{EditOutcome, GeneratedImage, VaryOutcome};
use impasto::safety::{Action, Verdict};
use impasto::sampling::SamplingOptions;
use impasto::{Generate, Model, Session, Upscale, edit};

use crate::error::JobError;
use crate::jobs::{Job, Preview, Unit};
use crate::models::Hosted;
use crate::records::{Picture, Status, Task};
use crate::{App, ServeError, Stopping};

/// Images in the running batch: what the estimate of a model's memory is made for.
const ROWS: usize = 16;
/// Results that wait to be written; then decoding waits.
const MOST_RESULTS: usize = 32;
/// Previews take at most one part in this many of the time.
const PREVIEW_SHARE: u32 = 8;
/// And come at most this often.
const PREVIEW_PAUSE: Duration = Duration::from_millis(40);

/// How pictures are kept.
const PNG: Encoding = Encoding {
    format: Format::Png,
    quality: 100,
};

/// Starts both threads.
pub fn start(app: App, hosted: Arc<Hosted>) -> std::io::Result<[JoinHandle<()>; 2]> {
    let (results, waiting) = sync_channel(MOST_RESULTS);
    let name = |what: &str| format!("{what} {}", hosted.card.id);
    let writer = std::thread::Builder::new().name(name("write")).spawn({
        let (app, model) = (app.clone(), hosted.card.id.clone());
        let licence = hosted.card.licence.clone();
        let licence = Some(licence).filter(|licence| licence != "unknown");
        move || Finisher::new(app, model, licence).run(&waiting)
    })?;
    let decoder = std::thread::Builder::new()
        .name(name("decode"))
        .spawn(move || decode(&app, &hosted, &results))?;
    Ok([decoder, writer])
}

/// What the decoding thread is done with.
enum Finished {
    Images {
        job: Arc<Job>,
        first: usize,
        images: Vec<GeneratedImage>,
        sampling: SamplingOptions,
        order: Order,
    },
    Edit(Arc<Job>, Box<EditOutcome>),
    Vary(Arc<Job>, Box<VaryOutcome>),
    Failed(Arc<Job>, JobError),
    Cancelled(Arc<Job>),
    PutBack(Arc<Job>),
}

fn decode(app: &App, hosted: &Arc<Hosted>, results: &SyncSender<Finished>) {
    let mut model: Option<impasto::Result<Model>> = None;
    let mut idle_since = Instant::now();
    loop {
        if app.stopping() != Stopping::No {
            break;
        }
        let has_work = {
            let work = hosted.work();
            !work.queue.is_empty() || !work.calls.is_empty()
        };
        if !has_work {
            hosted.set_busy(false);
            let idle = idle_since.elapsed() > app.config.idle_time || hosted.is_to_unload();
            if idle && model.take().is_some() {
                impasto::device::give_back_freed_memory();
                hosted.unloaded();
                crate::log::note(format_args!("model {} unloaded", hosted.card.id));
            }
            hosted.wait(Duration::from_millis(500));
            continue;
        }
        hosted.set_busy(true);
        let opened = model.get_or_insert_with(|| hosted.open(&app.device, &app.models));
        let calls: Vec<_> = hosted.work().calls.drain(..).collect();
        for call in calls {
            call(opened);
        }
        match opened {
            Ok(opened) => {
                if let Err(error) = Decoder::serve(app, hosted, opened, results) {
                    fail_all(hosted, results, &JobError::of(&error));
                }
            }
            Err(error) => {
                crate::log::error(format_args!("model {}: {error}", hosted.card.id));
                let failed = JobError {
                    code: "internal_error".into(),
                    message: "The model can't be opened. The server's log says why.".into(),
                    param: None,
                };
                fail_all(hosted, results, &failed);
                // It may be there the next time.
                model = None;
            }
        }
        idle_since = Instant::now();
    }
    // What waits stays queued, for the next start; whoever waits for it gets an error.
    for job in hosted.work().queue.drain() {
        let _ = results.send(Finished::PutBack(job));
    }
}

fn fail_all(hosted: &Hosted, results: &SyncSender<Finished>, error: &JobError) {
    for job in hosted.work().queue.drain() {
        let _ = results.send(Finished::Failed(job, error.clone()));
    }
}

/// Images of a job in the batch.
struct Part {
    job: Arc<Job>,
    ticket: Ticket,
    first: usize,
    count: usize,
    /// Positions that were filled at the last report.
    done: usize,
    /// Partial pictures that were sent.
    partials: usize,
}

struct Decoder<'a> {
    app: &'a App,
    hosted: &'a Hosted,
    model: &'a Model,
    session: Session<'a>,
    parts: Vec<Part>,
    results: &'a SyncSender<Finished>,
    next_preview: Instant,
}

impl<'a> Decoder<'a> {
    /// Works until nothing is left to do.
    fn serve(
        app: &'a App,
        hosted: &'a Hosted,
        model: &'a Model,
        results: &'a SyncSender<Finished>,
    ) -> impasto::Result<()> {
        let mut decoder = Decoder {
            app,
            hosted,
            model,
            session: Session::new(model)?,
            parts: Vec::new(),
            results,
            next_preview: Instant::now(),
        };
        loop {
            let calls: Vec<_> = hosted.work().calls.drain(..).collect();
            if !calls.is_empty() {
                let opened = Ok(model.clone());
                calls.into_iter().for_each(|call| call(&opened));
            }
            if let Some(job) = decoder.admit(true) {
                decoder.run_whole(&job);
                continue;
            }
            if !decoder.round() {
                return Ok(());
            }
        }
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// Takes work in. Returns a job that is not for the batch, if it is one's turn and `whole` allows it.
    fn admit(&mut self, whole: bool) -> Option<Arc<Job>> {
        loop {
            let stopping = self.app.stopping() != Stopping::No;
            let rows = ROWS - self.rows();
            let unit = self.hosted.work().queue.take(rows, whole, stopping)?;
            match unit {
                Unit::Job(job) => {
                    self.begin(&job);
                    return Some(job);
                }
                Unit::Images { job, first, count } => self.join(job, first, count),
            }
        }
    }

    /// A job's first work begins.
    fn begin(&self, job: &Arc<Job>) {
        if job.state().status == Status::Queued {
            let now = crate::log::now();
            if let Err(error) = self.app.store.start_job(&job.record.id, now) {
                crate::log::error(error);
            }
            let total = job.sampled() * self.hosted.card.tokens;
            job.update(|state| {
                state.status = Status::Running;
                state.total = total;
            });
        }
    }

    fn join(&mut self, job: Arc<Job>, first: usize, count: usize) {
        let Task::Generate { request } = &job.record.task else {
            return;
        };
        self.begin(&job);
        let request = Generate {
            n: count,
            best_of: None,
            // Where files are made of them.
            upscale: None,
            seed: request.seed.wrapping_add(first as u64),
            ..request.clone()
        };
        match self.session.join(&request) {
            Ok(ticket) => self.parts.push(Part {
                job,
                ticket,
                first,
                count,
                done: 0,
                partials: 0,
            }),
            Err(error) => {
                self.hosted.work().queue.remove(&job.record.id);
                self.leave(&job);
                self.send(Finished::Failed(job, JobError::of(&error)));
            }
        }
    }

    fn send(&self, finished: Finished) {
        // The other thread ends after this one.
        let _ = self.results.send(finished);
    }

    /// Takes all parts of a job out of the batch.
    fn leave(&mut self, job: &Arc<Job>) {
        let session = &mut self.session;
        self.parts.retain(|part| {
            let own = Arc::ptr_eq(&part.job, job);
            if own {
                session.leave(part.ticket);
            }
            !own
        });
    }

    /// One step of the batch. Returns whether there is anything in it.
    fn round(&mut self) -> bool {
        let now = self.app.stopping() == Stopping::Now;
        let mut gone = self.hosted.work().queue.take_cancelled();
        let parts = self.parts.iter();
        for part in parts.filter(|part| now || part.job.is_cancelled()) {
            // A job may have several parts, and more of it may wait.
            if !gone.iter().any(|job| Arc::ptr_eq(job, &part.job)) {
                gone.push(part.job.clone());
            }
        }
        for job in gone {
            self.leave(&job);
            self.hosted.work().queue.remove(&job.record.id);
            self.send(match job.is_cancelled() {
                true => Finished::Cancelled(job),
                false => Finished::PutBack(job),
            });
        }
        self.admit(false);
        if self.parts.is_empty() {
            return false;
        }
        if let Err(error) = self.session.step() {
            // All of them are lost: their states do not belong together any more.
            let error = JobError::of(&error);
            let parts = std::mem::take(&mut self.parts);
            for part in parts {
                self.session.leave(part.ticket);
                self.hosted.work().queue.remove(&part.job.record.id);
                self.send(Finished::Failed(part.job, error.clone()));
            }
            return true;
        }
        self.report();
        for ticket in self.session.finished() {
            self.finish(ticket);
        }
        true
    }

    fn finish(&mut self, ticket: Ticket) {
        let Some(place) = self.parts.iter().position(|part| part.ticket == ticket) else {
            return;
        };
        let part = self.parts.remove(place);
        let taken = self.session.take(ticket).and_then(|outcome| {
            let mut outcome = outcome;
            // What the model says of each does not wait for the others.
            if let (Some(outcome), Task::Generate { request }) =
                (&mut outcome, &part.job.record.task)
                && request.best_of.is_some()
            {
                request.ask_model(self.model, &mut outcome.images)?;
            }
            Ok(outcome)
        });
        match taken {
            Ok(Some(outcome)) => self.send(Finished::Images {
                job: part.job,
                first: part.first,
                images: outcome.images,
                sampling: outcome.sampling,
                order: outcome.order,
            }),
            Ok(None) => {}
            Err(error) => {
                self.leave(&part.job);
                self.hosted.work().queue.remove(&part.job.record.id);
                self.send(Finished::Failed(part.job, JobError::of(&error)));
            }
        }
    }

    /// Reports how far the images are, with previews where somebody looks at them.
    fn report(&mut self) {
        // What may have to be hidden is not shown while it is drawn.
        let may_show = !self.app.guard.may_hide_pictures();
        let may_preview = may_show && Instant::now() >= self.next_preview;
        let start = Instant::now();
        let mut previewed = false;
        for part in &mut self.parts {
            let (done, total) = self.session.progress(part.ticket);
            let more = done - part.done;
            part.done = done;
            let share = done as f64 / total.max(1) as f64;
            let wanted = if may_show { part.job.partials } else { 0 };
            let is_partial = part.first == 0
                && part.partials < wanted
                && share >= (part.partials + 1) as f64 / (wanted + 1) as f64
                && share < 1.0;
            let is_preview = may_preview && part.job.has_watchers() && share < 1.0;
            let mut shown = Vec::new();
            if is_partial || is_preview {
                let ids = self.session.image_ids(part.ticket);
                for (number, ids) in ids.iter().enumerate() {
                    // A stream shows the first picture.
                    if !is_preview && number > 0 {
                        break;
                    }
                    let picture = self.model.decode_partial(ids).ok().flatten();
                    let png = picture.and_then(|picture| picture.encode(Format::Png, 100).ok());
                    shown.extend(png.map(|png| {
                        let place = part.first + number;
                        Arc::new(Preview { place, png, share })
                    }));
                }
                previewed = true;
            }
            part.job.progress(more);
            if shown.is_empty() {
                continue;
            }
            let first = shown.first().cloned().filter(|_| is_partial);
            part.partials += usize::from(first.is_some());
            part.job.update(|state| {
                state.partials.extend(first);
                if is_preview {
                    state
                        .previews
                        .extend(shown.into_iter().map(|one| (one.place, one)));
                }
            });
        }
        if previewed {
            let pause = (start.elapsed() * PREVIEW_SHARE).max(PREVIEW_PAUSE);
            self.next_preview = Instant::now() + pause;
        }
    }

    /// Runs an edit or variations, the batch beside it.
    fn run_whole(&mut self, job: &Arc<Job>) {
        let finished = match self.whole(job) {
            Ok(finished) => finished,
            Err(_) if job.is_cancelled() => Finished::Cancelled(job.clone()),
            Err(error) if error.kind() == ErrorKind::Stopped => Finished::PutBack(job.clone()),
            Err(error) => Finished::Failed(job.clone(), JobError::of(&error)),
        };
        self.send(finished);
    }

    fn whole(&mut self, job: &Arc<Job>) -> impasto::Result<Finished> {
        let model = self.model;
        let store = &self.app.store;
        let input = |name: &str| {
            let bytes = impasto::files::read(store.input_path(&job.record.id, name))?;
            Original::decode(&bytes, name)
        };
        match &job.record.task {
            Task::Edit { request, mask } => {
                let mut request = request.clone();
                request.upscale = None;
                request.image = Some(Arc::new(input("image")?));
                if *mask {
                    request.region = edit::Region::Mask(edit::Mask::of(&input("mask")?));
                }
                let outcome =
                    model.run(&request, &mut |event: &Event<'_>| self.beside(job, event))?;
                Ok(Finished::Edit(job.clone(), Box::new(outcome)))
            }
            Task::Vary { request } => {
                let mut request = request.clone();
                request.upscale = None;
                request.image = Some(Arc::new(input("image")?.picture()));
                let outcome =
                    model.run(&request, &mut |event: &Event<'_>| self.beside(job, event))?;
                Ok(Finished::Vary(job.clone(), Box::new(outcome)))
            }
            Task::Generate { .. } => Err(impasto::Error::invalid(
                "job",
                "expected an edit or variations",
            )),
        }
    }

    /// Between two steps of a job that is not in the batch.
    fn beside(&mut self, job: &Arc<Job>, event: &Event<'_>) -> ControlFlow<()> {
        if let Event::Tokens { done, total, .. } = *event {
            job.update(|state| (state.done, state.total) = (done, total));
        }
        self.round();
        match job.is_cancelled() || self.app.stopping() == Stopping::Now {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// The thread that writes.
struct Finisher {
    app: App,
    model: String,
    licence: Option<String>,
    /// Images of jobs whose others are still decoded.
    collected: HashMap<String, Vec<Option<GeneratedImage>>>,
    /// Why a picture of a job was refused.
    refused: HashMap<String, JobError>,
}

impl Finisher {
    fn new(app: App, model: String, licence: Option<String>) -> Self {
        Finisher {
            app,
            model,
            licence,
            collected: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    fn run(mut self, results: &Receiver<Finished>) {
        while let Ok(finished) = results.recv() {
            let job = match &finished {
                Finished::Images { job, .. }
                | Finished::Edit(job, _)
                | Finished::Vary(job, _)
                | Finished::Failed(job, _)
                | Finished::Cancelled(job)
                | Finished::PutBack(job) => job.clone(),
            };
            // A part of a job that is over: it failed, or was cancelled, meanwhile.
            if job.state().status.is_over() {
                continue;
            }
            if let Err(error) = self.finish(finished) {
                let error = match error {
                    // While it was enlarged.
                    ServeError::Impasto(error) if error.kind() == ErrorKind::Stopped => {
                        let stopped = match job.is_cancelled() {
                            true => Finished::Cancelled(job),
                            false => Finished::PutBack(job),
                        };
                        if let Err(error) = self.finish(stopped) {
                            crate::log::error(error);
                        }
                        continue;
                    }
                    ServeError::Impasto(error) => JobError::of(&error),
                    other => {
                        crate::log::error(other);
                        JobError {
                            code: "internal_error".into(),
                            message: "The server failed. Its log says why.".into(),
                            param: None,
                        }
                    }
                };
                job.cancel();
                self.end(&job, Status::Failed, Some(error));
            }
        }
    }

    fn finish(&mut self, finished: Finished) -> Result<(), ServeError> {
        match finished {
            Finished::Images {
                job,
                first,
                images,
                sampling,
                order,
            } => self.images(&job, first, images, (&sampling, order)),
            Finished::Edit(job, outcome) => {
                let Task::Edit { request, .. } = &job.record.task else {
                    return Ok(());
                };
                for (place, candidate) in outcome.candidates.iter().enumerate() {
                    let original = outcome.image(candidate);
                    let made_by = (&self.model[..], self.licence.as_deref());
                    let settings = outcome.settings(request, candidate, made_by, &original);
                    let drawn = (original, Some(&*outcome));
                    let log_likelihood = candidate.edited.likelihood.map(|of| of.given);
                    self.write(&job, place, drawn, (settings, log_likelihood))?;
                }
                self.end_with(&job);
                Ok(())
            }
            Finished::Vary(job, outcome) => {
                for (place, image) in outcome.images.iter().enumerate() {
                    let settings = Settings {
                        steps: outcome.sampled,
                        ..self.settings(&job.record.task, image, &outcome.sampling, outcome.order)
                    };
                    let drawn = (Original::from(&image.picture), None);
                    self.write(&job, place, drawn, (settings, Some(image.log_likelihood)))?;
                }
                self.end_with(&job);
                Ok(())
            }
            Finished::Failed(job, error) => {
                self.end(&job, Status::Failed, Some(error));
                Ok(())
            }
            Finished::Cancelled(job) => {
                self.end(&job, Status::Cancelled, None);
                Ok(())
            }
            Finished::PutBack(job) => {
                if job.record.attached {
                    let error = JobError {
                        code: "server_stopping".into(),
                        message: "The server is stopping.".into(),
                        param: None,
                    };
                    self.end(&job, Status::Cancelled, Some(error));
                } else {
                    self.app.store.requeue_job(&job.record.id)?;
                    job.update(|state| state.status = Status::Queued);
                }
                Ok(())
            }
        }
    }

    /// Images of a prompt: listed at once, or when all of them are there where a CLIP chooses.
    fn images(
        &mut self,
        job: &Arc<Job>,
        first: usize,
        images: Vec<GeneratedImage>,
        (sampling, order): (&SamplingOptions, Order),
    ) -> Result<(), ServeError> {
        let Task::Generate { request } = &job.record.task else {
            return Ok(());
        };
        let all = self
            .collected
            .entry(job.record.id.clone())
            .or_insert_with(|| vec![None; job.sampled()]);
        for (place, image) in (first..).zip(images) {
            if let Some(known) = all.get_mut(place) {
                *known = Some(image);
            }
        }
        let complete = all.iter().all(Option::is_some);
        let chooses = request.best_of.is_some();
        let listed: Vec<(usize, GeneratedImage)> = match (chooses, complete) {
            (true, false) => return Ok(()),
            (true, true) => {
                let all = self.collected.remove(&job.record.id).unwrap_or_default();
                let images: Vec<GeneratedImage> = all.into_iter().flatten().collect();
                let mut request = request.clone();
                // As in the command.
                if images.iter().any(|image| image.caption_nats.is_none()) {
                    request.ranker = Some(self.app.clip()?);
                }
                let kept = request.kept(images)?;
                kept.into_iter().enumerate().collect()
            }
            (false, _) => {
                let places = first..;
                let all = self.collected.get(&job.record.id);
                let new = all.map(|all| {
                    all[first..]
                        .iter()
                        .map_while(Clone::clone)
                        .collect::<Vec<_>>()
                });
                places.zip(new.unwrap_or_default()).collect()
            }
        };
        for (place, image) in &listed {
            let settings = self.settings(&job.record.task, image, sampling, order);
            let drawn = Original::from(&image.picture);
            self.write(
                job,
                *place,
                (drawn, None),
                (settings, Some(image.log_likelihood)),
            )?;
        }
        if complete {
            self.end_with(job);
        }
        Ok(())
    }

    fn settings(
        &self,
        task: &Task,
        image: &GeneratedImage,
        sampling: &SamplingOptions,
        order: Order,
    ) -> Settings {
        let negative = task.negative_prompt();
        Settings {
            licence: self.licence.clone(),
            negative_prompt: (!negative.is_empty()).then(|| negative.to_owned()),
            ..Settings::of_generated(
                &self.model,
                task.prompt(),
                image,
                sampling,
                (order, &image.picture),
            )
        }
    }

    fn picture(&self, job: &Job, place: usize, settings: &Settings, parameters: String) -> Picture {
        Picture {
            id: crate::random_id(),
            job: job.record.id.clone(),
            place,
            model: self.model.clone(),
            kind: job.record.task.kind().into(),
            prompt: settings.prompt.clone(),
            seed: settings.seed.to_string(),
            width: settings.width,
            height: settings.height,
            parameters,
            log_likelihood: None,
            clip_score: settings.clip_score.map(f64::from),
            tokens: settings.steps,
            favourite: false,
            created: crate::log::now(),
        }
    }

    /// Enlarges what was drawn, where that was requested, and lists it; with the edit that it is of, if it is of one.
    fn write(
        &mut self,
        job: &Job,
        place: usize,
        (drawn, edit): (Original, Option<&EditOutcome>),
        (settings, log_likelihood): (Settings, Option<f64>),
    ) -> Result<(), ServeError> {
        if job
            .state()
            .pictures
            .iter()
            .any(|picture| picture.place == place)
        {
            return Ok(());
        }
        let verdict = self.verdict(job, &drawn.picture())?;
        if let Err(error) = verdict.refuse("picture") {
            // The others of the job are not held back.
            self.refused
                .insert(job.record.id.clone(), JobError::of(&error));
            return Ok(());
        }
        let settings = Settings {
            safety: verdict.record(),
            ..settings
        };
        let drawn = match verdict.action() {
            Action::Blur => Original::from(&drawn.picture().blurred()?),
            _ => drawn,
        };
        let (shown, settings) = self.enlarged(job, drawn, settings)?;
        let policy = &self.app.config.provenance;
        let written = match edit {
            None => policy.encode(&shown.picture(), &settings, PNG)?,
            Some(outcome) => {
                // What the edit started from is named where the file is signed.
                let source = self.app.store.input_path(&job.record.id, "image");
                let parent = match policy.signer.is_some() {
                    true => impasto::files::read(source)?,
                    false => Vec::new(),
                };
                let parent = (!parent.is_empty()).then_some(Parent {
                    bytes: &parent,
                    name: "the picture that was edited",
                });
                policy.encode_edit(&shown, &outcome.mask, &settings, PNG, parent)?
            }
        };
        let picture = Picture {
            log_likelihood,
            width: shown.width(),
            height: shown.height(),
            ..self.picture(job, place, &settings, settings.parameters())
        };
        self.list(job, picture, written)
    }

    fn enlarged(
        &self,
        job: &Job,
        drawn: Original,
        settings: Settings,
    ) -> Result<(Original, Settings), ServeError> {
        let Some(factor) = job.record.task.upscale() else {
            return Ok((drawn, settings));
        };
        let Some(upscaler) = &self.app.upscaler else {
            // A job of a server that had one.
            let reason = "this server has no upscaler any more";
            return Err(impasto::Error::invalid("upscale", reason).into());
        };
        let request = Upscale {
            factor: Some(factor),
            ..Upscale::new(drawn)
        };
        let outcome = upscaler.run(&request, &mut |_: &Event<'_>| match job.is_cancelled()
            || self.app.stopping() == Stopping::Now
        {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let upscaler = upscaler.name().to_owned();
        let upscale = Some(Upscaled { factor, upscaler });
        Ok((
            outcome.image,
            Settings {
                upscale,
                ..settings
            },
        ))
    }

    fn list(&self, job: &Job, picture: Picture, written: Written) -> Result<(), ServeError> {
        for line in &written.notes {
            crate::log::error(format_args!("picture {}: {line}", picture.id));
        }
        let picture = self.app.store.add_picture(picture, &written.bytes)?;
        self.app.metrics.drew();
        job.update(|state| {
            state.previews.remove(&picture.place);
            let place = state
                .pictures
                .partition_point(|other| other.place < picture.place);
            state.pictures.insert(place, picture);
        });
        Ok(())
    }

    /// What the guard says of a picture of a job.
    fn verdict(&self, job: &Job, picture: &Image) -> Result<Verdict, ServeError> {
        let guard = &self.app.guard;
        let prompt = guard.prompt(&[job.record.task.prompt()]);
        let verdicts = guard.pictures(std::slice::from_ref(picture), &prompt)?;
        Ok(verdicts.into_iter().next().unwrap_or_default())
    }

    /// A job whose work is done ends: with the pictures that were not refused, or, where all were, with that.
    fn end_with(&mut self, job: &Arc<Job>) {
        match self.refused.remove(&job.record.id) {
            Some(error) if job.state().pictures.is_empty() => {
                self.end(job, Status::Failed, Some(error));
            }
            _ => self.end(job, Status::Done, None),
        }
    }

    fn end(&mut self, job: &Arc<Job>, status: Status, error: Option<JobError>) {
        self.refused.remove(&job.record.id);
        self.collected.remove(&job.record.id);
        self.app.end(job, status, error);
    }
}
