//! AUTOMATIC1111's API, as far as it fits models of tokens: `modules/api/api.py` and `models.py` of
//! AUTOMATIC1111/stable-diffusion-webui.
//!
//! Deviations. The models draw squares of one size: another square size is scaled to. `cfg_scale` is the guidance;
//! `steps` counts with the samplers `parallel` and `confidence` alone, and samplers of diffusion models mean the model's
//! own order. Fields that have no meaning here have no effect, as with that program's own extensions.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use impasto::edit::Region;
use impasto::image::{Format, Image, Original};
use impasto::models::dalle::Order;
use impasto::provenance::Encoding;
use impasto::request::SamplingOverrides;
use impasto::text::clip::LongCaption;
use impasto::{Edit, Generate, Vary, provenance};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::RequestBody;
use crate::error::{ApiError, ApiResult};
use crate::jobs::JobState;
use crate::models::Hosted;
use crate::openai::random_seed;
use crate::records::{Picture, Status, Task};
use crate::security::Client;
use crate::submit::{Attached, MOST_IMAGES, Submission, submit};
use crate::{App, ServeError, blocking, images};

/// The largest side that a picture is scaled to.
const MOST_SIDE: usize = 2048;
/// The samplers that there are.
const SAMPLERS: [&str; 3] = ["raster", "parallel", "confidence"];

/// The routes under `/sdapi`.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/sdapi/v1/txt2img", post(txt2img))
        .route("/sdapi/v1/img2img", post(img2img))
        .route("/sdapi/v1/png-info", post(png_info))
        .route("/sdapi/v1/interrupt", post(interrupt))
        .route("/sdapi/v1/progress", get(progress))
        .route("/sdapi/v1/options", get(options).post(set_options))
        .route("/sdapi/v1/samplers", get(samplers))
        .route("/sdapi/v1/sd-models", get(models))
        .layer(middleware::map_response(in_its_form))
}

