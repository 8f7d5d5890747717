//! The backgrounds of the world `styles`: soft tones and simple places, smooth and without noise, so that the
//! things stand out and an image tokenizer spends its codes on them.

use super::background::{Background, BackgroundKind};
use super::colour::Colour;

pub(super) fn mix(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// The colour at a point of the picture, 64 units wide and high.
pub(super) fn tone(background: Background, x: f32, y: f32) -> [f32; 3] {
    let colour = background.colour.unwrap_or(Colour::White);
    match background.kind {
        BackgroundKind::Fade => fade(colour, y / 64.0),
        BackgroundKind::Table => table(x, y),
        BackgroundKind::Meadow => meadow(x, y),
        BackgroundKind::NightSky => night_sky(x, y),
        BackgroundKind::Ocean => ocean(x, y),
        BackgroundKind::Parlour => parlour(x, y),
        _ => soft(colour),
    }
}

/// The pastel of a colour: light enough for black ink and for things of the same name.
fn soft(colour: Colour) -> [f32; 3] {
    match colour {
        Colour::White => [248.0, 247.0, 245.0],
        Colour::Red => [240.0, 140.0, 132.0],
        Colour::Orange => [250.0, 192.0, 128.0],
        Colour::Yellow => [252.0, 232.0, 146.0],
        Colour::Green => [168.0, 216.0, 160.0],
        Colour::Blue => [150.0, 198.0, 242.0],
        Colour::Purple => [190.0, 166.0, 232.0],
        Colour::Pink => [249.0, 196.0, 216.0],
    }
}

/// From a fuller tone above to nearly white below.
fn fade(colour: Colour, share: f32) -> [f32; 3] {
    let top = match colour {
        Colour::White => [206.0, 210.0, 216.0],
        _ => soft(colour).map(|c| c * 0.94),
    };
    mix(top, [252.0, 250.0, 247.0], smooth(share) * 0.95)
}

/// A slow start and a slow end between 0 and 1.
fn smooth(share: f32) -> f32 {
    let share = share.clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}

/// 1 inside of a shape that is left at `distance` 0, 0 outside, soft over `width` units.
fn inside(distance: f32, width: f32) -> f32 {
    smooth(0.5 - distance / width)
}

fn table(x: f32, y: f32) -> [f32; 3] {
    const EDGE: f32 = 36.0;
    if y < EDGE {
        return mix([232.0, 222.0, 206.0], [244.0, 236.0, 222.0], y / EDGE);
    }
    let share = (y - EDGE) / (64.0 - EDGE);
    let wood = mix([206.0, 158.0, 110.0], [178.0, 126.0, 82.0], smooth(share));
    // The far edge catches the light; two planks meet in lines that widen towards the viewer.
    let edge = inside((y - EDGE - 0.6).abs() - 0.6, 0.8);
    let lines = [48.0, 0.0].iter().map(|&end: &f32| {
        let at = 32.0 + (end - 32.0) * (0.62 + 0.38 * share) * 0.7;
        inside((x - at).abs() - 0.12 - 0.12 * share, 0.6)
    });
    let seam: f32 = lines.sum();
    mix(
        mix(wood, [150.0, 102.0, 64.0], seam * 0.55),
        [232.0, 196.0, 150.0],
        edge * 0.8,
    )
}

fn meadow(x: f32, y: f32) -> [f32; 3] {
    let sky = mix(
        [140.0, 200.0, 246.0],
        [226.0, 242.0, 250.0],
        smooth(y / 38.0),
    );
    // Clouds: three soft balls each.
    let cloud = |cx: f32, cy: f32, size: f32| {
        let ball = |dx: f32, dy: f32, r: f32| {
            let (dx, dy) = (x - cx - dx * size, (y - cy - dy * size) * 1.25);
            (dx * dx + dy * dy).sqrt() - r * size
        };
        let nearest = ball(-1.0, 0.25, 0.75)
            .min(ball(0.0, 0.0, 1.0))
            .min(ball(1.05, 0.3, 0.7));
        inside(nearest, 2.0)
    };
    let clouds = cloud(13.0, 11.0, 4.4).max(cloud(49.0, 17.0, 3.6));
    let sky = mix(sky, [255.0; 3], clouds * 0.75);
    // Two hills, one behind the other, and the grass before them.
    let far = 38.0 - 4.0 * (x * 0.075 + 0.6).sin();
    let near = 43.0 - 2.6 * (x * 0.085 + 3.4).sin();
    let hill = mix(
        [168.0, 216.0, 128.0],
        [144.0, 200.0, 108.0],
        (y - far) / 14.0,
    );
    let grass = mix(
        [136.0, 200.0, 92.0],
        [98.0, 168.0, 70.0],
        smooth((y - near) / 22.0),
    );
    mix(
        mix(sky, hill, inside(far - y, 0.7)),
        grass,
        inside(near - y, 0.7),
    )
}

fn night_sky(x: f32, y: f32) -> [f32; 3] {
    let sky = mix([20.0, 24.0, 66.0], [66.0, 62.0, 132.0], smooth(y / 58.0));
    // Position and radius of each star: fixed, without rows.
    const STARS: [(f32, f32, f32); 15] = [
        (6.0, 7.0, 0.75),
        (15.0, 18.0, 0.5),
        (21.0, 5.0, 0.55),
        (30.0, 13.0, 0.8),
        (37.0, 4.0, 0.5),
        (44.0, 20.0, 0.55),
        (52.0, 8.0, 0.8),
        (59.0, 16.0, 0.5),
        (9.0, 30.0, 0.55),
        (24.0, 28.0, 0.5),
        (34.0, 33.0, 0.55),
        (49.0, 31.0, 0.5),
        (58.0, 37.0, 0.7),
        (4.0, 42.0, 0.5),
        (41.0, 44.0, 0.5),
    ];
    let light: f32 = STARS
        .iter()
        .map(|&(sx, sy, radius)| {
            let square = (x - sx).powi(2) + (y - sy).powi(2);
            (-square / (radius * radius)).exp()
        })
        .sum();
    let sky = mix(sky, [255.0, 248.0, 222.0], light.min(1.0) * 0.9);
    let hills = 56.0 - 2.4 * (x * 0.09 + 0.5).sin();
    mix(sky, [26.0, 30.0, 66.0], inside(hills - y, 0.8))
}

fn ocean(x: f32, y: f32) -> [f32; 3] {
    const HORIZON: f32 = 20.0;
    let sky = mix(
        [168.0, 214.0, 246.0],
        [238.0, 246.0, 250.0],
        smooth(y / HORIZON),
    );
    let depth = ((y - HORIZON) / (64.0 - HORIZON)).clamp(0.0, 1.0);
    let water = mix([112.0, 192.0, 226.0], [30.0, 112.0, 178.0], smooth(depth));
    // Rows of gentle crests, farther apart towards the viewer.
    let row = depth.sqrt() * 6.0;
    let swell = (row + 0.10 * (x * 0.35 + row.floor() * 1.9).sin()).fract();
    let crest = inside((swell - 0.5).abs() - 0.05, 0.14) * smooth(depth * 6.0);
    let water = mix(water, [214.0, 240.0, 250.0], crest * 0.32);
    mix(sky, water, inside(HORIZON - y, 0.6))
}

fn parlour(x: f32, y: f32) -> [f32; 3] {
    const FLOOR: f32 = 46.0;
    let wall = mix(
        [226.0, 214.0, 222.0],
        [244.0, 232.0, 226.0],
        smooth(y / FLOOR),
    );
    // A window with a cross: the distance to its frame's outside, to each pane's.
    let half = |value: f32, middle: f32, size: f32| (value - middle).abs() - size;
    let frame = half(x, 48.0, 9.6).max(half(y, 15.0, 9.6));
    let pane = half((x - 48.0).abs(), 4.4, 3.6).max(half((y - 15.0).abs(), 4.4, 3.6));
    let outside = mix(
        [150.0, 206.0, 246.0],
        [218.0, 238.0, 250.0],
        (y - 6.0) / 18.0,
    );
    let wall = mix(wall, [253.0, 251.0, 248.0], inside(frame, 0.5));
    let wall = mix(wall, outside, inside(pane, 0.5));
    // Skirting, boards and a round rug.
    let skirting = inside(half(y, FLOOR - 1.2, 1.2), 0.5);
    let boards = mix(
        [206.0, 164.0, 122.0],
        [182.0, 136.0, 94.0],
        smooth((y - FLOOR) / 18.0),
    );
    let rug = ((x - 28.0) / 22.0).hypot((y - 56.0) / 5.2) - 1.0;
    let floor = mix(boards, [206.0, 120.0, 112.0], inside(rug * 6.0, 0.8) * 0.85);
    let floor = mix(
        floor,
        [238.0, 200.0, 178.0],
        inside((rug * 6.0 + 0.9).abs() - 0.35, 0.7) * 0.8,
    );
    let wall = mix(wall, [252.0, 250.0, 247.0], skirting);
    mix(wall, floor, inside(FLOOR - y, 0.4))
}
