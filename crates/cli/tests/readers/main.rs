//! Every reader of `fuzz/` over the committed corpus, and over seeded damage to whole files.
//!
//! An input is a fault where the reader panics or aborts, takes more than [`SLOW`], or more memory than four times the
//! file and 64 MiB. Some of it runs with all tests. By hand, with as many inputs as wanted:
//! ```sh
//! IMPASTO_INPUTS=1000000 cargo test --release -p impasto-cli --test readers -- --ignored --nocapture
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)] // what drives a reader from a fuzzer
#[path = "../../../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuzz::mutate::{Random, damaged};
use fuzz::{Kind, READERS, Reader};

/// More than a hundred times what the slowest reader takes for a whole file, on a machine with other work.
const SLOW: Duration = Duration::from_secs(10);
/// Then the reader hangs, and its process is ended.
const HANG: Duration = Duration::from_secs(60);
/// What a reader may take besides four times its file.
const BESIDES: u64 = 64 << 20;
/// Of a process, in KiB: readers with a few megabytes of files, and the memory that threads reserve.
const ADDRESS_SPACE: &str = "6000000";
/// Inputs of a process: files that are mapped stay so until it ends.
const OF_A_PROCESS: u64 = 4000;

/// The input of a number: the same on every machine.
fn input(kind: &Kind, reader: &Reader, number: u64) -> Vec<u8> {
    let mut random = Random::new(kind.name, number);
    let seed = &reader.seeds[random.below(reader.seeds.len())];
    damaged(seed, &reader.seeds, &mut random)
}

