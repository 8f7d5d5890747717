#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn gradient() -> Image {
    let mut picture = Image::filled(5, 3, [0; 3]);
    for (i, value) in picture.rgb.iter_mut().enumerate() {
        *value = (i * 5) as u8;
    }
    picture
}

#[test]
fn lossless_formats_keep_every_pixel() {
    for format in [Format::Png, Format::Webp] {
        let bytes = gradient().encode(format, 90).unwrap();
        assert_eq!(Image::decode(&bytes, "x").unwrap(), gradient());
    }
}

#[test]
fn floats_and_bytes_are_one_to_one() {
    let picture = gradient();
    assert_eq!(Image::from_chw(&picture.to_chw(), 5, 3).unwrap(), picture);
    assert!(Image::from_chw(&[f32::NAN; 3], 1, 1).is_err());
}

/// A PNG of one pixel whose header promises others, with a checksum that fits.
fn png_promising(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Image::filled(1, 1, [0; 3])
        .encode(Format::Png, 100)
        .unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 1 {
                (sum >> 1) ^ 0xedb8_8320
            } else {
                sum >> 1
            }
        })
    })
}

#[test]
fn a_bomb_is_refused_for_its_size() {
    // The unchanged header passes, so the checksum is right and what is refused is the size.
    assert!(Image::decode(&png_promising(1, 1), "x.png").is_ok());
    for (width, height) in [
        (16_000, 16_000),
        (20_000, 1),
        (1, 20_000),
        (u32::MAX >> 1, u32::MAX >> 1),
    ] {
        let error = Image::decode(&png_promising(width, height), "bomb.png")
            .unwrap_err()
            .to_string();
        let of_size =
            error.contains("pixels") || error.contains("limit") || error.contains("too large");
        assert!(of_size && error.contains("bomb.png"), "{error}");
    }
}

#[test]
fn what_is_no_picture_or_only_a_part_of_one_is_refused() {
    assert!(Image::decode(b"", "x").is_err());
    let error = Image::decode(b"this is a text", "notes.txt")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("notes.txt") && error.contains("PNG, JPEG or WebP"),
        "{error}"
    );
    let mut noisy = Image::filled(40, 40, [0; 3]);
    for (i, value) in noisy.rgb.iter_mut().enumerate() {
        *value = (i * i * 31 % 251) as u8;
    }
    for format in [Format::Png, Format::Jpeg, Format::Webp] {
        let bytes = noisy.encode(format, 90).unwrap();
        assert!(Image::decode(&bytes, "x").is_ok());
        for part in [bytes.len() / 2, bytes.len() - bytes.len() / 8] {
            assert!(
                Image::decode(&bytes[..part], "x").is_err(),
                "{format:?} cut to {part} bytes"
            );
        }
    }
}

#[test]
fn sizes_that_make_no_picture_are_errors() {
    assert!(Image::new(2, 2, vec![0; 11]).is_err());
    assert!(Image::new(0, 2, vec![]).is_err());
    assert!(Image::new(usize::MAX, 2, vec![0; 6]).is_err());
    assert!(gradient().resize(0, 3).is_err());
    assert!(gradient().fit_square(0).is_err());
    assert!(Image::from_chw(&[0.0; 5], 1, 2).is_err());
    assert!(Image::from_chw(&[], usize::MAX, 4).is_err());
}

#[test]
fn a_grid_fills_row_after_row() {
    let pixel = |value| Image::filled(1, 1, [value; 3]);
    let grid = Image::grid(&[pixel(1), pixel(2), pixel(3)], 2, 1).unwrap();
    let values: Vec<u8> = grid.rgb.iter().step_by(3).copied().collect();
    assert_eq!((grid.width, grid.height), (3, 3));
    assert_eq!(values, [1, 255, 2, 255, 255, 255, 3, 255, 255]);
    assert!(Image::grid(&[], 2, 1).is_err());
    assert!(Image::grid(&[pixel(1), gradient()], 2, 1).is_err());
}

