//! Running the executable, and the tiny model that it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use impasto::checkpoint::weights::Precision;
use impasto::checkpoint::{
    CaptionTokenizer, ClipModel, ClipModelConfig, TextTokenizerKind, WeightFormat,
};
use impasto::device;
use impasto::families::{NativeConfig, NativeModel, NativeOptions, SaveAs};
use impasto::models::clip::{Activation, EndOfText, Normalisation, TowerConfig};
use impasto::models::vqgan::VqganConfig;
use impasto::models::{ClipConfig, DalleConfig, ImageTokenizerConfig};
use impasto::nn::Init;
use impasto::sampling::SamplingOptions;
use impasto::text::TextTokenizer;
use tempfile::TempDir;

/// A run's folder and what is run in it.
pub struct Program {
    pub folder: TempDir,
}

/// What came of a run.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Program { folder }
    }

    /// The executable with the run's folder as the current one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs what has to work; returns stdout.
    pub fn expect(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Runs what has to work and prints JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.expect(arguments)).unwrap()
    }

    /// Runs what has to be refused with `code`: one `error:` line that contains all of `parts`, a hint at
    /// most, nothing on stdout and no file besides those that were there.
    pub fn refuses(&self, code: i32, arguments: &[&str], parts: &[&str]) {
        let before = self.files();
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        let errors: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        let [error] = errors[..] else {
            panic!(
                "{arguments:?}: expected one error line, got {:?}",
                ran.stderr
            );
        };
        for part in parts {
            assert!(
                error.contains(part),
                "{arguments:?}: no {part:?} in {error:?}"
            );
        }
        for line in ran.stderr.lines() {
            let known = ["error: ", "hint: ", "note: ", "device: ", "seed: "];
            assert!(
                known.iter().any(|start| line.starts_with(start)),
                "{arguments:?}: {line:?}"
            );
        }
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert_eq!(self.files(), before, "{arguments:?} left a file behind");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All files below the run's folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }

    /// A copy of the tiny model in the run's folder, to be damaged; returns its name.
    pub fn own_model(&self) -> &'static str {
        let to = self.path("model");
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(model()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        "model"
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The tiny model's folder: 64 px, a grid of 4 × 4, captions of 80 tokens, weights in f32.
pub fn model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-model");
        let captions = [
            "a red turtle on a yellow background",
            "黄色背景上的红色乌龟",
        ];
        let captions = captions
            .iter()
            .cycle()
            .take(40)
            .map(|&caption| caption.to_owned());
        let text = TextTokenizer::train(captions, 300).unwrap();
        let image_tokenizer = ImageTokenizerConfig::Vqgan(VqganConfig {
            picture_size: 64,
            patch: 16,
            widths: vec![8],
            n_res_blocks: 1,
            groups: 4,
            codebook_size: 32,
            code_width: 4,
        });
        let dalle = DalleConfig {
            text_vocab_size: text.vocab_size(),
            text_length: 80,
            padded_text: true,
            codebook_size: 32,
            grid: 4,
            width: 16,
            n_layers: 2,
            n_heads: 2,
            hidden: 32,
            contrastive_width: None,
        };
        let (device, _) = device::select("cpu").unwrap();
        let mut init = Init::new(1, &device);
        let config = NativeConfig {
            name: "tiny".to_owned(),
            licence: "CC0-1.0".to_owned(),
            image_tokenizer: image_tokenizer.clone(),
            sizes: dalle.clone(),
            sampling: SamplingOptions::default(),
            options: NativeOptions {
                any_order: true,
                captions_images: true,
            },
            precision: WeightFormat::F32,
        };
        let model = NativeModel {
            config,
            text,
            image: image_tokenizer.init(&mut init),
            net: dalle.init(&mut init),
            device,
        };
        model.save(&folder, SaveAs::Floats(Precision::F32)).unwrap();
        folder.to_str().unwrap().to_owned()
    })
}

/// A model that draws 64 px in some hundredths of a second.
pub const SMALL_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/impasto-mini");
/// A CLIP of the world that it draws, `small`.
pub const SMALL_CLIP: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/impasto-mini-clip"
);

/// A tiny CLIP's folder: 64 px, captions of 80 tokens, 8 dimensions.
pub fn clip() -> &'static str {
    static CLIP: OnceLock<String> = OnceLock::new();
    CLIP.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-clip");
        let text = TextTokenizer::load(Path::new(model())).unwrap();
        let tower = TowerConfig {
            width: 16,
            n_layers: 2,
            n_heads: 2,
            hidden: 32,
        };
        let config = ClipConfig {
            image_size: 64,
            patch_size: 16,
            image: tower,
            text_vocab_size: text.vocab_size(),
            text_length: 80,
            text: tower,
            projection_width: 8,
            activation: Activation::Gelu,
            end_of_text: EndOfText::FirstOf(2),
            logit_bias: false,
            normalisation: Normalisation::default(),
        };
        let (device, _) = device::select("cpu").unwrap();
        let clip = ClipModel {
            config: ClipModelConfig {
                name: "tiny".to_owned(),
                licence: "CC0-1.0".to_owned(),
                text_tokenizer: TextTokenizerKind::ByteLevel,
                clip: config.clone(),
            },
            text: CaptionTokenizer::ByteLevel(text),
            clip: config.init(&mut Init::new(2, &device)),
        };
        clip.save(&folder, Precision::F32).unwrap();
        folder.to_str().unwrap().to_owned()
    })
}
