#![allow(clippy::unwrap_used)]

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
