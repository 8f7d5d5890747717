//! A server as its clients meet it: requests over a socket, answers compared with what the library draws alone.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use impasto::checkpoint::ModelSource;
use impasto::edit::{Area, Region};
use impasto::families::ModelFiles;
use impasto::image::{Format, Image, Original};
use impasto::models::dalle::Order;
use impasto::observer::NoObserver;
use impasto::safety::{Action, Category, Mode, Policy};
use impasto::{Edit, Generate, Model, OpenOptions, Upscaler, Vary, device, provenance};
use impasto_server::{Keys, LogOptions, ServeOptions, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server that runs, and stops at the end of a test.
struct Running {
    address: SocketAddr,
    key: Option<String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An answer.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut lines = self
            .headers
            .lines()
            .filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    }
}

fn options(folder: &Path) -> ServeOptions {
    ServeOptions {
        port: 0,
        log: LogOptions {
            json: false,
            quiet: true,
        },
        grace: Duration::from_millis(200),
        ..ServeOptions::new(folder.join("data"))
    }
}

/// A model that draws 64 px in some hundredths of a second.
const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/impasto-mini");

fn start(options: ServeOptions) -> Running {
    let (device, _) = device::select("cpu").unwrap();
    let files = ModelFiles::find(&ModelSource::parse(SMALL).unwrap()).unwrap();
    let server = Server::open(options, vec![files], device).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let ready = |address| sender.send(address).unwrap();
            server.run(ready, &|| stop.load(Ordering::Relaxed)).unwrap();
        }
    });
    Running {
        address: receiver.recv().unwrap(),
        key: None,
        stop,
        thread: Some(thread),
    }
}

impl Running {
    /// Stops it and waits until all is on the disk.
    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }

    /// Sends a request as it is.
    fn raw(&self, head: &str, body: &[u8]) -> Answer {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(body).unwrap();
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).unwrap();
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let headers = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut body = bytes[end + 4..].to_vec();
        if headers
            .to_lowercase()
            .contains("transfer-encoding: chunked")
        {
            body = unchunked(&body);
        }
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            headers,
            body,
        }
    }

    fn head(&self, method: &str, path: &str, more: &[(&str, &str)], length: usize) -> String {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n"
        );
        if !more.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if let Some(key) = &self.key {
            head += &format!("Authorization: Bearer {key}\r\n");
        }
        for (name, value) in more {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    fn send(&self, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        self.raw(&self.head(method, path, more, body.len()), body)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(
            "POST",
            path,
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    /// What has to work.
    fn posted(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert!(
            (200..300).contains(&answer.status),
            "{path} {body}: {}",
            answer.text()
        );
        answer.json()
    }

    /// A native job, when it is over.
    fn job(&self, body: &Value) -> Value {
        let job = self.posted("/api/jobs", body);
        self.over(job["id"].as_str().unwrap())
    }

    fn over(&self, id: &str) -> Value {
        let start = Instant::now();
        loop {
            let job = self.get(&format!("/api/jobs/{id}")).json();
            if !["queued", "running"].contains(&job["status"].as_str().unwrap()) {
                return job;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{job}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pixels(&self, picture: &Value) -> Image {
        let answer = self.get(&format!("/files/{}.png", picture["id"].as_str().unwrap()));
        assert_eq!(answer.status, 200);
        Image::decode(&answer.body, "png").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        whole.extend(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
    whole
}

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let (device, _) = device::select("cpu").unwrap();
        Model::open(SMALL, &device, &OpenOptions::default()).unwrap()
    })
}

/// What the library draws alone.
fn alone(request: &Generate) -> Vec<Image> {
    let outcome = model().run(request, &mut NoObserver).unwrap();
    outcome
        .images
        .into_iter()
        .map(|image| image.picture)
        .collect()
}

fn decoded(item: &Value) -> Image {
    let bytes = STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap();
    Image::decode(&bytes, "png").unwrap()
}

fn data_url(picture: &Image) -> String {
    format!(
        "data:image/png;base64,{}",
        STANDARD.encode(picture.encode(Format::Png, 100).unwrap())
    )
}

#[test]
fn openai_generations_are_the_librarys_pictures() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let body = json!({"prompt": "two red cats", "n": 2, "seed": 7, "size": "64x64", "model": "gpt-image-1"});
    let answer = server.posted("/v1/images/generations", &body);
    let drawn: Vec<Image> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(decoded)
        .collect();
    let expected = alone(&Generate {
        n: 2,
        ..Generate::new("two red cats", 7)
    });
    assert_eq!(drawn, expected);
    assert_eq!(
        (&answer["size"], &answer["data"][1]["seed"]),
        (&json!("64x64"), &json!("8"))
    );

    let body = json!({"prompt": "two red cats", "seed": 7, "response_format": "url", "output_format": "webp"});
    let answer = server.posted("/v1/images/generations", &body);
    let url = answer["data"][0]["url"].as_str().unwrap();
    let path = url
        .strip_prefix(&format!("http://{}", server.address))
        .unwrap();
    let file = server.get(path);
    assert_eq!(file.header("content-type").as_deref(), Some("image/webp"));
    assert_eq!(Image::decode(&file.body, "webp").unwrap(), expected[0]);
    let text = provenance::read_parameters(&file.body).unwrap();
    assert!(
        text.starts_with("two red cats\n") && text.contains("Seed: 7,"),
        "{text}"
    );
}

/// Whatever joins and leaves meanwhile.
#[test]
fn pictures_drawn_together_are_those_drawn_alone() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let requests: Vec<Generate> = (0..6)
        .map(|number| Generate {
            n: 1 + number % 3,
            order: match number {
                4 => Some(Order::Parallel { steps: 8 }),
                _ => None,
            },
            ..Generate::new(
                ["a red turtle", "a balloon on the grass", "红色的猫"][number % 3],
                100 * number as u64,
            )
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, request) in requests.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(30 * number as u64));
                let body = json!({
                    "prompt": request.prompt, "n": request.n, "seed": request.seed, "order": request.order.unwrap_or_default().to_string(),
                });
                let answer = server.posted("/v1/images/generations", &body);
                let drawn: Vec<Image> = answer["data"].as_array().unwrap().iter().map(decoded).collect();
                assert_eq!(drawn, alone(request), "{request:?}");
            });
        }
    });
}