/// Errors as that program words them.
async fn in_its_form(response: Response) -> Response {
    let Some(error) = response.extensions().get::<ApiError>() else {
        return response;
    };
    let status = match error.status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        status => status,
    };
    let detail = match &error.param {
        Some(param) => format!("{param}: {}", error.message),
        None => error.message.clone(),
    };
    let body = json!({"detail": detail, "error": error.code, "errors": error.message, "body": ""});
    let mut answer = (status, Json(body)).into_response();
    if let Some(seconds) = error.retry_after {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    sd_model_checkpoint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct DrawRequest {
    prompt: Option<String>,
    negative_prompt: Option<String>,
    seed: Option<i128>,
    sampler_name: Option<String>,
    sampler_index: Option<String>,
    batch_size: Option<usize>,
    n_iter: Option<usize>,
    steps: Option<usize>,
    cfg_scale: Option<f32>,
    width: Option<usize>,
    height: Option<usize>,
    override_settings: Option<Settings>,
    send_images: bool,
    init_images: Option<Vec<String>>,
    mask: Option<String>,
    inpainting_mask_invert: Option<u8>,
    denoising_strength: Option<f64>,
}

impl Default for DrawRequest {
    fn default() -> Self {
        DrawRequest {
            prompt: None,
            negative_prompt: None,
            seed: None,
            sampler_name: None,
            sampler_index: None,
            batch_size: None,
            n_iter: None,
            steps: None,
            cfg_scale: None,
            width: None,
            height: None,
            override_settings: None,
            send_images: true,
            init_images: None,
            mask: None,
            inpainting_mask_invert: None,
            denoising_strength: None,
        }
    }
}

/// A prompt, where there is anything in it.
fn some_words(prompt: &Option<String>) -> Option<String> {
    prompt.clone().filter(|prompt| !prompt.trim().is_empty())
}

impl DrawRequest {
    fn model<'a>(&self, app: &'a App) -> ApiResult<&'a Arc<Hosted>> {
        let asked = self
            .override_settings
            .as_ref()
            .and_then(|settings| settings.sd_model_checkpoint.as_deref());
        match asked {
            Some(name) => app.model(Some(name)),
            None => app.model(app.chosen_model().as_deref()),
        }
    }

    fn n(&self) -> ApiResult<usize> {
        let n = self
            .batch_size
            .unwrap_or(1)
            .checked_mul(self.n_iter.unwrap_or(1));
        match n {
            Some(n @ 1..=MOST_IMAGES) => Ok(n),
            _ => Err(ApiError::invalid(
                "batch_size",
                format!("batch_size times n_iter is not 1 to {MOST_IMAGES}."),
            )),
        }
    }

    fn seed(&self) -> ApiResult<u64> {
        match self.seed {
            None | Some(-1) => Ok(random_seed()),
            Some(seed) => u64::try_from(seed)
                .map_err(|_| ApiError::invalid("seed", "seed is not -1 or 64 bits.")),
        }
    }

    /// The model's own, unless it is named.
    fn order(&self) -> ApiResult<Option<Order>> {
        let sampler = self
            .sampler_name
            .as_deref()
            .or(self.sampler_index.as_deref());
        match (sampler, self.steps.unwrap_or(20)) {
            (Some("parallel" | "confidence"), 0) => Err(ApiError::invalid("steps", "steps is 0.")),
            (Some("parallel"), steps) => Ok(Some(Order::Parallel { steps })),
            (Some("confidence"), steps) => Ok(Some(Order::Confidence { steps })),
            (Some("raster"), _) => Ok(Some(Order::Raster)),
            _ => Ok(None),
        }
    }

    /// Without guidance it has no effect, there as here.
    fn negative_prompt(&self) -> Option<String> {
        some_words(&self.negative_prompt).filter(|_| self.cfg_scale != Some(1.0))
    }

    fn prompt(&self) -> Option<String> {
        some_words(&self.prompt)
    }

    fn sampling(&self) -> SamplingOverrides {
        SamplingOverrides {
            guidance_scale: self.cfg_scale,
            ..SamplingOverrides::default()
        }
    }

    /// The side that pictures are scaled to; none for the model's own.
    fn side(&self) -> ApiResult<Option<usize>> {
        match (self.width, self.height) {
            (None, None) => Ok(None),
            (Some(side), None) | (None, Some(side)) => Ok(Some(side)),
            (Some(width), Some(height)) if width == height => Ok(Some(width)),
            _ => Err(ApiError::invalid("width", "The models draw squares.")),
        }
        .and_then(|side| match side {
            Some(side) if side == 0 || side > MOST_SIDE => Err(ApiError::invalid(
                "width",
                format!("The side is not 1 to {MOST_SIDE}."),
            )),
            side => Ok(side),
        })
    }
}

async fn txt2img(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    body: RequestBody,
) -> ApiResult<Json<Value>> {
    let request: DrawRequest = body.json()?;
    let generate = Generate {
        n: request.n()?,
        sampling: request.sampling(),
        order: request.order()?,
        long: LongCaption::Fit,
        negative_prompt: request.negative_prompt(),
        ..Generate::new(request.prompt().unwrap_or_default(), request.seed()?)
    };
    let submission = Submission {
        client,
        model: request.model(&app)?.clone(),
        task: Task::Generate { request: generate },
        inputs: Vec::new(),
        attached: true,
        partials: 0,
    };
    answer(&app, submission, request.side()?, request.send_images).await
}

