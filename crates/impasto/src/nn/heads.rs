//! Between a token's numbers and those of its heads.

use burn::tensor::Tensor;

/// One of the equal parts of each token, head by head: a view, so that nothing is copied where a product made queries, keys
/// and values together.
///
/// # Shapes
/// - `x`: `[batch, seq, parts · width]`
/// - returns: `[batch, n_heads, seq, width / n_heads]`
pub fn split(x: &Tensor<3>, [part, parts]: [usize; 2], n_heads: usize) -> Tensor<4> {
    let [batch, seq, joint] = x.dims();
    let all = parts * n_heads;
    // Split before a part is taken: a part is not contiguous, and would be copied to get another shape.
    x.clone()
        .reshape([batch, seq, all, joint / all])
        .narrow(2, part * n_heads, n_heads)
        .swap_dims(1, 2)
}

/// The inverse of [`split`] with one part.
///
/// # Shapes
/// - `x`: `[batch, n_heads, seq, head_width]`
/// - returns: `[batch, seq, n_heads · head_width]`
pub fn join(x: Tensor<4>) -> Tensor<3> {
    let [batch, n_heads, seq, head_width] = x.dims();
    x.swap_dims(1, 2)
        .reshape([batch, seq, n_heads * head_width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int};

    use super::*;

    #[test]
    fn parts_are_split_and_joined() {
        let device = Device::default();
        let x = Tensor::<1, Int>::arange(0..2 * 3 * 24, &device).float();
        let x = x.reshape([2, 3, 24]);
        for part in 0..3 {
            let heads = split(&x, [part, 3], 2);
            assert_eq!(heads.dims(), [2, 2, 3, 4]);
            let expected = x.clone().narrow(2, 8 * part, 8);
            let one = heads.clone().slice([1..2, 1..2, 2..3, 0..4]);
            let same = expected.clone().slice([1..2, 2..3, 4..8]);
            one.into_data()
                .assert_eq(&same.reshape([1, 1, 1, 4]).into_data(), true);
            join(heads)
                .into_data()
                .assert_eq(&expected.into_data(), true);
        }
    }
}
