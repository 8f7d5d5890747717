//! The readers by name.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use impasto::checkpoint::pytorch::{Archive, TORCH_SCRIPT};
use impasto::checkpoint::{ModelSource, adapter, stored, weights};
use impasto::data::pairs::PairSource;
use impasto::data::scenes::Pack;
use impasto::data::tokens::TokenCache;
use impasto::edit::Mask;
use impasto::families::ModelFiles;
use impasto::image::{Image, Original};
use impasto::import::dalle_mini::flax;
use impasto::model::{Model, OpenOptions};
use impasto::observer::{Event, NoObserver, Observer};
use impasto::rank::Ranker;
use impasto::search::{Index, Writer, pictures_below};
use impasto::text::TextTokenizer;
use impasto::text::bart::BartTokenizer;
use impasto::text::clip::{Cleaning, ClipTokenizer};
use impasto::text::dalle_pytorch::DallePytorchTokenizer;
use impasto::text::normalizer::WordFrequencies;
use impasto::text::t5::T5Tokenizer;
use impasto::text::youtokentome::YouTokenToMe;
use impasto::train::{self, config};
use impasto::{Upscaler, device, families, provenance};
use serde::de::DeserializeOwned;

use super::{Kind, Reader, copy, models, root, seeds, trust};

/// A text with letters, digits, marks and characters beyond ASCII.
pub(crate) const TEXT: &str = "A red turtle's 2 cats, 夜空下的龟 👩‍👩‍👧";

