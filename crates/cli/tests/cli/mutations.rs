//! Seeded damage to every kind of file that the executable reads, in confined processes: an error or a result, never a
//! panic, an abort, a wait without end, or more memory than four times the file and 64 MiB beside what the undamaged
//! file takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use impasto::image::{Format, Image};
use serde_json::json;

use crate::mutate::{Random, damaged};
use crate::program::{Program, clip, model};
use crate::references::{published, write_picture};

/// Many times what any of these commands takes on a machine with other work.
const HANG: Duration = Duration::from_secs(60);
/// In KiB.
const STEP: u64 = 8 << 10;
const MOST: u64 = 6 << 20;
const BESIDES: u64 = 64 << 10;

/// A file, and a command that reads it.
struct Case {
    program: Program,
    file: PathBuf,
    arguments: Vec<String>,
    /// The file as it should be.
    whole: Vec<u8>,
}

/// What came of a confined run.
#[derive(Debug, PartialEq)]
enum Outcome {
    Ended(i32),
    Panicked,
    Aborted,
    OutOfMemory,
    Hung,
}

impl Case {
    fn new(program: Program, file: &str, arguments: &[&str]) -> Self {
        let path = program.path(file);
        Case {
            whole: fs::read(&path).unwrap_or_else(|e| panic!("{file}: {e}")),
            file: path,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            program,
        }
    }

    /// A copy of a golden of the library as `it`.
    fn golden(set: &str, file: &str, arguments: &[&str]) -> Self {
        let program = Program::new();
        copy(Path::new(&published(set)), &program.path("it"));
        fs::write(program.path("ids.json"), "[1]").unwrap();
        Case::new(program, &format!("it/{file}"), arguments)
    }

    /// Runs within an address space of this many KiB.
    fn run(&self, limit: u64) -> (Outcome, String) {
        let script = format!("ulimit -v {limit} && exec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_impasto")])
            .args(&self.arguments)
            .current_dir(self.program.folder.path())
            // Each thread reserves memory for itself.
            .env("RAYON_NUM_THREADS", "1")
            .env("MALLOC_ARENA_MAX", "1")
            .env("NO_COLOR", "1")
            .env("XDG_CACHE_HOME", self.program.path("no-cache"))
            .env("HF_HUB_CACHE", self.program.path("no-cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(
                fs::File::create(self.program.path("stderr")).unwrap(),
            ))
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > HANG {
                child.kill().unwrap();
                child.wait().unwrap();
                return (Outcome::Hung, String::new());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let stderr = fs::read(self.program.path("stderr")).unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let outcome = match status.code() {
            _ if stderr.contains("memory allocation of") => Outcome::OutOfMemory,
            _ if stderr.contains("panicked") => Outcome::Panicked,
            Some(code @ 0..=2) => Outcome::Ended(code),
            _ => Outcome::Aborted,
        };
        (outcome, stderr)
    }

    /// The least address space in which the undamaged file is read as it is without a limit.
    fn least_memory(&self) -> u64 {
        let (expected, stderr) = self.run(MOST);
        assert!(
            matches!(expected, Outcome::Ended(0 | 1)),
            "{:?}: {expected:?} {stderr}",
            self.arguments
        );
        let (mut low, mut high) = (0, MOST / STEP);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if self.run(middle * STEP).0 == expected {
                high = middle;
            } else {
                low = middle;
            }
        }
        high * STEP
    }

    /// Damages the file in `inputs` ways; returns what is a fault.
    fn damage(&self, name: &str, inputs: std::ops::Range<u64>, least: u64) -> Vec<String> {
        let mut faults = Vec::new();
        for number in inputs {
            let bytes = damaged(&self.whole, &[], &mut Random::new(name, number));
            fs::write(&self.file, &bytes).unwrap();
            let limit = least + BESIDES + 4 * bytes.len() as u64 / 1024;
            let (outcome, stderr) = self.run(limit);
            if !matches!(outcome, Outcome::Ended(_)) {
                faults.push(format!("{name} {number}: {outcome:?} {stderr}"));
            }
            // What a command wrote must not be in the way of the next.
            for output in ["out.png", "o"] {
                let path = self.program.path(output);
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir_all(&path);
            }
        }
        fs::write(&self.file, &self.whole).unwrap();
        faults
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, target).unwrap()),
        }
    }
}

fn png(side: usize) -> Vec<u8> {
    let pixels = (0..3 * side * side).map(|i| (i * 29 % 251) as u8).collect();
    let picture = Image::new(side, side, pixels).unwrap();
    picture.encode(Format::Png, 100).unwrap()
}

