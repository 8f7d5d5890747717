//! Near-duplicates among pictures: re-encoded, scaled and slightly cropped copies.
//!
//! In two stages, because pictures of one kind look alike: a coarse hash of colours proposes candidates in a tree, which
//! is nearly linear in the number of pictures; then each candidate is aligned with the other picture over small crops and
//! compared place by place.

mod clusters;
mod fingerprint;
mod groups;
mod tree;
mod twins;

pub use clusters::near_pairs;
pub use fingerprint::{Fingerprint, Window};
pub use groups::{Group, keep_one};
pub use twins::{Twin, TwinOptions, twins};
