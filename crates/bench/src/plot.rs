//! A picture of the ratios: one bar for each comparison with a goal, beside the goal.

use crate::measure::Unit;
use crate::report::{Comparison, Report, Row};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_7X13;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Pixel, Point, Primitive, RgbColor, Size};
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::Text;
use std::convert::Infallible;
use std::io::{Error, Result, Write};

const WIDTH: u32 = 1100;
const LINE: u32 = 22;
const HEAD: u32 = 48;
/// Where bars begin, and how long the bar of a goal is.
const BARS: u32 = 560;
const GOAL: u32 = 260;

const INK: Rgb888 = Rgb888::new(30, 30, 40);
const REACHED: Rgb888 = Rgb888::new(60, 140, 90);
const MISSED: Rgb888 = Rgb888::new(200, 90, 60);
const MARK: Rgb888 = Rgb888::new(90, 90, 110);

/// Pixels, row by row.
struct Canvas {
    height: u32,
    bytes: Vec<u8>,
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(WIDTH, self.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> std::result::Result<(), Infallible> {
        for Pixel(at, color) in pixels {
            if (0..WIDTH as i32).contains(&at.x) && (0..self.height as i32).contains(&at.y) {
                let start = (at.y as usize * WIDTH as usize + at.x as usize) * 3;
                self.bytes[start..start + 3].copy_from_slice(&[color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

impl Canvas {
    fn text(&mut self, text: &str, x: u32, y: u32) {
        let style = MonoTextStyle::new(&FONT_7X13, INK);
        let Ok(_) = Text::new(text, Point::new(x as i32, y as i32 + 13), style).draw(self);
    }

    fn bar(&mut self, x: u32, y: u32, width: u32, height: u32, color: Rgb888) {
        let bar = Rectangle::new(Point::new(x as i32, y as i32), Size::new(width, height));
        let Ok(()) = bar.into_styled(PrimitiveStyle::with_fill(color)).draw(self);
    }
}

/// How much of its goal a comparison reaches; more is better whatever the kind.
fn part(comparison: &Comparison) -> Option<f64> {
    let (goal, result) = (comparison.goal?, comparison.result?.median);
    Some(if comparison.kind == "times" { result / goal } else { goal / result.max(goal / 100.0) })
}

/// Writes a PNG with all goals: a bar that reaches the mark reaches its goal.
pub fn draw(report: &Report, out: impl Write) -> Result<()> {
    let bars: Vec<(&Row, &Comparison, f64)> = report
        .rows
        .iter()
        .flat_map(|row| row.comparisons.iter().map(move |comparison| (row, comparison)))
        .filter_map(|(row, comparison)| Some((row, comparison, part(comparison)?)))
        .collect();
    let height = HEAD + LINE * bars.len() as u32 + 16;
    let mut canvas = Canvas { height, bytes: vec![255; (WIDTH * height * 3) as usize] };
    canvas.text(&format!("Lifeboat beside its goals, {} x {}", report.processors, report.processor), 12, 8);
    canvas.text("a bar that reaches the mark reaches its goal", 12, 24);
    canvas.bar(BARS + GOAL, HEAD, 2, LINE * bars.len() as u32, MARK);
    for (index, (row, comparison, part)) in bars.iter().enumerate() {
        let y = HEAD + LINE * index as u32;
        let label = format!("{} : {}", row.name, comparison.place.as_deref().unwrap_or("at most"));
        canvas.text(&label, 12, y + 2);
        let color = if comparison.met == Some(true) { REACHED } else { MISSED };
        let length = (part * f64::from(GOAL)).clamp(1.0, f64::from(WIDTH - BARS - 90)) as u32;
        canvas.bar(BARS, y + 4, length, LINE - 8, color);
        let result = comparison.result.map_or(f64::NAN, |middle| middle.median);
        let figure = match (comparison.kind, row.unit) {
            ("times", _) => format!("{result:.1}x"),
            (_, Unit::Share) => format!("{:.1} %", result * 100.0),
            _ => format!("{result:.1} ns"),
        };
        canvas.text(&figure, BARS + length + 6, y + 2);
    }
    let mut encoder = png::Encoder::new(out, WIDTH, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(Error::other)?;
    writer.write_image_data(&canvas.bytes).map_err(Error::other)
}
