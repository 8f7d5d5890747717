//! `model info` and `model list`.

use crate::program::{Program, model};

#[test]
fn info_shows_architecture_parameters_licence_and_memory() {
    let program = Program::new();
    let text = program.expect(&["model", "info", model()]);
    for part in [
        "tiny",
        "CC0-1.0",
        "64x64 pixels",
        "2 layers x 16",
        "4x4 grid, 32 codes",
        "peak memory",
        "time             about a second for one picture",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let info = program.json(&["model", "info", model(), "--json"]);
    let parameters = info["dalle_parameters"].as_u64().unwrap()
        + info["image_tokenizer_parameters"].as_u64().unwrap();
    // The files hold 4 bytes a parameter and their headers.
    let bytes = info["weight_bytes"].as_u64().unwrap();
    assert!(
        (4 * parameters..4 * parameters + 20_000).contains(&bytes),
        "{parameters} {bytes}"
    );
    assert!(info["peak_memory_bytes"].as_u64().unwrap() > bytes);
    assert_eq!(info["drawing"]["passes"], 16);
    let seconds = info["expected_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
    let bandwidth = info["bandwidth"].as_f64().unwrap();
    assert!((1e8..1e13).contains(&bandwidth), "{bandwidth}");
}

#[test]
fn list_shows_good_and_bad_models() {
    let program = Program::new();
    std::fs::create_dir_all(program.path("models/broken")).unwrap();
    std::fs::write(program.path("models/broken/config.json"), "{}").unwrap();
    let model = program.own_model();
    std::fs::rename(program.path(model), program.path("models/good")).unwrap();
    let text = program.expect(&["model", "list"]);
    assert!(text.contains("models/good\ttiny, CC0-1.0, "), "{text}");
    assert!(
        text.contains("models/broken\tunusable: models/broken/config.json: "),
        "{text}"
    );
    assert!(text.contains("impasto-styles\t"), "{text}");
    let list = program.json(&["model", "list", "models", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 3);
}
