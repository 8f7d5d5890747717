//! C2PA manifests: signed statements in a file about how it came to be, bound to its bytes by a hash.
//!
//! Source: C2PA Technical Specification 2.2; the crate `c2pa` reads, checks and writes them. Without the feature `c2pa`
//! nothing is signed, and manifests are seen but not checked, which reports say.

use serde::Serialize;

use crate::xmp::SourceType;
use crate::{Error, Result, container};

/// What is signed of a picture.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// How it came to be; none where the signer says only that the file is as it was when it was signed.
    pub origin: Option<SourceType>,
    /// The program and its version: `impasto 0.1.0`.
    pub tool: &'a str,
    /// The model's name.
    pub model: Option<&'a str>,
    /// The model's licence.
    pub licence: Option<&'a str>,
    /// Whether that licence forbids commercial use.
    pub non_commercial: bool,
    /// The picture's seed.
    pub seed: Option<u64>,
}

/// A picture that another was made from.
#[derive(Clone, Debug)]
pub struct Ingredient<'a> {
    /// Its file's bytes.
    pub bytes: &'a [u8],
    /// Its name.
    pub title: &'a str,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestState {
    /// The file has no manifest.
    None,
    /// It has one, and this program was built without what checks it.
    NotChecked,
    /// It has one that can't be read.
    Unreadable,
    /// It has one that does not hold: `problems` says what.
    Invalid,
    /// Signature and hashes hold. Who signed is not known: anyone can make a certificate with any name.
    ValidUnknownSigner,
    /// Signature and hashes hold, and the certificate was issued by one of the authorities that were given.
    ValidTrustedSigner,
}

/// Something in a manifest that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A code of the specification, section 15: `assertion.dataHash.mismatch`.
    pub code: String,
    /// What it means.
    pub explanation: String,
}

/// What a manifest says and what of it holds.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestReport {
    /// What holds.
    pub state: ManifestState,
    /// Bytes of the manifest store.
    pub bytes: usize,
    /// Whom the certificate names.
    pub signer: Option<String>,
    /// Who issued it, as it says itself.
    pub issuer: Option<String>,
    /// The time of the signature, where an authority stated it.
    pub time: Option<String>,
    /// The program that made the claim.
    pub tool: Option<String>,
    /// Actions with their digital source types.
    pub actions: Vec<Action>,
    /// Pictures that this one was made from.
    pub ingredients: Vec<String>,
    /// The model that is named by an impasto manifest, and its licence.
    pub model: Option<serde_json::Value>,
    /// What does not hold.
    pub problems: Vec<Problem>,
}

/// Something that was done to a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// `c2pa.created`, for example.
    pub action: String,
    /// A URI of IPTC's list.
    pub digital_source_type: Option<String>,
}

impl ManifestReport {
    fn new(state: ManifestState, bytes: usize) -> Self {
        ManifestReport {
            state,
            bytes,
            signer: None,
            issuer: None,
            time: None,
            tool: None,
            actions: Vec::new(),
            ingredients: Vec::new(),
            model: None,
            problems: Vec::new(),
        }
    }
}

/// Certificates and their private key, as PEM.
#[derive(Clone)]
pub struct Signer {
    #[cfg_attr(not(feature = "c2pa"), allow(dead_code))]
    certificates: String,
    #[cfg_attr(not(feature = "c2pa"), allow(dead_code))]
    key: String,
    #[cfg(feature = "c2pa")]
    algorithm: c2pa::SigningAlg,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// [`Signer::from_pem`] of one file with the certificates and then the key.
    ///
    /// # Errors
    /// Where there is no key, and see [`Signer::from_pem`].
    pub fn from_one_pem(text: &str) -> Result<Self> {
        let split = text
            .find("-----BEGIN PRIVATE KEY-----")
            .ok_or_else(|| Error::Signer("there is no private key after them".into()))?;
        let (certificates, key) = text.split_at(split);
        Signer::from_pem(certificates, key)
    }
}

/// Whether this program can sign and check manifests: whether it was built with the feature `c2pa`.
pub const fn supported() -> bool {
    cfg!(feature = "c2pa")
}

