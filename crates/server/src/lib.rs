//! impasto over HTTP: OpenAI's images API, AUTOMATIC1111's, a native one with jobs that survive the process, and a page.
//!
//! The library does the work; this crate queues it, keeps what came of it, and speaks protocols. Each model has one
//! thread that decodes a batch which requests join and leave at any token. State is a folder: SQLite and
//! picture files.
//!
//! ```no_run
//! use impasto_server::{ServeOptions, Server};
//!
//! let options = ServeOptions::new("data".into());
//! let (device, _) = impasto::device::select("cpu")?;
//! let source = impasto::checkpoint::ModelSource::parse("impasto-styles")?;
//! let models = vec![impasto::families::ModelFiles::find(&source)?];
//! let server = Server::open(options, models, device)?;
//! server.run(|address| println!("http://{address}"), &|| false)?;
//! # Ok::<(), impasto_server::ServeError>(())
//! ```

#![forbid(unsafe_code)]

mod automatic;
mod body;
mod clip;
mod connections;
mod error;
mod images;
mod jobs;
mod log;
mod metrics;
mod models;
mod moderations;
mod native;
mod openai;
mod page;
mod records;
mod security;
mod store;
mod stream;
mod submit;
mod worker;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use impasto::checkpoint::ModelSource;
use impasto::families::ModelFiles;
use impasto::rank::Ranker;
use impasto::safety::{Guard, Mode};
use impasto::{Device, Upscaler, provenance, safety};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;

pub use log::LogOptions;
pub use security::Keys;

use connections::Connections;
use error::{ApiError, JobError};
use jobs::{Job, Jobs};
use models::Hosted;
use records::Status;
use store::Store;

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address that it listens on.
    pub host: IpAddr,
    /// The port; 0 takes any that is free.
    pub port: u16,
    /// The folder of jobs and pictures.
    pub data: PathBuf,
    /// A file of hashes of API keys ([`Keys::add`]); without one no key is needed.
    pub api_key_file: Option<PathBuf>,
    /// Listen beyond this machine without keys.
    pub insecure: bool,
    /// Jobs that may wait or run at once.
    pub max_queue: usize,
    /// Names besides addresses and `localhost` under which browsers may reach it.
    pub allowed_hosts: Vec<String>,
    /// What enlarges pictures, where clients may ask for that.
    pub upscaler: Option<ModelSource>,
    /// After this long without work a model is closed.
    pub idle_time: Duration,
    /// After a request to stop, running work may continue for this long.
    pub grace: Duration,
    /// What is logged.
    pub log: LogOptions,
    /// What the pictures' files say of their origin.
    pub provenance: provenance::Policy,
    /// What is done about prompts and pictures that a person may not want to see.
    pub safety: safety::Policy,
    /// Where pulled models are kept, for those that the policy names.
    pub cache: Option<PathBuf>,
}

impl ServeOptions {
    /// The defaults: this machine alone, port 7860; what a policy finds is refused.
    pub fn new(data: PathBuf) -> Self {
        ServeOptions {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 7860,
            data,
            api_key_file: None,
            insecure: false,
            max_queue: 64,
            allowed_hosts: Vec::new(),
            upscaler: None,
            idle_time: Duration::from_secs(600),
            grace: Duration::from_secs(20),
            log: LogOptions::default(),
            provenance: provenance::Policy::default(),
            safety: safety::Policy::of(Mode::Refuse),
            cache: None,
        }
    }
}

/// Why a server does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The library's error: files, models.
    #[error(transparent)]
    Impasto(#[from] impasto::Error),
    /// The database.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// A row that can't be written or read.
    #[error("database: {0}")]
    Json(#[from] serde_json::Error),
    /// The address can't be used.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Everybody who reaches the machine could use it.
    #[error("{0} is reachable from other machines: expected --api-key-file, or --insecure")]
    Open(IpAddr),
    /// A thread can't be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
    /// The system has no random numbers.
    #[error("random numbers: {0}")]
    Random(String),
}

/// How far a server is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// Nothing new begins.
    Begun,
    /// What runs is put back.
    Now,
}

