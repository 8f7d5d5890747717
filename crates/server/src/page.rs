//! The page, inside the program: plain modules and style sheets, without a build step.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::App;

/// The files, and what they are.
macro_rules! files {
    ($($path:literal: $kind:literal = $file:literal),+ $(,)?) => {
        /// The page's files, and the specification of all that is answered.
        pub fn routes() -> Router<App> {
            Router::new()$(.route($path, get(|| async {
                let headers = [(header::CONTENT_TYPE, $kind), (header::CACHE_CONTROL, "no-cache")];
                (headers, include_str!(concat!("../page/", $file))).into_response()
            })))+
        }
    };
}

files! {
    "/": "text/html; charset=utf-8" = "index.html",
    "/page/style.css": "text/css; charset=utf-8" = "style.css",
    "/page/app.js": "text/javascript; charset=utf-8" = "app.js",
    "/page/api.js": "text/javascript; charset=utf-8" = "api.js",
    "/page/words.js": "text/javascript; charset=utf-8" = "words.js",
    "/page/editor.js": "text/javascript; charset=utf-8" = "editor.js",
    "/page/gallery.js": "text/javascript; charset=utf-8" = "gallery.js",
    "/page/icon.svg": "image/svg+xml" = "icon.svg",
    "/openapi.json": "application/json" = "openapi.json",
}
