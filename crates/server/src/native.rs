//! The native API: jobs that outlive their connections, the gallery, captions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use impasto::edit::{Area, Choice, Region, Sides};
use impasto::families::Language;
use impasto::image::{Format, Image};
use impasto::models::dalle::Order;
use impasto::observer::NoObserver;
use impasto::provenance::{self, Settings, VerifyOptions};
use impasto::request::SamplingOverrides;
use impasto::{Caption, Edit, Generate, Vary};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::{Name, Params, RequestBody};
use crate::clip::{self, Query};
use crate::error::{ApiError, ApiResult, JobError};
use crate::jobs::{Job, JobState};
use crate::openai::{long_caption, random_seed};
use crate::records::{JobRecord, Picture, Status, Task};
use crate::security::Client;
use crate::store::PictureFilter;
use crate::stream::{self, HungUp, Sink};
use crate::submit::{Submission, submit};
use crate::{App, blocking, images};

/// Rows of one page of a list.
const MOST_ROWS: usize = 200;

/// The routes under `/api`, and the pictures themselves.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/jobs", get(list_jobs).post(add_job))
        .route("/api/jobs/{id}", get(show_job).delete(forget_job))
        .route("/api/jobs/{id}/events", get(watch_job))
        .route("/api/jobs/{id}/cancel", post(cancel_job))
        .route("/api/jobs/{id}/retry", post(retry_job))
        .route("/api/pictures", get(list_pictures))
        .route(
            "/api/pictures/search",
            get(search_words).post(search_picture),
        )
        .route("/api/pictures/delete", post(delete_pictures))
        .route(
            "/api/pictures/{id}",
            get(show_picture)
                .patch(change_picture)
                .delete(delete_picture),
        )
        .route("/api/settings", post(read_settings))
        .route("/api/verify", post(verify))
        .route("/api/captions", post(captions))
        .route("/api/models", get(models))
        .route("/files/{name}", get(file))
}

/// A job as clients ask for it. Fields that its kind has no use for are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JobRequest {
    kind: Option<String>,
    model: Option<String>,
    prompt: Option<String>,
    /// What the pictures move away from; with guidance alone.
    negative_prompt: Option<String>,
    n: Option<usize>,
    best_of: Option<usize>,
    /// A number, or text: JavaScript's numbers have 53 bits.
    seed: Option<Value>,
    guidance: Option<f32>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    order: Option<String>,
    truncate: Option<bool>,
    chunks: Option<bool>,
    /// A data URL, or base64.
    image: Option<String>,
    /// The name of a picture in the gallery.
    picture: Option<String>,
    mask: Option<String>,
    #[serde(rename = "box")]
    area: Option<Area>,
    outpaint: Option<Sides>,
    damaged: Option<bool>,
    tries: Option<usize>,
    strength: Option<f64>,
    choice: Option<Choice>,
    /// How many times as large finished pictures become.
    upscale: Option<usize>,
}

impl JobRequest {
    fn seed(&self) -> ApiResult<u64> {
        let bad = || ApiError::invalid("seed", "seed is not a whole number of 64 bits.");
        match &self.seed {
            None => Ok(random_seed()),
            Some(Value::Number(number)) => number.as_u64().ok_or_else(bad),
            Some(Value::String(text)) => text.parse().map_err(|_| bad()),
            Some(_) => Err(bad()),
        }
    }

    fn order(&self) -> ApiResult<Option<Order>> {
        let order = self.order.as_deref().map(str::parse).transpose();
        order.map_err(|error: impasto::Error| ApiError::invalid("order", error.to_string()))
    }

