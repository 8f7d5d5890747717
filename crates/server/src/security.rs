//! Who may ask: keys, `Host` and `Origin`; and what a browser may do with our pages.

use std::net::IpAddr;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use impasto::files;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult};
use crate::{App, ServeError};

/// How a line of a key file starts.
const PREFIX: &str = "sha256:";

/// The keys that clients may have, as their SHA-256. Keys have 256 random bits, so that a slow hash would add nothing.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Debug)]
struct Key {
    name: String,
    digest: [u8; 32],
}

impl Keys {
    /// Reads a file of lines `name sha256:HEX`, as [`Keys::add`] writes them. Lines that start with # are comments.
    ///
    /// # Errors
    /// Where a line is something else: a key as it is must not be in a file.
    pub fn read(path: &Path) -> Result<Self, ServeError> {
        let text = files::read_to_string(path)?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.split_once(' ').and_then(|(name, digest)| {
                let digest = from_hex(digest.trim().strip_prefix(PREFIX)?)?;
                let name = name.to_owned();
                Some(Key { name, digest })
            });
            keys.push(key.ok_or_else(|| {
                let reason = format!(
                    "line {} is not \"name sha256:HEX\"; `impasto serve --add-api-key NAME` writes such lines",
                    number + 1
                );
                impasto::Error::bad_file(path, reason)
            })?);
        }
        if keys.is_empty() {
            return Err(impasto::Error::bad_file(path, "has no key").into());
        }
        Ok(Keys(keys))
    }

    /// Makes a key, adds its hash to the file and returns the key itself, which is written nowhere.
    pub fn add(path: &Path, name: &str) -> Result<String, ServeError> {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || !name.chars().all(good) {
            let reason = format!("expected letters, digits and -_.@, got {name:?}");
            return Err(impasto::Error::invalid("name of the key", reason).into());
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| ServeError::Random(e.to_string()))?;
        let key = format!("sk-impasto-{}", hex(&random));
        let mut text = match path.exists() {
            true => files::read_to_string(path)?,
            false => String::new(),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text += &format!("{name} {PREFIX}{}\n", hex(&Sha256::digest(&key)));
        files::write_atomic(path, text.as_bytes())?;
        Ok(key)
    }

    /// Whether no key is needed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a client's key. All keys are compared, each in the same time whatever it is.
    fn find(&self, key: &str) -> Option<&str> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for known in &self.0 {
            let pairs = known.digest.iter().zip(&digest);
            let difference = pairs.fold(0, |all, (a, b)| all | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(known.name.as_str());
            }
        }
        found
    }
}

/// Lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Who sent a request: the name of the key, or the address.
#[derive(Clone, Debug)]
pub struct Client(pub String);

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Paths that need no key: the page, which asks for one; pictures, whose names are 128 random bits; and probes.
fn is_open(path: &str) -> bool {
    let (first, _) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_start_matches('/'), ""));
    !matches!(first, "v1" | "api" | "sdapi" | "metrics")
}

/// Refuses what comes from the wrong place, then answers, with headers that keep browsers from more than they need.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let start = std::time::Instant::now();
    let id = crate::random_id();
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let client = check(&app, request.headers(), &method, &path).map(|key| key.unwrap_or(peer));
    let (client, mut response) = match client {
        Ok(client) => {
            request.extensions_mut().insert(Client(client.clone()));
            (client, next.run(request).await)
        }
        Err(error) => ("refused".to_owned(), error.into_response()),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", CSP),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("x-frame-options", "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    let status = response.status().as_u16();
    app.metrics.answered(status);
    let seconds = start.elapsed().as_secs_f64();
    crate::log::request(method.as_str(), &path, status, seconds, &client, &id);
    response
}

/// No script and no style but our own files, and nothing from anywhere else.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The name of the client's key, where keys are needed.
fn check(app: &App, headers: &HeaderMap, method: &Method, path: &str) -> ApiResult<Option<String>> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).unwrap_or_default();
    // Without a key, a page of another site whose name is made to lead here could ask for anything (DNS rebinding):
    // its requests have that name as their host.
    if app.keys.is_empty() && !is_known_host(host, &app.config.allowed_hosts) {
        let message =
            "The host of the request is not this server's; --allow-host NAME allows a name.";
        return Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            message,
        ));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("null");
        let from = origin.split_once("://").map_or("null", |(_, host)| host);
        let same = from == host
            || app
                .config
                .allowed_hosts
                .iter()
                .any(|allowed| allowed == from);
        let harmless = matches!(*method, Method::GET | Method::HEAD);
        if !(same || origin == "null" && harmless) {
            let message = "A page of another origin may not use this server.";
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "cross_origin",
                message,
            ));
        }
    }
    if app.keys.is_empty() || is_open(path) {
        return Ok(None);
    }
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    match bearer.and_then(|key| app.keys.find(key)) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            match bearer {
                Some(_) => "The API key is not one of this server's.",
                None => "An API key is needed: Authorization: Bearer KEY.",
            },
        )),
    }
}

/// Whether a `Host` is an address or the machine itself: only names can be made to lead elsewhere.
fn is_known_host(host: &str, allowed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || allowed
            .iter()
            .any(|allowed| allowed == host || allowed == name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_this_machine_are_known_hosts() {
        let allowed = ["pictures.example".to_owned()];
        for host in [
            "localhost:7860",
            "127.0.0.1",
            "[::1]:7860",
            "192.168.1.5:80",
            "pictures.example:7860",
        ] {
            assert!(is_known_host(host, &allowed), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:7860",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_known_host(host, &allowed), "{host:?}");
        }
    }

    #[test]
    fn keys_are_kept_as_hashes_and_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (ada, bob) = (
            Keys::add(&path, "ada").unwrap(),
            Keys::add(&path, "bob").unwrap(),
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(&ada) && !text.contains("sk-impasto"),
            "{text}"
        );
        let keys = Keys::read(&path).unwrap();
        assert_eq!(
            (keys.find(&ada), keys.find(&bob)),
            (Some("ada"), Some("bob"))
        );
        assert_eq!(keys.find("sk-impasto-"), None);
        std::fs::write(&path, "ada sk-impasto-abc\n").unwrap();
        assert!(Keys::read(&path).is_err());
        assert!(Keys::add(&path, "a b").is_err());
    }
}
