//! What this machine and this program have: plain data that a bug report can carry.
//!
//! Nothing personal: paths in the home folder start with `~`, and of the models in the cache only those are named that
//! are published under a name that [`hub`] knows.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use serde::Serialize;

use crate::checkpoint::{EMBEDDED_CLIP, EMBEDDED_NAME, ModelSource};
use crate::data::scenes::{Sources, World};
use crate::families::{ModelFiles, info};
use crate::{Error, device, hub};

/// Where to look; the library reads no environment.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The user's home folder, which is not to be named.
    pub home: Option<PathBuf>,
    /// The cache of pulled models.
    pub cache: Option<PathBuf>,
    /// A folder of checkpoint folders.
    pub models: PathBuf,
    /// Font and annotations of composed scenes.
    pub sources: Sources,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The program.
    pub program: Program,
    /// System and processor.
    pub machine: Machine,
    /// Which CPU kernels run.
    pub kernels: Kernels,
    /// The devices by name, the CPU first.
    pub devices: Vec<DeviceState>,
    /// The cache of pulled models; none where no place for it is known.
    pub cache: Option<Cache>,
    /// Models that can be named with `--model` and `--clip`.
    pub models: Vec<FoundModel>,
    /// What composed scenes are drawn from.
    pub worlds: Vec<WorldState>,
    /// What is not here, what it is needed for and how to get it.
    pub missing: Vec<MissingPart>,
}

/// The program.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Of the library.
    pub version: &'static str,
    /// Features of the build.
    pub features: Vec<&'static str>,
    /// "x86_64-linux".
    pub target: String,
    /// Whether it is a debug build, whose checks cost time.
    pub debug_assertions: bool,
}

/// System and processor, as far as the system says.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The system's name and version.
    pub system: String,
    /// The processor's name.
    pub cpu: Option<String>,
    /// Threads that the processor offers to this process.
    pub cpus: usize,
    /// Threads that the kernels use.
    pub threads: usize,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of it that are free or can be freed.
    pub available_bytes: Option<u64>,
    /// Bytes that this process's control group may use, where that is limited.
    pub limit_bytes: Option<u64>,
}

/// Which CPU kernels run.
#[derive(Clone, Debug, Serialize)]
pub struct Kernels {
    /// The vector instructions of kernels for f32: "AVX-512", "AVX2", "NEON" or "portable".
    pub floats: &'static str,
    /// Those of products in bf16: "AMX", "AVX-512 BF16", or those for f32.
    pub halves: &'static str,
    /// Those of kernels for int8 and int4.
    pub integers: &'static str,
    /// Extensions of the processor, used or not.
    pub extensions: Vec<String>,
}

/// A device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceState {
    /// What `--device` takes.
    pub name: &'static str,
    /// How it describes itself, if it answers.
    pub answer: Option<String>,
    /// Why it can't be used, if it does not.
    pub reason: Option<String>,
    /// Whether it computes in bf16.
    pub bf16: bool,
}

/// The cache of pulled models.
#[derive(Clone, Debug, Serialize)]
pub struct Cache {
    /// Its folder.
    pub folder: String,
    /// Bytes of everything in it.
    pub bytes: u64,
    /// The models in it that have a known name.
    pub models: Vec<CachedModel>,
    /// How many others there are.
    pub others: usize,
}

