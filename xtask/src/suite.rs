//! Test programs: built once, run one after the other, counted.

use crate::confine::{self, MemoryCgroup, Stage};
use crate::failure::{Context, Failure, Outcome};
use crate::huge_pages::{Refused, SetAside};
use crate::report::Report;
use crate::run::{self, Running};
use crate::workspace::{self, Workspace};
use lifeboat_kernels::{Level, tuning};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One test program.
#[derive(Clone)]
pub struct Program {
    /// Package and target, as in `lifeboat-fs/rename`.
    pub name: String,
    /// The package that it belongs to.
    pub package: String,
    executable: PathBuf,
    /// The folder of the package.
    pub folder: PathBuf,
}

/// Builds the tests of all packages but the interception library, which is tested by what it does to programs.
pub fn build(workspace: &Workspace) -> Outcome<Vec<Program>> {
    let mut command = workspace::cargo();
    command.current_dir(&workspace.root).args(["test", "--quiet", "--workspace", "--exclude", "lifeboat-preload"]);
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
    if !output.status.success() {
        return Err(Failure::new(format!("the tests cannot be built: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut programs = Vec::new();
    for message in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (Some(executable), true) = (message["executable"].as_str(), message["profile"]["test"] == true) else {
            continue;
        };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        let member = workspace.members.iter().find(|member| member.folder.join("Cargo.toml") == manifest);
        let package = member.map_or("", |member| member.name.as_str());
        let target = message["target"]["name"].as_str().unwrap_or_default();
        programs.push(Program {
            name: if target.replace('_', "-") == package {
                format!("{package}/unit")
            } else {
                format!("{package}/{target}")
            },
            package: package.to_owned(),
            executable: PathBuf::from(executable),
            folder: manifest.parent().unwrap_or(manifest).to_owned(),
        });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Where and as whom test programs run.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Said beside the names of tests.
    pub label: &'a str,
    /// Folder with `lifeboat` and `liblifeboat_preload.so`.
    pub binaries: &'a Path,
    /// The long harnesses, too.
    pub full: bool,
    /// The user to become, with the folders that he has; none: as we are.
    pub user: Option<User<'a>>,
    /// The cgroup to run in.
    pub cgroup: Option<&'a MemoryCgroup>,
    /// Instructions that the programs and what they start may use at most; none: all that the machine has.
    pub kernels: Option<Level>,
}

/// An ordinary user.
#[derive(Clone, Copy)]
pub struct User<'a> {
    /// His number.
    pub number: u32,
    /// Folder with copies of what he runs.
    pub stage: &'a Stage,
    /// His home.
    pub home: &'a Path,
    /// His folder for temporary files.
    pub temporary: &'a Path,
}

impl Setting<'_> {
    fn command(&self, program: &Program) -> Outcome<Command> {
        let executable = match &self.user {
            Some(user) => user.stage.copy(&program.executable)?,
            None => program.executable.clone(),
        };
        let mut command = Command::new(&executable);
        if self.user.is_some() || self.cgroup.is_some() {
            command = Command::new(confine::THIS_PROGRAM);
            command.arg("confined");
            if let Some(user) = &self.user {
                command.args(["--user", &user.number.to_string()]);
            }
            if let Some(cgroup) = self.cgroup {
                command.arg("--cgroup").arg(cgroup.folder());
            }
            command.arg("--").arg(&executable);
        }
        command.arg("--show-output").current_dir(&program.folder);
        if self.full {
            command.arg("--include-ignored").env("LIFEBOAT_FULL", "1");
        }
        command
            .env("LIFEBOAT_BIN_DIR", self.binaries)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .env("RUST_BACKTRACE", "1")
            .env_remove(tuning::LEVEL_KEY);
        if let Some(level) = self.kernels {
            command.env(tuning::LEVEL_KEY, level.name());
        }
        if let Some(user) = &self.user {
            command.current_dir(user.home).env("HOME", user.home).env("TMPDIR", user.temporary);
            command.env("CARGO_MANIFEST_DIR", user.stage.package(&program.folder));
            for name in ["USER", "LOGNAME", "MAIL", "XDG_RUNTIME_DIR", "SUDO_USER", "SUDO_UID"] {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    fn kills(&self) -> u64 {
        self.cgroup.map_or(0, MemoryCgroup::kills)
    }

    /// What an ordinary user's tests of carriers need and only root can set aside.
    fn huge_pages_for(&self, program: &Program, report: &mut Report) -> Outcome<Option<SetAside>> {
        /// For the largest region that a test makes in them.
        const COUNT: u64 = 16;
        if self.user.is_none() || program.package != "lifeboat-region" {
            return Ok(None);
        }
        match SetAside::make(COUNT) {
            Ok(pages) => Ok(Some(pages)),
            Err(Refused::NotHere(why)) => {
                report.skip(&format!("huge pages{}", self.label), &why);
                Ok(None)
            }
            Err(Refused::Failed(failure)) => Err(failure),
        }
    }

    /// Runs a test program and counts its tests.
    pub fn run(&self, program: &Program, report: &mut Report) -> Outcome {
        let kernels = self.kernels.map_or(String::new(), |level| format!(" ({})", level.name()));
        let name = format!("{}{}{kernels}", program.name, self.label);
        let limit = Duration::from_secs(if self.full { 5400 } else { 600 });
        let (start, kills) = (Instant::now(), self.kills());
        let pages = self.huge_pages_for(program, report)?;
        let mut command = self.command(program)?;
        command.envs(pages.as_ref().map(SetAside::promise));
        let finished = Running::start(&mut command)?.finish(limit, &mut |_| ());
        drop(pages);
        let finished = match finished {
            Ok(finished) => finished,
            Err(failure) if crate::processes::interrupted() => return Err(failure),
            Err(failure) => {
                report.fail(&name, &failure.to_string());
                return Ok(());
            }
        };
        let told = Told::from_output(&finished.output);
        count(&name, self.label, &told, report);
        let failed = !told.failed.is_empty();
        if !finished.status.success() && !failed {
            report.fail(&name, &format!("the test program ended with {}", finished.status));
        }
        if failed || !finished.status.success() {
            println!("{}", run::last_lines(&finished.output, 200));
        }
        if self.kills() > kills {
            report.note(&format!("{name}: the kernel killed {} of its processes for memory", self.kills() - kills));
        }
        let later = if told.ignored > 0 { format!(", {} only with --full", told.ignored) } else { String::new() };
        let seconds = start.elapsed().as_secs_f64();
        report.note(&format!(
            "{name}: {} passed, {} failed{later}, {seconds:.1} s",
            told.passed.len(),
            told.failed.len()
        ));
        Ok(())
    }
}

/// Whether a skip names a test: by its own name, or behind the kind of skip and a comma.
fn names_whole(skip: &str, test: &str) -> bool {
    skip == test || test.ends_with(&format!("::{skip}")) || skip.ends_with(&format!(", {test}"))
}

fn count(name: &str, label: &str, told: &Told, report: &mut Report) {
    for test in &told.failed {
        report.fail(&format!("{name}: {test}"), "see its output below");
    }
    // A test that skipped all of itself has said its own name, and has not passed.
    let skipped_whole = |test: &&String| told.skipped.iter().any(|(what, _)| names_whole(what, test));
    report.passes(told.passed.iter().filter(|test| !skipped_whole(test)).count());
    for (what, why) in &told.skipped {
        report.skip(&format!("{what}{label}"), why);
    }
    for note in &told.notes {
        report.note(note);
    }
}

/// What a test program said.
#[derive(Default)]
struct Told {
    passed: Vec<String>,
    failed: Vec<String>,
    ignored: usize,
    skipped: BTreeSet<(String, String)>,
    notes: Vec<String>,
}

impl Told {
    fn from_output(output: &str) -> Self {
        let mut told = Self::default();
        // Behind the list of results come the tests' own outputs, in which results of their children may be quoted.
        let mut quoted = false;
        for line in output.lines() {
            quoted |= line == "successes:" || line == "failures:";
            if let Some(skip) = line.strip_prefix("skipped: ") {
                let (what, why) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
                told.skipped.insert((what.to_owned(), why.to_owned()));
            } else if line.starts_with("note: ")
                && !line.starts_with("note: run with")
                && !line.starts_with("note: Some details")
            {
                told.notes.push(line.to_owned());
            } else if let Some((test, result)) = result_in(line).filter(|_| !quoted) {
                let test = test.trim_end_matches(" - should panic").to_owned();
                match result {
                    "ok" => told.passed.push(test),
                    "FAILED" => told.failed.push(test),
                    _ if result.starts_with("ignored") => told.ignored += 1,
                    _ => {}
                }
            }
        }
        told
    }
}

/// From a line like "test a::b ... ok".
fn result_in(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.rsplit_once(" ... ")
}

/// Runs the examples in the documentation of all packages.
pub fn documentation(workspace: &Workspace, report: &mut Report) -> Outcome {
    let mut command = workspace::cargo();
    command.current_dir(&workspace.root).args([
        "test",
        "--quiet",
        "--doc",
        "--workspace",
        "--exclude",
        "lifeboat-preload",
    ]);
    let output = run::output_of(&mut command, Duration::from_secs(600))?;
    let results = output.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    let passed = results.filter_map(|line| line.split(' ').next()?.parse::<usize>().ok()).sum();
    report.passes(passed);
    report.note(&format!("{passed} examples in the documentation"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn no_result_of_a_test_program_is_overlooked() {
        let output = "running 4 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, long\n\
                      skipped: a::b: no right\ntest e - should panic ... ok\n\n\
                      failures:\n\n---- c stdout ----\ntest c ... FAILED\n";
        let told = Told::from_output(output);
        assert_eq!(told.passed, ["a::b", "e"]);
        assert_eq!(told.failed, ["c"]);
        assert_eq!(told.ignored, 1);
        assert!(told.skipped.contains(&("a::b".to_owned(), "no right".to_owned())));
    }
}
