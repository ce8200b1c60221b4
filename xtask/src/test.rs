//! `cargo xtask test`: everything that the project promises on every change.

use crate::checks::{faults, floors, licences, no_std};
use crate::confine::{MemoryCgroup, Stage, unused_user};
use crate::failure::{Failure, Outcome};
use crate::huge_pages;
use crate::report::Report;
use crate::residue::Surroundings;
use crate::suite::{self, Program, Setting, User};
use crate::tools::{self, Purpose};
use crate::workspace::{self, Workspace};
use crate::{processes, run};
use lifeboat_kernels::Level;
use std::path::Path;
use std::time::Instant;

/// Packages whose tests run a second time as an ordinary user in a small cgroup.
const TWICE: &[&str] = &["lifeboat-testkit", "lifeboat-region"];

/// Of those, the ones that look at the source, which is the same for all users and may be closed to this one.
const SOURCE_ONLY: &[&str] = &["lifeboat-region/stores", "lifeboat-testkit/call_surface"];

/// Shows that non-temporal stores are fenced: with scalar instructions there are none.
const LITMUS: &str = "lifeboat-kernels/litmus_publication";

/// Test programs in which the data path matters, with those that show which instructions run: repeated with fewer
/// instructions.
const ON_DATA_PATH: &[&str] = &[
    LITMUS,
    "lifeboat-testkit/kernel_levels",
    "lifeboat-testkit/model_against_tmpfs",
    "lifeboat-testkit/a_killed_writer_loses_nothing",
    "lifeboat-testkit/full_region",
    "lifeboat-testkit/mapped_space",
    "lifeboat-testkit/unmodified_programs",
];

/// The stages in the order in which they run.
const STAGES: &[&str] =
    &["format", "clippy", "deny", "floors", "faults", "no_std", "build", "crates", "root", "user", "kernels"];

/// Those of them that run test programs.
const RUNNING: &[&str] = &["crates", "root", "user", "kernels"];

/// What to test.
#[derive(clap::Args)]
pub struct Options {
    /// Also the long harnesses, and `cargo deny` (installed if missing)
    #[arg(long)]
    full: bool,
    /// Only this stage (format, clippy, deny, floors, faults, no_std, build, crates, root, user, kernels), or this package or
    /// test program
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

impl Options {
    /// Stages that others need are run when those are.
    fn wants(&self, stage: &str) -> bool {
        match self.only.as_deref() {
            None => true,
            Some(only) if only == stage => true,
            Some(only) if stage == "build" => !STAGES.contains(&only) || RUNNING.contains(&only),
            Some(only) => !STAGES.contains(&only) && RUNNING.contains(&stage),
        }
    }

    fn wants_program(&self, program: &Program) -> bool {
        let only = self.only.as_deref().filter(|only| !STAGES.contains(only));
        only.is_none_or(|only| {
            program.package == only || program.package == format!("lifeboat-{only}") || program.name.contains(only)
        })
    }
}

/// Runs the stages and closes with the counts.
pub fn run(options: &Options) -> Outcome {
    let start = Instant::now();
    tools::prepare(if options.full { &[Purpose::Test, Purpose::Full] } else { &[Purpose::Test] })?;
    let workspace = Workspace::read()?;
    workspace::check_toolchain(&workspace)?;
    let mut report = Report::with_allowed_skips(&workspace.root.join("xtask/allowed_skips.txt"))?;
    let before = Surroundings::before_tests();
    let _restore = huge_pages::Restore::at_the_end();
    check_source(options, &workspace, &mut report)?;
    if options.wants("build") {
        run_programs(options, &workspace, &mut report)?;
    }
    let left = before.left();
    report.stage("residue", "no file, mount or process is left behind", |report| nothing_left(&left, report))?;
    println!("{:.0} s altogether", start.elapsed().as_secs_f64());
    report.close()
}

fn nothing_left(left: &[String], report: &mut Report) -> Outcome {
    if left.is_empty() {
        report.pass();
        return Ok(());
    }
    let (shown, more) = left.split_at(left.len().min(10));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Err(Failure::new(format!("left behind: {}{more}", shown.join(", "))))
}

fn check_source(options: &Options, workspace: &Workspace, report: &mut Report) -> Outcome {
    type Check<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Report) -> Outcome);
    let cargo = |arguments: &[&str]| run::visibly(workspace::cargo().current_dir(&workspace.root).args(arguments));
    let clippy = |_: &mut Report| {
        cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--exclude",
            "lifeboat-preload",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])?;
        cargo(&["clippy", "--quiet", "--package", "lifeboat-preload", "--", "-D", "warnings"])
    };
    let checks: [Check; 6] = [
        ("format", "rustfmt has nothing to change", &|_| cargo(&["fmt", "--all", "--", "--check", "-l"])),
        ("clippy", "no warning", &clippy),
        ("deny", "licences, banned crates, sources", &|report| deny(options, workspace, report)),
        ("floors", "imports never go up", &|_| floors::check(workspace)),
        ("faults", "every fault has its tests", &|_| faults::check(workspace)),
        ("no_std", "nothing turns on std below the hooks", &|_| no_std::check_source(workspace)),
    ];
    for (name, what, check) in checks.into_iter().filter(|(name, ..)| options.wants(name)) {
        report.stage(name, what, |report| {
            check(report)?;
            report.pass();
            Ok(())
        })?;
    }
    Ok(())
}