#[test]
fn errors_have_openais_form() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let png = data_url(&Image::filled(64, 64, [9; 3]));
    let long = "a very long prompt ".repeat(100);
    let cases = [
        (
            "/v1/images/generations",
            json!({}),
            400,
            "invalid_value",
            json!("prompt"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": " "}),
            400,
            "invalid_value",
            json!("prompt"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": long}),
            400,
            "invalid_value",
            json!("prompt"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "n": 11}),
            400,
            "invalid_value",
            json!("n"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "n": 0}),
            400,
            "invalid_value",
            json!("n"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "size": "1024x1024"}),
            400,
            "invalid_value",
            json!("size"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "model": "x"}),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "sead": 1}),
            400,
            "invalid_json",
            json!("sead"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "top_p": 7}),
            400,
            "invalid_value",
            json!("top-p"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "chunks": true}),
            400,
            "invalid_value",
            json!("chunks"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "chunks": true, "truncate": true}),
            400,
            "invalid_value",
            json!("chunks"),
        ),
        (
            // What only the model can refuse fails the job.
            "/api/jobs",
            json!({"prompt": "a", "chunks": true, "truncate": true}),
            400,
            "invalid_value",
            json!("chunks"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "background": "transparent"}),
            400,
            "invalid_value",
            json!("background"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a", "best_of": 65}),
            400,
            "invalid_value",
            json!("best_of"),
        ),
        (
            "/v1/images/edits",
            json!({"prompt": "a"}),
            400,
            "invalid_value",
            json!("image"),
        ),
        (
            "/v1/images/edits",
            json!({"image": png}),
            400,
            "invalid_value",
            json!("mask"),
        ),
        (
            "/v1/images/edits",
            json!({"image": "https://example.com/a.png"}),
            400,
            "invalid_value",
            json!("image"),
        ),
        (
            "/v1/images/edits",
            json!({"image": "data:image/png;base64,AAAA"}),
            400,
            "invalid_value",
            json!("image"),
        ),
        (
            "/v1/embeddings",
            json!({"input": [1, 2]}),
            400,
            "invalid_value",
            json!("input"),
        ),
        (
            "/v1/embeddings",
            json!({"input": "a", "model": "x"}),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            "/v1/moderations",
            json!({"input": []}),
            400,
            "invalid_value",
            json!("input"),
        ),
        (
            "/v1/moderations",
            json!({"input": [{"text": "a", "image_url": "b"}]}),
            400,
            "invalid_value",
            json!("input"),
        ),
        (
            "/v1/moderations",
            json!({"input": "a", "model": "x"}),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a n\u{200b}ude man"}),
            400,
            "moderation_blocked",
            json!("prompt"),
        ),
        (
            "/api/jobs",
            json!({"prompt": "\u{88f8}\u{9ad4}"}),
            400,
            "moderation_blocked",
            json!("prompt"),
        ),
        ("/v1/nothing", json!({}), 404, "not_found", Value::Null),
    ];
    for (path, body, status, code, param) in cases {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &param),
            "{path} {body}: {error}"
        );
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{error}"
        );
        assert!(answer.header("x-request-id").is_some());
        assert!(
            !answer.text().contains(folder.path().to_str().unwrap()),
            "a path: {error}"
        );
    }
    assert_eq!(server.get("/v1/images/generations").status, 405);
    let broken = server.send(
        "POST",
        "/v1/images/generations",
        &[("Content-Type", "application/json")],
        b"{\"prompt\"",
    );
    assert_eq!(
        (broken.status, &broken.json()["error"]["code"]),
        (400, &json!("invalid_json"))
    );
    // Such a body can be sent by a page of another site without being asked.
    let text = server.send(
        "POST",
        "/v1/images/generations",
        &[("Content-Type", "text/plain")],
        b"{\"prompt\": \"a\"}",
    );
    assert_eq!(text.status, 415);
}

