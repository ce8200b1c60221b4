//! A picture of the temperatures.

use crate::failure::{Context, Failure, Outcome};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// From cold to hot, evenly brighter all the way: red, green, blue.
const COLOURS: [[f64; 3]; 9] = [
    [0.0, 0.0, 4.0],
    [28.0, 16.0, 68.0],
    [79.0, 18.0, 123.0],
    [129.0, 37.0, 129.0],
    [181.0, 54.0, 122.0],
    [229.0, 80.0, 100.0],
    [251.0, 135.0, 97.0],
    [254.0, 194.0, 135.0],
    [252.0, 253.0, 191.0],
];

/// Draws a result of the heat solvers at half its size; answers the temperatures of the darkest and brightest colour.
pub fn draw(result: &Path, image: &Path) -> Outcome<(f64, f64)> {
    let bytes = std::fs::read(result).context(format_args!("read {}", result.display()))?;
    let (words, _) = bytes.as_chunks::<8>();
    let [height, width, cells @ ..] = words else {
        return Err(Failure::new(format!("{} is no result of a heat solver", result.display())));
    };
    let [height, width] = [height, width].map(|word| u64::from_le_bytes(*word) as usize);
    if height < 2 || width < 2 || height.checked_mul(width) != Some(cells.len()) {
        return Err(Failure::new(format!("{} is no result of a heat solver", result.display())));
    }
    let cell = |row: usize, column: usize| f64::from_le_bytes(cells[row * width + column]);
    let mut field = Vec::with_capacity(cells.len() / 4);
    for row in 0..height / 2 {
        for column in 0..width / 2 {
            let (r, c) = (2 * row, 2 * column);
            field.push((cell(r, c) + cell(r, c + 1) + cell(r + 1, c) + cell(r + 1, c + 1)) / 4.0);
        }
    }
    let mut sorted = field.clone();
    sorted.sort_by(f64::total_cmp);
    // The few hottest cells would leave all others dark.
    let range = (sorted[sorted.len() / 500], sorted[sorted.len() - 1 - sorted.len() / 100]);
    let pixels: Vec<u8> = field.iter().flat_map(|&value| colour(value, range)).collect();
    write(image, (width / 2) as u32, (height / 2) as u32, &pixels)?;
    Ok(range)
}

fn colour(value: f64, (low, high): (f64, f64)) -> [u8; 3] {
    let place = ((value - low) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    // The root shows what happens among the cool cells, too.
    let place = place.sqrt() * (COLOURS.len() - 1) as f64;
    let first = (place as usize).min(COLOURS.len() - 2);
    let part = place - first as f64;
    std::array::from_fn(|i| (COLOURS[first][i] * (1.0 - part) + COLOURS[first + 1][i] * part) as u8)
}

fn write(image: &Path, width: u32, height: u32, pixels: &[u8]) -> Outcome {
    let what = format!("write {}", image.display());
    let file = File::create(image).context(&what)?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context(&what)?;
    writer.write_image_data(pixels).context(&what)?;
    writer.finish().context(&what)
}
