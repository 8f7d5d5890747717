//! OpenAI's API: images, embeddings, models. Its clients run unchanged; what is ours besides goes into `extra_body`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use impasto::edit::{Area, Region, Sides};
use impasto::image::{Format, Image};
use impasto::models::dalle::Order;
use impasto::provenance::{Policy, Settings};
use impasto::request::SamplingOverrides;
use impasto::text::clip::LongCaption;
use impasto::{Edit, Generate, Vary};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::body::{Name, RequestBody};
use crate::clip::{self, Query};
use crate::error::{ApiError, ApiResult};
use crate::jobs::{JobState, Preview};
use crate::models::Hosted;
use crate::records::{Picture, Task};
use crate::security::Client;
use crate::stream::{self, HungUp, Sink};
use crate::submit::{Attached, FACTORS, Submission, submit};
use crate::{ALIASES, App, blocking, images, log};

/// Pictures of one request, as in OpenAI's API.
const MOST_PICTURES: usize = 10;
/// Texts or pictures that are embedded in one request.
const MOST_INPUTS: usize = 256;

/// The routes under `/v1`.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/images/generations", post(generations))
        .route("/v1/images/edits", post(edits))
        .route("/v1/images/variations", post(variations))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
}

/// The fields that all three kinds of requests for images share. Those that only say how a hosted service treats its
/// customers are taken and have no effect.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ImageRequest {
    prompt: Option<String>,
    model: Option<String>,
    n: Option<usize>,
    size: Option<String>,
    response_format: Option<String>,
    output_format: Option<String>,
    output_compression: Option<u8>,
    stream: Option<bool>,
    partial_images: Option<usize>,
    background: Option<String>,
    quality: Option<String>,
    #[serde(rename = "style")]
    _style: Option<String>,
    #[serde(rename = "moderation")]
    _moderation: Option<String>,
    #[serde(rename = "input_fidelity")]
    _input_fidelity: Option<String>,
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<String>,
    // Pictures in JSON.
    image: Option<Value>,
    images: Option<Value>,
    mask: Option<Value>,
    // Ours.
    negative_prompt: Option<String>,
    seed: Option<u64>,
    guidance: Option<f32>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    order: Option<String>,
    best_of: Option<usize>,
    truncate: Option<bool>,
    chunks: Option<bool>,
    #[serde(rename = "box")]
    area: Option<String>,
    outpaint: Option<String>,
    strength: Option<f64>,
    tries: Option<usize>,
    upscale: Option<usize>,
}

/// How the client wants its pictures.
#[derive(Clone, Copy, Debug)]
struct Output {
    format: Format,
    quality: u8,
    as_url: bool,
}

