//! `cargo xtask flame`: where the time of a write goes, as a picture in docs.
//!
//! Samples are `perf`'s, of builds with frame pointers, while `lifeboat bench` measures; only stacks that go through the
//! interception library count, from the program's call on. The picture is drawn here: the libraries for that have a
//! licence that this project does not take.

use crate::failure::{Context, Failure, Outcome};
use crate::run;
use crate::workspace::{self, Workspace};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Measures that are looked at, what they are, and rounds enough for some hundred samples.
const MEASURES: [(&str, &str, u32); 3] = [
    ("write-over", "write() of 1 MiB over a file that is there", 5),
    ("write-4k-over", "write() of 4 KiB over a file that is there", 5),
    ("pwrite-64", "pwrite() of 64 bytes inside the size", 1000),
];

/// The library that samples have to go through.
const LIBRARY: &str = "liblifeboat_preload.so";
const LIMIT: Duration = Duration::from_secs(300);

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
/// Frames narrower than this are left out.
const NARROWEST: f64 = 1.5;
/// A letter of the picture's font.
const LETTER: f64 = 6.6;

/// What to draw.
#[derive(clap::Args)]
pub struct Options {
    /// Where the picture goes
    #[arg(long, value_name = "FILE.svg", default_value = "docs/write-path.svg")]
    out: PathBuf,
}

/// A function and what it called, by samples.
#[derive(Default)]
struct Frame {
    samples: u64,
    below: BTreeMap<String, Frame>,
}

impl Frame {
    fn add(&mut self, stack: &[String]) {
        self.samples += 1;
        if let Some((first, rest)) = stack.split_first() {
            self.below.entry(first.clone()).or_default().add(rest);
        }
    }

    /// Rows of what is at least so many samples wide.
    fn depth(&self, least: f64) -> usize {
        let wide = self.below.values().filter(|frame| frame.samples as f64 >= least);
        wide.map(|frame| 1 + frame.depth(least)).max().unwrap_or(0)
    }
}

/// Samples, and draws.
pub fn run(options: &Options) -> Outcome {
    let workspace = Workspace::read()?;
    if run::output_of(Command::new("perf").arg("--version"), LIMIT).is_err() {
        return Err(Failure::new("no `perf` here: install Debian's linux-perf"));
    }
    let folder = build(&workspace)?;
    let mut panels = Vec::new();
    for (measure, what, rounds) in MEASURES {
        println!("{what}");
        panels.push((what, sample(&folder, measure, rounds)?));
    }
    let out = workspace.root.join(&options.out);
    std::fs::write(&out, draw(&panels)).context(format_args!("write {}", out.display()))?;
    println!("picture: {}", out.display());
    Ok(())
}

/// With frame pointers, in a folder of its own.
fn build(workspace: &Workspace) -> Outcome<PathBuf> {
    let folder = workspace.target.join("flame");
    for package in ["lifeboat", "lifeboat-preload"] {
        let mut command = workspace::cargo();
        command.current_dir(&workspace.root).args(["build", "--quiet", "--release", "--package", package]);
        command.env("RUSTFLAGS", "-C force-frame-pointers=yes").env("CARGO_TARGET_DIR", &folder);
        run::visibly(&mut command)?;
    }
    Ok(folder.join("release"))
}

fn sample(folder: &Path, measure: &str, rounds: u32) -> Outcome<Frame> {
    let data = folder.join(format!("{measure}.perf"));
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-e", "cpu-clock", "-F", "4999", "-g", "-o"]).arg(&data).arg("--");
    command.arg(folder.join("lifeboat")).args(["bench", "--quick", "--only", measure]);
    command.arg("--rounds").arg(rounds.to_string()).stdout(Stdio::null());
    run::visibly(&mut command)?;
    let mut command = Command::new("perf");
    command.arg("script").arg("-i").arg(&data).args(["-F", "comm,ip,sym,dso"]);
    let text = run::output_of(&mut command, LIMIT)?;
    let _ = std::fs::remove_file(&data);
    let frame = fold(&text);
    if frame.samples == 0 {
        return Err(Failure::new(format!("perf saw nothing of {measure} in {LIBRARY}")));
    }
    Ok(frame)
}

