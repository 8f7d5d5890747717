//! What picture files say of their origin: the flags of every command that writes pictures of a model.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use impasto::files;
use impasto::provenance::{Key, Policy, Signer, c2pa_supported};
use serde::Deserialize;

use crate::failure::Usage;
use crate::terminal;

/// The largest file of a key, certificates or a policy.
const MAX_FILE: u64 = 1 << 20;

/// What is written into a picture's file besides its settings.
#[derive(Args)]
#[command(next_help_heading = "Provenance")]
pub struct ProvenanceFlags {
    /// Put an invisible watermark into the pixels that were drawn. KEY is a file or a text that only you know [default:
    /// a public key, with which everyone can find it]
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    watermark: Option<String>,
    /// Sign a C2PA manifest with a certificate that is made for it on first use; nobody vouches for that one
    #[arg(long)]
    sign: bool,
    /// Sign a C2PA manifest with this chain of certificates (PEM, the signer's first)
    #[arg(long, value_name = "FILE", requires = "private_key")]
    certificate: Option<PathBuf>,
    /// The private key of --certificate (PEM, PKCS #8)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    private_key: Option<PathBuf>,
    /// Write the label AIGC of China's standard GB 45438-2025, with this provider's name or code
    #[arg(long, value_name = "PROVIDER")]
    aigc: Option<String>,
    /// Draw the visible label "AI生成" into the lower right corner
    #[arg(long)]
    visible_label: bool,
    /// Leave out the XMP that says that a model made the picture
    #[arg(long)]
    no_xmp: bool,
    /// Take these settings from a JSON file with the same names (docs/trust.md); flags come on top
    #[arg(long = "provenance", value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// The file of --provenance.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyFile {
    watermark: Option<WatermarkSetting>,
    sign: bool,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
    aigc: Option<String>,
    visible_label: bool,
    xmp: Option<bool>,
}

/// `true`, or a key.
#[derive(Deserialize)]
#[serde(untagged)]
enum WatermarkSetting {
    On(bool),
    Key(String),
}

impl ProvenanceFlags {
    /// Flags that sign, and nothing else.
    pub fn signing(certificate: Option<PathBuf>, private_key: Option<PathBuf>) -> Self {
        ProvenanceFlags {
            watermark: None,
            sign: true,
            certificate,
            private_key,
            aigc: None,
            visible_label: false,
            no_xmp: false,
            policy: None,
        }
    }

    /// The policy, checked before any work.
    ///
    /// # Errors
    /// Files that can't be read, keys that can't be used, and signing where the program can't.
    pub fn policy(&self) -> Result<Policy> {
        let file = match &self.policy {
            Some(path) => read_policy(path)?,
            None => PolicyFile::default(),
        };
        let key = match (&self.watermark, &file.watermark) {
            (Some(text), _) | (None, Some(WatermarkSetting::Key(text))) => Some(key(text)?),
            (None, Some(WatermarkSetting::On(true))) => Some(Key::public()),
            (None, _) => None,
        };
        let certificate = self.certificate.clone().or(file.certificate);
        let private_key = self.private_key.clone().or(file.private_key);
        let signer = match (certificate, private_key) {
            (Some(certificate), Some(private_key)) => Some(signer(&certificate, &private_key)?),
            (None, None) if self.sign || file.sign => Some(own_signer()?),
            (None, None) => None,
            _ => {
                return Err(Usage::new(
                    "certificates are of no use without their private key, and the key without them",
                    "give both certificate and private_key",
                )
                .into());
            }
        };
        Ok(Policy {
            xmp: !self.no_xmp && file.xmp.unwrap_or(true),
            watermark: key,
            aigc: self.aigc.clone().or(file.aigc),
            visible_label: self.visible_label || file.visible_label,
            signer: signer.map(Arc::new),
        })
    }
}

fn read_policy(path: &Path) -> Result<PolicyFile> {
    let bytes = files::read_at_most(path, MAX_FILE)?;
    let mut file: PolicyFile = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no policy", path.display()))?;
    // Paths in a file are relative to it.
    let folder = files::folder_of(path);
    for path in [&mut file.certificate, &mut file.private_key]
        .into_iter()
        .flatten()
    {
        *path = folder.join(&*path);
    }
    if let Some(WatermarkSetting::Key(text)) = &mut file.watermark {
        let beside = folder.join(&*text);
        if beside.is_file() {
            *text = beside.to_string_lossy().into_owned();
        }
    }
    Ok(file)
}

/// A key: a file's bytes, else the text's; the public one where there is no text.
pub fn key(text: &str) -> Result<Key> {
    if text.is_empty() {
        return Ok(Key::public());
    }
    let path = Path::new(text);
    match path.is_file() {
        true => Ok(Key::secret(&files::read_at_most(path, MAX_FILE)?)),
        false => Ok(Key::secret(text.as_bytes())),
    }
}

fn needs_c2pa() -> Result<()> {
    if c2pa_supported() {
        return Ok(());
    }
    Err(Usage::new(
        "this program was built without C2PA, so it can't sign",
        "build it with `cargo install --path crates/cli --features c2pa`",
    )
    .into())
}

fn signer(certificate: &Path, private_key: &Path) -> Result<Signer> {
    needs_c2pa()?;
    let read = |path: &Path| -> Result<String> {
        let bytes = files::read_at_most(path, MAX_FILE)?;
        String::from_utf8(bytes).with_context(|| format!("{} is no PEM file", path.display()))
    };
    Ok(Signer::from_pem(&read(certificate)?, &read(private_key)?)?)
}

/// The signer of this user, made on first use: a certificate that says of itself that nobody vouches for it.
fn own_signer() -> Result<Signer> {
    needs_c2pa()?;
    let folder = crate::arguments::data_folder()?;
    let path = folder.join("signer.pem");
    if !path.exists() {
        let (certificates, key) = Signer::self_made()?;
        fs::create_dir_all(&folder).map_err(impasto::Error::io("create", &folder))?;
        // Readable for this user alone, and never half written.
        let mut file =
            tempfile::NamedTempFile::new_in(&folder).map_err(impasto::Error::io("write", &path))?;
        file.write_all((certificates + &key).as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(impasto::Error::io("write", &path))?;
        // Another process may have been faster: its certificate is as good.
        if file.persist_noclobber(&path).is_ok() {
            terminal::note(format_args!(
                "note: made a key and a certificate that nobody vouches for, in {}: it shows that files are of the same signer and unchanged, not who that is",
                terminal::shown(&path)
            ));
        }
    }
    let bytes = files::read_at_most(&path, MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    Signer::from_one_pem(&text).with_context(|| path.display().to_string())
}

/// Prints what of a policy could not be kept in a file.
pub fn note(path: &Path, notes: &[String]) {
    for line in notes {
        terminal::note(format_args!("note: {}: {line}", terminal::shown(path)));
    }
}