impl ImageRequest {
    fn model<'a>(&self, app: &'a App) -> ApiResult<&'a Arc<Hosted>> {
        app.model(self.model.as_deref())
    }

    fn n(&self) -> ApiResult<usize> {
        match self.n.unwrap_or(1) {
            n @ 1..=MOST_PICTURES => Ok(n),
            n => Err(ApiError::invalid(
                "n",
                format!("n is {n}, expected 1 to {MOST_PICTURES}."),
            )),
        }
    }

    fn prompt(&self) -> ApiResult<String> {
        self.prompt
            .clone()
            .ok_or_else(|| ApiError::invalid("prompt", "The prompt is missing."))
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(random_seed)
    }

    fn sampling(&self) -> SamplingOverrides {
        SamplingOverrides {
            guidance_scale: self.guidance,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    fn order(&self) -> ApiResult<Option<Order>> {
        let order = self.order.as_deref().map(str::parse).transpose();
        order.map_err(|error: impasto::Error| ApiError::invalid("order", error.to_string()))
    }

    fn output(&self) -> ApiResult<Output> {
        let format = self.output_format.as_deref().unwrap_or("png");
        let format = format.parse().map_err(|_| {
            ApiError::invalid("output_format", "output_format is not png, jpeg or webp.")
        })?;
        let quality = self.output_compression.unwrap_or(95);
        if quality > 100 {
            return Err(ApiError::invalid(
                "output_compression",
                "output_compression is more than 100.",
            ));
        }
        if self.background.as_deref() == Some("transparent") {
            return Err(ApiError::invalid(
                "background",
                "The models draw opaque pictures: opaque or auto.",
            ));
        }
        let as_url = match self.response_format.as_deref() {
            None => matches!(self.model.as_deref(), Some("dall-e-2" | "dall-e-3")),
            Some("url") => true,
            Some("b64_json") => false,
            Some(_) => {
                return Err(ApiError::invalid(
                    "response_format",
                    "response_format is not url or b64_json.",
                ));
            }
        };
        Ok(Output {
            format,
            quality,
            as_url,
        })
    }

    /// By what finished pictures are enlarged: `upscale`, or what makes `size` of the size that a model draws.
    fn upscale(&self, app: &App, model: &Hosted) -> ApiResult<Option<usize>> {
        let own = model.card.size;
        let sides = |factor: usize| format!("{0}x{0}", factor * own);
        let factor = self.upscale.unwrap_or(1);
        let size = match self.size.as_deref() {
            None | Some("auto") => return Ok(self.upscale),
            Some(size) if size == sides(factor) => return Ok(self.upscale),
            Some(size) => size,
        };
        let (upscaler, id) = (&app.upscaler, &model.card.id);
        if self.upscale.is_none() && upscaler.is_some() {
            let enlarged = FACTORS.into_iter().find(|&factor| size == sides(factor));
            if enlarged.is_some() {
                return Ok(enlarged);
            }
        }
        let message = match (self.upscale, upscaler) {
            (Some(_), _) => {
                let enlarged = sides(factor);
                format!(
                    "{id} with this upscale makes {enlarged} only, not {size:?}: {enlarged} or auto."
                )
            }
            (None, None) => {
                let own = sides(1);
                format!("{id} draws {own} only, not {size:?}: {own} or auto.")
            }
            (None, Some(_)) => {
                let [own, twice, four] = [1, FACTORS[0], FACTORS[1]].map(sides);
                format!("{id} makes {own}, {twice} or {four}, not {size:?}: one of these, or auto.")
            }
        };
        Err(ApiError::invalid("size", message))
    }

    /// Streaming, and how many partial pictures.
    fn streaming(&self) -> ApiResult<Option<usize>> {
        let partials = self.partial_images.unwrap_or(0);
        if partials > 3 {
            return Err(ApiError::invalid(
                "partial_images",
                "partial_images is more than 3.",
            ));
        }
        Ok(self.stream.unwrap_or(false).then_some(partials))
    }

    fn vary(&self, n: usize) -> ApiResult<Vary> {
        Ok(Vary {
            prompt: self.prompt.clone(),
            n,
            sampling: self.sampling(),
            order: self.order()?,
            long: long_caption(self.truncate, self.chunks)?,
            negative_prompt: self.negative_prompt.clone(),
            image: None,
            ..Vary::new(
                Image::filled(1, 1, [0; 3]),
                self.strength.unwrap_or(0.5),
                self.seed(),
            )
        })
    }
}

/// 32 bits: short enough to be typed again.
pub fn random_seed() -> u64 {
    let mut bytes = [0; 4];
    // Any seed will do where the system has no random numbers.
    let _ = getrandom::fill(&mut bytes);
    u64::from(u32::from_le_bytes(bytes))
}

/// What is done with prompts that are too long.
pub fn long_caption(truncate: Option<bool>, chunks: Option<bool>) -> ApiResult<LongCaption> {
    match (truncate.unwrap_or(false), chunks.unwrap_or(false)) {
        (false, false) => Ok(LongCaption::Refuse),
        (true, false) => Ok(LongCaption::Truncate),
        (false, true) => Ok(LongCaption::Chunks),
        (true, true) => Err(ApiError::invalid(
            "chunks",
            "Give truncate or chunks, not both.",
        )),
    }
}

async fn generations(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: RequestBody,
) -> ApiResult<Response> {
    let request: ImageRequest = body.json()?;
    let model = request.model(&app)?.clone();
    for (name, given) in [
        ("image", request.image.is_some()),
        ("mask", request.mask.is_some()),
    ] {
        if given {
            return Err(ApiError::invalid(
                name,
                "Generations have no picture; see /v1/images/edits.",
            ));
        }
    }
    let generate = Generate {
        n: request.n()?,
        upscale: request.upscale(&app, &model)?,
        best_of: request.best_of,
        sampling: request.sampling(),
        order: request.order()?,
        long: long_caption(request.truncate, request.chunks)?,
        negative_prompt: request.negative_prompt.clone(),
        ..Generate::new(request.prompt()?, request.seed())
    };
    let submission = Submission {
        client,
        model,
        task: Task::Generate { request: generate },
        inputs: Vec::new(),
        attached: true,
        partials: 0,
    };
    answer(app, &headers, &request, submission, "image_generation").await
}

async fn edits(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: RequestBody,
) -> ApiResult<Response> {
    let (request, mut pictures) = read(body).await?;
    let model = request.model(&app)?.clone();
    let image = pictures.take_image()?;
    let looked = images::look(&app, "image", &image).await?;
    let mut inputs = vec![("image", image)];
    let region = match (&request.area, &request.outpaint) {
        (Some(area), None) => {
            let area: Area = area
                .parse()
                .map_err(|e: impasto::Error| ApiError::invalid("box", e.to_string()))?;
            Region::Box(area)
        }
        (None, Some(sides)) => {
            let sides: Sides = sides
                .parse()
                .map_err(|e: impasto::Error| ApiError::invalid("outpaint", e.to_string()))?;
            Region::Outpaint(sides)
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("box", "Give box or outpaint, not both."));
        }
        (None, None) => Region::Transparent,
    };
    let mask = pictures.mask.take();
    if let Some(mask) = mask {
        if !matches!(region, Region::Transparent) {
            return Err(ApiError::invalid(
                "mask",
                "Give a mask, or box or outpaint.",
            ));
        }
        let of_mask = images::look(&app, "mask", &mask).await?;
        if (of_mask.width, of_mask.height) != (looked.width, looked.height) {
            let message = format!(
                "The mask is {}x{}, the image {}x{}.",
                of_mask.width, of_mask.height, looked.width, looked.height
            );
            return Err(ApiError::invalid("mask", message));
        }
        inputs.push(("mask", mask));
    } else if matches!(region, Region::Transparent) && !looked.transparent {
        let message =
            "There is no mask, and no part of the image is transparent: nothing says what to draw.";
        return Err(ApiError::invalid("mask", message));
    }
    let own = format!("{}x{}", looked.width, looked.height);
    if !matches!(request.size.as_deref(), None | Some("auto"))
        && request.size.as_deref() != Some(&own)
    {
        return Err(ApiError::invalid(
            "size",
            format!("An edited picture keeps its size, {own}, but for upscale: {own} or auto."),
        ));
    }
    let edit = Edit {
        prompt: request.prompt.clone(),
        n: request.n()?,
        sampling: request.sampling(),
        order: request.order()?,
        tries: request.tries,
        long: long_caption(request.truncate, request.chunks)?,
        negative_prompt: request.negative_prompt.clone(),
        upscale: request.upscale,
        image: None,
        ..Edit::new(
            (&Image::filled(1, 1, [0; 3])).into(),
            region,
            request.seed(),
        )
    };
    let submission = Submission {
        client,
        model,
        task: Task::Edit {
            request: edit,
            mask: inputs.len() > 1,
        },
        inputs,
        attached: true,
        partials: 0,
    };
    answer(app, &headers, &request, submission, "image_edit").await
}

