#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value as Json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::checkpoint::stored::Element;

const EXPECTED: &str = include_str!("goldens/expected.json");
const ARCHIVE: &[u8] = include_bytes!("goldens/archive.pt");
const PROTOCOL_4: &[u8] = include_bytes!("goldens/protocol_4.pt");
const ROW: &[u8] = include_bytes!("goldens/row.pt");
const TORCH_SCRIPT_FILE: &[u8] = include_bytes!("goldens/torchscript.pt");

fn name() -> &'static Path {
    Path::new("x.pt")
}

fn check(tensors: &BTreeMap<String, StoredTensor<'_>>, expected: &Json) {
    let expected = expected.as_object().unwrap();
    for (name, expected) in expected {
        let tensor = &tensors[name];
        let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(tensor.shape(), shape, "{name}");
        let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        assert_eq!(tensor.floats(), values, "{name}");
    }
    assert_eq!(tensors.len(), expected.len());
}

#[test]
fn every_container_of_pytorch_is_read() {
    let expected: Json = serde_json::from_str(EXPECTED).unwrap();
    for bytes in [ARCHIVE, PROTOCOL_4, ROW] {
        assert!(is_pytorch(bytes));
        let archive = Archive::parse(name(), bytes, &[]).unwrap();
        let root = archive.root();
        let tensors = root.get("weights").unwrap().tensors().unwrap();
        check(&tensors, &expected["weights"]);
        assert_eq!(root.get("epoch").unwrap().integer(), Some(7));
        assert_eq!(root.get("name").unwrap().text(), Some("café"));
        assert_eq!(root.get("rate").unwrap().float(), Some(0.5));
        assert!(root.get("nothing").is_none());
        // Under numbers and in lists there are no names.
        let all = root.tensors().unwrap();
        assert_eq!(all.len(), tensors.len());
        assert!(all.contains_key("weights.f16"));
    }
}

#[test]
fn torchscript_is_its_parameters() {
    let expected: Json = serde_json::from_str(EXPECTED).unwrap();
    let archive = Archive::parse(name(), TORCH_SCRIPT_FILE, TORCH_SCRIPT).unwrap();
    let tensors = archive.root().tensors().unwrap();
    check(&tensors, &expected["torchscript"]);
    assert_eq!(tensors["blocks.0.linear.weight"].element(), Element::F16);
    // Where no classes are expected, none are read.
    let error = Archive::parse(name(), TORCH_SCRIPT_FILE, &[]).unwrap_err();
    assert!(error.to_string().contains("imports __torch__."), "{error}");
}

