//! Pictures of every layout. Beside the crate, so that its code is not compiled once more for them.
#![allow(clippy::unwrap_used)]

use impasto_resize::{Layout, lanczos};

#[test]
fn one_colour_stays_one_colour_in_every_kind_of_samples() {
    for channels in 1..=4 {
        for wide in [false, true] {
            let layout = Layout { channels, wide };
            // Opaque, and each number twice in 16 bits: 257 times itself.
            let mut pixel = [200, 201, 202, 255][4 - channels..].to_vec();
            if wide {
                pixel = pixel.into_iter().flat_map(|x: u8| [x, x]).collect();
            }
            let bytes = pixel.repeat(35);
            let scaled = lanczos(&bytes, layout, [7, 5], [3, 9]).unwrap();
            assert_eq!(scaled, pixel.repeat(27), "{layout:?}");
        }
    }
}

#[test]
fn what_is_no_picture_is_refused() {
    let grey = Layout {
        channels: 1,
        wide: false,
    };
    let error = |bytes: &[u8], from, to| lanczos(bytes, grey, from, to).unwrap_err().to_string();
    assert_eq!(error(&[], [0, 3], [2, 2]), "0x3 can't be scaled to 2x2");
    assert_eq!(error(&[1], [1, 1], [2, 0]), "1x1 can't be scaled to 2x0");
    assert!(
        error(&[1], [1, 2], [2, 2]).contains("buffer"),
        "{}",
        error(&[1], [1, 2], [2, 2])
    );
    let large = error(&[1], [1, 1], [1 << 33, 1]);
    assert!(large.contains("too large"), "{large}");
}