async fn variations(
    State(app): State<App>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: RequestBody,
) -> ApiResult<Response> {
    let (request, mut pictures) = read(body).await?;
    let model = request.model(&app)?.clone();
    let mut vary = request.vary(request.n()?)?;
    vary.upscale = request.upscale(&app, &model)?;
    let image = pictures.take_image()?;
    images::look(&app, "image", &image).await?;
    let submission = Submission {
        client,
        model,
        task: Task::Vary { request: vary },
        inputs: vec![("image", image)],
        attached: true,
        partials: 0,
    };
    answer(app, &headers, &request, submission, "image_variation").await
}

/// The pictures of a request.
#[derive(Debug, Default)]
struct Pictures {
    images: Vec<Bytes>,
    mask: Option<Bytes>,
}

impl Pictures {
    fn take_image(&mut self) -> ApiResult<Bytes> {
        if self.images.len() > 1 {
            return Err(ApiError::invalid(
                "image",
                "The models take one picture, got several.",
            ));
        }
        self.images
            .pop()
            .ok_or_else(|| ApiError::invalid("image", "The image is missing."))
    }
}

/// Reads a form or JSON.
async fn read(body: RequestBody) -> ApiResult<(ImageRequest, Pictures)> {
    let mut pictures = Pictures::default();
    if !body.is_multipart() {
        let mut request: ImageRequest = body.json()?;
        let single = request.image.take().map(|image| ("image", image));
        let several = request.images.take().map(|image| ("images", image));
        for (param, value) in [single, several].into_iter().flatten() {
            match value {
                Value::Array(values) => {
                    for value in &values {
                        pictures.images.push(picture_of(param, value)?);
                    }
                }
                value => pictures.images.push(picture_of(param, &value)?),
            }
        }
        if let Some(mask) = request.mask.take() {
            pictures.mask = Some(picture_of("mask", &mask)?);
        }
        return Ok((request, pictures));
    }
    let mut fields = Map::new();
    for (name, bytes) in body.form().await? {
        if name == "mask" {
            pictures.mask = Some(bytes);
        } else if name == "image" || name.starts_with("image[") {
            pictures.images.push(bytes);
        } else {
            let text = std::str::from_utf8(&bytes);
            let text =
                text.map_err(|_| ApiError::invalid(&name, format!("{name} is not UTF-8.")))?;
            fields.insert(name.clone(), scalar(&name, text)?);
        }
    }
    let request = serde_json::from_value(Value::Object(fields)).map_err(|error| {
        let message = error.to_string();
        let param = message.split('`').nth(1).unwrap_or("form").to_owned();
        ApiError::invalid(&param, format!("The form can't be read: {message}."))
    })?;
    Ok((request, pictures))
}

