//! Every random stream of the library. A number depends on a seed and a stream alone, never on what was drawn before:
//! so a picture is the same alone and in a batch, and a training that is resumed sees what it would have seen.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What random numbers are for. Streams of one seed do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RandomStream {
    /// The token at this position of an image or of a text.
    Token(u64),
    /// The order in which the positions of an image are sampled.
    Order,
    /// Which positions of an image a variation samples anew.
    VariedPositions,
    /// The orders over which entropies are averaged.
    EntropyOrders,
    /// Which tries are kept where they are resampled.
    Resampling,
    /// The random codes that a drawing in one pass starts from, and where they stand.
    Start,
}

impl RandomStream {
    /// The number of the stream: tokens count from the lowest one up, the others from the highest one down.
    fn number(self) -> u64 {
        match self {
            RandomStream::Token(position) => position,
            RandomStream::Order => u64::MAX,
            RandomStream::VariedPositions => u64::MAX - 1,
            RandomStream::EntropyOrders => u64::MAX - 2,
            RandomStream::Resampling => u64::MAX - 3,
            RandomStream::Start => u64::MAX - 4,
        }
    }

    /// The generator of this stream of `seed`.
    pub fn of(self, seed: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(self.number());
        random
    }
}