/// All of them.
pub const READERS: &[Kind] = &[
    Kind {
        name: "picture",
        make: |_| {
            let mut seeds = seeds::pictures();
            seeds.extend(goldens("data/scenes/glyphs", "png"));
            seeds.extend(goldens("data/scenes/fixtures/art/fluent-3d", "webp"));
            Reader::sized(seeds, |bytes| {
                let picture = Image::decode(bytes, "a").ok();
                if let Ok(original) = Original::decode(bytes, "a") {
                    Mask::of(&original);
                }
                provenance::read_parameters(bytes);
                // Sixteen bits of four channels, and as much again while it is turned or made a mask.
                picture.map(|picture| 16 * (picture.width * picture.height) as u64)
            })
        },
    },
    Kind {
        name: "provenance",
        make: |_| {
            Reader::sized(seeds::with_provenance(), |bytes| {
                // Watermarks are searched in pixels, which `picture` reads.
                let options = provenance::VerifyOptions {
                    keys: Vec::new(),
                    anchors: None,
                };
                let _ = provenance::strip(bytes);
                let found = provenance::verify(bytes, "a", &options).ok()?;
                assert_ne!(
                    found.manifest.state,
                    provenance::ManifestState::ValidTrustedSigner
                );
                Some(16 * (found.width * found.height) as u64)
            })
        },
    },
    Kind {
        name: "safetensors",
        make: |_| {
            Reader::new(vec![seeds::safetensors()], |bytes| {
                let name = Path::new("a");
                let tensors = stored::safetensors(name, bytes);
                if let Ok(tensors) = &tensors {
                    tensors.iter().for_each(|(_, tensor)| drop(tensor.floats()));
                }
                weights::parse(name, bytes).is_ok() || tensors.is_ok()
            })
        },
    },
    Kind {
        name: "pytorch",
        make: |_| {
            let seeds = goldens("checkpoint/pytorch/goldens", "pt");
            Reader::new(seeds, |bytes| {
                let Ok(archive) = Archive::parse(Path::new("a"), bytes, TORCH_SCRIPT) else {
                    return false;
                };
                let root = archive.root();
                let root = root.get("state_dict").unwrap_or(root);
                let Ok(tensors) = root.tensors() else {
                    return false;
                };
                tensors.values().for_each(|tensor| drop(tensor.floats()));
                true
            })
        },
    },
    Kind {
        name: "flax",
        make: |_| {
            let folder = "import/dalle_mini/goldens/flax_unrolled";
            Reader::new(goldens(folder, "msgpack"), |bytes| {
                flax::parse(Path::new("a"), bytes).is_ok()
            })
        },
    },
    Kind {
        name: "text_tokenizer",
        make: |folder| {
            models::text().save(folder).unwrap();
            let seed = fs::read(folder.join("tokenizer.json")).unwrap();
            Reader::new(vec![seed], |bytes| match TextTokenizer::from_bytes(bytes) {
                Ok(text) => text.encode(TEXT).is_ok_and(|ids| text.decode(&ids).is_ok()),
                Err(_) => false,
            })
        },
    },
    Kind {
        name: "tokenizer_json",
        make: |_| {
            let seeds = [
                "import/dalle_pytorch/goldens/axial",
                "import/clip/goldens/hugging_face",
            ];
            let seeds = seeds.iter().flat_map(|folder| goldens(folder, "json"));
            let seeds = seeds.filter(|seed| seed.len() > 2000).collect();
            Reader::new(seeds, |bytes| {
                let whole = DallePytorchTokenizer::from_json(bytes);
                if let Ok(text) = &whole {
                    let ids = text.encode_caption(TEXT, 256, true);
                    let _ = ids.map(|ids| text.decode(&ids));
                }
                if let Ok(text) = BartTokenizer::from_bytes(bytes) {
                    let _ = text.encode_caption(TEXT, 64, true);
                }
                let clip = ClipTokenizer::from_json(bytes, Cleaning::OpenAi);
                if let Ok(text) = &clip {
                    let _ = text.encode(TEXT).map(|ids| text.decode(&ids));
                }
                whole.is_ok() || clip.is_ok()
            })
        },
    },
    Kind {
        name: "merges",
        make: |_| {
            let mut seeds = goldens("import/dalle_pytorch/goldens/reversible", "txt");
            seeds.extend(goldens("import/clip/goldens/openai", "gz"));
            Reader::new(seeds, |bytes| {
                [520, 600, 49_408].into_iter().any(|size| {
                    let text = ClipTokenizer::from_merges(bytes, size, Cleaning::OpenAi);
                    text.is_ok_and(|text| text.encode(TEXT).is_ok())
                })
            })
        },
    },
    Kind {
        name: "vocabulary",
        make: |_| {
            let folder = root().join("crates/impasto/src/import/clip/goldens/open_clip");
            let vocabulary = fs::read(folder.join("vocab.json")).unwrap();
            let merges = fs::read(folder.join("merges.txt")).unwrap();
            let seeds = vec![vocabulary.clone(), merges.clone()];
            Reader::new(seeds, move |bytes| {
                let _ = BartTokenizer::from_vocabulary(bytes, &merges);
                let clip = Cleaning::OpenAi;
                let first = ClipTokenizer::from_vocabulary(bytes, &merges, clip);
                let second = ClipTokenizer::from_vocabulary(&vocabulary, bytes, clip);
                [first, second]
                    .into_iter()
                    .flatten()
                    .any(|text| text.encode(TEXT).is_ok())
            })
        },
    },
    Kind {
        name: "word_list",
        make: |_| {
            let mut seeds = goldens("import/dalle_pytorch/goldens/learned", "txt");
            seeds.extend(goldens("import/dalle_mini/goldens", "txt"));
            Reader::new(seeds, |bytes| {
                let words = DallePytorchTokenizer::from_words(bytes);
                if let Ok(words) = &words {
                    let ids = words.encode_caption(TEXT, 256, true);
                    let _ = ids.map(|ids| words.decode(&ids));
                }
                let frequencies = WordFrequencies::parse(bytes);
                words.is_ok() || frequencies.is_ok()
            })
        },
    },
    Kind {
        name: "youtokentome",
        make: |_| {
            // a and b, the mark of a word's start, "ab", and the four marks.
            let seed = b"3 1\n97 4\n98 5\n9601 6\n4 5 7\n1 0 2 3\n".to_vec();
            Reader::new(vec![seed], |bytes| match YouTokenToMe::parse(bytes) {
                Ok(text) => {
                    let ids = text.encode("ab ba abab 龟");
                    text.decode(&ids);
                    true
                }
                Err(_) => false,
            })
        },
    },
    Kind {
        name: "jsonl",
        make: |folder| list(folder, "a.jsonl", PairSource::Jsonl),
    },
    Kind {
        name: "csv",
        make: |folder| list(folder, "a.csv", PairSource::Csv),
    },
    Kind {
        name: "tar",
        make: |folder| {
            let path = folder.join("a.tar");
            let png = seeds::png();
            let seed = seeds::tar(&[
                ("a.png", &png),
                ("a.txt", b"a red cat\na cat"),
                ("b 2.0.png", &png),
                ("b 2.0.json", b"{\"captions\": [\"a dog\"]}"),
                ("c.mask.png", &png),
            ]);
            Reader::new(vec![seed], move |bytes| {
                fs::write(&path, bytes).unwrap();
                opened(&PairSource::Tars(vec![path.clone()]))
            })
        },
    },
    Kind {
        name: "caption_file",
        make: |folder| {
            fs::write(folder.join("a.png"), seeds::png()).unwrap();
            let (folder, path) = (folder.to_path_buf(), folder.join("a.txt"));
            let seed = "\u{feff}a red cat\r\n\r\n红色的猫\n".as_bytes().to_vec();
            Reader::new(vec![seed], move |bytes| {
                fs::write(&path, bytes).unwrap();
                opened(&PairSource::Folder(folder.clone()))
            })
        },
    },
    Kind {
        name: "token_cache",
        make: |folder| {
            let path = folder.join("tokens");
            let mut cache = TokenCache::new(4).unwrap();
            cache.push(&[1, 2, 3, 4], vec!["a cat".into()]).unwrap();
            cache
                .push(&[4, 3, 2, 1], vec!["a".into(), "b".into()])
                .unwrap();
            cache.write(&path, "f").unwrap();
            let seed = fs::read(&path).unwrap();
            Reader::new(vec![seed], move |bytes| {
                fs::write(&path, bytes).unwrap();
                TokenCache::open(&path, "f").is_ok()
            })
        },
    },
    Kind {
        name: "art_pack",
        make: |folder| {
            let from = root().join("crates/impasto/src/data/scenes/fixtures/art/fluent-3d");
            copy(&from, &folder.join("fluent-3d"));
            Reader::of_file(folder, "fluent-3d/pack.json", |folder| {
                Pack::open(folder, "fluent-3d").is_ok()
            })
        },
    },
    Kind {
        name: "art_picture",
        make: |folder| {
            let from = root().join("crates/impasto/src/data/scenes/fixtures/art/fluent-3d");
            copy(&from, &folder.join("fluent-3d"));
            Reader::of_file(folder, "fluent-3d/1f422.webp", |folder| {
                let pack = Pack::open(folder, "fluent-3d").unwrap();
                pack.glyph("🐢").is_ok()
            })
        },
    },
    Kind {
        name: "index_manifest",
        make: |folder| index(folder, "index.json"),
    },
    Kind {
        name: "index_rows",
        make: |folder| index(folder, "rows-"),
    },
    Kind {
        name: "index_graph",
        make: |folder| index(folder, "graph-"),
    },
    Kind {
        name: "model_config",
        make: |folder| own(folder, "config.json"),
    },
    Kind {
        name: "model_weights",
        make: |folder| own(folder, "dalle.safetensors"),
    },
    Kind {
        name: "model_image_tokenizer",
        make: |folder| own(folder, "image_tokenizer.safetensors"),
    },
    Kind {
        name: "clip_config",
        make: |folder| {
            models::write_clip(folder);
            Reader::of_file(folder, "config.json", open_clip)
        },
    },
    Kind {
        name: "clip_weights",
        make: |folder| {
            models::write_clip(folder);
            Reader::of_file(folder, "clip.safetensors", open_clip)
        },
    },
    Kind {
        name: "adapter_config",
        make: |folder| {
            let config = r#"{"architecture":"lora","name":"a","licence":"MIT","base":"b","base_fingerprint":"00",
                "lora":{"rank":4,"alpha":8.0,"dropout":0.1,"targets":["attention.q"]},
                "sampling":{"guidance_scale":2.0,"temperature":1.0,"top_k":50,"top_p":null}}"#;
            fs::write(folder.join("config.json"), config).unwrap();
            Reader::of_file(folder, "config.json", |folder| {
                adapter::config(folder).is_ok()
            })
        },
    },
    Kind {
        name: "train_image_tokenizer",
        make: |folder| {
            let seed = r#"{"model":{"architecture":"vqgan","picture_size":32,"patch":8,"widths":[16,8],
                "n_res_blocks":1,"groups":4,"codebook_size":16,"code_width":4},
                "data":{"pairs":{"from":{"folder":"nothing-here"},"validation_share":0.1}},
                "run":{"steps":1,"batch_size":2,"gradient_accumulation":1,"learning_rate":0.001,"seconds":9.0,
                "expect":{"validation_psnr":{"at_least":1.0}}},
                "vqgan":{"adversarial":{"weight":0.1,"start_step":1,"width":8,"n_layers":2,"learning_rate":0.001}},
                "validation":2}"#;
            training(folder, seed, |config, out, device| {
                train::image_tokenizer::run(config, out, device, false, &mut Silent).map(drop)
            })
        },
    },
    Kind {
        name: "train_dalle",
        make: |folder| {
            let seed = r#"{"name":"a","licence":"MIT","text_tokenizer":"nothing-here","image_tokenizer":"nothing-here",
                "model":{"text_length":16,"width":16,"n_layers":1,"n_heads":2,"hidden":32,"contrastive_width":8},
                "data":{"pairs":{"from":{"tars":["nothing-here"]}}},"encoded_pictures":8,
                "run":{"steps":1,"batch_size":2},"raster_share":0.5,"hole_share":0.1,"caption_dropout":0.1,
                "captioning_share":0.1,"sampling":{"guidance_scale":2.0,"temperature":1.0,"top_k":50,"top_p":0.9},
                "validation":2}"#;
            training(folder, seed, |config, out, device| {
                train::dalle::run(config, out, device, false, &mut Silent).map(drop)
            })
        },
    },
    Kind {
        name: "train_clip",
        make: |folder| {
            let seed = r#"{"name":"a","licence":"MIT","text_tokenizer":"nothing-here",
                "model":{"image_size":32,"patch_size":16,"image":{"width":16,"n_layers":1,"n_heads":2,"hidden":32},
                "text_length":16,"text":{"width":16,"n_layers":1,"n_heads":2,"hidden":32},"projection_width":8},
                "data":{"pairs":{"from":{"jsonl":"nothing-here"}}},"run":{"steps":1,"batch_size":2},
                "reconstructed":{"by":"nothing-here","share":0.5},"validation":2}"#;
            training(folder, seed, |config, out, device| {
                train::clip::run(config, out, device, false, &mut Silent).map(drop)
            })
        },
    },
    Kind {
        name: "train_text_tokenizer",
        make: |folder| {
            let seed = r#"{"vocab_size":300,"data":{"pairs":{"from":{"csv":"nothing-here"}}},"samples":4}"#;
            training(folder, seed, |config, out, _| {
                train::text_tokenizer::run(config, out, &mut Silent).map(drop)
            })
        },
    },
    Kind {
        name: "clip_hugging_face_config",
        make: |folder| {
            published(
                folder,
                "clip/goldens/hugging_face",
                "config.json",
                open_clip,
            )
        },
    },
    Kind {
        name: "clip_hugging_face_preprocessor",
        make: |folder| {
            let file = "preprocessor_config.json";
            published(folder, "clip/goldens/hugging_face", file, open_clip)
        },
    },
    Kind {
        name: "clip_hugging_face_weights",
        make: |folder| {
            published(
                folder,
                "clip/goldens/hugging_face",
                "model.safetensors",
                open_clip,
            )
        },
    },
    Kind {
        name: "clip_open_clip_config",
        make: |folder| {
            published(
                folder,
                "clip/goldens/open_clip",
                "open_clip_config.json",
                open_clip,
            )
        },
    },
    Kind {
        name: "clip_open_clip_weights",
        make: |folder| {
            let file = "open_clip_pytorch_model.bin";
            published(folder, "clip/goldens/open_clip", file, open_clip)
        },
    },
    Kind {
        name: "clip_openai",
        make: |folder| {
            published(folder, "clip/goldens/openai", "small.pt", |folder| {
                open_clip(&folder.join("small.pt"))
            })
        },
    },
    Kind {
        name: "dalle_mini_config",
        make: |folder| {
            published(
                folder,
                "dalle_mini/goldens/flax_stacked",
                "config.json",
                open_model,
            )
        },
    },
    Kind {
        name: "dalle_mini_weights",
        make: |folder| {
            let file = "flax_model.msgpack";
            published(folder, "dalle_mini/goldens/flax_stacked", file, open_model)
        },
    },
    Kind {
        name: "dalle_mini_vqgan_config",
        make: |folder| {
            let file = "vqgan/config.json";
            published(folder, "dalle_mini/goldens/flax_stacked", file, open_model)
        },
    },
    Kind {
        name: "min_dalle_weights",
        make: |folder| {
            published(
                folder,
                "dalle_mini/goldens/min_dalle",
                "encoder.pt",
                open_model,
            )
        },
    },
    Kind {
        name: "dalle_pytorch_weights",
        make: |folder| {
            published(
                folder,
                "dalle_pytorch/goldens/axial",
                "dalle.pt",
                open_model,
            )
        },
    },
    Kind {
        name: "dalle_pytorch_clip",
        make: |folder| {
            published(
                folder,
                "dalle_pytorch/clip_goldens/half",
                "clip.pt",
                open_clip,
            )
        },
    },
    Kind {
        name: "discrete_vae",
        make: |folder| {
            let set = "image_tokenizer/goldens/discrete_vae_normalised";
            published(folder, set, "vae.pt", open_model)
        },
    },
    Kind {
        name: "openai_dvae",
        make: |folder| {
            let set = "image_tokenizer/goldens/openai_legacy";
            published(folder, set, "decoder.pkl", open_model)
        },
    },
    Kind {
        name: "taming_config",
        make: |folder| {
            let set = "image_tokenizer/goldens/taming_one_level";
            published(folder, set, "model.yaml", open_model)
        },
    },
    Kind {
        name: "taming_weights",
        make: |folder| {
            let set = "image_tokenizer/goldens/taming_gumbel";
            published(folder, set, "last.ckpt", open_model)
        },
    },
    Kind {
        name: "llamagen_config",
        make: |folder| published(folder, "llamagen/goldens/hub", "config.json", open_model),
    },
    Kind {
        name: "llamagen_weights",
        make: |folder| {
            published(
                folder,
                "llamagen/goldens/c2i",
                "c2i_tiny_256.pt",
                open_model,
            )
        },
    },
    Kind {
        name: "t5_tokenizer",
        make: |_| {
            let seeds = goldens("import/llamagen/goldens/t2i/flan-t5", "json");
            let seeds = seeds.into_iter().filter(|seed| seed.len() > 2000);
            Reader::new(seeds.collect(), |bytes| {
                T5Tokenizer::from_bytes(bytes).is_ok_and(|text| {
                    text.encode_caption("A red turtle's 2 caps", 64, true)
                        .is_ok()
                })
            })
        },
    },
    Kind {
        name: "sentencepiece",
        make: |_| {
            let folders = ["t5", "bytes"].map(|set| format!("text/sentencepiece_goldens/{set}"));
            let seeds = folders.iter().flat_map(|folder| goldens(folder, "model"));
            Reader::new(seeds.collect(), |bytes| {
                T5Tokenizer::from_sentencepiece(bytes, 5)
                    .is_ok_and(|text| text.encode_caption(TEXT, 64, true).is_ok())
            })
        },
    },
    Kind {
        name: "upscaler",
        make: |folder| {
            let set = "upscaler/goldens/compact_x3";
            published(folder, set, "realesr-animevideov3.pth", open_upscaler)
        },
    },
    Kind {
        name: "safety_policy",
        make: trust::safety_policy,
    },
    Kind {
        name: "safety_list",
        make: trust::safety_list,
    },
    Kind {
        name: "safety_concepts",
        make: trust::safety_concepts,
    },
    Kind {
        name: "prompt",
        make: trust::prompt,
    },
    Kind {
        name: "exclude_list",
        make: trust::exclude_list,
    },
    Kind {
        name: "names_list",
        make: trust::names_list,
    },
    Kind {
        name: "caption",
        make: trust::caption,
    },
];

