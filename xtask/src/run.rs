//! Running commands: with a time limit, every line seen as it comes, and nothing left behind.

use crate::failure::{Context, Failure, Outcome};
use crate::processes;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A command that runs; dropping it ends it and all that it started.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    status: Option<ExitStatus>,
    output: String,
}

/// What a command that ended said.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Both its outputs, by lines, in the order in which they came.
    pub output: String,
}

/// What [`Running::next`] saw.
pub enum Event {
    /// A line of one of the outputs.
    Line(String),
    /// Nothing for the time given.
    Quiet,
    /// The command has ended and all its lines were seen.
    Ended,
}

impl Running {
    /// Starts a command in a process group of its own, without input.
    pub fn start(command: &mut Command) -> Outcome<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context(format_args!("start {name}"))?;
        let (sender, lines) = channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);
        Ok(Self { child, lines, status: None, output: String::new() })
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The next thing that happens within `patience`. An interrupt by the developer is a failure.
    pub fn next(&mut self, patience: Duration) -> Outcome<Event> {
        let end = Instant::now() + patience;
        loop {
            if processes::interrupted() {
                return Err(Failure::new("interrupted"));
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(Duration::from_millis(20))) {
                Ok(line) => {
                    self.output.push_str(&line);
                    self.output.push('\n');
                    return Ok(Event::Line(line));
                }
                Err(RecvTimeoutError::Disconnected) => return self.wait_for_end(end),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.status.is_some() {
                // Ended, but something that it started still holds its output.
                return Ok(Event::Ended);
            }
            self.status = self.child.try_wait().context("wait for a command")?;
            if self.status.is_none() && Instant::now() >= end {
                return Ok(Event::Quiet);
            }
        }
    }

    fn wait_for_end(&mut self, end: Instant) -> Outcome<Event> {
        while self.status.is_none() {
            self.status = self.child.try_wait().context("wait for a command")?;
            if self.status.is_none() {
                if processes::interrupted() {
                    return Err(Failure::new("interrupted"));
                }
                if Instant::now() >= end {
                    return Ok(Event::Quiet);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(Event::Ended)
    }

    /// Waits for the end, giving every line to `seen`. A command that takes longer than `limit` is ended: a failure.
    pub fn finish(mut self, limit: Duration, seen: &mut dyn FnMut(&str)) -> Outcome<Finished> {
        let end = Instant::now() + limit;
        loop {
            match self.next(end.saturating_duration_since(Instant::now()))? {
                Event::Line(line) => seen(&line),
                Event::Ended => break,
                Event::Quiet if Instant::now() < end => {}
                Event::Quiet => {
                    let tail = last_lines(&self.output, 20);
                    return Err(Failure::new(format!(
                        "still running after {} s, ended; its last lines:\n{tail}",
                        limit.as_secs()
                    )));
                }
            }
        }
        match self.status {
            Some(status) => Ok(Finished { status, output: std::mem::take(&mut self.output) }),
            None => Err(Failure::new("a command ended without a status")),
        }
    }

    /// What was said so far.
    pub fn output(&self) -> &str {
        &self.output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        processes::end_tree(self.pid());
        let _ = self.child.wait();
    }
}

fn forward(stream: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line);
            if lines.send(text.trim_end_matches('\n').to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// The last lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs a command to its end and gives its outputs; a bad end is a failure with the last lines.
pub fn output_of(command: &mut Command, limit: Duration) -> Outcome<String> {
    let shown = describe(command);
    let finished = Running::start(command)?.finish(limit, &mut |_| ())?;
    if finished.status.success() {
        return Ok(finished.output);
    }
    Err(Failure::new(format!("{shown}: {}\n{}", finished.status, last_lines(&finished.output, 30))))
}

/// Runs a command whose output is the developer's to see, as cargo's is.
pub fn visibly(command: &mut Command) -> Outcome {
    let shown = describe(command);
    let status = command.stdin(Stdio::null()).status().context(format_args!("start {shown}"))?;
    if processes::interrupted() {
        return Err(Failure::new("interrupted"));
    }
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{shown}: {status}"))) }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