/// The names and the data of events.
fn events(body: &str) -> Vec<(String, String)> {
    body.split("\n\n")
        .filter_map(|block| {
            let line = |start: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(start))
                    .map(str::trim)
            };
            Some((
                line("event:").unwrap_or_default().to_owned(),
                line("data:")?.to_owned(),
            ))
        })
        .collect()
}

#[test]
fn streams_have_partial_pictures_and_the_finished_one() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let body = json!({"prompt": "a hat", "seed": 3, "stream": true, "partial_images": 2});
    let answer = server.post("/v1/images/generations", &body);
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("text/event-stream")
    );
    let events = events(&answer.text());
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let partial = "image_generation.partial_image";
    assert_eq!(
        names,
        [partial, partial, "image_generation.completed", ""],
        "{}",
        answer.text()
    );
    let data: Vec<Value> = events[..3]
        .iter()
        .map(|(_, data)| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(
        (
            &data[0]["partial_image_index"],
            &data[1]["partial_image_index"]
        ),
        (&json!(0), &json!(1))
    );
    assert_eq!(data[2]["type"], "image_generation.completed");
    assert_eq!(decoded(&data[2]), alone(&Generate::new("a hat", 3))[0]);
    assert_ne!(decoded(&data[0]), decoded(&data[1]));
    assert_eq!(events[3].1, "[DONE]");
    // An error after the stream has begun is an event.
    let body = json!({"prompt": "long ".repeat(500), "stream": true});
    let answer = server.post("/v1/images/generations", &body);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\"error\""), "{}", answer.text());
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let folder = TempDir::new().unwrap();
    let server = start(ServeOptions {
        max_queue: 1,
        ..options(folder.path())
    });
    let long = server.posted("/api/jobs", &json!({"prompt": "a cat", "n": 64}));
    let answer = server.post("/v1/images/generations", &json!({"prompt": "a cat"}));
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    let id = long["id"].as_str().unwrap();
    let cancelled = server.posted(&format!("/api/jobs/{id}/cancel"), &json!({}));
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(
        server
            .post("/v1/images/generations", &json!({"prompt": "a cat"}))
            .status,
        200
    );
}

#[test]
fn who_hangs_up_frees_its_place() {
    let folder = TempDir::new().unwrap();
    let server = start(ServeOptions {
        max_queue: 1,
        ..options(folder.path())
    });
    for stream in [false, true] {
        let body = json!({"prompt": "a cat", "n": 10, "best_of": 64, "stream": stream}).to_string();
        let mut connection = TcpStream::connect(server.address).unwrap();
        let head = server.head(
            "POST",
            "/v1/images/generations",
            &[("Content-Type", "application/json")],
            body.len(),
        );
        connection.write_all((head + &body).as_bytes()).unwrap();
        let live = || {
            server.get("/api/models").json()["queue"]["live"]
                .as_u64()
                .unwrap()
        };
        let wait = |jobs: u64| {
            let start = Instant::now();
            while live() != jobs {
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "expected {jobs} jobs"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            start.elapsed()
        };
        wait(1);
        drop(connection);
        // Drawing all of it takes many times longer.
        let freed = wait(0);
        assert!(freed < Duration::from_secs(10), "{freed:?}");
    }
}

#[test]
fn edits_leave_all_other_pixels() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let picture = &alone(&Generate::new("a red turtle", 5))[0];
    let area = Area {
        x: 16,
        y: 24,
        width: 20,
        height: 16,
    };
    let mut request = Edit::new(picture.into(), Region::Box(area), 9);
    request.prompt = Some("a red turtle".into());
    let outcome = model().run(&request, &mut NoObserver).unwrap();
    let expected = outcome.image(&outcome.candidates[0]).picture();

    // A mask that is transparent where it is drawn, in a form.
    let mut mask = Image::filled(64, 64, [0; 3]);
    for y in 24..40 {
        mask.rgb[3 * (y * 64 + 16)..3 * (y * 64 + 36)].fill(255);
    }
    let boundary = "------------------------b0";
    let mut form = Vec::new();
    for (name, bytes) in [
        ("prompt", &b"a red turtle"[..]),
        ("seed", b"9"),
        ("image", &picture.encode(Format::Png, 100).unwrap()),
        ("mask", &mask.encode(Format::Png, 100).unwrap()),
    ] {
        let file = if name == "image" || name == "mask" {
            "; filename=\"../../etc/passwd\""
        } else {
            ""
        };
        form.extend(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
            )
            .bytes(),
        );
        form.extend(bytes);
        form.extend(b"\r\n");
    }
    form.extend(format!("--{boundary}--\r\n").bytes());
    let kind = format!("multipart/form-data; boundary={boundary}");
    let answer = server.send(
        "POST",
        "/v1/images/edits",
        &[("Content-Type", &kind)],
        &form,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(decoded(&answer.json()["data"][0]), expected);

    // The same as a native job.
    let body = json!({"kind": "edit", "prompt": "a red turtle", "seed": 9, "image": data_url(picture), "box": area});
    let job = server.job(&body);
    assert_eq!(job["status"], "done", "{job}");
    let edited = server.pixels(&job["pictures"][0]);
    assert_eq!(edited, expected);
    for (at, (new, old)) in edited.rgb.chunks(3).zip(picture.rgb.chunks(3)).enumerate() {
        assert!(new == old || area.contains(at % 64, at / 64), "pixel {at}");
    }
    // And once more, by its name.
    let id = job["id"].as_str().unwrap();
    let again = server.posted(&format!("/api/jobs/{id}/retry"), &json!({}));
    let again = server.over(again["id"].as_str().unwrap());
    assert_eq!(server.pixels(&again["pictures"][0]), expected);
}