    fn sampling(&self) -> SamplingOverrides {
        SamplingOverrides {
            guidance_scale: self.guidance,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    /// Refuses fields that have no meaning for the kind: whoever sends one expects something of it.
    fn check(&self, kind: &str) -> ApiResult<()> {
        let has_picture = self.image.is_some() || self.picture.is_some();
        let given = [
            ("image", has_picture, "edit, vary"),
            ("best_of", self.best_of.is_some(), "generate"),
            ("mask", self.mask.is_some(), "edit"),
            ("box", self.area.is_some(), "edit"),
            ("outpaint", self.outpaint.is_some(), "edit"),
            ("damaged", self.damaged.is_some(), "edit"),
            ("tries", self.tries.is_some(), "edit, vary"),
            ("strength", self.strength.is_some(), "vary"),
            ("choice", self.choice.is_some(), "vary"),
        ];
        for (name, given, kinds) in given {
            if given && !kinds.split(", ").any(|known| known == kind) {
                return Err(ApiError::invalid(
                    name,
                    format!("{name} is for jobs of the kind {kinds}."),
                ));
            }
        }
        if kind != "generate" && !has_picture {
            return Err(ApiError::invalid("image", "Give image or picture."));
        }
        Ok(())
    }

    /// What is drawn anew; with the mask, where it is one.
    fn region(&self) -> ApiResult<(Region, Option<Bytes>)> {
        let mut regions = Vec::new();
        if let Some(mask) = &self.mask {
            regions.push((Region::Transparent, Some(images::from_text("mask", mask)?)));
        }
        regions.extend(self.area.map(|area| (Region::Box(area), None)));
        regions.extend(self.outpaint.map(|sides| (Region::Outpaint(sides), None)));
        if self.damaged == Some(true) {
            regions.push((Region::Damage(None), None));
        }
        match regions.len() {
            0 => Ok((Region::Transparent, None)),
            1 => Ok(regions.swap_remove(0)),
            _ => Err(ApiError::invalid(
                "mask",
                "Give one of mask, box, outpaint and damaged.",
            )),
        }
    }
}

/// A picture of the gallery, or one that comes with the request.
async fn given_picture(app: &App, image: Option<&str>, picture: Option<&str>) -> ApiResult<Bytes> {
    match (image, picture) {
        (Some(image), None) => images::from_text("image", image),
        (None, Some(id)) => {
            let (store, id) = (app.clone(), id.to_owned());
            let bytes = blocking(move || match store.store.picture(&id)? {
                Some(picture) => Ok(Some(impasto::files::read(
                    store.store.picture_path(&picture.id),
                )?)),
                None => Ok(None),
            });
            bytes
                .await?
                .map(Bytes::from)
                .ok_or_else(|| ApiError::invalid("picture", "There is no such picture."))
        }
        (None, None) => Err(ApiError::invalid("image", "Give image or picture.")),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "image",
            "Give image or picture, not both.",
        )),
    }
}

async fn add_job(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    body: RequestBody,
) -> ApiResult<Response> {
    let request: JobRequest = body.json()?;
    let model = app.model(request.model.as_deref())?.clone();
    let kind = request.kind.as_deref().unwrap_or("generate");
    let (n, seed) = (request.n.unwrap_or(1), request.seed()?);
    let mut inputs = Vec::new();
    let (sampling, order) = (request.sampling(), request.order()?);
    let (long, upscale) = (
        long_caption(request.truncate, request.chunks)?,
        request.upscale,
    );
    request.check(kind)?;
    if kind != "generate" {
        let image =
            given_picture(&app, request.image.as_deref(), request.picture.as_deref()).await?;
        inputs.push(("image", image));
    }
    let prompt = request.prompt.clone().filter(|prompt| !prompt.is_empty());
    let negative_prompt = request
        .negative_prompt
        .clone()
        .filter(|prompt| !prompt.is_empty());
    // Requests are kept without their pictures, which are files.
    let nothing = || Image::filled(1, 1, [0; 3]);
    let task = match kind {
        "generate" => Task::Generate {
            request: Generate {
                n,
                best_of: request.best_of,
                sampling,
                order,
                long,
                negative_prompt,
                upscale,
                ..Generate::new(prompt.unwrap_or_default(), seed)
            },
        },
        "edit" => {
            let looked = images::look(&app, "image", &inputs[0].1).await?;
            let (region, mask) = request.region()?;
            if let Some(mask) = mask {
                let of_mask = images::look(&app, "mask", &mask).await?;
                if (of_mask.width, of_mask.height) != (looked.width, looked.height) {
                    return Err(ApiError::invalid(
                        "mask",
                        "The mask and the picture differ in size.",
                    ));
                }
                inputs.push(("mask", mask));
            } else if matches!(region, Region::Transparent) && !looked.transparent {
                let message = "Nothing says what to draw: give mask, box, outpaint or damaged.";
                return Err(ApiError::invalid("mask", message));
            }
            Task::Edit {
                mask: inputs.len() > 1,
                request: Edit {
                    prompt,
                    n,
                    sampling,
                    order,
                    long,
                    negative_prompt,
                    tries: request.tries,
                    upscale,
                    image: None,
                    ..Edit::new((&nothing()).into(), region, seed)
                },
            }
        }
        "vary" => {
            images::look(&app, "image", &inputs[0].1).await?;
            Task::Vary {
                request: Vary {
                    prompt,
                    n,
                    sampling,
                    order,
                    long,
                    negative_prompt,
                    choice: request.choice.unwrap_or_default(),
                    tries: request.tries,
                    upscale,
                    image: None,
                    ..Vary::new(nothing(), request.strength.unwrap_or(0.5), seed)
                },
            }
        }
        _ => {
            return Err(ApiError::invalid(
                "kind",
                "kind is not generate, edit or vary.",
            ));
        }
    };
    let submission = Submission {
        client,
        model,
        task,
        inputs,
        attached: false,
        partials: 0,
    };
    let job = submit(&app, submission).await?;
    Ok((StatusCode::ACCEPTED, Json(live_job(&app, &job))).into_response())
}