/// What all handlers and threads share.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    config: ServeOptions,
    keys: Keys,
    store: Store,
    jobs: Jobs,
    models: Vec<Arc<Hosted>>,
    device: Device,
    guard: Guard,
    clip: OnceLock<Arc<Ranker>>,
    upscaler: Option<Upscaler>,
    /// One embedding or search at a time: each uses all cores.
    clip_turn: Arc<Semaphore>,
    metrics: metrics::Metrics,
    stopping: AtomicU8,
    /// What AUTOMATIC1111's options say; the first one, if nothing.
    chosen: Mutex<Option<String>>,
    started: f64,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    fn stopping(&self) -> Stopping {
        match self.stopping.load(Ordering::Relaxed) {
            0 => Stopping::No,
            1 => Stopping::Begun,
            _ => Stopping::Now,
        }
    }

    fn stop(&self, how: Stopping) {
        let number = match how {
            Stopping::No => 0,
            Stopping::Begun => 1,
            Stopping::Now => 2,
        };
        self.stopping.store(number, Ordering::Relaxed);
        self.models.iter().for_each(|model| model.wake());
    }

    /// The CLIP for best-of, search and embeddings, loaded when it is first needed.
    fn clip(&self) -> impasto::Result<Arc<Ranker>> {
        if let Some(clip) = self.clip.get() {
            return Ok(clip.clone());
        }
        let source = ModelSource::Embedded(impasto::checkpoint::EMBEDDED_CLIP);
        let clip = Arc::new(Ranker::load(&source, &self.device)?);
        Ok(self.clip.get_or_init(|| clip).clone())
    }

    /// A model by its name, or by a name of OpenAI's, which means the first one.
    fn model(&self, name: Option<&str>) -> Result<&Arc<Hosted>, ApiError> {
        let Some(name) = name.filter(|name| !ALIASES.contains(name)) else {
            return self
                .models
                .first()
                .ok_or_else(|| ApiError::unknown_model("any"));
        };
        let found = self.models.iter().find(|model| model.card.id == name);
        found.ok_or_else(|| ApiError::unknown_model(name))
    }

    /// The model that AUTOMATIC1111's options name.
    fn chosen_model(&self) -> Option<String> {
        self.chosen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// See [`App::chosen_model`].
    fn choose_model(&self, id: String) {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// A job ends: in the table first, then for those who wait for it.
    fn end(&self, job: &Arc<Job>, status: Status, error: Option<JobError>) {
        let now = log::now();
        if let Err(failure) = self
            .store
            .end_job(&job.record.id, status, error.as_ref(), now)
        {
            log::error(failure);
        }
        if job.record.attached {
            // Whoever waited for it has its answer, and the pictures that were sent.
            self.store.remove_inputs(&job.record.id);
        }
        self.metrics.ended(status, now - job.record.created);
        self.jobs.remove(&job.record.id);
        job.update(|state| {
            state.status = status;
            state.error = error;
            state.previews.clear();
        });
    }

    /// Ends a job that waits, or asks for the end of one that runs.
    fn cancel(&self, job: &Arc<Job>) {
        job.cancel();
        let mut models = self.models.iter();
        let model = models.find(|model| model.card.id == job.record.model);
        if model.is_some_and(|model| model.work().queue.remove_untouched(&job.record.id)) {
            self.end(job, Status::Cancelled, None);
        }
    }
}

/// Names that OpenAI's clients send; they mean the first model.
const ALIASES: [&str; 4] = ["dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini"];

/// 128 random bits: a name that can't be guessed.
fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without the system's random numbers there is no safe name to give.
    if getrandom::fill(&mut bytes).is_err() {
        log::error("the system has no random numbers");
        std::process::abort();
    }
    security::hex(&bytes)
}

/// Runs work that waits for files or computes, beside those who wait for connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ServeError::Impasto(error))) => Err(JobError::of(&error).into()),
        Ok(Err(error)) => Err(ApiError::internal(error)),
        Err(error) => Err(ApiError::internal(error)),
    }
}

/// Connections at once; more get the places of those that are idle.
const MOST_CONNECTIONS: usize = 512;
/// How long the head of a request may take, and a connection be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(15);

/// A server whose state is open, and that does not listen yet.
pub struct Server {
    app: App,
}

impl Server {
    /// Opens the state and looks at the models' files.
    ///
    /// # Errors
    /// Where the address would be open to others without keys, the data folder is in use, or a model can't be served.
    pub fn open(
        config: ServeOptions,
        models: Vec<ModelFiles>,
        device: Device,
    ) -> Result<Self, ServeError> {
        log::set(config.log);
        if !config.host.is_loopback() && config.api_key_file.is_none() && !config.insecure {
            return Err(ServeError::Open(config.host));
        }
        let keys = config.api_key_file.as_deref().map(Keys::read).transpose()?;
        let mut hosted: Vec<Arc<Hosted>> = Vec::new();
        for files in models {
            let model = Hosted::new(files)?;
            if hosted.iter().any(|other| other.card.id == model.card.id) {
                let reason = format!("two are called {}", model.card.id);
                return Err(impasto::Error::invalid("models", reason).into());
            }
            hosted.push(model);
        }
        let upscaler = config.upscaler.as_ref();
        let upscaler = upscaler.map(|source| Upscaler::load(source, &device, None));
        let find = |name: &str| ModelSource::find(name, config.cache.as_deref());
        let guard = Guard::open(config.safety.clone(), &device, find)?;
        let app = App(Arc::new(Shared {
            upscaler: upscaler.transpose()?,
            guard,
            keys: keys.unwrap_or_default(),
            store: Store::open(&config.data)?,
            jobs: Jobs::new(config.max_queue),
            models: hosted,
            device,
            clip: OnceLock::new(),
            clip_turn: Arc::new(Semaphore::new(1)),
            metrics: metrics::Metrics::default(),
            stopping: AtomicU8::new(0),
            chosen: Mutex::default(),
            started: log::now(),
            config,
        }));
        for record in app.store.queued_jobs()? {
            let job = Job::new(record, 0);
            match app.model(Some(&job.record.model)) {
                Ok(model) => {
                    app.jobs.readmit(&job);
                    model.push(job);
                }
                Err(error) => {
                    let error = JobError {
                        code: "model_not_found".into(),
                        message: error.message,
                        param: Some("model".into()),
                    };
                    app.end(&job, Status::Failed, Some(error));
                }
            }
        }
        Ok(Server { app })
    }

