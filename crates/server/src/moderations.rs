//! OpenAI's moderations: scores of texts and pictures by this server's policy.

use std::collections::BTreeMap;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use impasto::image::Image;
use impasto::safety::{Category, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::body::RequestBody;
use crate::error::{ApiError, ApiResult};
use crate::openai::picture_of;
use crate::{App, blocking, images};

/// What this server calls what it answers with.
const MODEL: &str = "impasto-safety";
/// Models that OpenAI's clients name.
const ALIASES: [&str; 5] = [
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
    MODEL,
];
/// Texts and pictures of one request.
const MOST_INPUTS: usize = 256;
/// Letters of all texts.
const MOST_LETTERS: usize = 1 << 20;

/// The route.
pub fn routes() -> Router<App> {
    Router::new().route("/v1/moderations", post(moderations))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModerationRequest {
    input: Value,
    model: Option<String>,
}

/// Something to be scored.
enum Input {
    Text(String),
    Picture(Box<Image>),
}

async fn moderations(State(app): State<App>, body: RequestBody) -> ApiResult<Json<Value>> {
    let request: ModerationRequest = body.json()?;
    if let Some(name) = request
        .model
        .as_deref()
        .filter(|name| !ALIASES.contains(name))
    {
        return Err(ApiError::unknown_model(name));
    }
    let values = match request.input {
        Value::Array(values) => values,
        value => vec![value],
    };
    if values.is_empty() || values.len() > MOST_INPUTS {
        return Err(ApiError::invalid(
            "input",
            format!("Expected 1 to {MOST_INPUTS} inputs, got {}.", values.len()),
        ));
    }
    let mut inputs = Vec::with_capacity(values.len());
    let mut letters = 0;
    for value in &values {
        inputs.push(input(&app, value, &mut letters).await?);
    }
    // Texts in a list are apart; objects are one thing that is said in several ways.
    let together = values.iter().any(Value::is_object);
    let checks_pictures = app.guard.checks_pictures();
    let scored = blocking(move || {
        let mut results = Vec::new();
        for input in &inputs {
            results.push(match input {
                Input::Text(text) => (app.guard.prompt(&[text]), "text"),
                Input::Picture(picture) => {
                    let nothing = Verdict::default();
                    let picture = std::slice::from_ref(&**picture);
                    let mut verdicts = app.guard.pictures(picture, &nothing)?;
                    (verdicts.pop().unwrap_or_default(), "image")
                }
            });
        }
        Ok(results)
    });
    let scored = scored.await?;
    let results: Vec<Value> = match together {
        true => vec![result(&scored, checks_pictures)],
        false => scored
            .iter()
            .map(|one| result(std::slice::from_ref(one), checks_pictures))
            .collect(),
    };
    Ok(Json(json!({
        "id": format!("modr-{}", crate::random_id()), "model": MODEL, "results": results,
    })))
}

/// A text, or an object of OpenAI's: `{type: text, text}`, `{type: image_url, image_url: {url}}`.
async fn input(app: &App, value: &Value, letters: &mut usize) -> ApiResult<Input> {
    let wrong = || {
        let message = "Expected texts, or objects with text or image_url.";
        ApiError::invalid("input", message)
    };
    let text = match value {
        Value::String(text) => Some(text),
        Value::Object(object) => match (object.get("text"), object.get("image_url")) {
            (Some(Value::String(text)), None) => Some(text),
            (None, Some(_)) => None,
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    let Some(text) = text else {
        let bytes = picture_of("input", value)?;
        let picture = images::decode(app, "input", &bytes).await?.picture();
        return Ok(Input::Picture(Box::new(picture)));
    };
    *letters += text.len();
    if *letters > MOST_LETTERS {
        let message = format!("The texts are longer than {MOST_LETTERS} bytes.");
        return Err(ApiError::invalid("input", message));
    }
    Ok(Input::Text(text.clone()))
}

/// What was found in inputs that belong together: of each category the highest score.
fn result(verdicts: &[(Verdict, &'static str)], checks_pictures: bool) -> Value {
    let mut scores: BTreeMap<Category, f32> = BTreeMap::new();
    let mut applied: BTreeMap<Category, Vec<&str>> = BTreeMap::new();
    let mut flagged: Vec<Category> = Vec::new();
    let mut findings = Vec::new();
    for (verdict, kind) in verdicts {
        for (category, score) in &verdict.scores {
            let highest = scores.entry(*category).or_insert(0.0);
            *highest = highest.max(*score);
            // Without a checker nothing looks at pictures.
            let kinds = applied.entry(*category).or_default();
            if (*kind == "text" || checks_pictures) && !kinds.contains(kind) {
                kinds.push(kind);
            }
        }
        flagged.extend(verdict.findings.iter().map(|finding| finding.category));
        findings.extend(verdict.findings.clone());
    }
    let each = |value: &dyn Fn(Category) -> Value| -> Map<String, Value> {
        let categories = Category::ALL.into_iter();
        categories
            .map(|category| (category.as_str().to_owned(), value(category)))
            .collect()
    };
    json!({
        "flagged": !flagged.is_empty(),
        "categories": each(&|category| flagged.contains(&category).into()),
        "category_scores": each(&|category| scores.get(&category).copied().unwrap_or(0.0).into()),
        "category_applied_input_types": each(&|category| json!(applied.get(&category).cloned().unwrap_or_default())),
        // Ours: what is done about it here, and for what.
        "findings": findings,
    })
}