#[test]
fn variations_and_outpainting() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let picture = &alone(&Generate::new("a hat", 5))[0];
    let outcome = model()
        .run(
            &Vary {
                n: 2,
                ..Vary::new(picture.clone(), 0.3, 4)
            },
            &mut NoObserver,
        )
        .unwrap();
    let body = json!({"image": data_url(picture), "n": 2, "strength": 0.3, "seed": 4});
    let answer = server.posted("/v1/images/variations", &body);
    let drawn: Vec<Image> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(decoded)
        .collect();
    let expected: Vec<Image> = outcome
        .images
        .into_iter()
        .map(|image| image.picture)
        .collect();
    assert_eq!(drawn, expected);
    // What the client sent is gone with its answer.
    let jobs = server.get("/api/jobs").json();
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    let again = server.post(&format!("/api/jobs/{id}/retry"), &json!({}));
    assert_eq!(
        (again.status, &again.json()["error"]["code"]),
        (409, &json!("inputs_are_gone"))
    );
    let drawn = server.job(&json!({"prompt": "a hat", "seed": 5}));
    let body = json!({"kind": "edit", "picture": drawn["pictures"][0]["id"], "outpaint": {"left": 16}, "seed": 1});
    let job = server.job(&body);
    assert_eq!(
        (&job["pictures"][0]["width"], &job["pictures"][0]["height"]),
        (&json!(80), &json!(64)),
        "{job}"
    );
}