/// A pulled model.
#[derive(Clone, Debug, Serialize)]
pub struct CachedModel {
    /// Its name.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A model that can be loaded.
#[derive(Clone, Debug, Serialize)]
pub struct FoundModel {
    /// What `--model` (or `--clip`) takes.
    pub name: String,
    /// "embedded", "folder" or "folder of a CLIP".
    pub kind: &'static str,
    /// Why it can't be used.
    pub error: Option<String>,
}

/// A world of composed scenes.
#[derive(Clone, Debug, Serialize)]
pub struct WorldState {
    /// What `--world` takes.
    pub name: &'static str,
    /// Whether everything is here.
    pub usable: bool,
    /// What it needs.
    pub needs: Vec<String>,
}

/// Something that is not here.
#[derive(Clone, Debug, Serialize)]
pub struct MissingPart {
    /// What.
    pub what: String,
    /// What it is needed for.
    pub needed_for: String,
    /// How to get it.
    pub how: String,
}

/// Looks. Devices of this build are tried with a small computation.
pub fn examine(places: &Places) -> Diagnosis {
    let mut missing = Vec::new();
    let devices = devices(&mut missing);
    let mut diagnosis = Diagnosis {
        program: program(),
        machine: machine(),
        kernels: kernels(),
        devices,
        cache: places.cache.as_deref().map(cache),
        models: models(&places.models),
        worlds: worlds(&places.sources, &mut missing),
        missing,
    };
    if diagnosis.kernels.floats == "portable" {
        diagnosis.missing.push(MissingPart {
            what: "vector instructions (AVX2 with FMA, or NEON)".to_owned(),
            needed_for: "speed: without them everything runs several times slower".to_owned(),
            how: "use another processor, or let the virtual machine pass them on".to_owned(),
        });
    }
    if let Some(home) = &places.home {
        hide_home(&mut diagnosis, home);
    }
    diagnosis
}

fn program() -> Program {
    let features = [
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
        ("cuda-nvrtc", cfg!(feature = "cuda-nvrtc")),
        ("gpu-cache", cfg!(feature = "gpu-cache")),
        ("tch", cfg!(feature = "tch")),
    ];
    Program {
        version: env!("CARGO_PKG_VERSION"),
        features: features
            .into_iter()
            .filter_map(|(name, built)| built.then_some(name))
            .collect(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        debug_assertions: cfg!(debug_assertions),
    }
}

fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Machine {
        system: system(),
        cpu: cpu(),
        cpus,
        threads: rayon::current_num_threads(),
        memory_bytes: kibibytes("MemTotal"),
        available_bytes: kibibytes("MemAvailable"),
        limit_bytes: fs::read_to_string("/sys/fs/cgroup/memory.max")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    }
}

fn system() -> String {
    let name = fs::read_to_string("/etc/os-release").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let parts = [
        Some(std::env::consts::OS.to_owned()),
        kernel.map(|text| text.trim().to_owned()),
        name.map(|name| format!("({name})")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The first value of `name : value` in a file.
/// The processor's name.
pub(crate) fn cpu() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kibibytes(name: &str) -> Option<u64> {
    let value = field("/proc/meminfo", name)?;
    let number: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

/// Which CPU kernels run.
pub(crate) fn kernels() -> Kernels {
    use impasto_kernels::bf16::{Unit, unit};
    use impasto_kernels::{Isa, extensions, has_vnni, isa};
    let mut found: Vec<String> = extensions().into_iter().map(str::to_owned).collect();
    // The compiler's library does not detect these.
    let flags = field("/proc/cpuinfo", "flags").unwrap_or_default();
    for (flag, name) in [
        ("avx_vnni", "AVX-VNNI"),
        ("amx_tile", "AMX"),
        ("amx_int8", "AMX INT8"),
        ("amx_bf16", "AMX BF16"),
    ] {
        if flags.split_whitespace().any(|known| known == flag) {
            found.push(name.to_owned());
        }
    }
    let (floats, integers) = match isa() {
        Isa::Avx512 if has_vnni() => ("AVX-512", "AVX-512 VNNI"),
        Isa::Avx512 => ("AVX-512", "AVX2"),
        Isa::Avx2 => ("AVX2", "AVX2"),
        Isa::Neon => ("NEON", "NEON"),
        Isa::Portable => ("portable", "portable"),
    };
    let halves = match unit() {
        Some(Unit::Amx) => "AMX",
        Some(Unit::Avx512Bf16) => "AVX-512 BF16",
        None => floats,
    };
    Kernels {
        floats,
        halves,
        integers,
        extensions: found,
    }
}

fn devices(missing: &mut Vec<MissingPart>) -> Vec<DeviceState> {
    let states: Vec<DeviceState> = device::NAMES.into_iter().map(device_state).collect();
    let is_gpu = |state: &DeviceState| !["cpu", "tch"].contains(&state.name);
    if !states
        .iter()
        .any(|state| is_gpu(state) && state.answer.is_some())
    {
        missing.push(MissingPart {
            what: "a GPU that answers".to_owned(),
            needed_for: "faster drawing and training".to_owned(),
            how: "build with the feature cuda, vulkan, metal or tch, with the driver installed (docs/gpu.md)"
                .to_owned(),
        });
    }
    states
}

fn device_state(name: &'static str) -> DeviceState {
    match device::select(name) {
        Ok((found, description)) => DeviceState {
            name,
            answer: Some(description),
            reason: None,
            bf16: computes_bf16(&found),
        },
        Err(error) => DeviceState {
            name,
            answer: None,
            reason: Some(match error {
                Error::Device { reason, .. } => reason.to_string(),
                error => error.to_string(),
            }),
            bf16: false,
        },
    }
}

fn computes_bf16(device: &Device) -> bool {
    device.supports_dtype(DType::BF16)
}

fn cache(folder: &Path) -> Cache {
    let mut found = Cache {
        folder: folder.display().to_string(),
        bytes: bytes(folder),
        models: Vec::new(),
        others: 0,
    };
    let known: Vec<(String, &str)> = hub::registry()
        .iter()
        .map(|entry| {
            let repo = match &entry.source {
                hub::Source::Hub { repo, .. } => repo.as_str(),
                hub::Source::Addresses { .. } => entry.name,
            };
            (format!("models--{}", repo.replace('/', "--")), entry.name)
        })
        .collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("models--") {
            continue;
        }
        match known.iter().find(|(folder, _)| *folder == name) {
            Some((_, name)) => found.models.push(CachedModel {
                name: (*name).to_owned(),
                bytes: bytes(&entry.path()),
            }),
            None => found.others += 1,
        }
    }
    found.models.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Bytes of all files below a folder; links count for nothing, so that no file counts twice.
fn bytes(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    total += entry.metadata().map_or(0, |file| file.len());
                }
                _ => {}
            }
        }
    }
    total
}

fn models(folder: &Path) -> Vec<FoundModel> {
    let mut found: Vec<FoundModel> = [EMBEDDED_NAME, EMBEDDED_CLIP]
        .into_iter()
        .map(|name| FoundModel {
            name: name.to_owned(),
            kind: "embedded",
            error: None,
        })
        .collect();
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    folders.sort();
    found.extend(folders.into_iter().map(|path| {
        let is_clip = path.join("clip.safetensors").is_file();
        FoundModel {
            name: path.display().to_string(),
            kind: if is_clip {
                "folder of a CLIP"
            } else {
                "folder"
            },
            error: if is_clip { None } else { unusable(path) },
        }
    }));
    found
}

/// Why the folder holds no model that can be used; its weights are not read.
fn unusable(path: PathBuf) -> Option<String> {
    let looked = ModelFiles::find(&ModelSource::Dir(path)).and_then(|files| info(&files));
    looked.err().map(|error| error.to_string())
}

fn worlds(sources: &Sources, missing: &mut Vec<MissingPart>) -> Vec<WorldState> {
    let has_font = sources.font.is_file();
    let has_cldr = ["en.xml", "zh.xml"]
        .iter()
        .all(|name| sources.cldr.join(name).is_file());
    if !has_font {
        missing.push(MissingPart {
            what: format!("the font {}", sources.font.display()),
            needed_for: "the worlds small, full and styles: training, eval and data scenes"
                .to_owned(),
            how: "apt-get install fonts-noto-color-emoji, or name another colour emoji font"
                .to_owned(),
        });
    }
    if !has_cldr {
        missing.push(MissingPart {
            what: format!("CLDR's annotations in {}", sources.cldr.display()),
            needed_for: "the worlds full and styles".to_owned(),
            how: "apt-get install unicode-cldr-core, or name their folder".to_owned(),
        });
    }
    let has_art = sources.art.is_dir();
    if !has_art {
        missing.push(MissingPart {
            what: format!("the art packs in {}", sources.art.display()),
            needed_for: "the world styles".to_owned(),
            how: "recipes/art/fetch, or name their folder".to_owned(),
        });
    }
    World::PRESETS
        .into_iter()
        .map(|name| {
            let (font, cldr, art) = match name {
                "tiny" => (false, false, false),
                "small" => (true, false, false),
                "full" => (true, true, false),
                _ => (true, true, true),
            };
            let needs = [(font, "font"), (cldr, "CLDR"), (art, "art packs")];
            WorldState {
                name,
                usable: (has_font || !font) && (has_cldr || !cldr) && (has_art || !art),
                needs: needs
                    .into_iter()
                    .filter(|&(needed, _)| needed)
                    .map(|(_, what)| what.to_owned())
                    .collect(),
            }
        })
        .collect()
}

/// Replaces the home folder by `~` wherever a path may be.
fn hide_home(diagnosis: &mut Diagnosis, home: &Path) {
    let home = home.display().to_string();
    let home = home.trim_end_matches(['/', '\\']);
    if home.is_empty() {
        return;
    }
    let hide = |text: &mut String| *text = text.replace(home, "~");
    if let Some(cache) = &mut diagnosis.cache {
        hide(&mut cache.folder);
    }
    for model in &mut diagnosis.models {
        hide(&mut model.name);
        model.error.iter_mut().for_each(hide);
    }
    for device in &mut diagnosis.devices {
        device.reason.iter_mut().for_each(hide);
    }
    for part in &mut diagnosis.missing {
        hide(&mut part.what);
    }
}
