//! Signs a picture with a self-made certificate and says what of its manifest holds: `manifest IN OUT [PARENT]`, or
//! `manifest FILE` to check one.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use impasto_provenance::manifest::{Claim, Ingredient, Signer, check};
use impasto_provenance::xmp::SourceType;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = std::fs::read(&arguments[0]).unwrap();
    let Some(to) = arguments.get(1) else {
        println!("{:#?}", check(&file, None));
        return;
    };
    let parent = arguments
        .get(2)
        .map(|path| (std::fs::read(path).unwrap(), path));
    let claim = Claim {
        origin: Some(match parent {
            Some(_) => SourceType::Composite,
            None => SourceType::Generated,
        }),
        tool: concat!("impasto ", env!("CARGO_PKG_VERSION")),
        model: Some("a-model"),
        licence: Some("cc-by-nc-4.0"),
        non_commercial: true,
        seed: Some(7),
    };
    let ingredient = parent
        .as_ref()
        .map(|(bytes, title)| Ingredient { bytes, title });
    let (certificates, key) = Signer::self_made().unwrap();
    let signer = Signer::from_pem(&certificates, &key).unwrap();
    let signed = signer.sign(&file, &claim, ingredient.as_ref()).unwrap();
    println!("{:?}", check(&signed, None).state);
    std::fs::write(to, signed).unwrap();
}