async fn img2img(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    body: RequestBody,
) -> ApiResult<Json<Value>> {
    let request: DrawRequest = body.json()?;
    let image = match request.init_images.as_deref() {
        Some([image]) => images::from_text("init_images", image)?,
        _ => return Err(ApiError::invalid("init_images", "Expected one picture.")),
    };
    let looked = images::look(&app, "init_images", &image).await?;
    let mut inputs = vec![("image", image)];
    let nothing = Image::filled(1, 1, [0; 3]);
    let (task, side) = match &request.mask {
        Some(mask) => {
            let mask = images::from_text("mask", mask)?;
            let mask = as_mask(&app, mask, request.inpainting_mask_invert == Some(1)).await?;
            let of_mask = images::look(&app, "mask", &mask).await?;
            if (of_mask.width, of_mask.height) != (looked.width, looked.height) {
                return Err(ApiError::invalid(
                    "mask",
                    "The mask and the picture differ in size.",
                ));
            }
            inputs.push(("mask", mask));
            let edit = Edit {
                prompt: request.prompt(),
                n: request.n()?,
                sampling: request.sampling(),
                order: request.order()?,
                long: LongCaption::Fit,
                negative_prompt: request.negative_prompt(),
                image: None,
                ..Edit::new((&nothing).into(), Region::Transparent, request.seed()?)
            };
            // An edited picture keeps its size.
            (
                Task::Edit {
                    request: edit,
                    mask: true,
                },
                None,
            )
        }
        None => {
            let vary = Vary {
                prompt: request.prompt(),
                n: request.n()?,
                sampling: request.sampling(),
                order: request.order()?,
                long: LongCaption::Fit,
                negative_prompt: request.negative_prompt(),
                image: None,
                ..Vary::new(
                    nothing,
                    request.denoising_strength.unwrap_or(0.75),
                    request.seed()?,
                )
            };
            (Task::Vary { request: vary }, request.side()?)
        }
    };
    let submission = Submission {
        client,
        model: request.model(&app)?.clone(),
        task,
        inputs,
        attached: true,
        partials: 0,
    };
    answer(&app, submission, side, request.send_images).await
}

/// That program's masks say it by brightness alone, whatever their transparency.
async fn as_mask(
    app: &App,
    bytes: axum::body::Bytes,
    inverted: bool,
) -> ApiResult<axum::body::Bytes> {
    let original = images::decode(app, "mask", &bytes).await?;
    blocking(move || {
        let bright = original.brightness();
        let rgb = bright
            .iter()
            .flat_map(|&value| [if (value >= 128) != inverted { 255 } else { 0 }; 3]);
        let mask = Image::new(original.width(), original.height(), rgb.collect())?;
        Ok(mask.encode(Format::Png, 100)?.into())
    })
    .await
}

async fn answer(
    app: &App,
    submission: Submission,
    side: Option<usize>,
    send: bool,
) -> ApiResult<Json<Value>> {
    let task = submission.task.clone();
    let job = submit(app, submission).await?;
    // Progress is requested in other requests.
    let previews = job.watch_previews();
    let attached = Attached::new(app.clone(), job.clone());
    let ended = attached.finished().await;
    drop(previews);
    let state = match ended {
        Ok(state) => state,
        // An interrupted one answers with what is there.
        Err(_) if job.state().status == Status::Cancelled && job.state().error.is_none() => {
            job.state()
        }
        Err(error) => return Err(error),
    };
    let pictures = state.pictures.clone();
    let shared = app.clone();
    let texts = blocking(move || {
        pictures
            .iter()
            .map(|picture| text_of(&shared, picture, side))
            .collect::<Result<Vec<_>, ServeError>>()
    });
    let texts = texts.await?;
    let infotexts: Vec<&str> = state
        .pictures
        .iter()
        .map(|picture| picture.parameters.as_str())
        .collect();
    let number = |picture: &Picture| picture.seed.parse::<u64>().map_or(Value::Null, Value::from);
    let seeds: Vec<Value> = state.pictures.iter().map(number).collect();
    let prompts = vec![task.prompt(); state.pictures.len()];
    let info = json!({
        "prompt": task.prompt(), "all_prompts": prompts, "negative_prompt": task.negative_prompt(), "seed": task.seed(), "all_seeds": seeds,
        "width": side, "height": side, "infotexts": infotexts, "index_of_first_image": 0,
        "sd_model_name": job.record.model, "version": provenance::version(),
    });
    Ok(Json(json!({
        "images": if send { texts } else { Vec::new() },
        "parameters": {"prompt": task.prompt(), "seed": task.seed(), "batch_size": task.n(), "n_iter": 1},
        "info": info.to_string(),
    })))
}

