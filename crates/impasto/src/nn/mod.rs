//! Building blocks shared by the models.

pub mod ops;
