//! `pull` against a server that speaks as the hub does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::program::Program;
use crate::references::published;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does and what it saw.
#[derive(Default)]
struct State {
    /// Name, content, whether it is a large file (checksum SHA-256).
    files: Vec<(String, Vec<u8>, bool)>,
    /// The next answers with a body of weights end after this many bytes.
    cuts: Vec<usize>,
    /// Weights are always sent from their first byte on and cut after this many.
    always_cut: Option<usize>,
    /// The listing states neither sizes nor checksums.
    bare: bool,
    /// Weights are sent with one byte changed.
    corrupt: bool,
    /// Request lines with their Range, in order.
    seen: Vec<String>,
    /// Tokens that came, by path.
    tokens: Vec<String>,
}

/// A hub with one repository, `tests/model`.
pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new() -> Self {
        let weights: Vec<u8> = (0..1_000_000u32).map(|i| ((i * i) >> 7) as u8).collect();
        let state = Arc::new(Mutex::new(State {
            files: vec![
                ("README.md".to_owned(), b"# a model".to_vec(), false),
                ("config.json".to_owned(), b"{\"width\": 4}".to_vec(), false),
                ("model.safetensors".to_owned(), weights, true),
            ],
            ..State::default()
        }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream.unwrap(), &shared));
            }
        });
        Server { address, state }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

/// One request a connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut start = None;
    let mut token = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        let header = header.trim().to_ascii_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse::<usize>().ok();
        }
        if let Some(value) = header.strip_prefix("authorization: ") {
            token = Some(value.to_owned());
        }
    }
    let mut state = state.lock().unwrap();
    let range = start.map_or(String::new(), |start| format!(" from {start}"));
    state.seen.push(format!("{path}{range}"));
    if let Some(token) = token {
        state.tokens.push(format!("{path} {token}"));
    }
    let mut send = |status: &str, headers: &str, body: &[u8], length: usize| {
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        // The client may have gone.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        let _ = stream.flush();
    };
    if path.starts_with("/api/models/tests/model/revision/main") {
        let siblings: Vec<serde_json::Value> = state
            .files
            .iter()
            .map(|(name, bytes, large)| {
                let git = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
                let blob = hex(&git.chain_update(bytes).finalize());
                let lfs = large.then(|| {
                    serde_json::json!({"sha256": hex(&Sha256::digest(bytes)), "size": bytes.len()})
                });
                if state.bare {
                    return serde_json::json!({"rfilename": name});
                }
                serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": blob, "lfs": lfs})
            })
            .collect();
        let body = serde_json::json!({
            "sha": COMMIT, "siblings": siblings, "cardData": {"license": "cc-by-nc-4.0"}
        });
        let body = body.to_string();
        return send("200 OK", "", body.as_bytes(), body.len());
    }
    let Some(name) = path.strip_prefix(&format!("/tests/model/resolve/{COMMIT}/")) else {
        let Some(name) = path.strip_prefix("/elsewhere/") else {
            return send("404 Not Found", "", b"", 0);
        };
        let (_, bytes, large) = state.files.iter().find(|file| file.0 == name).unwrap();
        let (mut bytes, large) = (bytes.clone(), *large);
        if large && state.corrupt {
            bytes[500_000] ^= 1;
        }
        let total = bytes.len();
        if let Some(cut) = state.always_cut.filter(|_| large) {
            return send("200 OK", "", &bytes[..cut], total);
        }
        let body = &bytes[start.unwrap_or(0)..];
        let (status, headers) = match start {
            Some(start) => (
                "206 Partial Content",
                format!("content-range: bytes {start}-{}/{total}\r\n", total - 1),
            ),
            None => ("200 OK", String::new()),
        };
        let sent = match large.then(|| state.cuts.pop()).flatten() {
            Some(cut) => cut.min(body.len()),
            None => body.len(),
        };
        return send(status, &headers, &body[..sent], body.len());
    };
    // Large files stand on another server, as on the hub.
    send(
        "302 Found",
        &format!("location: /elsewhere/{name}\r\n"),
        b"",
        0,
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn arguments(server: &Server) -> Vec<&str> {
    vec![
        "pull",
        "tests/model",
        "--endpoint",
        &server.address,
        "--cache",
        "cache",
    ]
}

#[test]
fn a_pulled_model_is_whole_and_serves_without_the_network() {
    let program = Program::new();
    let server = Server::new();
    let ran = program.run(&arguments(&server));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("cc-by-nc-4.0, forbids commercial use"),
        "{}",
        ran.stderr
    );
    let folder = program.path(ran.stdout.trim());
    let state = server.state.lock().unwrap();
    for name in ["config.json", "model.safetensors"] {
        let expected = &state.files.iter().find(|file| file.0 == name).unwrap().1;
        assert_eq!(&fs::read(folder.join(name)).unwrap(), expected, "{name}");
    }
    assert!(!folder.join("README.md").exists());
    drop(state);
    server.requests();

    // Again: the hub is asked what there is, nothing is brought.
    let mut again = arguments(&server);
    again.push("--json");
    let report = program.json(&again);
    assert_eq!(report[0]["downloaded_bytes"], 0);
    assert_eq!(server.requests().len(), 1);

    // Offline nobody is asked; a dead hub is no obstacle either.
    let offline = ["pull", "tests/model", "--cache", "cache", "--offline"];
    assert_eq!(program.path(program.expect(&offline).trim()), folder);
    assert_eq!(server.requests().len(), 0);
    let dead = [
        "pull",
        "tests/model",
        "--cache",
        "cache",
        "--endpoint",
        "http://127.0.0.1:9",
    ];
    let ran = program.run(&dead);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("does not answer"), "{}", ran.stderr);
}

