//! `impasto provenance`: removes what picture files say of their origin, and signs them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::files;
use impasto::image::{Format, MAX_FILE_BYTES};
use impasto::provenance::strip;

use crate::failure::Usage;
use crate::provenance::ProvenanceFlags;
use crate::{outputs, terminal};

/// Remove what picture files say of their origin, or sign them
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write pictures without settings, XMP, Exif (the orientation stays), comments and C2PA manifests
    ///
    /// Pixels stay as they are, and so does a watermark. Laws may demand that labels of generated pictures stay.
    Strip {
        #[command(flatten)]
        files: Files,
    },
    /// Sign pictures as they are with a C2PA manifest
    ///
    /// Of impasto's own pictures, the manifest says that a model made them; of others, nothing about their origin.
    /// A manifest that a file has becomes an ingredient of the new one.
    Sign {
        #[command(flatten)]
        files: Files,
        /// The chain of certificates (PEM, the signer's first) [default: one that is made on first use]
        #[arg(long, value_name = "FILE", requires = "private_key")]
        certificate: Option<PathBuf>,
        /// The private key of --certificate (PEM, PKCS #8)
        #[arg(long, value_name = "FILE", requires = "certificate")]
        private_key: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Files {
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Output file (replaced if it exists), or a folder (ending with /), in which files keep their names
    #[arg(short, long, value_name = "FILE|DIR")]
    output: PathBuf,
}

/// Reads, changes, writes.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Strip { files } => files.each(|bytes| {
            let (stripped, names) = strip(bytes)?;
            let removed = match names.is_empty() {
                true => "nothing to remove".to_owned(),
                false => format!("removed: {}", names.join(", ")),
            };
            Ok((stripped, Some(removed)))
        }),
        Command::Sign {
            files,
            certificate,
            private_key,
        } => {
            let policy = ProvenanceFlags::signing(certificate, private_key).policy()?;
            files.each(|bytes| Ok((policy.sign(bytes)?, None)))
        }
    }
}

impl Files {
    /// Changes each file; one that can't be changed is named, and the others are still changed.
    fn each(
        &self,
        change: impl Fn(&[u8]) -> impasto::Result<(Vec<u8>, Option<String>)>,
    ) -> Result<()> {
        let (target, _) = outputs::plan(Some(&self.output), None, self.files.len())?;
        let mut failed = 0;
        for path in &self.files {
            let changed =
                files::read_at_most(path, MAX_FILE_BYTES).and_then(|bytes| change(&bytes));
            let (bytes, note) = match changed {
                Ok(changed) => changed,
                Err(error) => {
                    failed += 1;
                    terminal::note(format_args!("warning: {}: {error}", terminal::shown(path)));
                    continue;
                }
            };
            let to = match &target {
                outputs::Target::File(to) => {
                    // The bytes stay of their format.
                    if Format::of_path(path).ok() != Format::of_path(to).ok() {
                        return Err(Usage::new(
                            format!(
                                "{} has another format than {}",
                                to.display(),
                                path.display()
                            ),
                            "give the output the same extension",
                        )
                        .into());
                    }
                    to.clone()
                }
                outputs::Target::Folder(folder) => {
                    folder.join(path.file_name().unwrap_or_default())
                }
            };
            files::write_atomic(&to, &bytes)?;
            if let Some(note) = note {
                terminal::note(format_args!("{}: {note}", terminal::shown(path)));
            }
            terminal::result(terminal::shown(&to))?;
        }
        if failed > 0 {
            anyhow::bail!("{failed} of {} files were left out", self.files.len());
        }
        Ok(())
    }
}
