//! What `recipes/watermark` measures with: marks pictures, and prints scores.
//!
//! `mark KEY IN OUT` marks the PNGs of a folder; one JSON line each. `score KEY… -- DIR…` prints the score of each key
//! in each PNG of the folders. Keys are texts.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use impasto_provenance::watermark::{Key, detect_keys, embed};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mark", key, from, to] => mark(&Key::secret(key.as_bytes()), from.as_ref(), to.as_ref()),
        ["score", ref rest @ ..] => {
            let split = rest.iter().position(|&argument| argument == "--").unwrap();
            let keys: Vec<Key> = rest[..split]
                .iter()
                .map(|key| Key::secret(key.as_bytes()))
                .collect();
            for folder in &rest[split + 1..] {
                score(&keys, folder.as_ref());
            }
        }
        _ => panic!("expected: mark KEY IN OUT, or score KEY… -- DIR…"),
    }
}

fn pictures(folder: &Path) -> Vec<(PathBuf, RgbImage)> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), image::open(path).unwrap().to_rgb8()))
        .collect()
}

fn mark(key: &Key, from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, picture) in pictures(from) {
        let start = Instant::now();
        let (width, height) = picture.dimensions();
        let marked = embed(width as usize, height as usize, &picture, key, None).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let name = path.file_name().unwrap();
        RgbImage::from_raw(width, height, marked.rgb)
            .unwrap()
            .save(to.join(name))
            .unwrap();
        println!(
            r#"{{"name": {:?}, "psnr": {:.3}, "score": {:.2}, "seconds": {seconds:.4}}}"#,
            name.to_str().unwrap(),
            marked.psnr,
            marked.score
        );
    }
}

fn score(keys: &[Key], folder: &Path) {
    for (path, picture) in pictures(folder) {
        let (width, height) = picture.dimensions();
        let found = detect_keys(width as usize, height as usize, &picture, keys).unwrap();
        let scores: Vec<String> = found
            .iter()
            .map(|found| format!("{:.3}", found.score))
            .collect();
        println!(
            r#"{{"name": {:?}, "folder": {:?}, "scores": [{}]}}"#,
            path.file_name().unwrap().to_str().unwrap(),
            folder,
            scores.join(", ")
        );
    }
}
