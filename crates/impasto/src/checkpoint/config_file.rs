//! `config.json` of a checkpoint of any family: found out, read, checked, written.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ModelSource, stored};
use crate::error::Reason;
use crate::files::FileAccess;
use crate::import::foreign::{Wanted, explain};
use crate::models::ImageTokenizerConfig;
use crate::{Error, Result, files};

/// The file of every family.
pub const CONFIG: &str = "config.json";

/// The tag of a config: which family it is of.
pub(crate) fn architecture(config: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Tagged {
        architecture: String,
    }
    let tagged = serde_json::from_slice::<Tagged>(config).ok()?;
    Some(tagged.architecture)
}

impl ModelSource {
    /// The tag of a folder's config, if it has one.
    pub(super) fn architecture(&self) -> Option<String> {
        if self.folder().is_some_and(Path::is_file) {
            return None;
        }
        architecture(&self.read(CONFIG).ok()?)
    }

    /// The config, without the weights; `what` it is, for errors.
    pub(super) fn parsed_config<C: DeserializeOwned>(
        &self,
        what: &str,
        validate: impl FnOnce(&C) -> Result<()>,
    ) -> Result<C> {
        let bad = |reason: Reason| Error::bad_file(self.path(CONFIG), reason);
        let wanted = match what.contains("CLIP") {
            true => Wanted::Clip,
            false => Wanted::Model,
        };
        let explained = |error: Error| {
            let folder = self.folder();
            match folder.and_then(|folder| Some((folder, explain(folder, wanted)?))) {
                Some((folder, reason)) => Error::bad_file(folder, reason),
                None => error,
            }
        };
        let bytes = self.read(CONFIG).map_err(explained)?;
        let config: C = serde_json::from_slice(&bytes)
            .map_err(|e| explained(bad(format!("not {what}: {e}").into())))?;
        validate(&config).map_err(|e| bad(Reason::of(e)))?;
        Ok(config)
    }

    /// Refuses a config of more numbers than the weight files can hold, before room is made for them.
    pub(crate) fn check_room(&self, numbers: u64, weights: &[&'static str]) -> Result<()> {
        let checked = check_numbers(&self.path(CONFIG), numbers, self.file_bytes(weights)?);
        if checked.is_err() {
            // It may be the weights that are not whole.
            for &name in weights {
                stored::safetensors(&self.path(name), &self.weights(name, FileAccess::Map)?)?;
            }
        }
        checked
    }
}

/// Refuses a config of more numbers than this many bytes of weights can hold.
pub(crate) fn check_numbers(config: &Path, numbers: u64, bytes: u64) -> Result<()> {
    // The fewest bytes that a number takes: four bits and its share of a scale.
    if numbers / 2 > bytes {
        return Err(Error::bad_file(
            config,
            format!("describes {numbers} numbers, the weight files have {bytes} bytes"),
        ));
    }
    Ok(())
}

/// Writes `config.json` into `dir`, whole or not at all.
pub(crate) fn save<C: Serialize>(dir: &Path, config: &C) -> Result<()> {
    let json =
        serde_json::to_vec_pretty(config).map_err(|e| Error::invalid("config", Reason::of(e)))?;
    files::write_atomic(dir.join(CONFIG), &json)?;
    files::sync_folder(dir);
    Ok(())
}

/// Refuses a transformer that was made for another image tokenizer.
pub(crate) fn check_codes(
    image: &ImageTokenizerConfig,
    expected_grid: usize,
    expected_codes: usize,
) -> Result<()> {
    let (grid, codes) = (image.grid(), image.codebook_size());
    if grid == expected_grid && codes == expected_codes {
        return Ok(());
    }
    Err(Error::invalid(
        "model config",
        format!(
            "the image tokenizer has {codes} codes on a {grid}x{grid} grid, the transformer expects {expected_codes} on {expected_grid}x{expected_grid}"
        ),
    ))
}