#[test]
fn jobs_and_pictures_of_the_native_api() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let job =
        server.job(&json!({"prompt": "a red turtle", "n": 2, "seed": "18446744073709551615"}));
    assert_eq!(
        (&job["status"], &job["seed"]),
        (&json!("done"), &json!("18446744073709551615"))
    );
    let pictures = job["pictures"].as_array().unwrap();
    assert_eq!(
        (&pictures[0]["seed"], &pictures[1]["seed"]),
        (&json!("18446744073709551615"), &json!("0"))
    );
    let best = server.job(&json!({"prompt": "a red turtle", "n": 1, "best_of": 3, "seed": 0}));
    // The model chose.
    assert!(best["pictures"][0]["clip_score"].is_null(), "{best}");
    assert_eq!(best["pictures"].as_array().unwrap().len(), 1, "{best}");
    server.job(&json!({"prompt": "a star", "seed": 2}));

    let listed = server.get("/api/pictures?limit=2").json();
    assert_eq!(
        (
            &listed["total"],
            listed["pictures"].as_array().unwrap().len()
        ),
        (&json!(4), 2)
    );
    assert_eq!(listed["pictures"][0]["prompt"], "a star");
    let found = server
        .get("/api/pictures/search?q=a+red+turtle&limit=4")
        .json();
    let prompts: Vec<&str> = found["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["prompt"].as_str().unwrap())
        .collect();
    assert_eq!((prompts.len(), prompts[3]), (4, "a star"), "{found}");
    let id = pictures[0]["id"].as_str().unwrap();
    let similar = server.posted("/api/pictures/search", &json!({"picture": id}));
    assert_eq!(similar["pictures"][0]["id"], id);

    let patch = server.send(
        "PATCH",
        &format!("/api/pictures/{id}"),
        &[("Content-Type", "application/json")],
        b"{\"favourite\": true}",
    );
    assert_eq!(patch.json()["favourite"], true);
    assert_eq!(
        server.get("/api/pictures?favourites=true").json()["pictures"][0]["id"],
        id
    );
    let settings = server.posted("/api/settings", &json!({"picture": id}));
    assert_eq!(settings["settings"]["prompt"], "a red turtle");
    assert_eq!(settings["settings"]["seed"], "18446744073709551615");
    let captions = server.posted(
        "/api/captions",
        &json!({"picture": id, "n": 2, "language": "en"}),
    );
    assert!(
        captions["captions"][0]["text"]
            .as_str()
            .unwrap()
            .contains("turtle"),
        "{captions}"
    );

    assert_eq!(
        server.posted("/api/pictures/delete", &json!({"ids": [id, "none"]}))["deleted"],
        1
    );
    assert_eq!(server.get(&format!("/files/{id}.png")).status, 404);
    assert_eq!(server.get("/api/pictures").json()["total"], 3);
    let job = job["id"].as_str().unwrap();
    assert_eq!(
        server
            .send("DELETE", &format!("/api/jobs/{job}"), &[], b"")
            .status,
        204
    );
    assert_eq!(server.get(&format!("/api/jobs/{job}")).status, 404);
    for path in [
        "/files/..%2f..%2fimpasto.sqlite",
        "/files/%2e%2e.png",
        "/files/../data/impasto.sqlite",
        "/files/a.exe",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    let metrics = server.get("/metrics").text();
    assert!(
        metrics.contains("impasto_pictures_drawn_total 4\n"),
        "{metrics}"
    );
    assert_eq!(
        (server.get("/healthz").status, server.get("/readyz").status),
        (200, 200)
    );
}

#[test]
fn a_job_is_watched_with_previews() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    // Two that come before it, so that the watcher is there when it begins.
    server.posted("/api/jobs", &json!({"prompt": "a cat", "n": 16}));
    let job = server.posted("/api/jobs", &json!({"prompt": "a hat", "n": 2, "seed": 1}));
    let path = format!("/api/jobs/{}/events", job["id"].as_str().unwrap());
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection
        .write_all(server.head("GET", &path, &[], 0).as_bytes())
        .unwrap();
    let mut names = Vec::new();
    for line in BufReader::new(connection).lines() {
        let line = line.unwrap();
        if let Some(name) = line.strip_prefix("event: ") {
            names.push(name.to_owned());
            if name == "job" {
                break;
            }
        }
    }
    let count = |name: &str| names.iter().filter(|known| *known == name).count();
    assert_eq!((count("picture"), count("job")), (2, 1), "{names:?}");
    assert!(count("progress") > 1 && count("preview") > 0, "{names:?}");
}

