//! The named colours of things and backgrounds.

use serde::{Deserialize, Serialize};

/// A named colour, of a thing or of a background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Colour {
    White,
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
}

impl Colour {
    /// All of them.
    pub const ALL: [Colour; 8] = [
        Colour::White,
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];
    /// The seven that a thing may be painted in.
    pub const OF_THINGS: [Colour; 7] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];

    /// The strong tone that a thing is painted in.
    pub fn paint(self) -> [f32; 3] {
        match self {
            Colour::White => [245.0, 245.0, 245.0],
            Colour::Red => [222.0, 38.0, 38.0],
            Colour::Orange => [245.0, 128.0, 10.0],
            Colour::Yellow => [250.0, 208.0, 10.0],
            Colour::Green => [48.0, 160.0, 58.0],
            Colour::Blue => [36.0, 96.0, 226.0],
            Colour::Purple => [130.0, 56.0, 190.0],
            Colour::Pink => [246.0, 104.0, 176.0],
        }
    }

    /// The soft tone of a background, so that a thing of the same name still stands out.
    pub fn ground(self) -> [f32; 3] {
        match self {
            Colour::White => [250.0, 250.0, 250.0],
            Colour::Red => [240.0, 126.0, 118.0],
            Colour::Orange => [255.0, 188.0, 112.0],
            Colour::Yellow => [255.0, 238.0, 138.0],
            Colour::Green => [160.0, 218.0, 140.0],
            Colour::Blue => [138.0, 190.0, 246.0],
            Colour::Purple => [188.0, 158.0, 236.0],
            Colour::Pink => [250.0, 190.0, 218.0],
        }
    }

    /// The English word.
    pub fn english(self) -> &'static str {
        match self {
            Colour::White => "white",
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Pink => "pink",
        }
    }

    /// The Chinese word.
    pub fn chinese(self) -> &'static str {
        match self {
            Colour::White => "白色",
            Colour::Red => "红色",
            Colour::Orange => "橙色",
            Colour::Yellow => "黄色",
            Colour::Green => "绿色",
            Colour::Blue => "蓝色",
            Colour::Purple => "紫色",
            Colour::Pink => "粉色",
        }
    }
}