/// The library's own examples with that ending.
fn goldens(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = root().join("crates/impasto/src").join(folder);
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let ends = |path: &&PathBuf| path.extension().is_some_and(|found| found == ending);
    paths
        .iter()
        .filter(ends)
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn opened(source: &PairSource) -> bool {
    source.open().is_ok_and(|(pairs, _)| {
        (0..pairs.len().min(4)).all(|index| pairs.sample(index, 8).is_ok()) && !pairs.is_empty()
    })
}

fn list(folder: &Path, name: &str, source: fn(PathBuf) -> PairSource) -> Reader {
    fs::write(folder.join("a.png"), seeds::png()).unwrap();
    let path = folder.join(name);
    // What a seed is not of its own kind is damage like any other.
    let seeds = [
        "{\"image\": \"a.png\", \"caption\": \"a cat\"}\n{\"image\": \"a.png\", \"captions\": [\"a\", \"b\"]}\n",
        "{\"file_name\": \"a.png\", \"text\": [\"a cat\", \"a red cat\"]}\n",
        "image,caption\na.png,\"a \"\"red\"\" cat, 2\"\na.png,a dog\n",
        "file_name,text\r\na.png,a cat\r\n",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    Reader::new(seeds, move |bytes| {
        fs::write(&path, bytes).unwrap();
        opened(&source(path.clone()))
    })
}

fn open_model(path: &Path) -> bool {
    let (device, _) = device::select("cpu").unwrap();
    let source = match path.is_dir() {
        true => ModelSource::Dir(path.to_path_buf()),
        false => ModelSource::Published {
            path: path.to_path_buf(),
            needs: Vec::new(),
        },
    };
    let Ok(files) = ModelFiles::find(&source) else {
        return false;
    };
    let _ = families::info(&files);
    Model::open_files(&files, &device, &OpenOptions::default()).is_ok()
}

fn open_upscaler(path: &Path) -> bool {
    let (device, _) = device::select("cpu").unwrap();
    let source = ModelSource::Published {
        path: path.to_path_buf(),
        needs: Vec::new(),
    };
    Upscaler::load(&source, &device, None).is_ok()
}

fn open_clip(path: &Path) -> bool {
    let (device, _) = device::select("cpu").unwrap();
    let source = match path.is_dir() {
        true => ModelSource::Dir(path.to_path_buf()),
        false => ModelSource::Published {
            path: path.to_path_buf(),
            needs: Vec::new(),
        },
    };
    Ranker::load(&source, &device).is_ok()
}

fn own(folder: &Path, file: &str) -> Reader {
    models::write_model(folder);
    Reader::of_file(folder, file, open_model)
}

fn published(folder: &Path, set: &str, file: &str, open: fn(&Path) -> bool) -> Reader {
    copy(&root().join("crates/impasto/src/import").join(set), folder);
    Reader::of_file(folder, file, open)
}

/// An index of seven pictures with a graph, one of whose files is read.
fn index(folder: &Path, start: &str) -> Reader {
    let (clip, pictures, index) = (folder.join("clip"), folder.join("p"), folder.join("index"));
    models::write_clip(&clip);
    fs::create_dir_all(&pictures).unwrap();
    for i in 0..7 {
        let colour = [i * 30, 255 - i * 20, 99];
        let picture = Image::filled(32, 32, colour);
        let bytes = picture.encode(impasto::image::Format::Png, 100).unwrap();
        fs::write(pictures.join(format!("{i}.png")), bytes).unwrap();
    }
    let (device, _) = device::select("cpu").unwrap();
    let ranker = Ranker::load(&ModelSource::Dir(clip), &device).unwrap();
    let mut writer = Writer::open(&index, &pictures, &ranker)
        .unwrap()
        .graph_above(4);
    let listing = pictures_below(&pictures).unwrap();
    writer.update(&listing, &mut NoObserver).unwrap();
    drop(writer);
    let mut names = fs::read_dir(&index)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let name = names
        .find(|name| name.to_string_lossy().starts_with(start))
        .unwrap();
    Reader::of_file(&index, name.to_str().unwrap(), |folder| {
        let Ok(index) = Index::open(folder) else {
            return false;
        };
        let query = vec![0.35; index.clip().width.min(1 << 16)];
        index.search(&query, 3).is_ok()
    })
}

/// A training whose data are not there: its config is read and checked.
fn training<C: DeserializeOwned + 'static>(
    folder: &Path,
    seed: &str,
    run: fn(&C, &Path, &device::Device) -> impasto::Result<()>,
) -> Reader {
    let (path, out) = (folder.join("config.json"), folder.join("out"));
    let (device, _) = device::select("cpu").unwrap();
    Reader::new(vec![seed.as_bytes().to_vec()], move |bytes| {
        fs::write(&path, bytes).unwrap();
        let _ = fs::create_dir_all(&out);
        let Ok(config) = config::read::<C>(&path) else {
            return false;
        };
        // What can't be written down is read by no other run.
        let _ = run(&config, &out, &device);
        let _ = fs::remove_dir_all(&out);
        true
    })
}

/// Stops at the first step.
struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn stop(&self) -> bool {
        true
    }
}
