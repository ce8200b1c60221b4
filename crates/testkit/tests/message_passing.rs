//! The fear: a message passing library, which watches what is mapped and unmapped to know when memory that it registered
//! goes away, misses it because of ours and sends the wrong bytes; or takes mapping and unmapping away from us. And: what
//! launches the ranks gets the library, too.
//!
//! `programs/transfers.c` exchanges messages between files of the mount that it maps, unmaps, cuts and maps again at the
//! same addresses. Each way runs on tmpfs without the library and in the mount with it.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::{self, compile, is_installed};
use lifeboat_testkit::report::{note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// For one run; a machine that is busy otherwise takes long.
const LIMIT: u32 = 120;
/// So often buffers are made, used and given back: all pairs of kinds.
const ROUNDS: &str = "16";

/// A way in which messages travel.
struct Way {
    name: &'static str,
    launcher: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const fn mpich(name: &'static str, environment: &'static [(&'static str, &'static str)]) -> Way {
    Way { name, launcher: "mpiexec.mpich", arguments: &[], environment }
}

const fn openmpi(name: &'static str, arguments: &'static [&'static str]) -> Way {
    Way { name, launcher: "mpiexec.openmpi", arguments, environment: &[] }
}

/// UCX's hooks are on where nothing else is said. Its way `reloc` is missing: UCX 1.13 waits for itself for ever.
const WAYS: &[Way] = &[
    mpich("MPICH, UCX", &[]),
    mpich("MPICH, UCX, code of functions replaced", &[("UCX_MEM_MMAP_HOOK_MODE", "bistro")]),
    mpich("MPICH, UCX without hooks", &[("UCX_MEM_MMAP_HOOK_MODE", "none")]),
    mpich("MPICH, UCX, out of the sender's memory", &[("UCX_TLS", "cma,posix,self"), ("UCX_RNDV_SCHEME", "get_zcopy")]),
    mpich("MPICH, UCX, shared memory", &[("UCX_TLS", "shm,self")]),
    mpich("MPICH, UCX, TCP", &[("UCX_TLS", "tcp,self")]),
    openmpi("Open MPI, UCX", UCX),
    openmpi("Open MPI, own messages", &["--mca", "pml", "ob1"]),
    openmpi(
        "Open MPI, own messages, memory stays registered",
        &["--mca", "pml", "ob1", "--mca", "mpi_leave_pinned", "1"],
    ),
    openmpi(
        "Open MPI, out of the sender's memory",
        &["--mca", "pml", "ob1", "--mca", "btl", "vader,self", "--mca", "btl_vader_single_copy_mechanism", "cma"],
    ),
];

/// UCX without a fast network, which Open MPI takes only when told; both have their hooks in.
const UCX: &[&str] = &[
    "--mca",
    "pml",
    "ucx",
    "--mca",
    "opal_common_ucx_tls",
    "any",
    "--mca",
    "opal_common_ucx_devices",
    "any",
    "--mca",
    "opal_common_ucx_opal_mem_hooks",
    "1",
];

/// `mpiexec -n RANKS`, to which the program is added.
fn launch(way: &Way, ranks: u32) -> Command {
    let mut command = Command::new(way.launcher);
    command.args(way.arguments).envs(way.environment.iter().copied());
    if way.launcher.contains("openmpi") {
        command.args(["--oversubscribe", "--mca", "orte_base_help_aggregate", "0"]);
    }
    command.args(["-n", &ranks.to_string()]);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

/// Adds `lifeboat exec ... --`.
fn below_exec(mut launcher: Command, mounted: &Mounted) -> Command {
    let exec = mounted.exec();
    launcher.arg(exec.get_program()).args(exec.get_args());
    launcher
}

fn run(command: &Command) -> Output {
    let output = limited(command, LIMIT).env_remove("LIFEBOAT_TESTKIT_ROLE").output().expect("start a launcher");
    assert_ne!(output.status.code(), Some(124), "{command:?} takes too long: {}", both(&output));
    output
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The region is whole and nothing was written past the mount.
fn finish(mounted: &Mounted) {
    assert_eq!(mounted.escaped(), [""; 0].map(PathBuf::from), "written past the mount");
    let files = attach(&mounted.directory()).expect("attach");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
#[ignore = "takes minutes; `cargo xtask test --full`"]
fn messages_between_mapped_files_arrive_whole_in_all_ways() {
    let _nothing_left = NoResidue::begin();
    let folder = ScratchDirectory::new("/tmp", "messages");
    let plain = ScratchDirectory::on_tmpfs("messages");
    let mut programs = Vec::new();
    for compiler in ["mpicc.mpich", "mpicc.openmpi"] {
        let own = folder.make(compiler);
        let Some(program) = compile(compiler, "transfers.c", &["-O1"], &own) else { return };
        programs.push(program);
    }
    for (number, way) in WAYS.iter().enumerate() {
        if !is_installed(way.launcher) {
            continue;
        }
        let program = &programs[usize::from(way.launcher.contains("openmpi"))];
        let alone = run(launch(way, 2).arg(program).arg(plain.path()).arg("4"));
        if !alone.status.success() {
            skipped(&format!("messages: {}", way.name), "does not work on this machine without the library either");
            continue;
        }
        one_way(way, &format!("messages-{number}"), program);
    }
}

fn one_way(way: &Way, label: &str, program: &Path) {
    let mounted = Mounted::new(label, "128MiB");
    let output = run(below_exec(launch(way, 2), &mounted).arg(program).arg(mounted.prefix()).arg(ROUNDS));
    let said = both(&output);
    assert!(output.status.success(), "{}: {said}", way.name);
    let line = said.lines().find(|line| line.ends_with("as sent"));
    note("messages", &format!("{}: {}", way.name, line.expect("a line of the first rank")));
    finish(&mounted);
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn what_launches_the_ranks_stays_free_of_the_library() {
    let _nothing_left = NoResidue::begin();
    let agent = programs::folder().join("outside/agent.sh");
    let agent = agent.to_str().expect("our paths are text");
    let here = |launcher| Way { name: "", launcher, arguments: &[], environment: &[] };
    let cases: [(Way, Vec<&str>, &[&str]); 4] = [
        (here("mpiexec.mpich"), vec![], &["hydra_pmi_proxy", "mpiexec"]),
        (
            here("mpiexec.mpich"),
            vec!["-launcher", "ssh", "-launcher-exec", agent, "-hosts", "elsewhere"],
            &["hydra_pmi_proxy", "mpiexec"],
        ),
        (here("mpiexec.openmpi"), vec![], &["mpiexec"]),
        (here("mpiexec.openmpi"), vec!["--mca", "plm_rsh_agent", agent, "--host", "elsewhere"], &["orted"]),
    ];
    for (way, arguments, expected) in cases {
        if !is_installed(way.launcher) {
            continue;
        }
        let mounted = Mounted::new("launchers", "64MiB");
        let mut launcher = launch(&way, 1);
        launcher.args(&arguments).env("STOP", std::process::id().to_string());
        let mut command = below_exec(launcher, &mounted);
        command
            .args(["env", &format!("STOP={}", std::process::id()), "sh"])
            .arg(programs::folder().join("outside/ancestors.sh"));
        let said = both(&run(&command));
        assert!(said.contains("own mapped"), "the rank itself does not have the library:\n{said}");
        for name in expected {
            assert!(said.lines().any(|line| line.starts_with(name)), "no {name} above the rank:\n{said}");
        }
        let touched: Vec<_> =
            said.lines().filter(|line| line.contains("mapped") || line.contains("environment")).collect();
        assert_eq!(touched, ["own mapped"], "{} {arguments:?}: {said}", way.launcher);
        finish(&mounted);
    }
}