/// A picture in base64, scaled where that is requested.
fn text_of(app: &App, picture: &Picture, side: Option<usize>) -> Result<String, ServeError> {
    let mut bytes = impasto::files::read(app.store.picture_path(&picture.id))?;
    if let Some(side) = side.filter(|&side| side != picture.width) {
        let scaled = Original::decode(&bytes, "picture")?
            .picture()
            .resize(side, side)?;
        let samples = Original::from(&scaled).samples(Format::Png);
        let encoding = Encoding {
            format: Format::Png,
            quality: 100,
        };
        bytes = app
            .config
            .provenance
            .encode_again(&samples, encoding, &bytes)?;
    }
    Ok(images::to_text(&bytes))
}

#[derive(Debug, Deserialize)]
struct PngInfo {
    image: String,
}

async fn png_info(body: RequestBody) -> ApiResult<Json<Value>> {
    let request: PngInfo = body.json()?;
    let bytes = images::from_text("image", &request.image)?;
    let text = provenance::read_parameters(&bytes).unwrap_or_default();
    let settings = provenance::Settings::parse(&text).ok();
    let parameters = settings.map(|settings| {
        json!({
            "Prompt": settings.prompt, "Negative prompt": "", "Steps": settings.steps.to_string(),
            "Sampler": settings.order.to_string(), "CFG scale": settings.sampling.guidance_scale.to_string(),
            "Seed": settings.seed.to_string(), "Size-1": settings.width, "Size-2": settings.height,
            "Model": settings.model,
        })
    });
    let items = match text.is_empty() {
        true => json!({}),
        false => json!({"parameters": text}),
    };
    Ok(Json(
        json!({"info": text, "items": items, "parameters": parameters.unwrap_or_else(|| json!({}))}),
    ))
}

/// The job that is shown: the client's own, the oldest that runs.
fn running(app: &App, client: &str) -> Option<Arc<crate::jobs::Job>> {
    let mut jobs = app.jobs.all().into_iter();
    jobs.find(|job| job.record.client == client && job.state().status == Status::Running)
}

async fn interrupt(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
) -> Json<Value> {
    if let Some(job) = running(&app, &client) {
        app.cancel(&job);
    }
    Json(json!({}))
}

async fn progress(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
) -> Json<Value> {
    let job = running(&app, &client);
    let state = job.as_ref().map(|job| job.state());
    let share = state.as_ref().map_or(0.0, share);
    let preview = state
        .as_ref()
        .and_then(|state| state.previews.values().next().cloned());
    let eta = job.as_ref().filter(|_| share > 0.0).map_or(0.0, |job| {
        (crate::log::now() - job.record.created) * (1.0 - share) / share
    });
    let (done, total) = state
        .as_ref()
        .map_or((0, 0), |state| (state.done, state.total));
    Json(json!({
        "progress": share, "eta_relative": eta,
        "state": {
            "skipped": false, "interrupted": job.as_ref().is_some_and(|job| job.is_cancelled()), "stopping_generation": false,
            "job": job.as_ref().map_or("", |job| job.record.id.as_str()), "job_count": app.jobs.len(), "job_no": 0,
            "job_timestamp": "0", "sampling_step": done, "sampling_steps": total,
        },
        "current_image": preview.map(|preview| images::to_text(&preview.png)),
        "textinfo": null,
    }))
}

fn share(state: &JobState) -> f64 {
    state.done as f64 / state.total.max(1) as f64
}

async fn options(State(app): State<App>) -> ApiResult<Json<Value>> {
    let model = app.model(app.chosen_model().as_deref())?;
    Ok(Json(
        json!({"sd_model_checkpoint": model.card.id, "samples_format": "png", "enable_pnginfo": true}),
    ))
}

async fn set_options(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let settings: Settings = body.json()?;
    if let Some(name) = settings.sd_model_checkpoint {
        let id = app.model(Some(&name))?.card.id.clone();
        app.choose_model(id);
    }
    Ok(Json(Value::Null))
}

async fn samplers() -> Json<Value> {
    Json(
        SAMPLERS
            .iter()
            .map(|name| json!({"name": name, "aliases": [], "options": {}}))
            .collect(),
    )
}

async fn models(State(app): State<App>) -> Json<Value> {
    let models = app.models.iter().map(|model| {
        let id = &model.card.id;
        json!({"title": id, "model_name": id, "hash": null, "sha256": null, "filename": id, "config": null})
    });
    Json(models.collect())
}
