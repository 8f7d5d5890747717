//! What a client gets in the place of an answer, in OpenAI's form.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use impasto::error::ErrorKind;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// An answer that says why there is none: `{"error": {message, type, param, code}}`.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The status, by which OpenAI's clients choose the class of their exception.
    pub status: StatusCode,
    /// What happened, for a person.
    pub message: String,
    /// The field of the request.
    pub param: Option<String>,
    /// What happened, for a program.
    pub code: &'static str,
    /// After how many seconds it is worth trying again.
    pub retry_after: Option<u64>,
}

/// The code of what a policy refuses.
pub const BLOCKED: &str = "moderation_blocked";

/// The handlers' result.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error without a field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code,
            retry_after: None,
        }
    }

    /// A field with a value that can't be used.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        ApiError {
            param: Some(param.to_owned()),
            ..ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message)
        }
    }

    /// Something that is not there.
    pub fn not_found(what: &str) -> Self {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("{what} not found"),
        )
    }

    /// A model that is not served.
    pub fn unknown_model(name: &str) -> Self {
        ApiError {
            param: Some("model".into()),
            ..ApiError::new(
                StatusCode::NOT_FOUND,
                "model_not_found",
                format!(
                    "The model {name:?} is not served here; GET /v1/models lists those that are."
                ),
            )
        }
    }

    /// More work than there is room for.
    pub fn overloaded(seconds: u64) -> Self {
        ApiError {
            retry_after: Some(seconds),
            ..ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "The queue is full. Try again later.",
            )
        }
    }

    /// The server is stopping.
    pub fn stopping() -> Self {
        ApiError {
            retry_after: Some(5),
            ..ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "server_stopping",
                "The server is stopping.",
            )
        }
    }

    /// Something that is no fault of the client. The cause goes to the log, never to the client: it may name files.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        crate::log::error(format_args!("{cause}"));
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "The server failed. Its log says why.",
        )
    }

    /// `type` in OpenAI's form.
    pub fn kind(&self) -> &'static str {
        match self.status {
            _ if self.code == BLOCKED => "image_generation_user_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body.
    pub fn body(&self) -> serde_json::Value {
        json!({"error": {
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status.is_server_error() {
            // OpenAI's clients would do the same long work again, twice.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        // AUTOMATIC1111's API words it in its own form.
        response.extensions_mut().insert(self);
        response
    }
}

/// Why a job has no pictures, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// What kind of thing went wrong.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// The field of the request.
    pub param: Option<String>,
}

impl JobError {
    /// What a client may know of an error of the library.
    pub fn of(error: &impasto::Error) -> Self {
        match error.kind() {
            ErrorKind::Input => {
                let subject = error.subject();
                let param = match subject.as_str() {
                    "caption" => "prompt",
                    "best of" => "best_of",
                    other => other,
                };
                JobError {
                    code: "invalid_value".into(),
                    message: error.to_string(),
                    param: Some(param.to_owned()),
                }
            }
            ErrorKind::Refused => JobError {
                code: BLOCKED.into(),
                message: refusal(error),
                param: (error.subject() == "prompt").then(|| "prompt".to_owned()),
            },
            _ => {
                crate::log::error(format_args!("{error}"));
                JobError {
                    code: "internal_error".into(),
                    message: "The server failed. Its log says why.".into(),
                    param: None,
                }
            }
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let (status, code) = match error.code.as_str() {
            "invalid_value" => (StatusCode::BAD_REQUEST, "invalid_value"),
            BLOCKED => (StatusCode::BAD_REQUEST, BLOCKED),
            "cancelled" => (StatusCode::CONFLICT, "cancelled"),
            "server_stopping" => (StatusCode::SERVICE_UNAVAILABLE, "server_stopping"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        ApiError {
            param: error.param,
            ..ApiError::new(status, code, error.message)
        }
    }
}

/// A refusal for a person: the category and the score, which a client can act on.
fn refusal(error: &impasto::Error) -> String {
    match error.inner() {
        impasto::Error::Refused {
            what,
            category,
            score,
            ..
        } => format!(
            "The {what} was refused by this server's safety policy: {category}, score {score:.2}."
        ),
        other => other.to_string(),
    }
}
