//! Writing files so that a half-written one never stands under its final name.

use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` to `path` whole or not at all: to a temporary file in the same folder, synced, then
/// renamed. Two writers to one path end with one whole file.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let fail = || Error::io("write", path);
    let mut file = tempfile::Builder::new()
        .prefix(".impasto-")
        .tempfile_in(folder)
        .map_err(fail())?;
    file.write_all(bytes).map_err(fail())?;
    file.as_file().sync_all().map_err(fail())?;
    // Temporary files are private; a finished one gets the permissions a plain create would give.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(permissions)
            .map_err(fail())?;
    }
    file.persist(path).map_err(|e| fail()(e.error))?;
    Ok(())
}
