//! Published files with lengths that lie: the executable refuses them in little memory, or reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Program;
use crate::references::published;

/// What the executable may take, in KiB: several times what it needs for any of these files, and far less than a length
/// that lies.
const ADDRESS_SPACE: &str = "1500000";

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

/// Eight bytes of a large number at some place near the beginning or the end, or anywhere.
fn lying(bytes: &[u8], number: u64) -> Vec<u8> {
    // Knuth's multiplier, volume 2, section 3.3.4.
    let random = |salt: u64| {
        (number * 16 + salt)
            .wrapping_mul(6_364_136_223_846_793_005)
            .rotate_left(23) as usize
    };
    let at = match number % 3 {
        0 => random(1) % bytes.len().min(1500),
        1 => bytes.len() - 1 - random(2) % bytes.len().min(3000),
        _ => random(3) % bytes.len(),
    };
    let value = [0xff, 0x7f, 0x10][random(4) % 3];
    let mut lying = bytes.to_vec();
    for byte in lying[at..].iter_mut().take(1 + random(5) % 8) {
        *byte = value;
    }
    lying
}

fn confined(program: &Program, arguments: &[&str]) -> (Option<i32>, String) {
    let script = format!("ulimit -v {ADDRESS_SPACE} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_impasto")])
        .args(arguments)
        .args(["--threads", "2"])
        .current_dir(program.path("."))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

#[test]
#[cfg(target_os = "linux")]
fn lengths_that_lie_cost_no_memory() {
    let decode = [
        "tokens", "decode", "ids.json", "-o", "out.png", "--model", "it",
    ];
    let embed = ["embed", "--text", "a", "--clip", "it"];
    for (set, file, arguments) in [
        (
            "dalle_mini/goldens/flax_stacked",
            "flax_model.msgpack",
            &decode[..],
        ),
        (
            "dalle_mini/goldens/flax_stacked",
            "vqgan/flax_model.msgpack",
            &decode,
        ),
        ("dalle_mini/goldens/min_dalle", "decoder.pt", &decode),
        ("dalle_mini/goldens/min_dalle", "detoker.pt", &decode),
        ("dalle_pytorch/goldens/axial", "dalle.pt", &decode),
        ("dalle_pytorch/goldens/axial", "tokenizer.json", &decode),
        ("rudalle/goldens/plain", "tuned.pt", &decode),
        (
            "image_tokenizer/goldens/taming_one_level",
            "last.ckpt",
            &decode,
        ),
        (
            "image_tokenizer/goldens/openai_legacy",
            "decoder.pkl",
            &decode,
        ),
        ("image_tokenizer/goldens/discrete_vae", "vae.pt", &decode),
        ("clip/goldens/hugging_face", "model.safetensors", &embed),
        (
            "clip/goldens/open_clip",
            "open_clip_pytorch_model.bin",
            &embed,
        ),
        ("dalle_pytorch/clip_goldens/half", "clip.pt", &embed),
    ] {
        let program = Program::new();
        let folder: PathBuf = program.path("it");
        copy(Path::new(&published(set)), &folder);
        fs::write(program.path("ids.json"), "[1]").unwrap();
        let whole = fs::read(folder.join(file)).unwrap();
        let (code, stderr) = confined(&program, arguments);
        // One id is too few, which is an error of a model that was read.
        let read = code == Some(0) || stderr.contains("expected") && stderr.contains("ids");
        assert!(read, "{set} {file}: {code:?} {stderr}");
        for number in 0..10 {
            fs::write(folder.join(file), lying(&whole, number)).unwrap();
            let (code, stderr) = confined(&program, arguments);
            assert!(
                matches!(code, Some(0 | 1)),
                "{set} {file} {number}: {code:?} {stderr}"
            );
            assert!(
                !stderr.contains("panicked"),
                "{set} {file} {number}: {stderr}"
            );
        }
    }
}
