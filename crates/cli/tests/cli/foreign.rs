//! What other programs write is read, or refused for the true reason.

use std::fs;
use std::path::Path;

use impasto::checkpoint::weights::{LazyTensor, Precision, parse, serialize, write_lazily};
use impasto::image::{Format, Image};
use serde_json::{Value, json};

use crate::program::{Program, model};
use crate::references::published;

/// Copies a golden's files, those that a folder of a hub has, as `it`.
fn copy(program: &Program, set: &str) {
    fs::create_dir(program.path("it")).unwrap();
    for entry in fs::read_dir(published(set)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, program.path("it").join(path.file_name().unwrap())).unwrap();
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The embedding of `it/0.png`.
fn embedding(program: &Program) -> Vec<f64> {
    let embed = ["embed", "--image", "it/0.png", "--clip", "it", "--json"];
    let report = program.json(&embed);
    let numbers = report["embeddings"][0]["embedding"].as_array();
    let numbers = numbers.unwrap_or_else(|| panic!("{report}")).iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

/// Up to what two ways to the same numbers round differently.
fn same(one: &[f64], other: &[f64]) -> bool {
    one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn preprocessing_is_read_as_transformers_5_saves_it() {
    let program = Program::new();
    copy(&program, "clip/goldens/hugging_face_bin");
    let usual = embedding(&program);
    let old = program.path("it/preprocessor_config.json");
    let new = program.path("it/processor_config.json");
    let mut processor = read(&old);
    fs::remove_file(&old).unwrap();
    let openai = embedding(&program);
    assert!(!same(&openai, &usual), "this golden has a mean of its own");
    let side = processor["size"].clone();
    processor["image_processor_type"] = json!("CLIPImageProcessorFast");
    for size in [
        side.clone(),
        json!([side]),
        json!({"shortest_edge": side}),
        json!({"shortest_edge": side, "longest_edge": null, "height": null, "width": null}),
    ] {
        processor["size"] = size;
        processor["crop_size"] = json!({"height": side, "width": side});
        let nested = json!({"image_processor": processor, "processor_class": "CLIPProcessor"});
        fs::write(&new, nested.to_string()).unwrap();
        assert!(same(&embedding(&program), &usual), "{nested}");
    }
    for (field, value, reason) in [
        (
            "size",
            json!({"height": side, "width": side}),
            "are squashed",
        ),
        (
            "size",
            json!({"shortest_edge": 99}),
            "is 99 for the shortest edge",
        ),
        ("do_center_crop", json!(false), "do_center_crop is false"),
        (
            "image_processor_type",
            json!("SiglipImageProcessor"),
            "by SiglipImageProcessor",
        ),
    ] {
        let mut other = processor.clone();
        other[field] = value;
        fs::write(&new, json!({"image_processor": other}).to_string()).unwrap();
        let embed = ["embed", "--text", "a", "--clip", "it"];
        program.refuses(1, &embed, &["processor_config.json", reason]);
    }
}

#[test]
fn other_models_are_refused_by_what_they_are() {
    let program = Program::new();
    fs::create_dir(program.path("it")).unwrap();
    fs::write(program.path("it/model.safetensors"), [0; 99]).unwrap();
    let config = program.path("it/config.json");
    let embed = ["embed", "--text", "a", "--clip", "it"];
    let draw = ["generate", "a", "-o", "a.png", "--model", "it"];
    let info = ["model", "info", "it"];
    let import = ["import", "it", "-o", "out"];
    for kind in ["siglip", "align", "chinese_clip", "llama"] {
        fs::write(
            &config,
            json!({"model_type": kind, "hidden_size": 8}).to_string(),
        )
        .unwrap();
        let reason = format!("model_type {kind}, which is not read");
        for command in [&embed[..], &draw, &info, &import] {
            program.refuses(1, command, &["it", &reason]);
        }
    }
    let diffusers = json!({"_class_name": "UNet2DConditionModel", "sample_size": 64});
    fs::write(&config, diffusers.to_string()).unwrap();
    program.refuses(1, &draw, &["diffusers (UNet2DConditionModel)"]);
    fs::remove_file(&config).unwrap();
    let index = json!({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]});
    fs::write(program.path("it/model_index.json"), index.to_string()).unwrap();
    let reason = "pipeline of diffusers (StableDiffusionPipeline), which is not read";
    program.refuses(1, &draw, &[reason, "AmusedPipeline"]);
    fs::remove_dir_all(program.path("it")).unwrap();
    copy(&program, "clip/goldens/hugging_face");
    program.refuses(1, &draw, &["is a CLIP", "--clip"]);
    let own = ["embed", "--text", "a", "--clip", model()];
    program.refuses(1, &own, &["is a model that draws", "--model"]);
    let clip = [
        "generate",
        "a",
        "-o",
        "a.png",
        "--model",
        crate::program::clip(),
    ];
    program.refuses(1, &clip, &["is a CLIP", "--clip"]);
}

#[test]
fn the_folder_of_a_training_leads_to_its_model() {
    let program = Program::new();
    fs::create_dir(program.path("run")).unwrap();
    let config = json!({"data": {"scenes": {"world": "tiny"}}, "run": {"steps": 9}, "name": "a"});
    fs::write(program.path("run/config.json"), config.to_string()).unwrap();
    let draw = ["generate", "a", "-o", "a.png", "--model", "run"];
    program.refuses(1, &draw, &["training that has not finished", "--resume"]);
    fs::write(program.path("run/image_tokenizer.safetensors"), "").unwrap();
    program.refuses(1, &draw, &["image tokenizer's training", "train dalle"]);
    fs::create_dir(program.path("run/adapter")).unwrap();
    fs::write(program.path("run/adapter/config.json"), "{}").unwrap();
    program.refuses(1, &draw, &["--adapter run/adapter"]);
    program.own_model();
    fs::rename(program.path("model"), program.path("run/model")).unwrap();
    for command in [
        &draw[..],
        &["model", "info", "run"],
        &["embed", "--text", "a", "--clip", "run"],
    ] {
        program.refuses(1, command, &["is the folder of a training", "run/model"]);
    }
    program.expect(&["generate", "a", "-o", "a.png", "--model", "run/model"]);
}

#[test]
fn what_wrappers_put_into_names_is_left_out() {
    for prefix in [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
    ] {
        let program = Program::new();
        copy(&program, "clip/goldens/hugging_face");
        let usual = embedding(&program);
        let path = program.path("it/model.safetensors");
        let tensors = parse(&path, &fs::read(&path).unwrap()).unwrap();
        let wrapped = tensors
            .into_iter()
            .map(|(name, data)| (format!("{prefix}{name}"), data));
        let bytes = serialize(&wrapped.collect(), Precision::F32, None).unwrap();
        fs::write(&path, bytes).unwrap();
        assert!(same(&embedding(&program), &usual), "{prefix}");
    }
    // Of a model one of whose parts was compiled.
    let program = Program::new();
    copy(&program, "clip/goldens/hugging_face");
    let usual = embedding(&program);
    let path = program.path("it/model.safetensors");
    let tensors = parse(&path, &fs::read(&path).unwrap()).unwrap();
    let wrapped = tensors.into_iter().map(|(name, data)| {
        let name = name.replace("vision_model.encoder.", "vision_model._orig_mod.encoder.");
        (name, data)
    });
    let bytes = serialize(&wrapped.collect(), Precision::F32, None).unwrap();
    fs::write(&path, bytes).unwrap();
    assert!(same(&embedding(&program), &usual));
}

#[test]
fn pointers_and_web_pages_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1710540580\n";
    let page = "<!DOCTYPE html>\n<html class=\"\"><head><title>Not found</title></head></html>";
    let decode = [
        "tokens", "decode", "ids.json", "-o", "out.png", "--model", "it",
    ];
    let embed = ["embed", "--text", "a", "--clip", "it"];
    for (set, file, arguments) in [
        ("clip/goldens/hugging_face", "model.safetensors", &embed[..]),
        ("clip/goldens/hugging_face", "tokenizer.json", &embed),
        ("clip/goldens/hugging_face_bin", "pytorch_model.bin", &embed),
        (
            "clip/goldens/open_clip",
            "open_clip_pytorch_model.bin",
            &embed,
        ),
        (
            "dalle_mini/goldens/flax_unrolled",
            "flax_model.msgpack",
            &decode,
        ),
        ("dalle_mini/goldens/min_dalle", "decoder.pt", &decode),
        ("dalle_pytorch/goldens/axial", "dalle.pt", &decode),
        ("dalle_pytorch/clip_goldens/half", "clip.pt", &embed),
        ("image_tokenizer/goldens/discrete_vae", "vae.pt", &decode),
        ("image_tokenizer/goldens/taming_plain", "last.ckpt", &decode),
    ] {
        for (content, reason) in [
            (pointer, "is a pointer of git-lfs"),
            (page, "is a web page"),
        ] {
            let program = Program::new();
            copy(&program, set);
            fs::write(program.path("ids.json"), "[1]").unwrap();
            fs::write(program.path("it").join(file), content).unwrap();
            program.refuses(1, arguments, &[file, reason]);
        }
    }
    let program = Program::new();
    for (content, reason) in [(pointer, "1710540580 bytes"), (page, "is a web page")] {
        fs::write(program.path("dalle.pt"), content).unwrap();
        let draw = ["generate", "a", "-o", "a.png", "--model", "dalle.pt"];
        program.refuses(1, &draw, &["dalle.pt", reason]);
        fs::write(program.path("a.png"), content).unwrap();
        let captions = ["caption", "a.png", "--model", model()];
        program.refuses(1, &captions, &["a.png", reason]);
        fs::remove_file(program.path("a.png")).unwrap();
    }
}

fn png(shade: u8) -> Vec<u8> {
    let picture = Image::filled(16, 16, [shade, 99, 199]);
    picture.encode(Format::Png, 100).unwrap()
}

fn checked(program: &Program, path: &str) -> Value {
    let ran = program.run(&["data", "check", path, "--json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{path}: {}", ran.stderr))
}

#[test]
fn lists_are_read_as_datasets_has_them() {
    let program = Program::new();
    for i in 0..9 {
        fs::write(program.path(&format!("{i}.png")), png(i)).unwrap();
    }
    let lines = [
        r#"{"file_name": "0.png", "text": "a cat"}"#,
        r#"{"file_name": "1.png", "text": ["a cat", "a red cat"]}"#,
        r#"{"file_name": "2.png", "caption": ["a cat", null, ""], "width": 16, "tags": {"a": 1}}"#,
        r#"{"image": "3.png", "captions": "a cat"}"#,
        r#"{"image": null, "file_name": "4.png", "caption": null, "text": "a dog"}"#,
        r#"{"file_name": "5.png", "text": 7}"#,
        r#"{"file_name": "6.png", "text": []}"#,
        r#"{"text": "nothing to see"}"#,
    ];
    fs::write(program.path("metadata.jsonl"), lines.join("\n")).unwrap();
    let report = checked(&program, "metadata.jsonl");
    assert_eq!(report["usable"], 5, "{report}");
    assert_eq!(report["without_caption"], json!(["6.png#7"]));
    let unreadable = report["unreadable"].as_array().unwrap();
    assert_eq!(unreadable.len(), 2, "{report}");
    assert!(
        unreadable[0]["reason"]
            .as_str()
            .unwrap()
            .contains("a caption or a list of captions")
    );
    for header in [
        "file_name,text",
        "text,file_name",
        "image,caption",
        "id,file_name,text",
    ] {
        let row: Vec<&str> = header
            .split(',')
            .map(|column| match column {
                "file_name" | "image" => "0.png",
                "id" => "9",
                _ => "\"a cat, red\"",
            })
            .collect();
        fs::write(
            program.path("metadata.csv"),
            format!("{header}\r\n{}\r\n", row.join(",")),
        )
        .unwrap();
        assert_eq!(checked(&program, "metadata.csv")["usable"], 1, "{header}");
    }
    fs::write(program.path("metadata.csv"), "picture,words\n0.png,a\n").unwrap();
    let check = ["data", "check", "metadata.csv"];
    program.refuses(
        1,
        &check,
        &["no column image", "file_name", "got picture, words"],
    );
    // In a folder a list is not taken for one of many other files.
    let other = checked(&program, ".")["other"].clone();
    assert!(
        other.to_string().contains("used where it is named itself"),
        "{other}"
    );
}

/// gzip with blocks that are not compressed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks = bytes.chunks(65_535);
    let last = blocks.len() - 1;
    for (i, block) in blocks.enumerate() {
        let length = block.len() as u16;
        packed.push(u8::from(i == last));
        packed.extend(length.to_le_bytes());
        packed.extend((!length).to_le_bytes());
        packed.extend(block);
    }
    packed.extend(crate::mutate::crc(bytes).to_le_bytes());
    packed.extend((bytes.len() as u32).to_le_bytes());
    packed
}