/// A folder with a picture and its caption, and the files that commands take them from.
fn pairs() -> Program {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    for i in 0..3 {
        fs::write(program.path(&format!("p/{i}.png")), png(32 + i)).unwrap();
        fs::write(program.path(&format!("p/{i}.txt")), format!("a cat {i}\n")).unwrap();
    }
    let lines = "{\"image\": \"p/0.png\", \"caption\": \"a cat\"}\n{\"file_name\": \"p/1.png\", \"text\": [\"a\", \"b\"]}\n";
    fs::write(program.path("a.jsonl"), lines).unwrap();
    fs::write(
        program.path("a.csv"),
        "image,caption\np/0.png,\"a cat, 2\"\np/1.png,a dog\n",
    )
    .unwrap();
    let mut builder = tar::Builder::new(fs::File::create(program.path("a.tar")).unwrap());
    builder.append_dir_all(".", program.path("p")).unwrap();
    builder.finish().unwrap();
    program
}

/// Two steps of training on `p`, with a checkpoint after each.
fn trained() -> Program {
    let program = pairs();
    let config = json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [8],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "data": {"pairs": {"from": {"folder": "p"}, "validation_share": 0.0}},
        "run": {"steps": 2, "batch_size": 1, "warmup_steps": 1, "checkpoint_every": 1, "keep_checkpoints": 1},
        "validation": 1
    });
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    program.expect(&RESUME);
    program
}

const RESUME: [&str; 9] = [
    "train",
    "image-tokenizer",
    "--config",
    "c.json",
    "--out",
    "run",
    "--device",
    "cpu",
    "--resume",
];

fn of_checkpoint(file: &str) -> Case {
    let program = trained();
    let folder = "run/checkpoints/step-00000002";
    assert!(program.path(folder).is_dir());
    Case::new(program, &format!("{folder}/{file}"), &RESUME)
}

fn adapted() -> Program {
    let program = Program::new();
    let set = "dalle_pytorch/goldens/rotary";
    write_picture(&program, set);
    program.expect(&["import", &published(set), "-o", "base", "--name", "base"]);
    let config = json!({
        "name": "tuned", "data": {"scenes": {"world": "tiny", "seed": 3}}, "encoded_pictures": 2,
        "run": {"steps": 1, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 1},
        "lora": {"rank": 2}, "validation": 1, "samples": 1
    });
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    let train = [
        "train", "dalle", "--from", "base", "--config", "c.json", "--out", "run", "--device", "cpu",
    ];
    program.expect(&train);
    program
}

fn indexed() -> Program {
    let program = pairs();
    program.expect(&["index", "build", "p", "--clip", clip()]);
    program
}

fn own(file: &str, arguments: &[&str]) -> Case {
    let program = Program::new();
    program.own_model();
    fs::write(program.path("in.png"), png(64)).unwrap();
    Case::new(program, &format!("model/{file}"), arguments)
}

/// A training whose data are not there: its config is read and checked.
fn training(kind: &str, config: &serde_json::Value) -> Case {
    let program = Program::new();
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    let train = [
        "train", kind, "--config", "c.json", "--out", "o", "--device", "cpu",
    ];
    Case::new(program, "c.json", &train)
}

fn picture(format: Format) -> Case {
    let program = Program::new();
    let pixels = (0..3 * 40 * 30).map(|i| (i * 29 % 251) as u8).collect();
    let picture = Image::new(40, 30, pixels).unwrap();
    fs::write(program.path("in"), picture.encode(format, 80).unwrap()).unwrap();
    let reconstruct = ["reconstruct", "in", "-o", "out.png", "--model", model()];
    Case::new(program, "in", &reconstruct)
}

type Make = fn() -> Case;

const DECODE: [&str; 7] = [
    "tokens", "decode", "ids.json", "-o", "out.png", "--model", "it",
];
const EMBED: [&str; 5] = ["embed", "--text", "a", "--clip", "it"];
const LIKELIHOOD: [&str; 6] = ["likelihood", "in.png", "--caption", "a", "--model", "model"];
const SEARCH: [&str; 3] = ["search", "a cat", "p"];