/// Stopped in the middle, a server has lost nothing when it starts again, and draws the same.
#[test]
fn what_was_acknowledged_is_drawn_after_a_stop() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let ids: Vec<String> = (0..3)
        .map(|seed| {
            let body = json!({"prompt": "a red turtle", "n": 24, "seed": 1000 * seed});
            server.posted("/api/jobs", &body)["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    server.stop();
    let server = start(options(folder.path()));
    for (number, id) in ids.iter().enumerate() {
        let job = server.over(id);
        assert_eq!(
            (&job["status"], job["pictures"].as_array().unwrap().len()),
            (&json!("done"), 24),
            "{job}"
        );
        if number == 1 {
            let expected = alone(&Generate {
                n: 24,
                ..Generate::new("a red turtle", 1000)
            });
            let drawn: Vec<Image> = job["pictures"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| server.pixels(one))
                .collect();
            assert_eq!(drawn, expected);
        }
    }
    assert_eq!(server.get("/api/pictures").json()["total"], 72);
}

#[test]
fn hosts_origins_and_keys() {
    let folder = TempDir::new().unwrap();
    let open = start(options(folder.path()));
    let status = |server: &Running, method: &str, path: &str, more: &[(&str, &str)]| {
        server.send(method, path, more, b"").status
    };
    let own = format!("http://{}", open.address);
    assert_eq!(
        status(&open, "GET", "/api/models", &[("Host", "evil.example")]),
        421
    );
    assert_eq!(
        status(&open, "GET", "/", &[("Host", "evil.example:7860")]),
        421
    );
    assert_eq!(
        status(&open, "GET", "/api/models", &[("Host", "localhost:1234")]),
        200
    );
    assert_eq!(
        status(
            &open,
            "POST",
            "/sdapi/v1/interrupt",
            &[("Origin", "https://evil.example")]
        ),
        403
    );
    assert_eq!(
        status(&open, "POST", "/sdapi/v1/interrupt", &[("Origin", "null")]),
        403
    );
    assert_eq!(
        status(&open, "POST", "/sdapi/v1/interrupt", &[("Origin", &own)]),
        200
    );
    assert_eq!(status(&open, "POST", "/sdapi/v1/interrupt", &[]), 200);
    let page = open.get("/");
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(page.text().contains("<title>impasto</title>"));
    open.stop();

    let keys = folder.path().join("keys");
    let key = Keys::add(&keys, "ada").unwrap();
    let mut closed = start(ServeOptions {
        api_key_file: Some(keys),
        ..options(folder.path())
    });
    for path in ["/v1/models", "/api/models", "/sdapi/v1/options", "/metrics"] {
        let answer = closed.get(path);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (401, &json!("invalid_api_key")),
            "{path}"
        );
    }
    assert_eq!(
        (closed.get("/").status, closed.get("/healthz").status),
        (200, 200)
    );
    closed.key = Some(format!("{key}0"));
    assert_eq!(closed.get("/v1/models").status, 401);
    closed.key = Some(key);
    assert_eq!(closed.get("/v1/models").status, 200);
    // With a key it may have any name.
    assert_eq!(
        status(
            &closed,
            "GET",
            "/v1/models",
            &[("Host", "pictures.example")]
        ),
        200
    );

    let everywhere = ServeOptions {
        host: [0, 0, 0, 0].into(),
        ..options(&folder.path().join("other"))
    };
    let (device, _) = device::select("cpu").unwrap();
    let error = Server::open(everywhere, Vec::new(), device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("0.0.0.0"), "{error}");
}

#[test]
fn moderations_are_scores_of_the_policy() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let scored = |input: Value| {
        server.posted("/v1/moderations", &json!({"input": input}))["results"].clone()
    };
    let results = scored(json!([
        "a red cat",
        "a \u{ff4e}\u{ff55}\u{ff44}\u{ff45} man",
        "\u{5272}\u{8155}"
    ]));
    let flagged: Vec<&Value> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["flagged"])
        .collect();
    assert_eq!(flagged, [&json!(false), &json!(true), &json!(true)]);
    assert_eq!(results[1]["categories"]["sexual"], true);
    assert_eq!(results[2]["categories"]["self-harm"], true);
    for result in results.as_array().unwrap() {
        assert_eq!(result["categories"].as_object().unwrap().len(), 13);
        let scores = result["category_scores"].as_object().unwrap();
        assert!(scores.len() == 13 && scores.values().all(Value::is_number));
    }
    // One text, and parts of one thing: one result.
    assert_eq!(scored(json!("a cat")).as_array().unwrap().len(), 1);
    let picture = data_url(&Image::filled(8, 8, [9; 3]));
    let parts = json!([{"type": "text", "text": "a nude man"}, {"type": "image_url", "image_url": {"url": picture}}]);
    let result = &scored(parts)[0];
    assert_eq!(result["flagged"], true);
    // Nothing looks at pictures here, and nobody says that it did.
    assert_eq!(
        result["category_applied_input_types"]["sexual"],
        json!(["text"])
    );
    let refused = server.post("/sdapi/v1/txt2img", &json!({"prompt": "a nude man"}));
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (422, &json!("moderation_blocked"))
    );
    let error = server
        .post("/v1/images/generations", &json!({"prompt": "a nude man"}))
        .json()["error"]
        .clone();
    assert_eq!(error["type"], "image_generation_user_error");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("sexual, score 1.00"),
        "{error}"
    );
    server.stop();

    let folder = TempDir::new().unwrap();
    let goldens =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import/safety/goldens/vit");
    let mut policy = Policy::of(Mode::Flag);
    policy.pictures.checker = Some(goldens.to_str().unwrap().to_owned());
    // Everything is found, and passed on all the same.
    policy.threshold = 1e-4;
    let server = start(ServeOptions {
        safety: policy.clone(),
        ..options(folder.path())
    });
    let body = json!({"prompt": "a nude man", "seed": 3});
    let answer = server.posted("/v1/images/generations", &body);
    assert_eq!(answer["safety"][0]["category"], "sexual");
    assert!(
        answer["data"][0]["safety"]
            .as_str()
            .unwrap()
            .starts_with("sexual 0."),
        "{answer}"
    );
    let expected = alone(&Generate::new("a nude man", 3));
    assert_eq!(decoded(&answer["data"][0]), expected[0]);
    server.stop();

    let folder = TempDir::new().unwrap();
    policy.mode = Mode::Refuse;
    let server = start(ServeOptions {
        safety: policy.clone(),
        ..options(folder.path())
    });
    let refused = server.post("/v1/images/generations", &json!({"prompt": "a star"}));
    let error = &refused.json()["error"];
    assert_eq!(
        (refused.status, &error["code"]),
        (400, &json!("moderation_blocked"))
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("The picture was refused"),
        "{error}"
    );
    let job = server.job(&json!({"prompt": "a star", "n": 2}));
    assert_eq!(
        (&job["status"], &job["error"]["code"]),
        (&json!("failed"), &json!("moderation_blocked"))
    );
    server.stop();

    let folder = TempDir::new().unwrap();
    policy.mode = Mode::Flag;
    policy.categories.insert(Category::Sexual, Action::Blur);
    let server = start(ServeOptions {
        safety: policy,
        ..options(folder.path())
    });
    let answer = server.posted(
        "/v1/images/generations",
        &json!({"prompt": "a star", "seed": 3}),
    );
    let expected = alone(&Generate::new("a star", 3))[0].blurred().unwrap();
    assert_eq!(decoded(&answer["data"][0]), expected);
    assert!(
        answer["data"][0]["safety"]
            .as_str()
            .unwrap()
            .ends_with("blurred")
    );
    // Nor is it seen while it is drawn.
    let events = server.post(
        "/v1/images/generations",
        &json!({"prompt": "a star", "stream": true, "partial_images": 2}),
    );
    assert!(!events.text().contains("partial_image\"") && events.text().contains("completed"));
}