/// EXIF orientation 6: the camera was held so that the file has to be turned clockwise.
#[test]
fn a_turned_photograph_is_turned_back() {
    let mut picture = Image::filled(16, 8, [20; 3]);
    for row in 0..8 {
        picture.rgb[3 * 16 * row..3 * (16 * row + 8)].fill(220);
    }
    let bytes = picture.encode(Format::Jpeg, 100).unwrap();
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
    exif.extend(b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    let turned = [&bytes[..2], &exif, &bytes[2..]].concat();
    let decoded = Image::decode(&turned, "x.jpg").unwrap();
    assert_eq!((decoded.width, decoded.height), (8, 16));
    // The light left half has come to the top.
    assert!(
        decoded.rgb[0] > 200 && decoded.rgb[3 * 8 * 15] < 40,
        "{:?}",
        decoded.rgb
    );
}

#[test]
fn transparent_parts_lie_on_white() {
    let mut image = image::RgbaImage::new(1, 1);
    image.put_pixel(0, 0, image::Rgba([0, 0, 0, 0]));
    assert_eq!(
        Image::flattened(&DynamicImage::ImageRgba8(image)).rgb,
        [255, 255, 255]
    );
}

#[test]
fn a_square_is_cut_from_the_middle() {
    let picture = Image {
        width: 3,
        height: 1,
        rgb: vec![1, 1, 1, 2, 2, 2, 3, 3, 3],
    };
    assert_eq!(picture.fit_square(1).unwrap().rgb, [2, 2, 2]);
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Image::decode(&bytes, "x").is_err());
    }

    /// Decoders see past the magic number here, which random bytes never reach.
    #[test]
    fn damaged_files_never_panic(
        format in proptest::sample::select(vec![Format::Png, Format::Jpeg, Format::Webp]),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = gradient().encode(format, 90).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = Image::decode(&bytes, "x");
        bytes.truncate(cut.index(bytes.len()));
        let _ = Image::decode(&bytes, "x");
    }

    #[test]
    fn scaling_gives_the_size_asked_for(width in 1usize..40, height in 1usize..40, size in 1usize..40) {
        let scaled = Image::filled(width, height, [9, 99, 199]).fit_square(size).unwrap();
        prop_assert_eq!(scaled, Image::filled(size, size, [9, 99, 199]));
    }
}

/// A PNG with a colour profile of this many bytes, all the same, which is a thousandth in the file.
fn with_profile(length: usize) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let mut profile = vec![0; length];
    profile[16..20].copy_from_slice(b"RGB ");
    packed.write_all(&profile).unwrap();
    let data = [&b"a profile\0\0"[..], &packed.finish().unwrap()].concat();
    let mut checksum = flate2::Crc::new();
    checksum.update(b"iCCP");
    checksum.update(&data);
    let plain = Image::filled(8, 6, [1, 2, 3])
        .encode(Format::Png, 100)
        .unwrap();
    // Behind the signature and the header's chunk.
    let (head, tail) = plain.split_at(33);
    [
        head,
        &(data.len() as u32).to_be_bytes(),
        b"iCCP",
        &data,
        &checksum.sum().to_be_bytes(),
        tail,
    ]
    .concat()
}

/// Small in the file, such a profile would take a thousand times the file's memory.
#[test]
fn a_profile_that_swells_is_not_unpacked() {
    let profile = |length| {
        let bytes = with_profile(length);
        let original = Original::decode(&bytes, "a.png").unwrap();
        assert_eq!((original.width(), original.height()), (8, 6));
        original
            .samples(Format::Png)
            .profile
            .map(|profile| profile.len())
    };
    assert_eq!(profile(2 << 20), Some(2 << 20));
    assert_eq!(profile(64 << 20), None);
}

/// The decoder makes room for a chunk before it finds out that the file is too short for it.
#[test]
fn a_chunk_that_is_longer_than_the_file_is_refused() {
    let whole = Image::filled(8, 6, [1, 2, 3])
        .encode(Format::Webp, 100)
        .unwrap();
    Image::decode(&whole, "a.webp").unwrap();
    for length in [5u32, 0x7fff_fff0, u32::MAX] {
        let bytes = [&whole[..], b"EXIF", &length.to_le_bytes(), b"1234"].concat();
        let error = Image::decode(&bytes, "a.webp").unwrap_err().to_string();
        let part = format!("its chunk EXIF has {length} bytes, the file has 4 more");
        assert!(error.contains(&part), "{error}");
    }
}