/// A picture in JSON: a text, or an object of OpenAI's.
pub fn picture_of(param: &str, value: &Value) -> ApiResult<Bytes> {
    let text = match value {
        Value::String(text) => Some(text.as_str()),
        Value::Object(object) => match object.get("image_url") {
            Some(Value::String(text)) => Some(text.as_str()),
            Some(Value::Object(inner)) => inner.get("url").and_then(Value::as_str),
            _ => None,
        },
        _ => None,
    };
    let text = text.ok_or_else(|| ApiError::invalid(param, "Expected a data URL."))?;
    images::from_text(param, text)
}

/// Scalars of forms are text.
fn scalar(name: &str, text: &str) -> ApiResult<Value> {
    let numbers = [
        "n",
        "output_compression",
        "partial_images",
        "seed",
        "guidance",
        "temperature",
        "top_k",
        "top_p",
        "best_of",
        "strength",
        "tries",
    ];
    let flags = ["stream", "truncate", "chunks"];
    if !numbers.contains(&name) && !flags.contains(&name) {
        return Ok(text.into());
    }
    match serde_json::from_str(text) {
        Ok(value @ Value::Number(_)) if numbers.contains(&name) => Ok(value),
        Ok(value @ Value::Bool(_)) if flags.contains(&name) => Ok(value),
        _ => Err(ApiError::invalid(
            name,
            format!("{name} is {text:?}, which is not a value of its type."),
        )),
    }
}

