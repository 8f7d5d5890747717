//! Manifests by the crate `c2pa`.

use std::io::Cursor;

use c2pa::validation_results::ValidationState;
use c2pa::{Builder, BuilderIntent, Context, DigitalSourceType, Reader, SigningAlg, create_signer};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;

use super::*;
use crate::container::Container;

const UNTRUSTED: &str = "signingCredential.untrusted";
/// The label of our assertion about the model.
const MODEL: &str = "impasto.model";
/// Kinds of keys that the specification allows (13.2.1) and people have.
const ALGORITHMS: [SigningAlg; 6] = [
    SigningAlg::Es256,
    SigningAlg::Es384,
    SigningAlg::Es512,
    SigningAlg::Ed25519,
    SigningAlg::Ps256,
    SigningAlg::Ps384,
];

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Manifest(error.to_string())
}

/// Nothing is fetched, and no pictures are put into manifests.
fn context(anchors: Option<&str>) -> Result<Context> {
    let mut settings = json!({
        "verify": {"remote_manifest_fetch": false, "ocsp_fetch": false},
        "builder": {"thumbnail": {"enabled": false}},
    });
    if let Some(anchors) = anchors {
        settings["trust"] = json!({"user_anchors": anchors});
    }
    Context::new()
        .with_settings(settings.to_string().as_str())
        .map_err(failed)
}

impl Signer {
    /// Takes a chain of certificates, the signer's first, and its private key (PKCS #8), both as PEM. The kind of
    /// the key is found out.
    ///
    /// # Errors
    /// Where the key is of no kind that C2PA allows, or is not the certificate's.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self> {
        let mut reason = "there is no key".to_owned();
        for algorithm in ALGORITHMS {
            let signer =
                create_signer::from_keys(certificates.as_bytes(), key.as_bytes(), algorithm, None);
            match signer.and_then(|signer| signer.sign(b"a test")) {
                Ok(_) => {
                    return Ok(Signer {
                        certificates: certificates.to_owned(),
                        key: key.to_owned(),
                        algorithm,
                    });
                }
                Err(error) => reason = error.to_string(),
            }
        }
        Err(Error::Signer(reason))
    }

    /// A new key with a certificate that nobody vouches for: the chain and the key, as PEM. The authority that
    /// issues it exists for this one certificate: its key is thrown away.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn self_made() -> Result<(String, String)> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let year = 1970 + now.map_err(failed)?.as_secs() as i32 / 31_556_952;
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, SELF_MADE);
            params.distinguished_name.push(DnType::CommonName, name);
            params.not_before = date_time_ymd(year, 1, 1);
            params.not_after = date_time_ymd(year + 11, 1, 1);
            params.use_authority_key_identifier_extension = true;
            params
        };
        let mut authority = params("made by impasto on this machine");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate().map_err(failed)?;
        let authority_certificate = authority.self_signed(&authority_key).map_err(failed)?;
        let issuer = Issuer::new(authority, authority_key);
        let mut own = params("unverified user of impasto");
        own.is_ca = IsCa::ExplicitNoCa;
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = own.signed_by(&key, &issuer).map_err(failed)?;
        let chain = [certificate.pem(), authority_certificate.pem()].concat();
        Ok((chain, key.serialize_pem()))
    }

    /// Puts a signed manifest into a file, in the place of its own. `parent` is the picture that this one is an
    /// edit of; where nothing is claimed of the origin, the file itself as it is.
    ///
    /// # Errors
    /// Where the file can't hold one, or the certificate does not fit C2PA's rules.
    pub fn sign(
        &self,
        bytes: &[u8],
        claim: &Claim,
        parent: Option<&Ingredient>,
    ) -> Result<Vec<u8>> {
        let container = Container::of(bytes).ok_or(Error::Format)?;
        let (tool, version) = claim.tool.split_once(' ').unwrap_or((claim.tool, ""));
        let definition = json!({
            "claim_generator_info": [{"name": tool, "version": version}],
            "format": container.media_type(),
        });
        let mut builder = Builder::from_context(context(None)?)
            .with_definition(definition.to_string().as_str())
            .map_err(failed)?;
        let agent = json!({"name": tool, "version": version});
        match (claim.origin, parent) {
            (Some(SourceType::Generated), None) => {
                builder.set_intent(BuilderIntent::Create(
                    DigitalSourceType::TrainedAlgorithmicMedia,
                ));
                let created = json!({
                    "action": "c2pa.created", "softwareAgent": agent,
                    "digitalSourceType": SourceType::Generated.uri(),
                });
                builder.add_action(created).map_err(failed)?;
            }
            (None, _) => {
                builder.set_intent(BuilderIntent::Edit);
            }
            (Some(origin), parent) => {
                builder.set_intent(BuilderIntent::Edit);
                if let Some(parent) = parent {
                    let of = Container::of(parent.bytes).ok_or(Error::Format)?;
                    let ingredient = json!({"title": parent.title, "relationship": "parentOf"});
                    builder
                        .add_ingredient_from_stream(
                            ingredient.to_string(),
                            of.media_type(),
                            &mut Cursor::new(parent.bytes),
                        )
                        .map_err(failed)?;
                }
                let edited = json!({
                    "action": "c2pa.edited", "softwareAgent": agent,
                    "digitalSourceType": origin.uri(),
                });
                builder.add_action(edited).map_err(failed)?;
            }
        }
        if let Some(model) = claim.model {
            let about = json!({
                "model": model, "licence": claim.licence, "non_commercial": claim.non_commercial,
                // A number of JSON may be too small for a seed.
                "seed": claim.seed.map(|seed| seed.to_string()),
            });
            builder.add_assertion_json(MODEL, &about).map_err(failed)?;
        }
        let signer = create_signer::from_keys(
            self.certificates.as_bytes(),
            self.key.as_bytes(),
            self.algorithm,
            None,
        )
        .map_err(failed)?;
        let mut signed = Cursor::new(Vec::new());
        let mut source = Cursor::new(bytes);
        builder
            .sign(
                signer.as_ref(),
                container.media_type(),
                &mut source,
                &mut signed,
            )
            .map_err(failed)?;
        Ok(signed.into_inner())
    }
}

