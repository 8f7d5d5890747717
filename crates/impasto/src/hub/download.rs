//! One file over the network: resumed where it was cut, checked before it gets its name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use ureq::Agent;

use super::listing::unreachable;
use super::registry::Checksum;
use crate::error::Reason;
use crate::files::folder_of;
use crate::observer::{DownloadProgress, Event, Observer};
use crate::{Error, Result, files};

/// The most of a file whose size nobody states: several times the largest that is known.
const MOST_BYTES: u64 = 64 << 30;

/// What is to be brought.
pub(super) struct Download<'a> {
    pub agent: &'a Agent,
    pub address: String,
    pub token: Option<&'a str>,
    pub name: &'a str,
    pub size: Option<u64>,
    pub checksum: Option<&'a Checksum>,
    /// Attempts in a row that may bring nothing.
    pub attempts: u32,
}

/// How an attempt ended that did not finish the file.
enum Cut {
    /// Worth another attempt: the line, or the server's mood.
    Transient(Reason),
    /// Not worth one.
    Final(Error),
}

/// Keeps other processes away from a blob. Kept locks would only fill the folder: whoever has one removes it, also one
/// that a killed process left.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for it.
    fn take(path: PathBuf) -> Result<Self> {
        loop {
            let file = File::create(&path).map_err(Error::io("create", &path))?;
            file.lock().map_err(Error::io("lock", &path))?;
            // The one before removed it meanwhile: others would lock a new one.
            if !files::is_removed(&file) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Download<'_> {
    /// Brings the file to `blob` unless it is there; returns the bytes that came over the network.
    ///
    /// What has come stands in `{blob}.incomplete` until it is whole and its checksum is right. Another
    /// process that wants the same file waits for this one.
    pub fn to(&self, blob: &Path, model_bytes: u64, observer: &mut dyn Observer) -> Result<u64> {
        let folder = folder_of(blob);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let beside = |ending: &str| {
            let mut name = blob.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            blob.with_file_name(name)
        };
        let lock_path = beside(".lock");
        let _lock = Lock::take(lock_path)?;
        let mut report = |bytes: u64, file_bytes: Option<u64>| {
            let progress = DownloadProgress {
                file: self.name.to_owned(),
                bytes,
                file_bytes,
                model_bytes,
            };
            match observer.event(&Event::Download(&progress)) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Stopped),
            }
        };
        if let Ok(here) = fs::metadata(blob)
            && self.size.is_none_or(|size| size == here.len())
        {
            report(here.len(), Some(here.len()))?;
            return Ok(0);
        }
        let partial = beside(".incomplete");
        let mut came = 0;
        let mut idle = 0;
        let reached = || fs::metadata(&partial).map_or(0, |partial| partial.len());
        let mut furthest = reached();
        let size = loop {
            match self.attempt(&partial, &mut came, &mut report) {
                Ok(size) => break size,
                Err(Cut::Final(error)) => return Err(error),
                Err(Cut::Transient(reason)) => {
                    // A server that begins anew and is cut at the same byte each time brings nothing.
                    let here = reached();
                    idle = if here > furthest { 0 } else { idle + 1 };
                    furthest = furthest.max(here);
                    if idle >= self.attempts {
                        return Err(Error::Unreachable {
                            what: self.name.to_owned(),
                            reason: format!(
                                "{reason}, {idle} times in a row; what has come is kept, pull again to go on"
                            ).into(),
                        });
                    }
                    std::thread::sleep(Duration::from_millis(100 << (2 * idle)));
                }
            }
        };
        self.check(&partial, size)?;
        fs::rename(&partial, blob).map_err(Error::io("write", blob))?;
        Ok(came)
    }

    /// Goes on with the file; returns its size when it is whole.
    fn attempt(
        &self,
        partial: &Path,
        came: &mut u64,
        report: &mut dyn FnMut(u64, Option<u64>) -> Result<()>,
    ) -> Result<u64, Cut> {
        let write = |error| Cut::Final(Error::io("write", partial)(error));
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(partial)
            .map_err(write)?;
        let mut here = file.metadata().map_err(write)?.len();
        match self.size {
            Some(size) if here == size => return Ok(size),
            Some(size) if here > size => {
                file.set_len(0).map_err(write)?;
                here = 0;
            }
            _ => {}
        }
        let mut request = self.agent.get(&self.address);
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if here > 0 {
            request = request.header("Range", format!("bytes={here}-"));
        }
        let mut answer = request
            .call()
            .map_err(|error| Cut::Transient(Reason::of(error)))?;
        let header = |name: &str| {
            let value = answer.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let length = header("content-length").and_then(|text| text.parse::<u64>().ok());
        let total = match answer.status().as_u16() {
            206 => {
                let range = header("content-range").unwrap_or_default();
                let (start, total) = parse_range(&range).ok_or_else(|| {
                    Cut::Final(unreachable(
                        self.name,
                        format!("the server's content-range is {range:?}"),
                    ))
                })?;
                if start != here {
                    // Another part than the one requested: from the start, then.
                    file.set_len(0).map_err(write)?;
                    return Err(Cut::Transient(
                        format!("the server sent from byte {start}, asked for {here}").into(),
                    ));
                }
                total
            }
            200 => {
                // The server sends it all, whatever was requested.
                file.set_len(0).map_err(write)?;
                here = 0;
                length
            }
            416 => {
                file.set_len(0).map_err(write)?;
                return Err(Cut::Transient("the server has no such range".into()));
            }
            status @ (408 | 429 | 500..=599) => {
                return Err(Cut::Transient(
                    format!("the server answers {status}").into(),
                ));
            }
            status => {
                return Err(Cut::Final(unreachable(
                    self.name,
                    format!("{} answers {status}", self.address),
                )));
            }
        };
        if let (Some(expected), Some(total)) = (self.size, total)
            && expected != total
        {
            return Err(Cut::Final(unreachable(
                self.name,
                format!("expected {expected} bytes, the server has {total}"),
            )));
        }
        let total = self.size.or(total);
        let mut reader = answer.body_mut().as_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(Cut::Transient(Reason::of(error))),
            };
            here += count as u64;
            let most = total.unwrap_or(MOST_BYTES);
            if here > most {
                file.set_len(0).map_err(write)?;
                return Err(Cut::Final(unreachable(
                    self.name,
                    format!("the server sends more than {most} bytes"),
                )));
            }
            file.write_all(&buffer[..count]).map_err(write)?;
            *came += count as u64;
            // What has come stays for the next pull.
            report(here, total).map_err(Cut::Final)?;
        }
        if total.is_some_and(|total| here < total) {
            return Err(Cut::Transient("the connection was cut".into()));
        }
        file.sync_all().map_err(write)?;
        Ok(here)
    }

    /// Compares the checksum; what is wrong is not kept.
    fn check(&self, partial: &Path, size: u64) -> Result<()> {
        let Some(expected) = self.checksum else {
            return Ok(());
        };
        let (expected, found) = match expected {
            Checksum::Sha256(sum) => (sum, hash(Sha256::new(), partial)?),
            Checksum::GitBlob(sum) => {
                let head = Sha1::new_with_prefix(format!("blob {size}\0"));
                (sum, hash(head, partial)?)
            }
        };
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        fs::remove_file(partial).map_err(Error::io("remove", partial))?;
        Err(unreachable(
            self.name,
            format!(
                "its checksum is {found}, expected {expected}; it was not kept, pull again, and if it stays so, don't use it"
            ),
        ))
    }
}

fn hash<D: Digest>(mut digest: D, path: &Path) -> Result<String> {
    let mut file = files::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
    }
    let digits = digest.finalize();
    Ok(files::hex(&digits))
}

/// `bytes 5-9/10` → (5, Some(10)); `bytes 5-9/*` → (5, None).
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((start.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "5-9/10", "bytes x-9/10", "bytes 5-9/x"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