#[test]
fn embeddings_are_of_length_one_and_pictures_are_near_their_words() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let picture = &alone(&Generate::new("a red turtle", 5))[0];
    let body = json!({"input": ["a red turtle", "a star", {"image_url": data_url(picture)}], "model": "impasto-clip"});
    let answer = server.posted("/v1/embeddings", &body);
    let row = |index: usize| -> Vec<f64> {
        serde_json::from_value(answer["data"][index]["embedding"].clone()).unwrap()
    };
    let cosine =
        |a: usize, b: usize| -> f64 { row(a).iter().zip(row(b)).map(|(x, y)| x * y).sum() };
    assert!((cosine(0, 0) - 1.0).abs() < 1e-4);
    assert!(cosine(0, 2) > cosine(1, 2));
    let body = json!({"input": "a red turtle", "encoding_format": "base64"});
    let answer = server.posted("/v1/embeddings", &body);
    let bytes = STANDARD
        .decode(answer["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!((bytes.len(), first), (4 * row(0).len(), row(0)[0] as f32));
}

#[test]
fn automatic1111s_api() {
    let folder = TempDir::new().unwrap();
    let server = start(options(folder.path()));
    let body = json!({"prompt": "a hat", "seed": 3, "batch_size": 2, "cfg_scale": 3, "width": 128, "height": 128, "enable_hr": false});
    let answer = server.posted("/sdapi/v1/txt2img", &body);
    let mut request = Generate {
        n: 2,
        ..Generate::new("a hat", 3)
    };
    request.sampling.guidance_scale = Some(3.0);
    let bytes = STANDARD
        .decode(answer["images"][1].as_str().unwrap())
        .unwrap();
    let drawn = Image::decode(&bytes, "png").unwrap();
    assert_eq!(drawn, alone(&request)[1].resize(128, 128).unwrap());
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["all_seeds"], json!([3, 4]));
    let text = server.posted("/sdapi/v1/png-info", &json!({"image": answer["images"][0]}));
    assert!(
        text["info"].as_str().unwrap().starts_with("a hat\n"),
        "{text}"
    );

    // White is drawn.
    let picture = &alone(&Generate::new("a hat", 3))[0];
    let mut mask = Image::filled(64, 64, [0; 3]);
    mask.rgb[..3 * 64 * 32].fill(255);
    let body = json!({"prompt": "a hat", "init_images": [data_url(picture)], "mask": data_url(&mask), "seed": 1});
    let answer = server.posted("/sdapi/v1/img2img", &body);
    let bytes = STANDARD
        .decode(answer["images"][0].as_str().unwrap())
        .unwrap();
    let edited = Original::decode(&bytes, "png").unwrap().picture();
    assert_eq!(edited.rgb[3 * 64 * 32..], picture.rgb[3 * 64 * 32..]);
    assert_ne!(edited.rgb[..3 * 64 * 32], picture.rgb[..3 * 64 * 32]);

    // Away from a negative prompt, as in the command.
    let body =
        json!({"prompt": "a hat", "negative_prompt": "a red hat", "cfg_scale": 3, "seed": 3});
    let answer = server.posted("/sdapi/v1/txt2img", &body);
    let bytes = STANDARD
        .decode(answer["images"][0].as_str().unwrap())
        .unwrap();
    let mut away = Generate {
        negative_prompt: Some("a red hat".into()),
        ..Generate::new("a hat", 3)
    };
    away.sampling.guidance_scale = Some(3.0);
    let expected = &alone(&away)[0];
    assert_eq!(
        &Original::decode(&bytes, "png").unwrap().picture(),
        expected
    );
    let body =
        json!({"prompt": "a hat", "negative_prompt": "a red hat", "guidance": 3, "seed": "3"});
    let job = server.job(&body);
    assert_eq!(&server.pixels(&job["pictures"][0]), expected);
    let settings = server.posted(
        "/api/settings",
        &json!({"picture": job["pictures"][0]["id"]}),
    );
    assert_eq!(settings["settings"]["negative_prompt"], "a red hat");
    let body = json!({"prompt": "a hat", "negative_prompt": "a red hat", "guidance": 1});
    let refused = server.post("/v1/images/generations", &body);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(server.get("/sdapi/v1/progress").json()["progress"], 0.0);
    assert_eq!(
        server.get("/sdapi/v1/sd-models").json()[0]["model_name"],
        "impasto-mini"
    );
    assert_eq!(
        server.get("/sdapi/v1/options").json()["sd_model_checkpoint"],
        "impasto-mini"
    );
    assert_eq!(
        server
            .post("/sdapi/v1/options", &json!({"sd_model_checkpoint": "x"}))
            .status,
        404
    );
}