/// A job as clients see it.
fn job_json(
    record: &JobRecord,
    status: Status,
    error: Option<&JobError>,
    pictures: &[Picture],
) -> Value {
    json!({
        "id": record.id, "kind": record.task.kind(), "model": record.model, "status": status,
        "prompt": record.task.prompt(), "seed": record.task.seed().to_string(), "n": record.task.n(),
        "created": record.created, "started": record.started, "finished": record.finished,
        "error": error, "pictures": pictures,
    })
}

/// One that is not over: also how far it is, and how many come before it.
fn live_job(app: &App, job: &Job) -> Value {
    let state = job.state();
    let mut value = job_json(
        &job.record,
        state.status,
        state.error.as_ref(),
        &state.pictures,
    );
    value["progress"] = progress(&state);
    let waiting = app.jobs.all();
    let before = waiting
        .iter()
        .take_while(|other| other.record.id != job.record.id);
    let before = before
        .filter(|other| other.record.model == job.record.model)
        .count();
    value["before"] = match state.status {
        Status::Queued => before.into(),
        _ => 0.into(),
    };
    value
}

fn progress(state: &JobState) -> Value {
    match (state.status, state.total) {
        (Status::Done, _) => 1.0.into(),
        (_, 0) => 0.0.into(),
        (_, total) => (state.done as f64 / total as f64).min(1.0).into(),
    }
}