    /// Listens and answers until `stop` says so, which is asked many times a second; then what runs is finished, or put
    /// back, and all is on the disk. `ready` gets the address.
    pub fn run(
        self,
        ready: impl FnOnce(SocketAddr),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        let mut threads = Vec::new();
        for model in &self.app.models {
            let started = worker::start(self.app.clone(), model.clone());
            threads.extend(started.map_err(ServeError::Thread)?);
        }
        let served = runtime.block_on(self.listen(ready, stop));
        // Also where it could not listen.
        self.app.stop(Stopping::Now);
        for thread in threads {
            if thread.join().is_err() {
                log::error("a thread of a model ended by a panic");
            }
        }
        runtime.shutdown_timeout(Duration::from_secs(2));
        served
    }

    async fn listen(
        &self,
        ready: impl FnOnce(SocketAddr),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), ServeError> {
        let app = &self.app;
        let address = SocketAddr::new(app.config.host, app.config.port);
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        ready(listener.local_addr().map_err(failed)?);
        let router = router(app.clone());
        let graceful = GracefulShutdown::new();
        let connections = Connections::new(MOST_CONNECTIONS);
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while !stop() {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                _ = ticks.tick() => None,
            };
            let Some((connection, peer)) = accepted else {
                continue;
            };
            let place = loop {
                tokio::select! {
                    place = connections.place() => break Some(place),
                    _ = ticks.tick() => if stop() { break None },
                }
            };
            let Some(place) = place else { break };
            let router = router.clone();
            let place = Arc::new(place);
            let of_requests = place.clone();
            let service = hyper::service::service_fn(
                move |mut request: hyper::Request<hyper::body::Incoming>| {
                    let in_flight = of_requests.request();
                    request.extensions_mut().insert(security::Peer(peer.ip()));
                    let answer = router.clone().oneshot(request.map(axum::body::Body::new));
                    async move {
                        let answer = answer.await?;
                        // Events are an answer's body: it ends with them.
                        Ok::<_, Infallible>(answer.map(|body| {
                            body.map_frame(move |frame| {
                                let _of_this_answer = &in_flight;
                                frame
                            })
                        }))
                    }
                },
            );
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(connection), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    // Who hangs up in the middle of something has had enough.
                    _ = connection => {}
                    () = place.given_up() => {}
                }
            });
        }
        log::note("stopping");
        app.stop(Stopping::Begun);
        let deadline = tokio::time::Instant::now() + app.config.grace;
        while tokio::time::Instant::now() < deadline
            && app.jobs.all().iter().any(|job| job.has_started())
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        app.stop(Stopping::Now);
        let _ = tokio::time::timeout(Duration::from_secs(3), graceful.shutdown()).await;
        Ok(())
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.app.config)
            .finish_non_exhaustive()
    }
}

/// The next connection; none where that failed, which is no reason to stop.
async fn accept(listener: &TcpListener) -> Option<(tokio::net::TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((connection, peer)) => {
            // Events are small, and wanted at once.
            let _ = connection.set_nodelay(true);
            Some((connection, peer))
        }
        Err(error) => {
            log::error(format_args!("accept: {error}"));
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// All that is answered.
fn router(app: App) -> Router {
    Router::new()
        .merge(openai::routes())
        .merge(moderations::routes())
        .merge(native::routes())
        .merge(automatic::routes())
        .merge(metrics::routes())
        .merge(page::routes())
        .fallback(|| async { ApiError::not_found("The address is") })
        .method_not_allowed_fallback(|| async {
            let message = "The method is not one of this address.";
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            )
        })
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                use axum::response::IntoResponse;
                ApiError::internal("a request ended by a panic").into_response()
            },
        ))
        .layer(middleware::from_fn_with_state(app.clone(), security::guard))
        .with_state(app)
}