#[test]
fn packed_tars_are_read_or_refused_by_their_packing() {
    let program = Program::new();
    let mut builder = tar::Builder::new(Vec::new());
    for i in 0..3 {
        let name = |end: &str| format!("{i}.{end}");
        for (name, bytes) in [(name("png"), png(i)), (name("txt"), b"a cat".to_vec())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    let tar = builder.into_inner().unwrap();
    fs::write(program.path("a.tar"), &tar).unwrap();
    let plain = checked(&program, "a.tar");
    assert_eq!(plain["usable"], 3);
    for name in ["a.tar.gz", "a.tgz", "A.TAR.GZ"] {
        fs::write(program.path(name), gzip(&tar)).unwrap();
        assert_eq!(checked(&program, name), plain, "{name}");
    }
    // Of one that broke off, what came before.
    let packed = gzip(&tar);
    fs::write(program.path("cut.tar.gz"), &packed[..packed.len() / 2]).unwrap();
    let report = checked(&program, "cut.tar.gz");
    assert!(report["usable"].as_u64().unwrap() >= 1, "{report}");
    assert!(
        report["unreadable"].to_string().contains("not a whole tar"),
        "{report}"
    );
    for (magic, name) in [
        (&b"\x28\xb5\x2f\xfd"[..], "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
    ] {
        fs::write(program.path("b.tar"), [magic, b"and more"].concat()).unwrap();
        let report = checked(&program, "b.tar");
        assert!(
            report["unreadable"]
                .to_string()
                .contains(&format!("is packed with {name}")),
            "{report}"
        );
    }
    // A training reads them as well.
    let config = json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [8],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "data": {"pairs": {"from": {"tars": ["a.tar.gz"]}, "validation_share": 0.0}},
        "run": {"steps": 1, "batch_size": 2}, "validation": 1
    });
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    let train = [
        "train",
        "image-tokenizer",
        "--config",
        "c.json",
        "--out",
        "o",
        "--device",
        "cpu",
    ];
    program.expect(&train);
}

#[test]
fn pictures_of_other_formats_are_read_or_named() {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/picture");
    let mut usable = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        // `jfif` is what Windows calls a JPEG that was saved out of a browser.
        let name = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace("restarts.jpg", "restarts.jfif");
        fs::copy(&path, program.path("p").join(&name)).unwrap();
        let stem = name.split('.').next().unwrap();
        // Some have the same stem.
        fs::write(
            program.path("p").join(format!("{stem}.txt")),
            format!("a {stem}\n"),
        )
        .unwrap();
        usable += 1;
    }
    let media = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1";
    fs::write(program.path("p/photo.avif"), media).unwrap();
    fs::write(program.path("p/named_wrongly.jpg"), media).unwrap();
    fs::write(program.path("p/named_wrongly.txt"), "a").unwrap();
    fs::write(program.path("p/photo.txt"), "a").unwrap();
    let report = checked(&program, "p");
    assert_eq!(report["usable"], usable, "{report}");
    let unreadable = report["unreadable"].to_string();
    assert!(
        unreadable.contains("is a .avif file, expected"),
        "{unreadable}"
    );
    assert!(
        unreadable.contains("is an AVIF, which is not read"),
        "{unreadable}"
    );
    let reconstruct = [
        "reconstruct",
        "p/cmyk.jpg",
        "-o",
        "out.png",
        "--model",
        model(),
    ];
    program.expect(&reconstruct);
}

