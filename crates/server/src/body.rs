//! Bodies of requests: read whole within a size and a time, JSON or a form.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Multipart, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};

/// The largest body: what OpenAI takes as one picture, with its mask and as base64.
pub const MAX_BODY: usize = 128 << 20;
/// How long a body may take, from its first byte to its last.
pub const BODY_TIME: Duration = Duration::from_secs(60);

/// A whole body.
#[derive(Debug)]
pub struct RequestBody {
    headers: HeaderMap,
    /// They say, too, that forms have no limit of their own.
    extensions: Extensions,
    bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let read = axum::body::to_bytes(body, MAX_BODY);
        let bytes = tokio::time::timeout(BODY_TIME, read)
            .await
            .map_err(|_| {
                let message = format!("The body took more than {} s.", BODY_TIME.as_secs());
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message)
            })?
            .map_err(|_| {
                let message = format!("The body is not whole, or has more than {MAX_BODY} bytes.");
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            })?;
        Ok(RequestBody {
            headers: parts.headers,
            extensions: parts.extensions,
            bytes,
        })
    }
}

impl RequestBody {
    fn kind(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE);
        let value = value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    /// Whether it is a form with files.
    pub fn is_multipart(&self) -> bool {
        self.kind().eq_ignore_ascii_case("multipart/form-data")
    }

    /// JSON. Other content types are refused: a page of another site can send those without being asked.
    pub fn json<T: DeserializeOwned>(&self) -> ApiResult<T> {
        if !self.kind().eq_ignore_ascii_case("application/json") {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Expected a body of the type application/json.",
            ));
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.bytes);
        let parsed = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
        parsed.map_err(|error| {
            let message = error.to_string();
            // Where serde names a field, it stands in backquotes.
            let param = message.split('`').nth(1).map(str::to_owned);
            ApiError {
                param: param.filter(|_| message.contains("field")),
                ..ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_json",
                    format!("The body can't be read: {message}."),
                )
            }
        })
    }

    /// The fields of a form, in their order.
    pub async fn form(self) -> ApiResult<Vec<(String, Bytes)>> {
        let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_form", message);
        let mut request = Request::new(Body::from(self.bytes));
        *request.extensions_mut() = self.extensions;
        if let Some(kind) = self.headers.get(header::CONTENT_TYPE) {
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, kind.clone());
        }
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|e| bad(format!("The form can't be read: {e}.")))?;
        let mut fields = Vec::new();
        loop {
            let field = form.next_field().await;
            let Some(field) = field.map_err(|e| bad(format!("The form can't be read: {e}.")))?
            else {
                return Ok(fields);
            };
            if fields.len() >= 64 {
                return Err(bad("The form has more than 64 fields.".into()));
            }
            // The file names that clients give are not looked at.
            let name = field.name().unwrap_or_default().to_owned();
            let bytes = field.bytes().await;
            fields.push((
                name,
                bytes.map_err(|e| bad(format!("The form can't be read: {e}.")))?,
            ));
        }
    }
}

/// A part of the path that names something. What can't be a name of anything is not found.
#[derive(Debug)]
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Name(name))
            .map_err(|_| ApiError::not_found("What the address names is"))
    }
}

/// The query of an address.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Params(query)).map_err(|error| {
            let message = format!("The query can't be read: {}.", error.body_text());
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message)
        })
    }
}