/// A zip archive with this pickle and these storages.
fn zipped(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("x/data.pkl", options).unwrap();
    zip.write_all(pickle).unwrap();
    for (key, bytes) in storages {
        zip.start_file(format!("x/data/{key}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The tensors' numbers, or the error.
fn read(bytes: &[u8]) -> Result<usize> {
    let archive = Archive::parse(name(), bytes, TORCH_SCRIPT)?;
    let tensors = archive.root().tensors()?;
    Ok(tensors.values().map(|tensor| tensor.floats().len()).sum())
}

fn refused(pickle: &[u8]) -> String {
    read(&zipped(pickle, &[("0", &[0; 16])]))
        .unwrap_err()
        .to_string()
}

/// A dictionary with one tensor of storage "0", which has `count` floats.
fn tensor(count: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple = |values: &[u8]| {
        let items = values.iter().flat_map(|&value| [b'K', value]);
        [b"(".to_vec(), items.collect(), b"t".to_vec()].concat()
    };
    [
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec(),
        b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK".to_vec(),
        vec![count],
        b"tQK".to_vec(),
        vec![offset],
        tuple(shape),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn a_tensor_lies_within_its_storage() {
    let numbers = |pickle: &[u8]| read(&zipped(pickle, &[("0", &[0; 16])]));
    assert_eq!(numbers(&tensor(4, 0, &[2, 2], &[2, 1])).unwrap(), 4);
    assert_eq!(numbers(&tensor(4, 3, &[1], &[1])).unwrap(), 1);
    assert_eq!(numbers(&tensor(4, 0, &[0, 9], &[9, 1])).unwrap(), 0);
    for wrong in [
        tensor(4, 0, &[2, 3], &[3, 1]),
        tensor(4, 0, &[2, 2], &[3, 1]),
        tensor(4, 1, &[2, 2], &[2, 1]),
        tensor(4, 200, &[1], &[1]),
        tensor(4, 0, &[2, 2], &[1]),
        tensor(4, 0, &[255; 40], &[255; 40]),
        // Many views of one number.
        tensor(4, 0, &[200, 200], &[0, 0]),
    ] {
        let error = numbers(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("x.pt: tensor w "), "{error}");
    }
    let error = numbers(&tensor(5, 0, &[1], &[1])).unwrap_err().to_string();
    assert!(
        error.contains("16 bytes in data/0, expected 5 numbers of 4"),
        "{error}"
    );
    let error = read(&zipped(&tensor(4, 0, &[1], &[1]), &[])).unwrap_err();
    assert!(
        error.to_string().contains("lacks the entry data/0"),
        "{error}"
    );
}

#[test]
fn a_file_that_imports_code_is_refused_by_the_name_of_it() {
    for pickle in [
        &b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."[..],
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02}X\x01\0\0\0acos\nsystem\ns.",
    ] {
        let error = refused(pickle);
        assert!(
            error.starts_with("x.pt: imports os.system, which is no part of weights"),
            "{error}"
        );
    }
    let head = b"\x80\x02M\xe9\x03.\x80\x02}.";
    let row = [LEGACY_MAGIC, head, b"\x80\x02cposix\nsystem\n."].concat();
    let error = read(&row).unwrap_err().to_string();
    assert!(error.contains("imports posix.system"), "{error}");
    // By a name that looks like one of the known ones, or by a stranger's method.
    for (module, function) in [
        ("builtins", "eval"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch.jit._pickle.x", "build_intlist"),
        ("__builtin__", "getattr\u{1b}[2J"),
    ] {
        let error = refused(format!("c{module}\n{function}\n.").as_bytes());
        assert!(
            error.contains("imports ") && !error.contains('\u{1b}'),
            "{error}"
        );
    }
}

#[test]
fn short_files_that_ask_for_much_are_refused() {
    // An index of memory that is four thousand million entries up.
    assert!(refused(b"\x80\x02}r\xff\xff\xff\xff.").contains("more than its size"));
    // A text longer than the file.
    assert!(refused(b"\x80\x02X\xff\xff\xff\x7fa.").contains("ends in the middle"));
    // Many empty lists.
    assert!(refused(&[&[b']'; 1 << 20][..], b"."].concat()).contains("more than its size"));
    // Each dictionary has the one before it twice: 2^60 ways.
    let mut pickle = b"}q\x00".to_vec();
    for i in 0..60u8 {
        pickle.extend([b'}', b'X', 1, 0, 0, 0, b'a', b'h', i, b's']);
        pickle.extend([b'X', 1, 0, 0, 0, b'b', b'h', i, b's', b'q', i + 1]);
    }
    pickle.push(b'.');
    assert!(refused(&pickle).contains("more than its size"));
    // A dictionary that contains itself.
    assert!(refused(b"}q\x00X\x01\0\0\0ah\x00s.").contains("more than 64 levels"));
}

/// A tuple of three once took two from below the mark, and the mark's own opcode then ended the process.
#[test]
fn nothing_is_taken_from_below_a_mark() {
    assert!(refused(b"NN(N\x87t.").contains("takes more"));
    assert!(refused(b"N(0t.").contains("takes more"));
    assert!(refused(b"t.").contains("takes more"));
}

#[test]
fn an_archive_without_weights_is_named() {
    let error = read(b"PK\x03\x04 and nothing").unwrap_err().to_string();
    assert!(error.contains("not a whole PyTorch file"), "{error}");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("readme", options).unwrap();
    let error = read(&zip.finish().unwrap().into_inner()).unwrap_err();
    assert!(error.to_string().contains("without data.pkl"), "{error}");
}

#[test]
fn a_flipped_bit_in_the_numbers_is_noticed() {
    let mut bytes = zipped(&tensor(4, 0, &[4], &[1]), &[("0", &[77; 16])]);
    let at = bytes
        .windows(16)
        .position(|window| window == [77; 16])
        .unwrap();
    bytes[at + 5] ^= 1;
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("damaged entry"), "{error}");
}

/// Pickles made of the machine's own opcodes, so that most of them get far.
fn programs() -> impl Strategy<Value = Vec<u8>> {
    let opcodes = prop::sample::select(b"(t}])useadRQb2012\x81\x94".to_vec());
    let imports = [
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
        "collections\nOrderedDict",
        "__torch__.a\nB",
        "torch\nSize",
    ];
    let imports = prop::sample::select(imports.to_vec());
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let piece = prop_oneof![
        8 => opcodes.prop_map(|opcode| vec![opcode]),
        2 => any::<u8>().prop_map(|byte| vec![b'K', byte]),
        2 => any::<u8>().prop_map(|byte| vec![b'q', byte % 8]),
        2 => any::<u8>().prop_map(|byte| vec![b'h', byte % 8]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => any::<i32>().prop_map(|value| [&b"J"[..], &value.to_le_bytes()].concat()),
        2 => imports.prop_map(|import| format!("c{import}\n").into_bytes()),
        1 => Just(storage.to_vec()),
    ];
    proptest::collection::vec(piece, 0..40)
        .prop_map(|pieces| [pieces.concat(), b".".to_vec()].concat())
}

proptest! {
    #[test]
    fn any_program_ends_in_a_tree_or_an_error(program in programs()) {
        let _ = read(&zipped(&program, &[("0", &[0; 16])]));
        let head = b"\x80\x02M\xe9\x03.\x80\x02}.";
        let keys = b"](X\x01\0\0\x000e.";
        let _ = read(&[LEGACY_MAGIC, head, &program, keys, &[0; 24]].concat());
    }

    #[test]
    fn a_damaged_file_ends_in_a_tree_or_an_error(
        which in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = [ARCHIVE, PROTOCOL_4, ROW, TORCH_SCRIPT_FILE][which].to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        let _ = read(&bytes);
    }
}