/// The specification names what is answered, and nothing else.
#[test]
fn the_specification_has_all_addresses() {
    let specification: Value = serde_json::from_str(include_str!("../page/openapi.json")).unwrap();
    let mut specified: Vec<String> = specification["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let sources = [
        include_str!("../src/openai.rs"),
        include_str!("../src/native.rs"),
        include_str!("../src/automatic.rs"),
        include_str!("../src/metrics.rs"),
        include_str!("../src/moderations.rs"),
    ];
    let mut answered: Vec<String> = sources
        .iter()
        .flat_map(|source| source.split(".route(").skip(1))
        .map(|rest| rest.split('"').nth(1).unwrap().to_owned())
        .collect();
    specified.sort();
    answered.sort();
    assert_eq!(specified, answered);
}

/// Both languages say everything, and the page says nothing else.
#[test]
fn the_page_speaks_two_languages() {
    let source = include_str!("../page/words.js");
    let (_, source) = source.split_once("en: {").unwrap();
    let (english, chinese) = source.split_once("zh: {").unwrap();
    let keys = |text: &str| -> std::collections::BTreeSet<String> {
        let body = text.split("let language").next().unwrap();
        let words = body
            .split('"')
            .step_by(2)
            .flat_map(|part| part.split([',', '{', '\n', ' ']));
        words
            .filter_map(|word| word.strip_suffix(':'))
            .map(str::to_owned)
            .collect()
    };
    let english = keys(english);
    assert_eq!(english, keys(chinese));
    let page = include_str!("../page/index.html");
    for attribute in ["data-text=\"", "data-label=\"", "data-placeholder=\""] {
        for rest in page.split(attribute).skip(1) {
            let key = rest.split('"').next().unwrap();
            assert!(english.contains(key), "{key}");
        }
    }
}

#[test]
fn pictures_are_enlarged_by_size_and_by_upscale() {
    let folder = TempDir::new().unwrap();
    let nets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import/upscaler/goldens");
    let source = ModelSource::Published {
        path: nets.join("compact_x3/realesr-animevideov3.pth"),
        needs: Vec::new(),
    };
    let (device, _) = device::select("cpu").unwrap();
    let upscaler = Upscaler::load(&source, &device, None).unwrap();
    let large =
        |picture: &Image, factor| upscaler.enlarge(picture, factor, &mut NoObserver).unwrap();
    let server = start(ServeOptions {
        upscaler: Some(source),
        ..options(folder.path())
    });
    let drawn = alone(&Generate::new("two red cats", 7)).swap_remove(0);
    let body = json!({"prompt": "two red cats", "seed": 7, "size": "256x256"});
    let answer = server.posted("/v1/images/generations", &body);
    assert_eq!(decoded(&answer["data"][0]), large(&drawn, 4));
    assert_eq!(answer["size"], "256x256");
    let body = json!({"prompt": "two red cats", "seed": 7, "size": "100x100"});
    let refused = server.post("/v1/images/generations", &body);
    assert_eq!(refused.status, 400);
    assert!(
        refused.text().contains("64x64, 128x128 or 256x256"),
        "{}",
        refused.text()
    );
    let body = json!({"kind": "generate", "prompt": "two red cats", "seed": 7, "upscale": 2});
    let job = server.job(&body);
    let picture = &job["pictures"][0];
    assert_eq!(
        (&picture["width"], &picture["height"]),
        (&json!(128), &json!(128))
    );
    let text = picture["parameters"].as_str().unwrap();
    assert!(
        text.contains("Size: 64x64") && text.contains("Postprocess upscale by: 2"),
        "{text}"
    );
    let image = STANDARD.encode(drawn.encode(Format::Png, 100).unwrap());
    for (kind, more) in [
        (
            "edit",
            json!({"box": {"x": 8, "y": 8, "width": 16, "height": 16}}),
        ),
        ("vary", json!({"strength": 0.2})),
    ] {
        let mut body =
            json!({"kind": kind, "prompt": "a", "seed": 1, "image": image, "upscale": 2});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert_eq!(server.job(&body)["pictures"][0]["width"], 128, "{kind}");
    }
    for upscale in [3, 0] {
        let body = json!({"kind": "generate", "prompt": "a", "upscale": upscale});
        let refused = server.post("/api/jobs", &body);
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (400, &json!("upscale"))
        );
    }
    server.stop();
    // Without one.
    let server = start(options(folder.path()));
    for body in [
        json!({"prompt": "a", "upscale": 2}),
        json!({"prompt": "a", "size": "128x128"}),
    ] {
        assert_eq!(server.post("/v1/images/generations", &body).status, 400);
    }
}
