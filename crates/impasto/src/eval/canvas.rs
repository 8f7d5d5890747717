//! A picture against its empty background, and the comparisons of its boxes with sprites: exact ones, and
//! coarse ones between thumbnails.

use crate::image::Image;

/// Width and height of the thumbnails that the first, coarse comparison uses.
pub(super) const THUMBNAIL: usize = 12;
pub(super) const THUMBNAIL_PIXELS: usize = THUMBNAIL * THUMBNAIL;
/// Width and height of the still smaller pictures that choose what is worth that comparison.
const GLANCE: usize = 4;
pub(super) const GLANCE_PIXELS: usize = GLANCE * GLANCE;

/// A box that may hold a thing: left, top, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThingBox {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) size: usize,
}

impl ThingBox {
    /// Whether both are around about the same middle.
    pub(super) fn is_near(self, other: ThingBox) -> bool {
        let middle = |start: usize, size: usize| 2 * start + size;
        let reach = self.size.min(other.size) / 4;
        middle(self.x, self.size).abs_diff(middle(other.x, other.size)) <= reach
            && middle(self.y, self.size).abs_diff(middle(other.y, other.size)) <= reach
    }

    /// Whether the middle of each is in the other.
    pub(super) fn shares_middle(self, other: ThingBox) -> bool {
        let middle = |start: usize, size: usize| 2 * start + size;
        let reach = self.size.min(other.size);
        middle(self.x, self.size).abs_diff(middle(other.x, other.size)) < reach
            && middle(self.y, self.size).abs_diff(middle(other.y, other.size)) < reach
    }

    pub(super) fn overlaps(self, other: ThingBox, tolerance: usize) -> bool {
        self.x + tolerance < other.x + other.size
            && other.x + tolerance < self.x + self.size
            && self.y + tolerance < other.y + other.size
            && other.y + tolerance < self.y + self.size
    }
}

/// The least and the greatest value of a plane around each pixel.
struct Ranges {
    size: usize,
    least: Vec<f32>,
    greatest: Vec<f32>,
}

impl Ranges {
    fn new(plane: &[f32], size: usize) -> Self {
        let around = |plane: &[f32], choose: fn(f32, f32) -> f32| -> Vec<f32> {
            let clamped = |i: isize| i.clamp(0, size as isize - 1) as usize;
            // Rows, then columns.
            let wide: Vec<f32> = (0..size * size)
                .map(|i| {
                    let (x, start) = ((i % size) as isize, i / size * size);
                    let at = |x: isize| plane[start + clamped(x)];
                    choose(choose(at(x - 1), at(x)), at(x + 1))
                })
                .collect();
            (0..size * size)
                .map(|i| {
                    let (x, y) = (i % size, (i / size) as isize);
                    let at = |y: isize| wide[clamped(y) * size + x];
                    choose(choose(at(y - 1), at(y)), at(y + 1))
                })
                .collect()
        };
        Ranges {
            size,
            least: around(plane, f32::min),
            greatest: around(plane, f32::max),
        }
    }

    /// How far a picture's value (given as its difference from the plane) is from the range around it.
    fn distance(&self, x: usize, y: usize, difference: &[f32], plane: &[f32]) -> f32 {
        let i = y * self.size + x;
        let value = difference[i] + plane[i];
        (self.least[i] - value)
            .max(value - self.greatest[i])
            .max(0.0)
    }
}

/// A picture against its empty background.
pub(super) struct Canvas {
    pub(super) size: usize,
    /// Picture minus background, by channel.
    pub(super) difference: [Vec<f32>; 3],
    /// The background, by channel.
    pub(super) empty: [Vec<f32>; 3],
    /// Integral image of the foreground mask, one row and column larger.
    foreground: Vec<u32>,
}

impl Canvas {
    pub(super) fn new(picture: &Image, background: &Image) -> Self {
        let size = picture.width;
        let empty: [Vec<f32>; 3] = std::array::from_fn(|c| {
            background
                .rgb
                .iter()
                .skip(c)
                .step_by(3)
                .map(|&v| f32::from(v))
                .collect()
        });
        let difference: [Vec<f32>; 3] = std::array::from_fn(|c| {
            let values = picture.rgb.iter().skip(c).step_by(3);
            values
                .zip(&empty[c])
                .map(|(&v, e)| f32::from(v) - e)
                .collect()
        });
        let ranges: [Ranges; 3] = std::array::from_fn(|c| Ranges::new(&empty[c], size));
        // Three times the noise of a mediocre JPEG.
        const THRESHOLD: f32 = 40.0;
        let mut foreground = vec![0u32; (size + 1) * (size + 1)];
        for y in 0..size {
            let mut row = 0;
            for x in 0..size {
                // From all that the background is here and a pixel around: a blurred edge of its pattern is
                // no thing.
                let far: f32 = (0..3)
                    .map(|c| ranges[c].distance(x, y, &difference[c], &empty[c]))
                    .sum();
                row += u32::from(far > THRESHOLD);
                let above = foreground[y * (size + 1) + x + 1];
                foreground[(y + 1) * (size + 1) + x + 1] = above + row;
            }
        }
        Canvas {
            size,
            difference,
            empty,
            foreground,
        }
    }

    /// Foreground pixels in a rectangle.
    pub(super) fn foreground(&self, x: usize, y: usize, width: usize, height: usize) -> usize {
        let at = |x: usize, y: usize| self.foreground[y * (self.size + 1) + x];
        (at(x + width, y + height) + at(x, y) - at(x + width, y) - at(x, y + height)) as usize
    }

