//! What a token sees (`image_attention.py`): all words before it, and of the picture what its layer's kind says.

use serde::{Deserialize, Serialize};

/// The versions of the architecture (`hf_version`). No tensor distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuDalleVersion {
    /// Malevich of November 2021, Emojich: a start before the caption, with which the places of image tokens are one
    /// further than its masks say; the windows of the last layer reach around the picture's edges.
    V2,
    /// Malevich since 2022, Surrealist, Kandinsky: windows end at the edges. It was trained without a prediction of the
    /// first image id.
    V3,
}

impl RuDalleVersion {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V2, Self::V3];

    /// As `hf_version` says it.
    pub fn name(self) -> &'static str {
        match self {
            RuDalleVersion::V2 => "v2",
            RuDalleVersion::V3 => "v3",
        }
    }
}

/// Which image tokens an image token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// Itself and as many before it as a row has: those to its left, and those above and to the right of it.
    Row,
    /// Those above it.
    Column,
    /// Those up to five rows and columns away; on a torus if `around`.
    Window {
        /// Whether edges are neighbours of each other.
        around: bool,
    },
}

/// How far windows reach: half of `kernel`, which no constructor option changes.
const REACH: usize = 5;

impl MaskKind {
    /// That of a layer (`_get_layer_mask`).
    pub fn of_layer(layer: usize, n_layers: usize, version: RuDalleVersion) -> Self {
        if layer % 4 == 1 {
            MaskKind::Column
        } else if layer + 1 != n_layers {
            MaskKind::Row
        } else {
            MaskKind::Window {
                around: version == RuDalleVersion::V2,
            }
        }
    }

    /// Whether token `from` of the whole sequence sees token `to ≤ from`, after `text` tokens of the caption.
    ///
    /// The start of version 2 is not counted: its last word stands where the first image token is taken to be.
    pub fn sees(self, [from, to]: [usize; 2], text: usize, grid: usize) -> bool {
        if to < text {
            return true;
        }
        let (from, to) = (from - text, to - text);
        let back = from - to;
        match self {
            MaskKind::Row => back <= grid,
            MaskKind::Column => back.is_multiple_of(grid),
            MaskKind::Window { around } => {
                let near = |a: usize, b: usize| {
                    let apart = a.abs_diff(b);
                    apart <= REACH || around && grid - apart <= REACH
                };
                near(from / grid, to / grid) && near(from % grid, to % grid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: MaskKind, from: usize) -> Vec<usize> {
        let seen = (0..=from).filter(|&to| kind.sees([from, to], 3, 14));
        seen.filter_map(|to| to.checked_sub(3)).collect()
    }

    #[test]
    fn kinds_see_rows_columns_and_windows() {
        let place = 3 + 8 * 14 + 6;
        assert_eq!(seen(MaskKind::Row, place), (104..=118).collect::<Vec<_>>());
        let column: Vec<usize> = (0..=8).map(|row| row * 14 + 6).collect();
        assert_eq!(seen(MaskKind::Column, place), column);
        let window = seen(MaskKind::Window { around: false }, place);
        // Five rows of eleven, and six of its own.
        assert_eq!(window.len(), 61);
        assert_eq!((window[0], window[60]), (3 * 14 + 1, 118));
        // Around the corner: the whole rows above but three columns, and none of the rows further below.
        let corner = 3 + 13 * 14;
        let flat = seen(MaskKind::Window { around: false }, corner);
        assert_eq!(flat.len(), 5 * 6 + 1);
        let around = seen(MaskKind::Window { around: true }, corner);
        assert_eq!(around.len(), 5 * 11 + 5 * 11 + 1);
        assert_eq!((around[0], around[5], around[6]), (0, 5, 9));
    }

    #[test]
    fn layers_take_turns_and_the_last_one_has_a_window() {
        let kinds = |n| (0..n).map(move |i| MaskKind::of_layer(i, n, RuDalleVersion::V3));
        let count = |n, kind| kinds(n).filter(|&it| it == kind).count();
        assert_eq!(count(24, MaskKind::Column), 6);
        assert_eq!(count(24, MaskKind::Window { around: false }), 1);
        assert_eq!(
            kinds(2).collect::<Vec<_>>(),
            [MaskKind::Row, MaskKind::Column]
        );
        assert_eq!(
            kinds(1).collect::<Vec<_>>(),
            [MaskKind::Window { around: false }]
        );
    }
}
