//! Fuzzing on the stable toolchain: inputs of bytes, changed at random, kept when they reach code that none reached before.
//!
//! Coverage comes from LLVM's counters (`-C passes=sancov-module`), which `cargo xtask fuzz` builds in; without them, as
//! in the quick set, inputs are only replayed and changed.

mod configuration;
mod coverage;
mod environment;
mod operations;
mod paths;
mod regions;

use crate::child::setting;
use crate::random::Random;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use coverage::Coverage;

/// Longest input.
const LONGEST: usize = 4096;
/// An input that takes longer hangs.
const LIMIT: u32 = 20;

/// Something that takes bytes.
pub trait Target {
    /// Tries an input. An error is a wrong answer; a fault ends the process.
    fn run(&mut self, input: &[u8]) -> Result<(), String>;
}

/// Names of the targets.
pub const TARGETS: [&str; 5] = ["region", "operations", "paths", "configuration", "environment"];

/// The target of this name.
pub fn target(name: &str) -> Option<Box<dyn Target>> {
    Some(match name {
        "region" => Box::new(regions::Regions::new()),
        "operations" => Box::new(operations::Operations::new()),
        "paths" => Box::new(paths::Paths::new()),
        "configuration" => Box::new(configuration::Configuration::new()),
        "environment" => Box::new(environment::Environment::new()),
        _ => return None,
    })
}

/// What a run of the fuzzer did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Inputs tried.
    pub executions: u64,
    /// Places in the code that were reached, if they were counted.
    pub edges: u64,
    /// Places in the code that are counted.
    pub edges_total: u64,
    /// Inputs kept because they reached something new, with those of the corpus.
    pub kept: u64,
}

impl Done {
    /// One line for programs.
    pub fn line(&self, target: &str, seed: u64) -> String {
        format!(
            "fuzz: target={target} executions={} edges={} edges_total={} kept={} crashes=0 seed={seed}",
            self.executions, self.edges, self.edges_total, self.kept
        )
    }
}

/// The committed inputs of a target: lines of hexadecimal digits, or of text after a `:`.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let text = match target {
        "region" => include_str!("corpus/region.txt"),
        "operations" => include_str!("corpus/operations.txt"),
        "paths" => include_str!("corpus/paths.txt"),
        "environment" => include_str!("corpus/environment.txt"),
        _ => include_str!("corpus/configuration.txt"),
    };
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.strip_prefix(':').map_or_else(|| from_hex(line), |text| text.as_bytes().to_vec())).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect()
}

/// Bytes as hexadecimal digits, as the corpus has them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Changes an input a little, or joins it with another.
fn change(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        match random.below(9) {
            0 if !input.is_empty() => {
                let last = input.len() - 1;
                input[at.min(last)] ^= 1 << random.below(8);
            }
            1 if !input.is_empty() => {
                let last = input.len() - 1;
                input[at.min(last)] = random.word() as u8;
            }
            2 => input.insert(at, random.word() as u8),
            3 if !input.is_empty() => {
                input.remove(at.min(input.len() - 1));
            }
            4 => {
                let count = random.below(16) as usize;
                input.splice(at..at, (0..count).map(|_| random.word() as u8));
            }
            5 => {
                let end = (at + random.below(32) as usize).min(input.len());
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() as u64 + 1) as usize;
                input.splice(to..to, piece);
            }
            6 => input.truncate(at),
            7 if !other.is_empty() => {
                let from = random.below(other.len() as u64) as usize;
                let end = (from + 1 + random.below(64) as usize).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let special = random.pick(&[0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'\n', b' ', b'-', b'9']);
                let count = if random.chance(90) { 1 } else { 1 + random.below(300) as usize };
                input.splice(at..at, std::iter::repeat_n(special, count));
            }
        }
    }
    input.truncate(LONGEST);
}

/// Tries the corpus, then inputs made of it, for that long. The input being tried is in the file `current`.
pub fn run(name: &str, time: Duration, seed: u64, current: &Path) -> Result<Done, String> {
    let mut target = target(name).ok_or_else(|| format!("no such target: {name}"))?;
    let mut coverage = Coverage::new();
    let mut random = Random::new(seed);
    let mut pool = corpus(name);
    let mut done = Done::default();
    let start = Instant::now();
    let mut attempt = |input: &[u8], coverage: &mut Coverage, done: &mut Done| -> Result<bool, String> {
        std::fs::write(current, input).map_err(|error| error.to_string())?;
        // SAFETY: only arms the timer of this process, whose signal ends it.
        unsafe { libc::alarm(LIMIT) };
        coverage.reset();
        let result = target.run(input);
        let new = coverage.learn();
        // SAFETY: as above.
        unsafe { libc::alarm(0) };
        done.executions += 1;
        result.map(|()| new).map_err(|text| format!("{text}; input {}", hex(input)))
    };
    for input in pool.clone() {
        attempt(&input, &mut coverage, &mut done)?;
    }
    if pool.is_empty() {
        pool.push(Vec::new());
    }
    while start.elapsed() < time {
        let mut input = pool[random.below(pool.len() as u64) as usize].clone();
        let other = pool[random.below(pool.len() as u64) as usize].clone();
        change(&mut random, &mut input, &other);
        if attempt(&input, &mut coverage, &mut done)? {
            pool.push(input);
        }
    }
    (done.edges, done.edges_total) = coverage.reached();
    done.kept = pool.len() as u64;
    if let Ok(folder) = std::env::var("LIFEBOAT_FUZZ_KEEP") {
        let text: String = pool.iter().map(|input| hex(input) + "\n").collect();
        std::fs::write(PathBuf::from(folder).join(format!("{name}.txt")), text).map_err(|error| error.to_string())?;
    }
    Ok(done)
}

/// The role of a process that fuzzes one target: reports one line, or the wrong answer.
pub fn play() {
    let (name, seed) = (setting("TARGET"), crate::child::number("SEED"));
    let time = Duration::from_millis(crate::child::number("MILLISECONDS"));
    match run(&name, time, seed, Path::new(&setting("CURRENT"))) {
        Ok(done) => crate::child::report(&done.line(&name, seed)),
        Err(text) => crate::child::report(&format!("wrong: {name}: {text}")),
    }
}