/// Draws and answers: whole, or as a stream.
async fn answer(
    app: App,
    headers: &HeaderMap,
    request: &ImageRequest,
    submission: Submission,
    event: &'static str,
) -> ApiResult<Response> {
    let output = request.output()?;
    let streaming = request.streaming()?;
    if submission.task.n() > MOST_PICTURES {
        return Err(ApiError::invalid("n", "n is more than 10."));
    }
    let quality = match request.quality.as_deref() {
        None | Some("auto" | "standard") => "high",
        Some(quality @ ("low" | "medium" | "high" | "hd")) => quality,
        Some(_) => {
            return Err(ApiError::invalid(
                "quality",
                "quality is not auto, low, medium or high.",
            ));
        }
    };
    let quality = quality.to_owned();
    let submission = Submission {
        partials: streaming.unwrap_or(0),
        ..submission
    };
    let host = host_of(headers);
    let job = submit(&app, submission).await?;
    let attached = Attached::new(app.clone(), job);
    if streaming.is_some() {
        return Ok(stream::respond(move |sink| async move {
            // The job ends with the connection.
            let sent = send(&app, &sink, &attached, output, &quality, event).await;
            drop(attached);
            sent
        }));
    }
    let state = attached.finished().await?;
    let mut data = Vec::new();
    for picture in &state.pictures {
        let (b64_json, url) = match output.as_url {
            true => (
                Value::Null,
                Value::from(format!(
                    "{host}/files/{}.{}",
                    picture.id,
                    output.format.extension()
                )),
            ),
            false => (
                Value::from(encoded(&app, picture, output).await?),
                Value::Null,
            ),
        };
        data.push(json!({
            "b64_json": b64_json, "url": url, "revised_prompt": null,
            // Ours: what draws the same again.
            "seed": picture.seed, "id": picture.id, "clip_score": picture.clip_score,
            "safety": Settings::parse(&picture.parameters).ok().and_then(|settings| settings.safety),
        }));
    }
    let first = state.pictures.first();
    Ok(Json(json!({
        "created": log::now() as u64,
        "data": data,
        "background": "opaque",
        "output_format": name_of(output.format),
        "quality": quality,
        "size": first.map(|picture| format!("{}x{}", picture.width, picture.height)),
        "usage": usage(&state),
        // Ours: what was found in the prompt.
        "safety": app.guard.prompt(&[attached.job.record.task.prompt()]).findings,
    }))
    .into_response())
}

/// Where this server is, for the client that asks.
pub fn host_of(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    // After a proxy that terminates TLS.
    let scheme = headers
        .get("x-forwarded-proto")
        .and_then(|proto| proto.to_str().ok());
    let scheme = if scheme == Some("https") {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{}", host.unwrap_or("localhost"))
}

/// Image ids are what a model's work is counted in; ids of the prompt are padded to one length and not counted.
fn usage(state: &JobState) -> Value {
    let tokens: usize = state.pictures.iter().map(|picture| picture.tokens).sum();
    json!({
        "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": tokens, "output_tokens_details": {"image_tokens": tokens, "text_tokens": 0},
        "total_tokens": tokens,
    })
}

fn name_of(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg => "jpeg",
        Format::Webp => "webp",
    }
}

/// A finished picture as base64.
async fn encoded(app: &App, picture: &Picture, output: Output) -> ApiResult<String> {
    let path = app.store.picture_path(&picture.id);
    let app = app.clone();
    blocking(move || {
        let bytes = impasto::files::read(&path)?;
        Ok(images::to_text(&images::convert(
            bytes,
            output.format,
            output.quality,
            &app.config.provenance,
        )?))
    })
    .await
}

/// A preview as base64.
async fn encoded_preview(preview: &Preview, output: Output) -> ApiResult<String> {
    let png = preview.png.clone();
    blocking(move || {
        Ok(images::to_text(&images::convert(
            png,
            output.format,
            output.quality,
            // Nothing is finished yet that could be signed.
            &Policy::default(),
        )?))
    })
    .await
}