/// One that is over.
fn kept_job(record: &JobRecord, pictures: &[Picture]) -> Value {
    let mut value = job_json(record, record.status, record.error.as_ref(), pictures);
    value["progress"] = f64::from(u8::from(record.status == Status::Done)).into();
    value["before"] = 0.into();
    value
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

fn limit(limit: Option<usize>) -> ApiResult<usize> {
    match limit.unwrap_or(50) {
        limit @ 1..=MOST_ROWS => Ok(limit),
        _ => Err(ApiError::invalid(
            "limit",
            format!("limit is not between 1 and {MOST_ROWS}."),
        )),
    }
}

async fn list_jobs(State(app): State<App>, Params(page): Params<Page>) -> ApiResult<Json<Value>> {
    let limit = limit(page.limit)?;
    let shared = app.clone();
    let jobs = blocking(move || {
        let mut jobs = Vec::new();
        for record in shared.store.jobs(page.after.as_deref(), limit)? {
            jobs.push(match shared.jobs.get(&record.id) {
                Some(live) => live_job(&shared, &live),
                None => kept_job(&record, &pictures_of(&shared, &record.id)?),
            });
        }
        Ok(jobs)
    });
    Ok(Json(json!({"jobs": jobs.await?})))
}

fn pictures_of(app: &App, job: &str) -> Result<Vec<Picture>, crate::ServeError> {
    let filter = PictureFilter {
        job: Some(job.to_owned()),
        limit: MOST_ROWS,
        ..PictureFilter::default()
    };
    let mut pictures = app.store.pictures(&filter)?;
    pictures.sort_by_key(|picture| picture.place);
    Ok(pictures)
}

/// A job that is over, or that is unknown.
async fn ended_job(app: &App, id: String) -> ApiResult<(JobRecord, Vec<Picture>)> {
    let shared = app.clone();
    let found = blocking(move || match shared.store.job(&id)? {
        Some(record) => Ok(Some((record, pictures_of(&shared, &id)?))),
        None => Ok(None),
    });
    found
        .await?
        .ok_or_else(|| ApiError::not_found("The job is"))
}

async fn show_job(State(app): State<App>, Name(id): Name) -> ApiResult<Json<Value>> {
    if let Some(job) = app.jobs.get(&id) {
        return Ok(Json(live_job(&app, &job)));
    }
    let (record, pictures) = ended_job(&app, id).await?;
    Ok(Json(kept_job(&record, &pictures)))
}

async fn cancel_job(State(app): State<App>, Name(id): Name) -> ApiResult<Json<Value>> {
    if let Some(job) = app.jobs.get(&id) {
        let (shared, cancelled) = (app.clone(), job.clone());
        blocking(move || {
            shared.cancel(&cancelled);
            Ok(())
        })
        .await?;
        let _ = crate::submit::finished(&job).await;
    }
    // What is over stays as it is.
    let (record, pictures) = ended_job(&app, id).await?;
    Ok(Json(kept_job(&record, &pictures)))
}

async fn forget_job(State(app): State<App>, Name(id): Name) -> ApiResult<StatusCode> {
    let forgotten = {
        let (app, id) = (app.clone(), id.clone());
        blocking(move || app.store.remove_job(&id)).await?
    };
    if forgotten {
        return Ok(StatusCode::NO_CONTENT);
    }
    ended_job(&app, id).await?;
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "job_is_live",
        "The job is not over; cancel it first.",
    ))
}

/// The same again, with the same seed: a job that failed, or one whose pictures were deleted.
async fn retry_job(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    Name(id): Name,
) -> ApiResult<Response> {
    if app.jobs.get(&id).is_some() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "job_is_live",
            "The job is not over.",
        ));
    }
    let (record, _) = ended_job(&app, id.clone()).await?;
    let model = app.model(Some(&record.model))?.clone();
    let names: &[&'static str] = match record.task {
        Task::Generate { .. } => &[],
        Task::Edit { mask: true, .. } => &["image", "mask"],
        _ => &["image"],
    };
    if record.attached && !names.is_empty() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "inputs_are_gone",
            "The pictures that this request sent are not kept. Send it again.",
        ));
    }
    let shared = app.clone();
    let inputs = blocking(move || {
        let mut inputs = Vec::new();
        for &name in names {
            let bytes = impasto::files::read(shared.store.input_path(&id, name))?;
            inputs.push((name, Bytes::from(bytes)));
        }
        Ok(inputs)
    });
    let submission = Submission {
        client,
        model,
        task: record.task,
        inputs: inputs.await?,
        attached: false,
        partials: 0,
    };
    let job = submit(&app, submission).await?;
    Ok((StatusCode::ACCEPTED, Json(live_job(&app, &job))).into_response())
}

async fn watch_job(State(app): State<App>, Name(id): Name) -> ApiResult<Response> {
    let Some(job) = app.jobs.get(&id) else {
        let (record, pictures) = ended_job(&app, id).await?;
        let value = kept_job(&record, &pictures);
        return Ok(stream::respond(move |sink| async move {
            sink.send("job", &value).await
        }));
    };
    Ok(stream::respond(move |sink| async move {
        watch(&app, &job, &sink).await
    }))
}