/// Checks a file's manifest. `anchors` are certificates, as PEM, of authorities to trust.
pub fn check(bytes: &[u8], anchors: Option<&str>) -> ManifestReport {
    let length = container::manifest_bytes(bytes);
    let unreadable = |error: &dyn std::fmt::Display| {
        let mut report = ManifestReport::new(ManifestState::Unreadable, length);
        report.problems.push(Problem {
            code: "unreadable".into(),
            explanation: error.to_string(),
        });
        report
    };
    let Some(container) = Container::of(bytes) else {
        return ManifestReport::new(ManifestState::None, 0);
    };
    if length == 0 {
        return ManifestReport::new(ManifestState::None, 0);
    }
    let read = context(anchors).map(Reader::from_context).map(|reader| {
        // What reads files of anyone must not end the program.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            reader.with_stream(container.media_type(), Cursor::new(bytes))
        }))
    });
    let reader = match read {
        Ok(Ok(Ok(reader))) => reader,
        Ok(Ok(Err(error))) => return unreadable(&error),
        Ok(Err(_)) => return unreadable(&"the manifest is damaged"),
        Err(error) => return unreadable(&error),
    };
    report(&reader, length)
}

fn report(reader: &Reader, length: usize) -> ManifestReport {
    let state = match reader.validation_state() {
        ValidationState::Trusted => ManifestState::ValidTrustedSigner,
        ValidationState::Valid => ManifestState::ValidUnknownSigner,
        ValidationState::Invalid => ManifestState::Invalid,
    };
    let mut report = ManifestReport::new(state, length);
    let statuses = reader.validation_status().unwrap_or_default();
    report.problems = statuses
        .iter()
        .filter(|status| state == ManifestState::Invalid || status.code() != UNTRUSTED)
        .map(|status| Problem {
            code: status.code().to_owned(),
            explanation: status.explanation().unwrap_or_default().to_owned(),
        })
        .collect();
    let Some(manifest) = reader.active_manifest() else {
        return report;
    };
    if let Some(signature) = manifest.signature_info() {
        report.signer.clone_from(&signature.common_name);
        report.issuer.clone_from(&signature.issuer);
        report.time.clone_from(&signature.time);
    }
    report.tool = manifest
        .claim_generator_info
        .as_ref()
        .and_then(|infos| infos.first())
        .map(|info| match &info.version {
            Some(version) => format!("{} {version}", info.name),
            None => info.name.clone(),
        });
    report.ingredients = manifest
        .ingredients()
        .iter()
        .map(|ingredient| ingredient.title().unwrap_or("without a name").to_owned())
        .collect();
    for assertion in manifest.assertions() {
        let Ok(value) = assertion.value() else {
            continue;
        };
        if assertion.label() == MODEL {
            report.model = Some(value.clone());
        }
        if !assertion.label().starts_with("c2pa.actions") {
            continue;
        }
        let actions = value["actions"].as_array().map(Vec::as_slice);
        for action in actions.unwrap_or_default() {
            let text = |name: &str| action[name].as_str().map(str::to_owned);
            report.actions.push(Action {
                action: text("action").unwrap_or_default(),
                digital_source_type: text("digitalSourceType"),
            });
        }
    }
    report
}