/// Partial pictures, the finished ones, or the error.
async fn send(
    app: &App,
    sink: &Sink,
    attached: &Attached,
    output: Output,
    quality: &str,
    event: &'static str,
) -> Result<(), HungUp> {
    let job = &attached.job;
    let mut watched = job.watch();
    let (mut partials, mut finished) = (0, 0);
    let common = |b64: String, size: String, kind: &str| {
        json!({
            "type": format!("{event}.{kind}"), "b64_json": b64, "created_at": log::now() as u64, "size": size,
            "background": "opaque", "output_format": name_of(output.format), "quality": quality,
        })
    };
    let side = app
        .model(Some(&job.record.model))
        .map_or(0, |model| model.card.size);
    loop {
        let state = watched.borrow_and_update().clone();
        for preview in &state.partials[partials..] {
            let Ok(text) = encoded_preview(preview, output).await else {
                continue;
            };
            let mut data = common(text, format!("{side}x{side}"), "partial_image");
            data["partial_image_index"] = partials.into();
            partials += 1;
            sink.send(&format!("{event}.partial_image"), &data).await?;
        }
        let all = job.record.task.n();
        if state.status.is_over() || state.pictures.len() == all {
            for picture in &state.pictures[finished..] {
                match encoded(app, picture, output).await {
                    Ok(text) => {
                        let size = format!("{}x{}", picture.width, picture.height);
                        let mut data = common(text, size, "completed");
                        data["usage"] = usage(&state);
                        data["seed"] = picture.seed.clone().into();
                        data["id"] = picture.id.clone().into();
                        sink.send(&format!("{event}.completed"), &data).await?;
                    }
                    Err(error) => return sink.send_data(&error.body().to_string()).await,
                }
                finished += 1;
            }
        }
        if state.status.is_over() {
            if state.status != crate::records::Status::Done {
                let error = crate::submit::ending(&state);
                sink.send_data(&error.body().to_string()).await?;
            }
            return sink.send_data("[DONE]").await;
        }
        if watched.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbeddingRequest {
    input: Value,
    model: Option<String>,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
    #[serde(rename = "user")]
    _user: Option<String>,
}

async fn embeddings(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let request: EmbeddingRequest = body.json()?;
    let known = [
        "text-embedding-3-small",
        "text-embedding-3-large",
        "text-embedding-ada-002",
        clip::NAME,
    ];
    if let Some(name) = request
        .model
        .as_deref()
        .filter(|name| !known.contains(name))
    {
        return Err(ApiError::unknown_model(name));
    }
    let as_base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::invalid(
                "encoding_format",
                "encoding_format is not float or base64.",
            ));
        }
    };
    let inputs = match request.input {
        Value::Array(inputs) => inputs,
        input => vec![input],
    };
    if inputs.is_empty() || inputs.len() > MOST_INPUTS {
        return Err(ApiError::invalid(
            "input",
            format!("Expected 1 to {MOST_INPUTS} inputs, got {}.", inputs.len()),
        ));
    }
    let mut queries = Vec::with_capacity(inputs.len());
    for input in &inputs {
        queries.push(match input {
            Value::String(text) if !text.trim().is_empty() => Query::Text(text.clone()),
            Value::Object(_) => {
                let bytes = picture_of("input", input)?;
                Query::Picture(Box::new(images::decode(&app, "input", &bytes).await?.picture()))
            }
            _ => {
                let message = "Expected texts, or pictures as {\"image_url\": \"data:…\"}; ids of other tokenizers mean nothing here.";
                return Err(ApiError::invalid("input", message));
            }
        });
    }
    let rows = clip::embed(&app, queries)
        .await
        .map_err(|error| match error.param {
            Some(_) => ApiError::invalid("input", error.message),
            None => error,
        })?;
    if let Some(width) = rows.first().map(Vec::len)
        && request
            .dimensions
            .is_some_and(|dimensions| dimensions != width)
    {
        return Err(ApiError::invalid(
            "dimensions",
            format!("The model's embeddings have {width} dimensions."),
        ));
    }
    let data: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let embedding = match as_base64 {
                false => json!(row),
                true => {
                    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                    images::to_text(&bytes).into()
                }
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    Ok(Json(json!({
        "object": "list", "data": data, "model": clip::NAME, "usage": {"prompt_tokens": 0, "total_tokens": 0},
    })))
}

async fn models(State(app): State<App>) -> Json<Value> {
    let names = app.models.iter().map(|model| model.card.id.as_str());
    let names = names.chain(ALIASES).chain([clip::NAME]);
    let data: Vec<Value> = names.map(|name| model_object(&app, name)).collect();
    Json(json!({"object": "list", "data": data}))
}

async fn model(State(app): State<App>, Name(id): Name) -> ApiResult<Json<Value>> {
    if id != clip::NAME {
        app.model(Some(&id))?;
    }
    Ok(Json(model_object(&app, &id)))
}

fn model_object(app: &App, id: &str) -> Value {
    json!({"id": id, "object": "model", "created": app.started as u64, "owned_by": "impasto"})
}