/// `progress`, `preview` and `picture` events, and a `job` when it is over.
async fn watch(app: &App, job: &Arc<Job>, sink: &Sink) -> Result<(), HungUp> {
    let watcher = job.watch_previews();
    let mut watched = job.watch();
    let mut shown: BTreeMap<usize, f64> = BTreeMap::new();
    let mut sent: Vec<usize> = Vec::new();
    loop {
        let state = watched.borrow_and_update().clone();
        for picture in &state.pictures {
            if !sent.contains(&picture.place) {
                sent.push(picture.place);
                sink.send("picture", &json!(picture)).await?;
            }
        }
        if state.status.is_over() {
            drop(watcher);
            let mut value = live_job(app, job);
            value["status"] = json!(state.status);
            return sink.send("job", &value).await;
        }
        for (place, preview) in &state.previews {
            if shown.insert(*place, preview.share) != Some(preview.share) {
                let url = format!("data:image/png;base64,{}", images::to_text(&preview.png));
                let data = json!({"place": place, "share": preview.share, "image": url});
                sink.send("preview", &data).await?;
            }
        }
        let live = live_job(app, job);
        let data =
            json!({"status": state.status, "progress": live["progress"], "before": live["before"]});
        sink.send("progress", &data).await?;
        // A client needs no more than this many a second.
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        if watched.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PictureQuery {
    after: Option<String>,
    limit: Option<usize>,
    favourites: bool,
    job: Option<String>,
    text: Option<String>,
}

async fn list_pictures(
    State(app): State<App>,
    Params(query): Params<PictureQuery>,
) -> ApiResult<Json<Value>> {
    let filter = PictureFilter {
        favourites: query.favourites,
        job: query.job,
        text: query.text.filter(|text| !text.is_empty()),
        after: query.after,
        limit: limit(query.limit)?,
    };
    blocking(move || {
        let (total, favourites) = app.store.count_pictures()?;
        let pictures = app.store.pictures(&filter)?;
        Ok(Json(
            json!({"pictures": pictures, "total": total, "favourites": favourites}),
        ))
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    q: String,
    limit: Option<usize>,
}

async fn search_words(
    State(app): State<App>,
    Params(query): Params<SearchQuery>,
) -> ApiResult<Json<Value>> {
    if query.q.trim().is_empty() {
        return Err(ApiError::invalid("q", "q is empty."));
    }
    found(clip::search(&app, Query::Text(query.q), limit(query.limit)?).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PictureSearch {
    image: Option<String>,
    picture: Option<String>,
    limit: Option<usize>,
}

async fn search_picture(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let request: PictureSearch = body.json()?;
    let limit = limit(request.limit)?;
    let bytes = given_picture(&app, request.image.as_deref(), request.picture.as_deref()).await?;
    let picture = images::decode(&app, "image", &bytes).await?.picture();
    found(clip::search(&app, Query::Picture(Box::new(picture)), limit).await?)
}

fn found(hits: Vec<(Picture, f32)>) -> ApiResult<Json<Value>> {
    let pictures = hits.into_iter().map(|(picture, score)| {
        let mut value = json!(picture);
        value["score"] = json!(score);
        value
    });
    Ok(Json(json!({"pictures": pictures.collect::<Vec<_>>()})))
}

async fn show_picture(State(app): State<App>, Name(id): Name) -> ApiResult<Json<Picture>> {
    let picture = blocking(move || app.store.picture(&id)).await?;
    picture
        .map(Json)
        .ok_or_else(|| ApiError::not_found("The picture is"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PictureChange {
    favourite: bool,
}

async fn change_picture(
    State(app): State<App>,
    Name(id): Name,
    body: RequestBody,
) -> ApiResult<Json<Picture>> {
    let change: PictureChange = body.json()?;
    let picture = blocking(move || {
        app.store.set_favourite(&id, change.favourite)?;
        app.store.picture(&id)
    });
    picture
        .await?
        .map(Json)
        .ok_or_else(|| ApiError::not_found("The picture is"))
}

async fn delete_picture(State(app): State<App>, Name(id): Name) -> ApiResult<StatusCode> {
    match blocking(move || app.store.remove_picture(&id)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::not_found("The picture is")),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deletion {
    ids: Vec<String>,
}

async fn delete_pictures(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let deletion: Deletion = body.json()?;
    let deleted = blocking(move || {
        let mut deleted = 0;
        for id in &deletion.ids {
            deleted += usize::from(app.store.remove_picture(id)?);
        }
        Ok(deleted)
    });
    Ok(Json(json!({"deleted": deleted.await?})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    image: Option<String>,
    picture: Option<String>,
}

/// What a picture's file says of how it was made.
async fn read_settings(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let given: Given = body.json()?;
    let bytes = given_picture(&app, given.image.as_deref(), given.picture.as_deref()).await?;
    let text = provenance::read_parameters(&bytes);
    let settings = text.as_deref().and_then(|text| Settings::parse(text).ok());
    let settings = settings.map(|settings| {
        let mut value = json!(settings);
        value["seed"] = settings.seed.to_string().into();
        value["order"] = settings.order.to_string().into();
        value
    });
    Ok(Json(json!({"parameters": text, "settings": settings})))
}

/// What a picture's file says of its origin, and what of that holds.
async fn verify(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let given: Given = body.json()?;
    let bytes = given_picture(&app, given.image.as_deref(), given.picture.as_deref()).await?;
    // Refuses what is too large, and what is no picture.
    images::decode(&app, "image", &bytes).await?;
    let mut options = VerifyOptions::default();
    options.keys.extend(app.config.provenance.watermark.clone());
    options.keys.dedup_by(|a, b| a.name() == b.name());
    let verified = blocking(move || Ok(provenance::verify(&bytes, "image", &options)?));
    Ok(Json(json!(verified.await?)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CaptionRequest {
    model: Option<String>,
    image: Option<String>,
    picture: Option<String>,
    n: Option<usize>,
    language: Option<Language>,
}

/// What a model says that a picture shows.
async fn captions(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let request: CaptionRequest = body.json()?;
    let model = app.model(request.model.as_deref())?.clone();
    let n = request.n.unwrap_or(1);
    if n == 0 || n > 8 {
        return Err(ApiError::invalid("n", "n is not between 1 and 8."));
    }
    let bytes = given_picture(&app, request.image.as_deref(), request.picture.as_deref()).await?;
    let caption = Caption {
        n,
        language: request.language,
        ..Caption::new(images::decode(&app, "image", &bytes).await?.picture())
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let called = model.call(Box::new(move |model| {
        let outcome = match model {
            Ok(model) => model
                .run(&caption, &mut NoObserver)
                .map_err(|error| JobError::of(&error)),
            Err(error) => Err(JobError::of(error)),
        };
        // Whoever asked may have gone.
        let _ = sender.send(outcome);
    }));
    if !called {
        return Err(ApiError::overloaded(app.metrics.retry_after()));
    }
    let outcome = receiver.await.map_err(|_| ApiError::stopping())??;
    Ok(Json(json!({"captions": outcome.captions})))
}

async fn models(State(app): State<App>) -> Json<Value> {
    let models = app.models.iter().map(|model| {
        let mut value = json!(model.card);
        value["loaded"] = model.is_loaded().into();
        value
    });
    Json(json!({
        "models": models.collect::<Vec<_>>(), "clip": clip::NAME, "version": provenance::version(),
        "queue": {"live": app.jobs.len(), "most": app.config.max_queue},
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileQuery {
    download: bool,
}

/// A picture's file: `{id}.png`, `{id}.jpg` or `{id}.webp`. Its name can't be guessed, so that it needs no key.
async fn file(
    State(app): State<App>,
    headers: HeaderMap,
    Name(name): Name,
    Params(query): Params<FileQuery>,
) -> ApiResult<Response> {
    let missing = || ApiError::not_found("The picture is");
    let (id, extension) = name.split_once('.').ok_or_else(missing)?;
    let format: Format = extension.parse().map_err(|_| missing())?;
    let tag = format!("\"{id}\"");
    let shared = app.clone();
    let id = id.to_owned();
    let found = blocking(move || {
        // What is not in the table is never looked for in the file system.
        let Some(picture) = shared.store.picture(&id)? else {
            return Ok(None);
        };
        let bytes = impasto::files::read(shared.store.picture_path(&picture.id))?;
        Ok(Some((
            images::convert(bytes, format, 95, &shared.config.provenance)?,
            picture,
        )))
    });
    let (bytes, picture) = found.await?.ok_or_else(missing)?;
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = bytes.into_response();
    let mut insert = |name: HeaderName, value: String| {
        // Seeds and names are digits and letters.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    };
    insert(header::CONTENT_TYPE, images::media_type(format).into());
    // A picture never changes.
    let forever = "private, max-age=31536000, immutable";
    insert(header::CACHE_CONTROL, forever.into());
    insert(header::ETAG, tag);
    if query.download {
        let extension = format.extension();
        let name = format!(
            "attachment; filename=\"impasto-{}.{extension}\"",
            picture.seed
        );
        insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