/// The stacks of a text of `perf script`, from the program's call to write on.
fn fold(text: &str) -> Frame {
    let mut all = Frame::default();
    for stack in text.split("\n\n") {
        // Innermost first, each {address, function, file}.
        let frames: Vec<(&str, &str)> = stack.lines().filter_map(frame).collect();
        let Some(outermost) = frames.iter().rposition(|(_, file)| file.contains(LIBRARY)) else { continue };
        let names: Vec<String> = frames[..=outermost].iter().rev().map(|(name, _)| short(name)).collect();
        if names.first().is_some_and(|name| name.contains("write")) {
            all.add(&names);
        }
    }
    all
}

fn frame(line: &str) -> Option<(&str, &str)> {
    let (rest, file) = line.strip_suffix(')')?.rsplit_once(" (")?;
    let (_, name) = rest.trim_start().split_once(' ')?;
    Some((name, file))
}

/// A function's name without what every name has.
fn short(name: &str) -> String {
    let mut short = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("<impl ") {
        short.push_str(before);
        rest = after.split_once(">::").map_or("", |(_, after)| after);
    }
    short.push_str(rest);
    short.replace("lifeboat_", "").replace("::{{closure}}", "")
}

fn colour(name: &str) -> &'static str {
    match name.split(['_', ':']).next() {
        Some("kernels") => "#e8a33d",
        Some("fs" | "<fs") => "#7fb069",
        Some("region" | "<region") => "#6ea4bf",
        Some("preload" | "write" | "pwrite" | "pwrite64") => "#c9ada7",
        _ => "#d0d0d0",
    }
}

fn draw(panels: &[(&str, Frame)]) -> String {
    let mut body = String::new();
    let mut top = 24.0;
    for (what, frame) in panels {
        let text = format!("{what}: {} samples", frame.samples);
        let _ = writeln!(body, r##"<text x="4" y="{top:.0}" font-size="14">{}</text>"##, escaped(&text));
        let scale = WIDTH / frame.samples as f64;
        let rows = frame.depth(NARROWEST / scale) as f64;
        draw_below(&mut body, frame, (0.0, top + 8.0), scale);
        top += rows * ROW + 48.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top:.0}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// What a frame called, side by side below it.
fn draw_below(body: &mut String, frame: &Frame, (left, top): (f64, f64), scale: f64) {
    let mut x = left;
    for (name, below) in &frame.below {
        let width = below.samples as f64 * scale;
        if width >= NARROWEST {
            let part = below.samples as f64 * scale / WIDTH * 100.0;
            let letters = ((width - 6.0) / LETTER).max(0.0) as usize;
            let label: String = if letters < 3 { String::new() } else { name.chars().take(letters).collect() };
            let _ = writeln!(
                body,
                r##"<g><title>{} {part:.1} %</title><rect x="{x:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="{}"/><text x="{:.1}" y="{:.1}">{}</text></g>"##,
                escaped(name),
                width - 0.5,
                ROW - 1.0,
                colour(name),
                x + 3.0,
                top + 12.0,
                escaped(&label)
            );
            draw_below(body, below, (x, top + ROW), scale);
        }
        x += width;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_others_do_not_count() {
        let text = "a \n\t 1 lifeboat_fs::x::<impl lifeboat_fs::y::Z>::copy (/t/liblifeboat_preload.so)\n\
                    \t 2 write (/t/liblifeboat_preload.so)\n\t 3 main (/t/lifeboat)\n\n\
                    a \n\t 1 write (/lib/libc.so.6)\n\t 2 main (/t/lifeboat)\n\n\
                    a \n\t 9 open (/t/liblifeboat_preload.so)\n";
        let frame = fold(text);
        assert_eq!((frame.samples, frame.depth(1.0), frame.depth(2.0)), (1, 2, 0));
        assert_eq!(frame.below["write"].below["fs::x::copy"].samples, 1);
    }

    #[test]
    fn names_lose_what_all_have() {
        assert_eq!(short("lifeboat_fs::a::<impl lifeboat_fs::b::C>::d::{{closure}}"), "fs::a::d");
        assert_eq!(short("__vdso_clock_gettime"), "__vdso_clock_gettime");
    }
}