/// The organisation that a self-made certificate names as its issuer.
pub const SELF_MADE: &str = "impasto self-made certificate";

#[cfg(not(feature = "c2pa"))]
impl Signer {
    /// Takes a chain of certificates, the signer's first, and its private key.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn from_pem(_certificates: &str, _key: &str) -> Result<Self> {
        Err(Error::NoManifests)
    }

    /// A new key with a certificate that nobody vouches for: the chain and the key, as PEM.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn self_made() -> Result<(String, String)> {
        Err(Error::NoManifests)
    }

    /// Signs a file.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn sign(&self, _: &[u8], _: &Claim, _: Option<&Ingredient>) -> Result<Vec<u8>> {
        Err(Error::NoManifests)
    }
}

/// Checks a file's manifest. `anchors` are certificates, as PEM, of authorities to trust.
#[cfg(not(feature = "c2pa"))]
pub fn check(bytes: &[u8], _anchors: Option<&str>) -> ManifestReport {
    match container::manifest_bytes(bytes) {
        0 => ManifestReport::new(ManifestState::None, 0),
        length => ManifestReport::new(ManifestState::NotChecked, length),
    }
}

#[cfg(feature = "c2pa")]
pub use supported::check;

#[cfg(feature = "c2pa")]
mod supported {
    use std::io::Cursor;

    use c2pa::validation_results::ValidationState;
    use c2pa::{
        Builder, BuilderIntent, Context, DigitalSourceType, Reader, SigningAlg, create_signer,
    };
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, KeyUsagePurpose, date_time_ymd,
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
                let signer = create_signer::from_keys(
                    certificates.as_bytes(),
                    key.as_bytes(),
                    algorithm,
                    None,
                );
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
                reader.with_stream(container.media_type(), &mut Cursor::new(bytes))
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
}

