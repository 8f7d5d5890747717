//! How far a picture is extended.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// New pixels on each side of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sides {
    /// Left of it.
    pub left: usize,
    /// Above it.
    pub top: usize,
    /// Right of it.
    pub right: usize,
    /// Below it.
    pub bottom: usize,
}

impl FromStr for Sides {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "sides",
                format!("expected pixels by side such as left=64,top=32, got \"{text}\""),
            )
        };
        let mut sides = Sides::default();
        for part in text.split(',') {
            let (name, pixels) = part.split_once('=').ok_or_else(bad)?;
            let side = match name.trim() {
                "left" => &mut sides.left,
                "top" => &mut sides.top,
                "right" => &mut sides.right,
                "bottom" => &mut sides.bottom,
                _ => return Err(bad()),
            };
            let pixels: usize = pixels.trim().parse().map_err(|_| bad())?;
            if pixels == 0 || *side != 0 {
                return Err(bad());
            }
            *side = pixels;
        }
        Ok(sides)
    }
}
