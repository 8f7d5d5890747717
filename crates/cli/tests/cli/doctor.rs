//! `impasto doctor`: one page about program and machine, with nothing personal on it.

use std::fs;

use crate::program::{Program, model};

#[test]
fn the_page_says_what_is_here_and_nothing_personal() {
    let program = Program::new();
    let home = program.path("home-of-someone");
    let known = home.join(".cache/huggingface/hub/models--openai--clip-vit-base-patch32/blobs");
    let other = home.join(".cache/huggingface/hub/models--someone--secret-project/blobs");
    for folder in [&known, &other] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("0"), vec![0; 1000]).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = program
            .command(arguments)
            .env("HOME", &home)
            .env_remove("HF_HOME")
            .env_remove("HF_HUB_CACHE")
            .env("HF_TOKEN", "hf_secret")
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let page = run(&["doctor"]);
    for part in [
        concat!("impasto ", env!("CARGO_PKG_VERSION")),
        "device cpu",
        "impasto-styles (embedded)",
        "~/.cache/huggingface/hub",
        "openai/clip-vit-base-patch32",
        "world tiny      usable",
        "world full",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    for part in ["someone", "secret"] {
        assert!(!page.contains(part), "{part:?} in {page}");
    }
    let report: serde_json::Value = serde_json::from_str(&run(&["doctor", "--json"])).unwrap();
    assert_eq!(report["cache"]["bytes"], 2000);
    assert_eq!(report["cache"]["models"][0]["bytes"], 1000);
    assert_eq!(report["cache"]["others"], 1);
    assert_eq!(report["devices"][0]["name"], "cpu");
    assert!(report["machine"]["threads"].as_u64().unwrap() > 0);
    assert!(!report.to_string().contains("someone"));
}

#[test]
fn models_are_found_and_judged() {
    let program = Program::new();
    fs::create_dir_all(program.path("checkpoints/broken")).unwrap();
    fs::write(program.path("checkpoints/broken/config.json"), "{").unwrap();
    let whole = program.path("checkpoints/whole");
    fs::create_dir_all(&whole).unwrap();
    for entry in fs::read_dir(model()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), whole.join(entry.file_name())).unwrap();
    }
    let report = program.json(&["doctor", "--models", "checkpoints", "--json"]);
    let models = report["models"].as_array().unwrap();
    let find = |name: &str| {
        models
            .iter()
            .find(|model| model["name"].as_str().unwrap().ends_with(name))
            .unwrap()
    };
    assert!(find("whole")["error"].is_null());
    assert!(find("broken")["error"].as_str().unwrap().contains("config"));
    assert_eq!(find("impasto-styles")["kind"], "embedded");
}

#[test]
fn what_is_missing_comes_with_a_way_to_get_it() {
    let report = Program::new().json(&["doctor", "--json"]);
    for part in report["missing"].as_array().unwrap() {
        for field in ["what", "needed_for", "how"] {
            assert!(!part[field].as_str().unwrap().is_empty(), "{part}");
        }
    }
    for world in report["worlds"].as_array().unwrap() {
        let needs = world["needs"].as_array().unwrap().len();
        // What needs nothing is always usable; what is not usable is explained.
        let explained = !report["missing"].as_array().unwrap().is_empty();
        assert!(world["usable"] == true || needs > 0 && explained, "{world}");
    }
}