#[cfg(all(test, feature = "c2pa"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::{ImageFormat, RgbImage};
    use std::io::Cursor;

    fn picture(format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(40, 30, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 8) as u8, 90])
        });
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn signer() -> Signer {
        let (certificates, key) = Signer::self_made().unwrap();
        Signer::from_pem(&certificates, &key).unwrap()
    }

    const CLAIM: Claim = Claim {
        origin: Some(SourceType::Generated),
        tool: "impasto 0.1.0",
        model: Some("a-model"),
        licence: Some("cc-by-nc-4.0"),
        non_commercial: true,
        seed: Some(u64::MAX),
    };

    #[test]
    fn a_signed_file_is_valid_and_a_changed_one_is_not() {
        let signer = signer();
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let plain = picture(format);
            assert_eq!(check(&plain, None).state, ManifestState::None);
            let signed = signer.sign(&plain, &CLAIM, None).unwrap();
            let report = check(&signed, None);
            assert_eq!(
                report.state,
                ManifestState::ValidUnknownSigner,
                "{format:?} {report:?}"
            );
            assert_eq!(report.issuer.as_deref(), Some(SELF_MADE));
            assert_eq!(report.tool.as_deref(), Some("impasto 0.1.0"));
            let created = Action {
                action: "c2pa.created".into(),
                digital_source_type: Some(SourceType::Generated.uri().into()),
            };
            assert_eq!(report.actions, [created]);
            let model = report.model.unwrap();
            assert_eq!(model["licence"], "cc-by-nc-4.0");
            assert_eq!(model["non_commercial"], true);
            assert_eq!(model["seed"], u64::MAX.to_string());
            // Any changed byte of the pixels.
            let mut changed = signed.clone();
            let at = changed.len() - 20;
            changed[at] ^= 1;
            let report = check(&changed, None);
            assert!(
                matches!(
                    report.state,
                    ManifestState::Invalid | ManifestState::Unreadable
                ),
                "{format:?} {report:?}"
            );
            assert!(!report.problems.is_empty());
            let (bare, names) = container::stripped(&signed).unwrap();
            assert!(names.contains(&"C2PA manifest"));
            assert_eq!(check(&bare, None).state, ManifestState::None);
        }
    }

    #[test]
    fn an_edit_names_what_it_is_an_edit_of() {
        let signer = signer();
        let original = signer
            .sign(&picture(ImageFormat::Jpeg), &CLAIM, None)
            .unwrap();
        let parent = Ingredient {
            bytes: &original,
            title: "photo.jpg",
        };
        let claim = Claim {
            origin: Some(SourceType::Composite),
            ..CLAIM
        };
        let signed = signer
            .sign(&picture(ImageFormat::Png), &claim, Some(&parent))
            .unwrap();
        let report = check(&signed, None);
        assert_eq!(
            report.state,
            ManifestState::ValidUnknownSigner,
            "{report:?}"
        );
        assert_eq!(report.ingredients, ["photo.jpg"]);
        let actions: Vec<&str> = report
            .actions
            .iter()
            .map(|action| &action.action[..])
            .collect();
        assert_eq!(actions, ["c2pa.opened", "c2pa.edited"]);
    }

    #[test]
    fn a_file_can_be_signed_as_it_is() {
        let claim = Claim {
            origin: None,
            model: None,
            ..CLAIM
        };
        let signed = signer()
            .sign(&picture(ImageFormat::Png), &claim, None)
            .unwrap();
        let report = check(&signed, None);
        assert_eq!(
            report.state,
            ManifestState::ValidUnknownSigner,
            "{report:?}"
        );
        assert_eq!(report.actions.len(), 1);
        assert_eq!(report.actions[0].digital_source_type, None);
    }

    #[test]
    fn an_authority_that_is_given_is_trusted() {
        let (certificates, key) = Signer::self_made().unwrap();
        let signer = Signer::from_pem(&certificates, &key).unwrap();
        let signed = signer
            .sign(&picture(ImageFormat::Png), &CLAIM, None)
            .unwrap();
        let authority = &certificates[certificates.rfind("-----BEGIN").unwrap()..];
        let report = check(&signed, Some(authority));
        assert_eq!(
            report.state,
            ManifestState::ValidTrustedSigner,
            "{report:?}"
        );
        let (others, _) = Signer::self_made().unwrap();
        let other = &others[others.rfind("-----BEGIN").unwrap()..];
        assert_eq!(
            check(&signed, Some(other)).state,
            ManifestState::ValidUnknownSigner
        );
    }

    #[test]
    fn certificates_and_key_may_be_in_one_file() {
        let (certificates, key) = Signer::self_made().unwrap();
        let signer = Signer::from_one_pem(&(certificates.clone() + &key)).unwrap();
        let signed = signer
            .sign(&picture(ImageFormat::Png), &CLAIM, None)
            .unwrap();
        assert_eq!(
            check(&signed, None).state,
            ManifestState::ValidUnknownSigner
        );
        assert!(Signer::from_one_pem(&certificates).is_err());
    }

    #[test]
    fn a_key_that_is_not_the_certificate_s_is_refused() {
        let (certificates, _) = Signer::self_made().unwrap();
        let (_, key) = Signer::self_made().unwrap();
        let refused = Signer::from_pem(&certificates, &key)
            .and_then(|signer| signer.sign(&picture(ImageFormat::Png), &CLAIM, None));
        // Signed by another key, the file would not be valid.
        assert!(refused.is_err() || check(&refused.unwrap(), None).state == ManifestState::Invalid);
        assert!(Signer::from_pem("no", "certificates").is_err());
    }

    /// Seeded damage anywhere: never a panic, and never more than is true.
    #[test]
    fn damaged_manifests_never_panic_and_never_hold() {
        let signed = signer()
            .sign(&picture(ImageFormat::Png), &CLAIM, None)
            .unwrap();
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..200 {
            let mut damaged = signed.clone();
            let at = random(damaged.len());
            damaged[at] ^= 1 + random(255) as u8;
            if random(4) == 0 {
                damaged.truncate(random(damaged.len()));
            }
            let report = check(&damaged, None);
            assert!(
                !matches!(report.state, ManifestState::ValidTrustedSigner),
                "{report:?}"
            );
        }
    }
}