/// What the hub says of a model's licence goes with the model.
#[test]
fn an_imported_model_has_the_licence_that_it_was_pulled_with() {
    let program = Program::new();
    let server = Server::new();
    let golden = std::path::PathBuf::from(published("janus/goldens/pro"));
    let files = fs::read_dir(golden).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_large = name.ends_with(".safetensors");
        (name, fs::read(path).unwrap(), is_large)
    });
    server.state.lock().unwrap().files = files.collect();
    let folder = program.expect(&arguments(&server)).trim().to_owned();
    let licence = |output: &str, import: &[&str]| {
        program.expect(&[&["import", &folder, "-o", output], import].concat());
        let config = fs::read(program.path(output).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["licence"].as_str().unwrap().to_owned()
    };
    assert_eq!(licence("as-pulled", &[]), "cc-by-nc-4.0");
    assert_eq!(licence("as-said", &["--licence", "MIT"]), "MIT");
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let program = Program::new();
    let server = Server::new();
    server.state.lock().unwrap().cuts = vec![300_000, 400_000];
    program.expect(&arguments(&server));
    let weights: Vec<String> = server
        .requests()
        .into_iter()
        .filter(|seen| seen.starts_with("/elsewhere/model"))
        .collect();
    assert_eq!(
        weights,
        [
            "/elsewhere/model.safetensors",
            "/elsewhere/model.safetensors from 400000",
            "/elsewhere/model.safetensors from 700000",
        ]
    );
}

#[test]
fn a_pull_that_is_cut_at_the_same_byte_each_time_ends() {
    let (server, program) = (Server::new(), Program::new());
    server.state.lock().unwrap().always_cut = Some(300_000);
    let ran = program.run(&arguments(&server));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("4 times in a row"), "{}", ran.stderr);
    // The listing, two redirects and config.json, and five times the weights with their redirects.
    assert!(server.requests().len() < 16);
}

#[test]
fn files_without_checksums_are_named() {
    let (server, program) = (Server::new(), Program::new());
    server.state.lock().unwrap().bare = true;
    let ran = program.run(&arguments(&server));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = "warning: the hub states no checksum of config.json, model.safetensors";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn a_pull_that_gave_up_is_gone_on_with_by_the_next() {
    let program = Program::new();
    let server = Server::new();
    // One part comes, then nothing any more.
    server.state.lock().unwrap().cuts = vec![0, 0, 0, 0, 250_000];
    let ran = program.run(&arguments(&server));
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("what has come is kept"),
        "{}",
        ran.stderr
    );
    server.requests();
    program.expect(&arguments(&server));
    assert!(
        server
            .requests()
            .contains(&"/elsewhere/model.safetensors from 250000".to_owned())
    );
}

#[test]
fn what_does_not_match_its_checksum_is_not_kept() {
    let program = Program::new();
    let server = Server::new();
    server.state.lock().unwrap().corrupt = true;
    let ran = program.run(&arguments(&server));
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("model.safetensors: its checksum is"),
        "{}",
        ran.stderr
    );
    let kept = program.files();
    assert!(
        kept.iter()
            .all(|path| fs::metadata(path).unwrap().len() < 1000),
        "{kept:?}"
    );
    // Nor does it serve offline.
    let offline = ["pull", "tests/model", "--cache", "cache", "--offline"];
    assert_eq!(program.run(&offline).code, 1);
    server.state.lock().unwrap().corrupt = false;
    program.expect(&arguments(&server));
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let program = Program::new();
    let server = Server::new();
    let mut command = program.command(&arguments(&server));
    let output = command.env("HF_TOKEN", "secret").output().unwrap();
    assert!(output.status.success());
    let tokens = &server.state.lock().unwrap().tokens;
    assert!(tokens.iter().any(|seen| seen.starts_with("/api/")));
    assert!(!tokens.is_empty() && tokens.iter().all(|seen| !seen.starts_with("/elsewhere")));
}

#[test]
fn bad_names_revisions_and_a_missing_network() {
    let program = Program::new();
    let server = Server::new();
    program.refuses(1, &["pull", "clip-b3"], &["did you mean clip-b32?"]);
    let endpoint = ["--endpoint", server.address.as_str(), "--cache", "cache"];
    let pull = |more: &[&'static str]| {
        let mut all = vec!["pull"];
        all.extend(more);
        all.extend(endpoint);
        all
    };
    program.refuses(1, &pull(&["tests/other"]), &["tests/other", "404"]);
    program.refuses(
        1,
        &pull(&["tests/model", "--revision", "../main"]),
        &["revision", "../main"],
    );
    let dead = [
        "pull",
        "tests/model",
        "--endpoint",
        "http://127.0.0.1:9",
        "--cache",
        "c",
    ];
    program.refuses(
        1,
        &dead,
        &[
            "tests/model",
            "http://127.0.0.1:9 does not answer",
            "the cache has not got it",
        ],
    );
    program.refuses(
        2,
        &["pull", "tests/model", "--endpoint", "ftp://x"],
        &["ftp://x"],
    );
}

#[test]
fn the_known_models_are_listed_with_licence_and_size() {
    let program = Program::new();
    let listed = program.expect(&["pull", "--list"]);
    assert!(
        listed.contains("openai/clip-vit-base-patch32\tclip-b32\t"),
        "{listed}"
    );
    assert!(
        listed
            .lines()
            .all(|line| line.contains("licence") && line.contains(" GB"))
    );
    let json = program.json(&["pull", "--list", "--json"]);
    assert!(json.as_array().unwrap().len() >= 10);
}
