//! What a CLIP answers: embeddings, and pictures by words or by a picture.

use impasto::image::Image;
use impasto::observer::NoObserver;
use impasto::rank::rows;
use impasto::search::{Index, Writer, pictures_below};
use impasto::text::clip::LongCaption;

use crate::error::{ApiError, ApiResult};
use crate::records::Picture;
use crate::{App, blocking};

/// What is embedded, or looked for.
#[derive(Debug)]
pub enum Query {
    /// Words.
    Text(String),
    /// A picture.
    Picture(Box<Image>),
}

/// The name of the CLIP.
pub const NAME: &str = impasto::checkpoint::EMBEDDED_CLIP;

/// Embeddings of length one, in the order of the queries.
pub async fn embed(app: &App, queries: Vec<Query>) -> ApiResult<Vec<Vec<f32>>> {
    let turn = app
        .clip_turn
        .clone()
        .acquire_owned()
        .await
        .map_err(ApiError::internal)?;
    let app = app.clone();
    blocking(move || {
        let clip = app.clip()?;
        let mut embeddings = Vec::with_capacity(queries.len());
        for query in queries {
            let embedded = match query {
                Query::Text(text) => clip.model.embed_texts(&[text], LongCaption::Refuse)?,
                Query::Picture(picture) => clip.model.embed_pictures(&[*picture])?,
            };
            embeddings.extend(rows(embedded)?);
        }
        drop(turn);
        Ok(embeddings)
    })
    .await
}

/// The pictures nearest to a query, the nearest first, with their cosines. Pictures that are new are indexed first.
pub async fn search(app: &App, query: Query, count: usize) -> ApiResult<Vec<(Picture, f32)>> {
    let turn = app
        .clip_turn
        .clone()
        .acquire_owned()
        .await
        .map_err(ApiError::internal)?;
    let app = app.clone();
    blocking(move || {
        let clip = app.clip()?;
        let (pictures, folder) = (app.store.pictures_folder(), app.store.index_folder());
        let listing = pictures_below(&pictures)?;
        if listing.pictures.is_empty() {
            return Ok(Vec::new());
        }
        Writer::open(&folder, &pictures, &clip)?.update(&listing, &mut NoObserver)?;
        let index = Index::open(&folder)?;
        let hits = match query {
            Query::Text(text) => index.search_text(&clip, &text, LongCaption::Truncate, count)?,
            Query::Picture(picture) => index.search_picture(&clip, &picture, count)?,
        };
        drop(turn);
        let mut found = Vec::with_capacity(hits.len());
        for hit in hits {
            let id = hit.path.file_stem().unwrap_or_default().to_string_lossy();
            // One may have been deleted meanwhile, or not be listed yet.
            if let Some(picture) = app.store.picture(&id)? {
                found.push((picture, hit.score));
            }
        }
        Ok(found)
    })
    .await
}