/// As cameras, Windows and old programs write them, all of one picture: red to the left, blue to the right.
#[test]
fn pictures_of_other_programs_have_their_colours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/picture");
    let open = |name: &str| Image::open(folder.join(name)).unwrap();
    let pixel = |picture: &Image, x: usize, y: usize| {
        let at = 3 * (y * picture.width + x);
        [0, 1, 2].map(|channel| i32::from(picture.rgb[at + channel]))
    };
    for (name, tolerance) in [
        // What is lost in a JPEG's steps; halved chroma blurs the edge only.
        ("baseline_422.jpg", 4),
        ("progressive_420.jpg", 4),
        ("restarts.jpg", 4),
        ("cmyk.jpg", 6),
        ("jpeg.tiff", 16),
        ("lossy.webp", 16),
        ("plain.tiff", 0),
        ("lzw.tiff", 0),
        ("deflate.tiff", 0),
        ("rgba.tiff", 0),
        ("rgb.bmp", 0),
        // Of few colours.
        ("palette.gif", 12),
        ("animated.gif", 40),
        ("palette.png", 40),
        ("palette.bmp", 60),
    ] {
        let picture = open(name);
        assert_eq!((picture.width, picture.height), (33, 17), "{name}");
        for (x, expected) in [(4, [204, 88, 30]), (28, [54, 88, 190])] {
            let found = pixel(&picture, x, 8);
            for (found, expected) in found.into_iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name}: {found} for {expected}"
                );
            }
        }
    }
    // Turned counterclockwise by its EXIF: what was to the right is at the top.
    let turned = open("orientation_8.jpg");
    assert_eq!((turned.width, turned.height), (17, 33));
    assert!(pixel(&turned, 8, 4)[2] > 150 && pixel(&turned, 8, 28)[0] > 150);
    for name in ["grey.jpg", "fax.tiff", "one_bit.png", "sixteen_bit.png"] {
        let [r, g, b] = pixel(&open(name), 20, 8);
        assert!(r == g && g == b, "{name}");
    }
    assert!(open("alpha.webp").rgb.iter().any(|&value| value > 200));
}

#[test]
fn formats_that_are_not_read_are_named() {
    for (bytes, name) in [
        (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "is an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC"),
        (b"\xff\x0a\0\0", "is a JPEG XL"),
        (b"8BPS\0\x01", "is a PSD"),
        (b"%PDF-1.7", "is a PDF"),
        (b"qoif\0\0\0\x01\0\0\0\x01\x04\0", "is a QOI"),
    ] {
        let error = Image::decode(bytes, "x").unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("expected PNG"),
            "{error}"
        );
    }
}

/// A few bytes that state many pixels would cost the pixels' memory before they turned out not to be there.
#[test]
fn more_pixels_than_a_file_can_hold_are_refused() {
    let mut jpeg = gradient().encode(Format::Jpeg, 90).unwrap();
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    let mut gif = b"GIF89a\xff\x1f\xff\x1f\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;");
    for (bytes, name) in [(jpeg, "a.jpg"), (gif, "a.gif")] {
        let error = Image::decode(&bytes, name).unwrap_err().to_string();
        assert!(error.contains("pixels are more than"), "{error}");
    }
}

/// 108 million pixels, as telephones have them.
#[test]
fn a_photograph_of_108_megapixels_is_read() {
    let bytes = Image::filled(12_032, 9024, [90, 120, 30])
        .encode(Format::Jpeg, 90)
        .unwrap();
    let picture = Image::decode(&bytes, "large.jpg").unwrap();
    assert_eq!((picture.width, picture.height), (12_032, 9024));
    let wide = Image::filled(16_000, 9000, [1; 3])
        .encode(Format::Png, 100)
        .unwrap();
    let error = Image::decode(&wide, "larger.png").unwrap_err().to_string();
    assert!(error.contains("is 16000x9000 pixels"), "{error}");
}
