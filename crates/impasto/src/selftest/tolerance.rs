//! How far a device's result may be from the reference, in one table.

use super::Precision;

/// What a check's error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers that are moved or chosen, not computed.
    Moved,
    /// A function of each number, or of sums over a row.
    Pointwise,
    /// Products of matrices and convolutions, and their gradients.
    Product,
    /// Attention and normalised products: products one after the other with exponentials between them.
    Attention,
    /// Whole models: some dozens of operations one after the other.
    Model,
    /// Gradients of whole models, and weights after steps of an optimizer.
    Training,
    /// Gradients of models with many ReLUs, hinges or maxima, which jump where an error changes a sign or a choice.
    Kinked,
}

/// The largest error ‖found − reference‖ / ‖reference‖ of a check that passes.
///
/// | kind      | f32  | tf32 | bf16 |
/// |-----------|------|------|------|
/// | moved     | 0    | 0    | 0    |
/// | pointwise | 1e-5 | 1e-5 | 2e-2 |
/// | product   | 1e-5 | 1e-3 | 1e-2 |
/// | attention | 2e-5 | 1e-3 | 2e-2 |
/// | model     | 1e-4 | 3e-3 | 2e-2 |
/// | training  | 1e-4 | 3e-2 | 2e-2 |
/// | kinked    | 1e-3 | 2e-1 | 2e-1 |
///
/// - f32 rounds by up to 2⁻²⁴ = 6e-8 of a number. Sums of some hundred to thousand terms in another order come out
///   apart by 1e-7 to 1e-6, exponentials and error functions of GPUs by as much; through layers it grows by about ten.
/// - tf32 rounds each factor of a product by up to 2⁻¹¹ = 5e-4, on average a third of that, and what is not a product
///   not at all.
/// - Where an error of δ changes a sign, a gradient jumps. A share of about δ of all ReLUs, hinges and absolute values is
///   that near to its kink, so that the norm of a gradient moves by about √δ for each layer of them: with convolutions
///   rounded to tf32 on the CPU and 25 seeds by up to 2 % for a VQGAN (absolute errors), 10 % for a dVAE and 13 % for a
///   discriminator; in f32, 60 seeds and our kernels against Burn's operations by 1e-5.
/// - bf16 rounds everything by up to 2⁻⁹ = 2e-3. A product's result is rounded once; a handful of operations, each with
///   results in bf16, and sums that are kept in bf16, reach 1e-2 and a little more.
pub fn tolerance(kind: Kind, precision: Precision) -> f64 {
    let [f32, tf32, bf16] = match kind {
        Kind::Moved => [0.0, 0.0, 0.0],
        Kind::Pointwise => [1e-5, 1e-5, 2e-2],
        Kind::Product => [1e-5, 1e-3, 1e-2],
        Kind::Attention => [2e-5, 1e-3, 2e-2],
        Kind::Model => [1e-4, 3e-3, 2e-2],
        Kind::Training => [1e-4, 3e-2, 2e-2],
        Kind::Kinked => [1e-3, 2e-1, 2e-1],
    };
    match precision {
        Precision::F32 => f32,
        Precision::Tf32 => tf32,
        Precision::Bf16 => bf16,
    }
}
