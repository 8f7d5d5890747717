//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::mpsc;

/// Events that wait for a slow client.
const WAITING: usize = 8;

/// Where events go in. It fails when the client has hung up.
#[derive(Clone, Debug)]
pub struct Sink(mpsc::Sender<Event>);

/// The client has hung up.
#[derive(Debug)]
pub struct HungUp;

impl Sink {
    /// One event.
    pub async fn send(&self, name: &str, data: &Value) -> Result<(), HungUp> {
        let event = Event::default().event(name).data(data.to_string());
        self.0.send(event).await.map_err(|_| HungUp)
    }

    /// One event without a name.
    pub async fn send_data(&self, data: &str) -> Result<(), HungUp> {
        self.0
            .send(Event::default().data(data))
            .await
            .map_err(|_| HungUp)
    }

    /// Waits until the client hangs up.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// An answer of events; `send` runs until it is done or the client hangs up, and is dropped then.
pub fn respond<F: Future<Output = Result<(), HungUp>> + Send + 'static>(
    send: impl FnOnce(Sink) -> F,
) -> Response {
    let (sender, receiver) = mpsc::channel(WAITING);
    let sink = Sink(sender);
    let sending = send(sink.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = sending => {}
            () = sink.closed() => {}
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    let keep_alive = KeepAlive::new()
        .interval(Duration::from_secs(10))
        .text("waiting");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