/// Compiling cargo-deny takes longer than all quick checks together: it is used where it is, and installed for --full.
fn deny(options: &Options, workspace: &Workspace, report: &mut Report) -> Outcome {
    licences::check(workspace)?;
    if !tools::present("cargo-deny") && options.full {
        report.note("installing cargo-deny");
        run::visibly(workspace::cargo().args(["install", "--quiet", "--locked", "cargo-deny"]))?;
    }
    if !tools::present("cargo-deny") {
        report.skip(
            "cargo deny",
            "not installed (`cargo install --locked cargo-deny`, or --full); xtask made the checks itself",
        );
        return Ok(());
    }
    let mut command = workspace::cargo();
    command.current_dir(&workspace.root).args(["deny", "--log-level", "error", "check", "--hide-inclusion-graph"]);
    run::output_of(command.args(["licenses", "bans", "sources"]), std::time::Duration::from_secs(300))?;
    Ok(())
}

fn run_programs(options: &Options, workspace: &Workspace, report: &mut Report) -> Outcome {
    let mut programs = Vec::new();
    let mut binaries = None;
    report.stage("build", "the command, the interception library, the tests", |report| {
        let folder = workspace.build_release()?;
        no_std::check_library(&folder.join("liblifeboat_preload.so"))?;
        binaries = Some(folder);
        programs = suite::build(workspace)?;
        report.pass();
        Ok(())
    })?;
    // Nothing was built: that has been said.
    let Some(folder) = binaries.filter(|_| !programs.is_empty()) else { return Ok(()) };
    let stage = Stage::make("test")?;
    for name in ["lifeboat", "liblifeboat_preload.so"] {
        stage.copy(&folder.join(name))?;
    }
    programs.retain(|program| options.wants_program(program));
    let all =
        Setting { label: "", binaries: stage.folder(), full: options.full, user: None, cgroup: None, kernels: None };
    let (twice, once): (Vec<_>, Vec<_>) = programs.into_iter().partition(|p| TWICE.contains(&p.package.as_str()));
    if let Some(only) = options.only.as_deref().filter(|_| twice.is_empty() && once.is_empty()) {
        return Err(Failure::new(format!("no stage, package or test program is called {only}")));
    }
    if options.wants("crates") {
        let documentation = options.only.is_none();
        run_stage("crates", "tests of the crates", &all, &once, report, |report| {
            if documentation { suite::documentation(workspace, report) } else { Ok(()) }
        })?;
    }
    let root = rustix::process::geteuid().is_root();
    if options.wants("root") && root {
        let setting = Setting { label: " (root)", ..all };
        run_stage("root", "whole programs and carriers, as root", &setting, &twice, report, |_| Ok(()))?;
    } else if options.wants("root") {
        report.stage("root", "whole programs and carriers, as root", |report| {
            report.skip("root", "we are not root");
            Ok(())
        })?;
    }
    if options.wants("user") {
        let again = |program: &&Program| !root || !SOURCE_ONLY.contains(&program.name.as_str());
        let programs: Vec<_> = twice.iter().filter(again).cloned().collect();
        as_ordinary_user(&all, &stage, &programs, root, report)?;
    }
    if options.wants("kernels") {
        let label = if root { " (root)" } else { " (user)" };
        let programs = on_data_path(&[once, twice].concat(), options.only.is_some())?;
        with_fewer_instructions(&Setting { label, ..all }, &programs, report)?;
    }
    Ok(())
}