/// The 49,408 ids are known from OpenAI's merges, which are part of the program.
#[test]
fn a_checkpoint_without_a_vocabulary_has_openais() {
    let program = Program::new();
    copy(&program, "clip/goldens/open_clip_quickgelu");
    let path = program.path("it/open_clip_model.safetensors");
    let tensors = parse(&path, &fs::read(&path).unwrap()).unwrap();
    let tensors = tensors.into_iter().map(|(name, data)| {
        let mut shape = data.shape().to_vec();
        let mut values: Vec<f32> = data.try_into_vec().unwrap();
        if name == "token_embedding.weight" {
            shape[0] = 49_408;
            let count = 49_408 * shape[1];
            values = (0..count).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        }
        LazyTensor::new(name, Precision::F16, shape, move || values.clone())
    });
    let bytes = program.path("ViT-B-32.safetensors");
    write_lazily(&bytes, &bytes, tensors.collect()).unwrap();
    fs::remove_dir_all(program.path("it")).unwrap();
    let config =
        Path::new(&published("clip/goldens/open_clip_quickgelu")).join("open_clip_config.json");
    fs::create_dir(program.path("alone")).unwrap();
    fs::copy(config, program.path("alone/open_clip_config.json")).unwrap();
    fs::rename(bytes, program.path("alone/ViT-B-32.safetensors")).unwrap();
    let embed = |text: &str, clip: &str| program.expect(&["embed", "--text", text, "--clip", clip]);
    let file = "alone/ViT-B-32.safetensors";
    let cat = embed("a cat", file);
    assert_ne!(cat, embed("a dog", file));
    // With the published file beside it, it is the same.
    let merges = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../impasto/src/text/clip/bpe_simple_vocab_16e6.txt.gz");
    fs::copy(merges, program.path("alone/bpe_simple_vocab_16e6.txt.gz")).unwrap();
    assert_eq!(cat, embed("a cat", file));
    fs::remove_file(program.path("alone/bpe_simple_vocab_16e6.txt.gz")).unwrap();
    program.expect(&["import", file, "-o", "imported"]);
    assert_eq!(cat, embed("a cat", "imported"));
}