/// Fuzz targets are programs, which the manifest has to name.
#[test]
fn every_reader_has_a_fuzz_target() {
    let manifest = fs::read_to_string(fuzz::root().join("fuzz/Cargo.toml")).unwrap();
    let targets: Vec<&str> = manifest
        .split("[[bin]]\nname = \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let names: Vec<&str> = READERS.iter().map(|kind| kind.name).collect();
    assert_eq!(targets, names);
}

/// The corpus, the whole files and a little damage; what a reader can't read of its own seeds would test nothing.
#[test]
fn no_reader_panics() {
    const INPUTS: u64 = 60;
    let scratch = tempfile::tempdir().unwrap();
    let (mut faults, mut unread) = (Vec::new(), Vec::new());
    for kind in READERS {
        let reader = kind.reader(scratch.path());
        let mut read = |bytes: &[u8], what: String| {
            let start = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| reader.read(bytes)));
            if result.is_err() || start.elapsed() > SLOW {
                faults.push(format!("{} {what}: {:?}", kind.name, start.elapsed()));
            }
            result.is_ok_and(|read| read.is_some())
        };
        let whole = reader.seeds.iter().enumerate();
        let whole = whole
            .filter(|(i, seed)| read(seed, format!("seed {i}")))
            .count();
        // A training without data is read, but nothing comes of it.
        if whole == 0 {
            unread.push(kind.name);
        }
        for number in 0..INPUTS {
            read(&input(kind, &reader, number), format!("input {number}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(unread.is_empty(), "no seed is read by {unread:?}");
}

/// What the long run measures memory by shows memory that is used, and is given back by `clear_refs`.
#[cfg(target_os = "linux")]
#[test]
fn used_memory_is_noticed() {
    let before = memory();
    let used = vec![1u8; 3 * BESIDES as usize];
    let after = memory();
    assert_eq!(
        used.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
        3 * BESIDES
    );
    assert!(
        after.most > before.now + 2 * BESIDES,
        "{} {}",
        before.now,
        after.most
    );
    drop(used);
    fs::write("/proc/self/clear_refs", "5").unwrap();
    assert!(memory().most < after.most);
}

/// What came of many inputs.
#[derive(Default)]
struct Tally {
    inputs: u64,
    read: u64,
    panics: u64,
    aborts: u64,
    hangs: u64,
    slow: u64,
    large: u64,
    slowest: Duration,
    largest: u64,
}

/// The long run: `IMPASTO_INPUTS` inputs in all, shared among the readers of `IMPASTO_READERS` (all of them without it).
/// Inputs that are faults are written to `IMPASTO_FINDINGS`, or to a folder of the build.
#[test]
#[ignore = "takes as long as IMPASTO_SECONDS says"]
fn many_inputs() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let inputs = number("IMPASTO_INPUTS").unwrap_or(20_000);
    let first = number("IMPASTO_FIRST").unwrap_or(0);
    let wanted = std::env::var("IMPASTO_READERS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    let kinds: Vec<&Kind> = READERS
        .iter()
        .filter(|kind| wanted.is_empty() || wanted.contains(&kind.name))
        .collect();
    let findings = std::env::var("IMPASTO_FINDINGS").map_or_else(
        |_| Path::new(env!("CARGO_TARGET_TMPDIR")).join("findings"),
        PathBuf::from,
    );
    fs::create_dir_all(&findings).unwrap();
    let each = inputs.div_ceil(kinds.len() as u64);
    let mut tallies = BTreeMap::new();
    for kind in kinds {
        let mut tally = Tally::default();
        let mut at = first;
        while at < first + each {
            at = run_process(
                kind,
                at,
                (first + each - at).min(OF_A_PROCESS),
                &findings,
                &mut tally,
            );
        }
        println!("{}", row(kind.name, &tally));
        std::io::stdout().flush().unwrap();
        tallies.insert(kind.name, tally);
    }
    println!(
        "\n| reader | inputs | read | panics | aborts | hangs | over 10 s | over the memory | slowest | most memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut sum = Tally::default();
    for (name, tally) in &tallies {
        println!("{}", row(name, tally));
        sum.inputs += tally.inputs;
        sum.read += tally.read;
        sum.panics += tally.panics;
        sum.aborts += tally.aborts;
        sum.hangs += tally.hangs;
        sum.slow += tally.slow;
        sum.large += tally.large;
        sum.slowest = sum.slowest.max(tally.slowest);
        sum.largest = sum.largest.max(tally.largest);
    }
    println!("{}", row("all", &sum));
    let faults = sum.panics + sum.aborts + sum.hangs + sum.slow + sum.large;
    assert_eq!(faults, 0, "the inputs are in {}", findings.display());
}

fn row(name: &str, tally: &Tally) -> String {
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.2} s | {} MiB |",
        tally.inputs,
        tally.read,
        tally.panics,
        tally.aborts,
        tally.hangs,
        tally.slow,
        tally.large,
        tally.slowest.as_secs_f64(),
        tally.largest >> 20
    )
}

/// Runs inputs from `first` on in a process of its own; returns the number of the next one.
fn run_process(kind: &Kind, first: u64, count: u64, findings: &Path, tally: &mut Tally) -> u64 {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");
    let script = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args([
            "one_process",
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(
            "IMPASTO_ONE_PROCESS",
            format!("{} {first} {count}", kind.name),
        )
        .env("IMPASTO_SCRATCH", scratch.path())
        .env("RAYON_NUM_THREADS", "2")
        .current_dir(scratch.path())
        .output()
        .unwrap();
    // Two lines an input: its number and bytes; what came of it, microseconds, bytes of memory, bytes that it rightly takes.
    let lines = fs::read_to_string(&report).unwrap_or_default();
    let mut next = first;
    let mut open = None;
    for line in lines.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["start", number, length] => {
                open = Some([number, length].map(|text| text.parse::<u64>().unwrap()));
            }
            ["done", outcome, micros, memory, rightly] => {
                let [number, length] = open.take().unwrap();
                next = number + 1;
                tally.inputs += 1;
                let time = Duration::from_micros(micros.parse().unwrap());
                let memory: u64 = memory.parse().unwrap();
                tally.slowest = tally.slowest.max(time);
                tally.largest = tally.largest.max(memory);
                let mut found = Vec::new();
                match outcome {
                    "read" => tally.read += 1,
                    "panic" => {
                        tally.panics += 1;
                        found.push("panic");
                    }
                    _ => {}
                }
                if time > SLOW {
                    tally.slow += 1;
                    found.push("slow");
                }
                if memory > 4 * length + rightly.parse::<u64>().unwrap() + BESIDES {
                    tally.large += 1;
                    found.push("large");
                }
                for what in found {
                    keep(kind, number, what, findings, &output.stderr);
                }
            }
            _ => {}
        }
    }
    if let Some([number, _]) = open {
        tally.inputs += 1;
        let what = match output.status.code() {
            Some(99) => {
                tally.hangs += 1;
                "hang"
            }
            _ => {
                tally.aborts += 1;
                "abort"
            }
        };
        keep(kind, number, what, findings, &output.stderr);
        return number + 1;
    }
    assert!(
        output.status.success() && next == first + count,
        "{} from {first}: {:?} {}",
        kind.name,
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    next
}

fn keep(kind: &Kind, number: u64, what: &str, findings: &Path, stderr: &[u8]) {
    let scratch = tempfile::tempdir().unwrap();
    let reader = kind.reader(scratch.path());
    let name = format!("{}-{number}-{what}", kind.name);
    fs::write(findings.join(&name), input(kind, &reader, number)).unwrap();
    fs::write(findings.join(name + ".stderr"), stderr).unwrap();
    println!("{} {number}: {what}", kind.name);
}

/// The process that [`run_process`] starts.
#[test]
#[ignore = "is started by many_inputs"]
fn one_process() {
    let Ok(task) = std::env::var("IMPASTO_ONE_PROCESS") else {
        return;
    };
    let [name, first, count] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task:?}");
    };
    let (first, count): (u64, u64) = (first.parse().unwrap(), count.parse().unwrap());
    let scratch = PathBuf::from(std::env::var("IMPASTO_SCRATCH").unwrap());
    let kind = Kind::named(name);
    let reader = kind.reader(&scratch.join("files"));
    let mut report = fs::File::create(scratch.join("report")).unwrap();
    let started = Arc::new(AtomicU64::new(0));
    watch(Arc::clone(&started));
    let clock = Instant::now();
    for number in first..first + count {
        let bytes = input(&kind, &reader, number);
        writeln!(report, "start {number} {}", bytes.len()).unwrap();
        let before = memory();
        let start = Instant::now();
        started.store(1 + clock.elapsed().as_millis() as u64, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| reader.read(&bytes)));
        started.store(0, Ordering::Relaxed);
        let time = start.elapsed();
        let after = memory();
        // The most that the process ever had, if this input made it so.
        let taken = match after.most > before.most {
            true => after.most.saturating_sub(before.now),
            false => 0,
        };
        if taken > BESIDES / 2 {
            // Forget it, so that the next one shows.
            fs::write("/proc/self/clear_refs", "5").unwrap();
        }
        let (outcome, rightly) = match result {
            Ok(Some(rightly)) => ("read", rightly),
            Ok(None) => ("refused", 0),
            Err(_) => ("panic", 0),
        };
        let time = time.as_micros();
        writeln!(report, "done {outcome} {time} {taken} {rightly}").unwrap();
    }
}

/// Ends the process where one input takes too long: that is known in milliseconds since the start, 0 between inputs.
fn watch(started: Arc<AtomicU64>) {
    let clock = Instant::now();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let at = Duration::from_millis(started.load(Ordering::Relaxed));
            if !at.is_zero() && clock.elapsed().saturating_sub(at) > HANG {
                eprintln!("hangs");
                std::process::exit(99);
            }
        }
    });
}

/// Bytes of this process, now and at most.
struct Memory {
    now: u64,
    most: u64,
}

fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or_default() * 1024
    };
    Memory {
        now: field("VmRSS:"),
        most: field("VmHWM:"),
    }
}