/// Those of the programs that are repeated with fewer instructions. All must be there unless some were asked for.
fn on_data_path(programs: &[Program], selected: bool) -> Outcome<Vec<Program>> {
    let find = |name: &&str| programs.iter().find(|program| program.name == **name).cloned();
    match ON_DATA_PATH.iter().find(|name| !selected && find(name).is_none()) {
        Some(name) => Err(Failure::new(format!("no test program is called {name}; correct the list in xtask"))),
        None => Ok(ON_DATA_PATH.iter().filter_map(find).collect()),
    }
}

/// The data path once more at each level below this machine's best.
fn with_fewer_instructions(all: &Setting, programs: &[Program], report: &mut Report) -> Outcome {
    let best = lifeboat_kernels::level();
    for level in Level::ALL.into_iter().filter(|level| *level < best) {
        // The long harnesses have run once: what they are long for are not these instructions.
        let setting = Setting { kernels: Some(level), full: false, ..*all };
        let fitting: Vec<Program> =
            programs.iter().filter(|program| level > Level::Scalar || program.name != LITMUS).cloned().collect();
        run_stage("kernels", "the data path once more", &setting, &fitting, report, |_| Ok(()))?;
    }
    Ok(())
}

fn run_stage(
    name: &str,
    what: &str,
    setting: &Setting,
    programs: &[Program],
    report: &mut Report,
    more: impl FnOnce(&mut Report) -> Outcome,
) -> Outcome {
    let before = Surroundings::before_tests();
    let level = setting.kernels.unwrap_or_else(lifeboat_kernels::level);
    report.stage(name, &format!("{what}; kernels: {}", level.name()), |report| {
        for program in programs {
            setting.run(program, report)?;
        }
        more(report)?;
        nothing_left(&before.left(), report)
    })
}

fn as_ordinary_user(all: &Setting, stage: &Stage, programs: &[Program], root: bool, report: &mut Report) -> Outcome {
    let cgroup = match MemoryCgroup::make() {
        Ok(cgroup) => Some(cgroup),
        Err(failure) => {
            report.skip("confinement", &failure.to_string());
            None
        }
    };
    let number = if root { unused_user()? } else { rustix::process::geteuid().as_raw() };
    let owner = root.then_some(number);
    let (home, temporary) = (stage.folder_of("home", owner)?, stage.folder_of("tmp", owner)?);
    if root {
        // The checkout may lie in somebody's private folder.
        for program in programs {
            stage.copy_package(&program.folder)?;
        }
    }
    let user = root.then_some(User { number, stage, home: &home, temporary: &temporary });
    let setting = Setting { label: " (user)", user, cgroup: cgroup.as_ref(), ..*all };
    let place = if cgroup.is_some() { ", in 512 MiB" } else { "" };
    if let (Some(cgroup), Some(user)) = (&cgroup, owner) {
        cgroup.give_to(user)?;
    }
    let what = format!("whole programs and carriers, as user {number}{place}");
    run_stage("user", &what, &setting, programs, report, |_| Ok(()))?;
    if root {
        remove_users_directory(number, report);
    }
    processes::end_all();
    Ok(())
}

/// The user existed for this run only: so does his directory for regions, which must be empty.
fn remove_users_directory(number: u32, report: &mut Report) {
    let folder = format!("/dev/shm/lifeboat-{number}");
    if Path::new(&folder).exists()
        && let Err(error) = std::fs::remove_dir(&folder)
    {
        report.fail("user", &format!("cannot remove {folder}: {error}"));
    }
}