const CASES: &[(&str, Make)] = &[
    ("config.json", || {
        own("config.json", &["model", "info", "model"])
    }),
    ("dalle.safetensors", || {
        own("dalle.safetensors", &LIKELIHOOD)
    }),
    ("tokenizer.json", || own("tokenizer.json", &LIKELIHOOD)),
    ("image_tokenizer.safetensors", || {
        let reconstruct = ["reconstruct", "in.png", "-o", "out.png", "--model", "model"];
        own("image_tokenizer.safetensors", &reconstruct)
    }),
    ("ids.json", || {
        let program = Program::new();
        let ids = vec![3; 16];
        fs::write(program.path("ids.json"), json!(ids).to_string()).unwrap();
        let decode = [
            "tokens",
            "decode",
            "ids.json",
            "-o",
            "out.png",
            "--model",
            model(),
        ];
        Case::new(program, "ids.json", &decode)
    }),
    ("png", || picture(Format::Png)),
    ("jpeg", || picture(Format::Jpeg)),
    ("webp", || picture(Format::Webp)),
    ("csv", || {
        Case::new(pairs(), "a.csv", &["data", "check", "a.csv"])
    }),
    ("jsonl", || {
        Case::new(pairs(), "a.jsonl", &["data", "check", "a.jsonl"])
    }),
    ("tar", || {
        Case::new(pairs(), "a.tar", &["data", "check", "a.tar"])
    }),
    ("captions", || {
        Case::new(pairs(), "p/0.txt", &["data", "check", "p"])
    }),
    ("index.json", || {
        let search = [&SEARCH[..], &["--clip", clip()]].concat();
        Case::new(indexed(), "p/.impasto-index/index.json", &search)
    }),
    ("rows", || {
        let search = [&SEARCH[..], &["--clip", clip()]].concat();
        Case::new(indexed(), "p/.impasto-index/rows-0.f32", &search)
    }),
    ("checkpoint's state.json", || of_checkpoint("state.json")),
    ("checkpoint's weights", || {
        of_checkpoint("model.safetensors")
    }),
    ("checkpoint's moments", || {
        of_checkpoint("first.safetensors")
    }),
    ("metrics.jsonl", || {
        Case::new(trained(), "run/metrics.jsonl", &RESUME)
    }),
    ("adapter's config.json", || {
        let score = [
            "likelihood",
            "in.png",
            "--caption",
            "a",
            "--model",
            "base",
            "--adapter",
            "run/adapter",
        ];
        Case::new(adapted(), "run/adapter/config.json", &score)
    }),
    ("adapter.safetensors", || {
        let score = [
            "likelihood",
            "in.png",
            "--caption",
            "a",
            "--model",
            "base",
            "--adapter",
            "run/adapter",
        ];
        Case::new(adapted(), "run/adapter/adapter.safetensors", &score)
    }),
    ("train image-tokenizer", || {
        training(
            "image-tokenizer",
            &json!({
                "model": {"architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
                    "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4},
                "data": {"pairs": {"from": {"folder": "nothing-here"}, "validation_share": 0.1}},
                "run": {"steps": 1, "batch_size": 2}, "validation": 2
            }),
        )
    }),
    ("train dalle", || {
        training(
            "dalle",
            &json!({
                "name": "a", "licence": "MIT", "text_tokenizer": "nothing-here", "image_tokenizer": "nothing-here",
                "model": {"text_length": 16, "width": 16, "n_layers": 1, "n_heads": 2, "hidden": 32},
                "data": {"pairs": {"from": {"tars": ["nothing-here"]}}}, "encoded_pictures": 8,
                "run": {"steps": 1, "batch_size": 2}, "validation": 2
            }),
        )
    }),
    ("train clip", || {
        let tower = json!({"width": 16, "n_layers": 1, "n_heads": 2, "hidden": 32});
        training(
            "clip",
            &json!({
                "name": "a", "licence": "MIT", "text_tokenizer": model(),
                "model": {"image_size": 32, "patch_size": 16, "image": tower, "text_length": 16, "text": tower,
                    "projection_width": 8},
                "data": {"pairs": {"from": {"jsonl": "nothing-here"}}},
                "run": {"steps": 1, "batch_size": 2}, "validation": 2
            }),
        )
    }),
    ("train text-tokenizer", || {
        training(
            "text-tokenizer",
            &json!({
                "vocab_size": 300, "data": {"pairs": {"from": {"csv": "nothing-here"}}}, "samples": 4
            }),
        )
    }),
    ("hugging face config", || {
        Case::golden("clip/goldens/hugging_face", "config.json", &EMBED)
    }),
    ("hugging face preprocessor", || {
        Case::golden(
            "clip/goldens/hugging_face",
            "preprocessor_config.json",
            &EMBED,
        )
    }),
    ("hugging face tokenizer", || {
        Case::golden("clip/goldens/hugging_face", "tokenizer.json", &EMBED)
    }),
    ("hugging face weights", || {
        Case::golden("clip/goldens/hugging_face", "model.safetensors", &EMBED)
    }),
    ("vocab.json", || {
        Case::golden("clip/goldens/hugging_face_bin", "vocab.json", &EMBED)
    }),
    ("merges.txt", || {
        Case::golden("clip/goldens/hugging_face_bin", "merges.txt", &EMBED)
    }),
    ("pytorch_model.bin", || {
        Case::golden("clip/goldens/hugging_face_bin", "pytorch_model.bin", &EMBED)
    }),
    ("open_clip config", || {
        Case::golden("clip/goldens/open_clip", "open_clip_config.json", &EMBED)
    }),
    ("open_clip merges", || {
        Case::golden(
            "clip/goldens/open_clip_quickgelu",
            "bpe_simple_vocab_16e6.txt.gz",
            &EMBED,
        )
    }),
    ("openai archive", || {
        let embed = ["embed", "--text", "a", "--clip", "it/small.pt"];
        Case::golden("clip/goldens/openai", "small.pt", &embed)
    }),
    ("dalle mini config", || {
        Case::golden("dalle_mini/goldens/flax_stacked", "config.json", &DECODE)
    }),
    ("dalle mini weights", || {
        Case::golden(
            "dalle_mini/goldens/flax_stacked",
            "flax_model.msgpack",
            &DECODE,
        )
    }),
    ("dalle mini vqgan", || {
        Case::golden(
            "dalle_mini/goldens/flax_stacked",
            "vqgan/flax_model.msgpack",
            &DECODE,
        )
    }),
    ("min-dalle", || {
        Case::golden("dalle_mini/goldens/min_dalle", "decoder.pt", &DECODE)
    }),
    ("dalle-pytorch", || {
        Case::golden("dalle_pytorch/goldens/axial", "dalle.pt", &DECODE)
    }),
    ("dalle-pytorch tokenizer", || {
        Case::golden("dalle_pytorch/goldens/axial", "tokenizer.json", &DECODE)
    }),
    ("dalle-pytorch vocab.txt", || {
        Case::golden("dalle_pytorch/goldens/learned", "vocab.txt", &DECODE)
    }),
    ("dalle-pytorch clip", || {
        Case::golden("dalle_pytorch/clip_goldens/half", "clip.pt", &EMBED)
    }),
    ("taming config", || {
        Case::golden(
            "image_tokenizer/goldens/taming_one_level",
            "model.yaml",
            &DECODE,
        )
    }),
    ("taming weights", || {
        Case::golden(
            "image_tokenizer/goldens/taming_one_level",
            "last.ckpt",
            &DECODE,
        )
    }),
    ("openai dvae", || {
        Case::golden(
            "image_tokenizer/goldens/openai_legacy",
            "decoder.pkl",
            &DECODE,
        )
    }),
    ("discrete vae", || {
        Case::golden(
            "image_tokenizer/goldens/discrete_vae_normalised",
            "vae.pt",
            &DECODE,
        )
    }),
];

/// Damages each of `cases` in the same number of ways until the time is up; returns runs and faults.
fn damage_all(first: u64, inputs: u64, time: Duration) -> (u64, Vec<String>) {
    let start = Instant::now();
    let cases: Vec<(&str, Case, u64)> = CASES
        .iter()
        .map(|&(name, make)| {
            let case = make();
            let least = case.least_memory();
            (name, case, least)
        })
        .collect();
    let (mut runs, mut faults) = (0, Vec::new());
    const AT_ONCE: u64 = 4;
    let mut number = first;
    while number < first + inputs && (runs == 0 || start.elapsed() < time) {
        let end = (number + AT_ONCE).min(first + inputs);
        for (name, case, least) in &cases {
            faults.extend(case.damage(name, number..end, *least));
            runs += end - number;
        }
        number = end;
    }
    (runs, faults)
}

#[cfg(target_os = "linux")]
#[test]
fn damaged_files_are_errors_and_no_more() {
    let (_, faults) = damage_all(0, 4, Duration::MAX);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// For `IMPASTO_MUTATION_SECONDS`, with other inputs than the test above.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes: a step of its own in .ci/run"]
fn minutes_of_damaged_files_are_errors_and_no_more() {
    let seconds = std::env::var("IMPASTO_MUTATION_SECONDS");
    let seconds = seconds.map_or(240, |text| text.parse().unwrap());
    let (runs, faults) = damage_all(1000, u64::MAX / 2, Duration::from_secs(seconds));
    eprintln!("{runs} runs, {} faults", faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
