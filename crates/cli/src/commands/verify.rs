//! `impasto verify`: what picture files say of their origin, and what of that holds.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::files;
use impasto::image::MAX_FILE_BYTES;
use impasto::provenance::{
    Key, ManifestReport, ManifestState, SELF_MADE, Settings, SourceType, Statement, Verified,
    VerifyOptions, verify,
};
use serde::Serialize;

use crate::{provenance, terminal};

/// Say where pictures come from: what is found in their files and pixels, what of it holds, and what does not
///
/// Settings, XMP and labels are texts that anyone can write and remove. A C2PA manifest is bound to the file by a
/// signature. A watermark is found by its key. Nothing of this shows that a picture was NOT generated. The exit code is 1
/// if a file can't be read or a manifest does not hold.
#[derive(Args)]
pub struct Arguments {
    /// Pictures of any program
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also look for the watermark of this key: a file, or a text; may be given more than once
    #[arg(long, value_name = "KEY")]
    watermark: Vec<String>,
    /// Trust certificates that were issued by these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct FileReport {
    #[serde(serialize_with = "impasto::files::lossy")]
    path: PathBuf,
    #[serde(flatten)]
    verified: Option<Verified>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Reads and reports, file after file.
pub fn run(arguments: Arguments) -> Result<()> {
    let mut options = VerifyOptions::default();
    for text in &arguments.watermark {
        options.keys.push(provenance::key(text)?);
    }
    if let Some(path) = &arguments.trust {
        let bytes = files::read_at_most(path, MAX_FILE_BYTES)?;
        options.anchors = Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    terminal::catch_interrupts()?;
    let mut reports = Vec::new();
    let (mut unread, mut wrong) = (0, 0);
    let count = arguments.files.len();
    for path in arguments.files {
        if terminal::stop_requested() {
            return Err(impasto::Error::Stopped.into());
        }
        let name = path.display().to_string();
        let verified = files::read_at_most(&path, MAX_FILE_BYTES)
            .and_then(|bytes| verify(&bytes, &name, &options));
        match verified {
            Ok(verified) => {
                wrong += usize::from(verified.is_wrong());
                if !arguments.json {
                    terminal::result(terminal::shown(&path))?;
                    for line in lines(&verified) {
                        terminal::result(format_args!("  {}", terminal::in_line(&line)))?;
                    }
                    continue;
                }
                reports.push(FileReport {
                    path,
                    verified: Some(verified),
                    error: None,
                });
            }
            Err(error) => {
                unread += 1;
                if !arguments.json {
                    terminal::note(format_args!(
                        "warning: {}",
                        terminal::in_line(&error.to_string())
                    ));
                    continue;
                }
                reports.push(FileReport {
                    path,
                    verified: None,
                    error: Some(error.to_string()),
                });
            }
        }
    }
    if arguments.json {
        terminal::json(&reports)?;
    }
    if unread + wrong > 0 {
        anyhow::bail!(
            "of {count} files, {unread} can't be read and {wrong} have a C2PA manifest that does not hold"
        );
    }
    Ok(())
}

fn lines(verified: &Verified) -> Vec<String> {
    let mut lines = Vec::new();
    let settings = verified.parameters.as_deref().map(Settings::parse);
    match settings {
        Some(Ok(settings)) => {
            let mut line = format!(
                "settings: {}, model {}, seed {}",
                settings.version, settings.model, settings.seed
            );
            if let Some(licence) = settings.licence {
                line += &format!(", whose licence, {licence}, forbids commercial use");
            }
            lines.push(line + "; not signed by themselves");
        }
        Some(Err(_)) => lines.push("settings: of another program; not signed by themselves".into()),
        None => lines.push("settings: none".into()),
    }
    lines.extend(xmp_lines(verified.xmp.as_ref()));
    lines.extend(manifest_lines(&verified.manifest));
    if verified.watermarks.is_empty() {
        lines.push("watermark: the picture is too small to look for one".into());
    }
    for watermark in &verified.watermarks {
        let key = match watermark.key == Key::public().name() {
            true => "the public key, which everyone has".to_owned(),
            false => format!("key {}", watermark.key),
        };
        let scores = format!(
            "score {:.1}, threshold {}",
            watermark.score, watermark.threshold
        );
        lines.push(match (watermark.found, watermark.part) {
            (false, _) => format!(
                "watermark: not found with {key} ({scores}); that does not mean that the picture was not generated"
            ),
            (true, None) => format!("watermark: found with {key} ({scores})"),
            (true, Some([_, _, width, height])) => format!(
                "watermark: found with {key} ({scores}) in {:.0} % of a larger picture",
                100.0 * width * height
            ),
        });
    }
    lines
}

fn xmp_lines(xmp: Option<&Statement>) -> Vec<String> {
    let Some(xmp) = xmp else {
        return vec!["XMP: none".into()];
    };
    let kinds = [SourceType::Generated, SourceType::Composite];
    let kind = xmp.digital_source_type.as_deref().map(|uri| {
        let known = kinds.iter().find(|kind| kind.uri() == uri);
        match known {
            Some(SourceType::Generated) => "made by a trained model".to_owned(),
            Some(SourceType::Composite) => "a part was made by a trained model".to_owned(),
            None => uri.to_owned(),
        }
    });
    let mut line = match kind {
        Some(kind) => format!("XMP: source type: {kind}"),
        None => "XMP: no source type".to_owned(),
    };
    if let Some(tool) = &xmp.creator_tool {
        line += &format!("; tool: {tool}");
    }
    if let Some(terms) = &xmp.usage_terms {
        line += &format!("; terms: {terms}");
    }
    let mut lines = vec![line + "; not signed by itself"];
    if let Some(label) = &xmp.aigc {
        lines.push(format!("AIGC label: {label}"));
    }
    lines
}

fn manifest_lines(manifest: &ManifestReport) -> Vec<String> {
    let signer = match (&manifest.signer, &manifest.issuer) {
        (Some(signer), Some(issuer)) => format!("\"{signer}\", issued by \"{issuer}\""),
        (Some(name), None) | (None, Some(name)) => format!("\"{name}\""),
        (None, None) => "without a name".to_owned(),
    };
    let mut lines = vec![match manifest.state {
        ManifestState::None => "C2PA: no manifest".to_owned(),
        ManifestState::NotChecked => format!(
            "C2PA: a manifest of {} bytes, not checked: this program was built without C2PA",
            manifest.bytes
        ),
        ManifestState::Unreadable => "C2PA: a manifest that can't be read".to_owned(),
        ManifestState::Invalid => format!("C2PA: does NOT hold; it claims the signer {signer}"),
        ManifestState::ValidUnknownSigner if manifest.issuer.as_deref() == Some(SELF_MADE) => {
            format!(
                "C2PA: signature and hashes hold; signer unknown: a certificate that someone made on their own ({signer})"
            )
        }
        ManifestState::ValidUnknownSigner => {
            format!(
                "C2PA: signature and hashes hold; signer unknown: the certificate names {signer}"
            )
        }
        ManifestState::ValidTrustedSigner => {
            format!("C2PA: signature and hashes hold; signed by {signer}, whom you trust")
        }
    }];
    let claims = manifest.actions.iter().map(|action| {
        let kind = action.digital_source_type.as_deref().unwrap_or_default();
        let kind = kind.rsplit('/').next().unwrap_or_default();
        match kind {
            "" => action.action.clone(),
            kind => format!("{} ({kind})", action.action),
        }
    });
    let mut claims: Vec<String> = claims.collect();
    claims.extend(
        manifest
            .ingredients
            .iter()
            .map(|title| format!("from \"{title}\"")),
    );
    claims.extend(manifest.tool.iter().map(|tool| format!("by {tool}")));
    if let Some(model) = &manifest.model {
        let text = |name: &str| model[name].as_str().unwrap_or("unknown").to_owned();
        claims.push(format!(
            "model {}, licence {}",
            text("model"),
            text("licence")
        ));
        if model["non_commercial"] == true {
            claims.push("no commercial use".into());
        }
    }
    if !claims.is_empty() {
        lines.push(format!("C2PA says: {}", claims.join(", ")));
    }
    for problem in &manifest.problems {
        lines.push(format!(
            "C2PA problem: {}: {}",
            problem.code, problem.explanation
        ));
    }
    lines
}