    /// How far the foreground in a box is from what a sprite does in its own: fill it from side to side one
    /// way, stand in the middle the other way, leave the border free. `None` when it is nothing like that.
    pub(super) fn looseness(&self, place: ThingBox) -> Option<usize> {
        let ThingBox { x, y, size } = place;
        let inner = self.foreground(x + 1, y + 1, size - 2, size - 2);
        let border = self.foreground(x, y, size, size) - inner;
        let column = |i: usize| self.foreground(x + i, y + 1, 1, size - 2) > 0;
        let row = |i: usize| self.foreground(x + 1, y + i, size - 2, 1) > 0;
        let margins = |inked: &dyn Fn(usize) -> bool| -> Option<(usize, usize)> {
            let first = (1..size - 1).find(|&i| inked(i))?;
            let last = (1..size - 1).rev().find(|&i| inked(i))?;
            Some((first - 1, size - 2 - last))
        };
        let ((left, right), (top, bottom)) = (margins(&column)?, margins(&row)?);
        let unfilled = (left + right).min(top + bottom);
        let skewed = left.abs_diff(right) + top.abs_diff(bottom);
        let slack = 4 + size / 10;
        (unfilled <= slack && skewed <= slack && border <= size)
            .then_some(unfilled + skewed + border / 4)
    }

    /// Squared difference from the empty background in a box.
    pub(super) fn energy(&self, place: ThingBox) -> f32 {
        let mut sum = 0.0;
        for channel in &self.difference {
            for row in place.y..place.y + place.size {
                let start = row * self.size + place.x;
                sum += channel[start..start + place.size]
                    .iter()
                    .map(|d| d * d)
                    .sum::<f32>();
            }
        }
        sum
    }

    /// What a sprite leaves unexplained in a box, and how much it differs from the empty background.
    pub(super) fn compare(&self, sprite: &[[f32; 4]], place: ThingBox) -> (f32, f32) {
        let (mut error, mut visibility) = (0.0f32, 0.0f32);
        for row in 0..place.size {
            let start = (place.y + row) * self.size + place.x;
            for (column, px) in sprite[row * place.size..(row + 1) * place.size]
                .iter()
                .enumerate()
            {
                let alpha = px[3] / 255.0;
                for ((tone, empty), seen) in px.iter().zip(&self.empty).zip(&self.difference) {
                    let would = tone - alpha * empty[start + column];
                    let off = seen[start + column] - would;
                    error += off * off;
                    visibility += would * would;
                }
            }
        }
        (error, visibility.max(1.0))
    }
}

/// Squared error of a look over the empty background, against the difference seen from it.
pub(super) fn difference<const PIXELS: usize>(
    seen: &[[f32; PIXELS]; 3],
    empty: &[[f32; PIXELS]; 3],
    look: &[[f32; PIXELS]; 4],
) -> f32 {
    // Independent sums, so that the compiler may add several at a time.
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (alpha, _) = look[3].as_chunks::<LANES>();
    for channel in 0..3 {
        let (seen, _) = seen[channel].as_chunks::<LANES>();
        let (empty, _) = empty[channel].as_chunks::<LANES>();
        let (tone, _) = look[channel].as_chunks::<LANES>();
        for (((seen, empty), tone), alpha) in seen.iter().zip(empty).zip(tone).zip(alpha) {
            for i in 0..LANES {
                let error = seen[i] - tone[i] + alpha[i] * (1.0 / 255.0) * empty[i];
                sums[i] += error * error;
            }
        }
    }
    sums.iter().sum()
}

/// A thumbnail, averaged down.
pub(super) fn glance(thumbnail: &[f32; THUMBNAIL_PIXELS]) -> [f32; GLANCE_PIXELS] {
    const BLOCK: usize = THUMBNAIL / GLANCE;
    std::array::from_fn(|i| {
        let (x, y) = (i % GLANCE * BLOCK, i / GLANCE * BLOCK);
        let rows = (y..y + BLOCK).map(|y| &thumbnail[y * THUMBNAIL + x..y * THUMBNAIL + x + BLOCK]);
        rows.flatten().sum::<f32>() / (BLOCK * BLOCK) as f32
    })
}

/// A box of a plane, averaged down (or stretched) to a thumbnail.
pub(super) fn shrink(plane: &[f32], width: usize, place: ThingBox) -> [f32; THUMBNAIL_PIXELS] {
    let ThingBox { x, y, size } = place;
    let step = size as f32 / THUMBNAIL as f32;
    // For every thumbnail column (or row): the pixels that it covers, with their shares.
    let spans: [(usize, usize, f32, f32); THUMBNAIL] = std::array::from_fn(|i| {
        let (start, end) = (i as f32 * step, (i + 1) as f32 * step);
        let first = (start + 1e-3) as usize;
        let last = ((end - 1e-3) as usize).min(size - 1);
        (first, last, first as f32 + 1.0 - start, end - last as f32)
    });
    let share = |span: &(usize, usize, f32, f32), i: usize| {
        let &(first, last, head, tail) = span;
        if first == last {
            step
        } else if i == first {
            head
        } else if i == last {
            tail
        } else {
            1.0
        }
    };
    let mut thumbnail = [0.0; THUMBNAIL_PIXELS];
    for (ty, down) in spans.iter().enumerate() {
        for row in down.0..=down.1 {
            let weight = share(down, row) / (step * step);
            let line = &plane[(y + row) * width + x..(y + row) * width + x + size];
            for (tx, across) in spans.iter().enumerate() {
                let sum: f32 = (across.0..=across.1)
                    .map(|column| line[column] * share(across, column))
                    .sum();
                thumbnail[ty * THUMBNAIL + tx] += sum * weight;
            }
        }
    }
    thumbnail
}
