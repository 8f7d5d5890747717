//! How a picture is taken apart for a network, so that memory does not depend on its size.

use std::ops::Range;

/// A stretch of a side: what is written, and what the network sees for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What is written.
    pub written: Range<usize>,
    /// What is seen; `written` lies within.
    pub seen: Range<usize>,
}

/// The stretches of a side of `length` pixels: as few as have at most `tile` each, of about the same length, each
/// seen with `overlap` more pixels on both sides where there are some. All but the last start and end at multiples of
/// `step`.
pub fn spans(length: usize, tile: usize, overlap: usize, step: usize) -> Vec<Span> {
    let up = |value: usize| value.next_multiple_of(step);
    let (tile, overlap) = (up(tile.max(1)), up(overlap));
    let each = up(length.div_ceil(length.div_ceil(tile).max(1)).max(1));
    (0..length)
        .step_by(each)
        .map(|start| {
            let end = (start + each).min(length);
            Span {
                written: start..end,
                seen: start.saturating_sub(overlap)..(end + overlap).min(length),
            }
        })
        .collect()
}

/// The pixels of `seen`, and as many reflected ones after them as make a multiple of `step`.
pub fn padded(seen: &Range<usize>, step: usize) -> Vec<usize> {
    let end = seen.start + seen.len().next_multiple_of(step);
    // Beyond the last pixel comes the last but one.
    let last = seen.end.saturating_sub(1);
    let reflected = |at: usize| match at.checked_sub(last) {
        Some(beyond) => last.saturating_sub(beyond).max(seen.start),
        None => at,
    };
    (seen.start..end).map(reflected).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_even_and_few() {
        let written = |length, tile, overlap| -> Vec<_> {
            let all = spans(length, tile, overlap, 2).into_iter();
            all.map(|span| (span.written, span.seen)).collect()
        };
        assert_eq!(written(10, 16, 4), [(0..10, 0..10)]);
        assert_eq!(
            written(25, 10, 3),
            [(0..10, 0..14), (10..20, 6..24), (20..25, 16..25)]
        );
        assert_eq!(padded(&(4..7), 2), [4, 5, 6, 5]);
        assert_eq!(padded(&(4..5), 2), [4, 4]);
    }

    proptest! {
        #[test]
        fn spans_cover_each_pixel_once(
            length in 1usize..400, tile in 1usize..100, overlap in 0usize..40, step in 1usize..5,
        ) {
            let all = spans(length, tile, overlap, step);
            let mut next = 0;
            for span in &all {
                prop_assert_eq!(span.written.start, next);
                prop_assert!(span.written.len() <= tile.next_multiple_of(step));
                prop_assert!(span.seen.start <= span.written.start && span.written.end <= span.seen.end);
                prop_assert!(span.seen.start.is_multiple_of(step));
                prop_assert!(span.seen.end.is_multiple_of(step) || span.seen.end == length);
                prop_assert!(span.seen.start == 0 || span.seen.start + overlap <= span.written.start);
                prop_assert!(span.seen.end == length || span.written.end + overlap <= span.seen.end);
                next = span.written.end;
                let padded = padded(&span.seen, step);
                prop_assert!(padded.len().is_multiple_of(step));
                prop_assert!(padded.iter().all(|at| span.seen.contains(at)));
            }
            prop_assert_eq!(next, length);
        }
    }
}
