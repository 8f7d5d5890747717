//! The server as a process: it says where it is, draws what `generate` draws, and is killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use impasto::image::Image;
use serde_json::{Value, json};

use crate::program::Program;

struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(program: &Program) -> Self {
        let mut child = program
            .command(&[
                "serve", "--port", "0", "--data", "data", "--device", "cpu", "--quiet",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("http://")
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        Serving { child, address }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all((head + body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        answer.split_off(end + 4)
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        serde_json::from_slice(&self.send(method, path, body)).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every job that was acknowledged ends, once, with the pictures that `generate` draws.
#[test]
fn a_killed_server_draws_what_it_acknowledged() {
    let program = Program::new();
    let mut ids = Vec::new();
    // Killed while it draws, and again while it draws what is left.
    for (number, wait) in [(0, 250), (1, 700), (2, 0)] {
        let mut server = Serving::start(&program);
        let body = json!({"prompt": "a red turtle", "n": 12, "seed": 100 * number}).to_string();
        let job = server.json("POST", "/api/jobs", &body);
        ids.push(job["id"].as_str().unwrap().to_owned());
        std::thread::sleep(Duration::from_millis(wait));
        server.child.kill().unwrap();
    }
    let server = Serving::start(&program);
    let start = Instant::now();
    for (number, id) in ids.iter().enumerate() {
        let job = loop {
            let job = server.json("GET", &format!("/api/jobs/{id}"), "");
            if job["status"] == "done" {
                break job;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{job}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let pictures = job["pictures"].as_array().unwrap();
        assert_eq!(pictures.len(), 12);
        let seed = (100 * number).to_string();
        program.expect(&[
            "generate",
            "a red turtle",
            "-n",
            "12",
            "--seed",
            &seed,
            "-o",
            "alone/",
            "--plain-names",
        ]);
        for (place, picture) in pictures.iter().enumerate() {
            let served = server.send(
                "GET",
                &format!("/files/{}.png", picture["id"].as_str().unwrap()),
                "",
            );
            let seed = 100 * number + place;
            let name = program.files().into_iter().find(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                path.parent().unwrap().ends_with("alone") && name.ends_with(&format!("-{seed}.png"))
            });
            let drawn = Image::open(name.unwrap()).unwrap();
            assert_eq!(Image::decode(&served, "png").unwrap(), drawn, "seed {seed}");
        }
    }
    let listed = server.json("GET", "/api/pictures?limit=1", "");
    assert_eq!(listed["total"], 36);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_it_cleanly() {
    let program = Program::new();
    let mut server = Serving::start(&program);
    server.json(
        "POST",
        "/api/jobs",
        &json!({"prompt": "a hat", "n": 1}).to_string(),
    );
    let pid = server.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let start = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn other_machines_need_keys() {
    let program = Program::new();
    program.refuses(
        2,
        &["serve", "--host", "0.0.0.0", "--data", "data"],
        &["0.0.0.0", "other machines"],
    );
    program.refuses(2, &["serve", "--add-api-key", "ada"], &["--api-key-file"]);
    let key = program.expect(&["serve", "--api-key-file", "keys", "--add-api-key", "ada"]);
    let text = std::fs::read_to_string(program.path("keys")).unwrap();
    assert!(
        key.starts_with("sk-impasto-") && !text.contains(key.trim()),
        "{key} {text}"
    );
}
