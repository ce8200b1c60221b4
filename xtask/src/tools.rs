//! What the machine must have: looked for, and installed by apt when missing.

use crate::failure::{Failure, Outcome};
use crate::run;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a tool is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `cargo xtask test`
    Test,
    /// `cargo xtask test --full`
    Full,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask demo --lammps`
    Lammps,
}

struct Tool {
    /// A program in PATH, or a file when it begins with a slash, that shows that the package is there.
    sign: &'static str,
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
}

const fn tool(sign: &'static str, package: &'static str, why: &'static str, purposes: &'static [Purpose]) -> Tool {
    Tool { sign, package, why, purposes }
}

const TOOLS: &[Tool] = &[
    tool("git", "git", "runs unmodified under interception", &[Purpose::Test]),
    tool("gcc", "gcc", "compiles test programs and the solver in C", &[Purpose::Test, Purpose::Demo]),
    tool("/usr/include/stdio.h", "libc6-dev", "headers for them", &[Purpose::Test, Purpose::Demo]),
    tool("g++", "g++", "compiles test programs in C++", &[Purpose::Test]),
    tool("gfortran", "gfortran", "compiles test programs and the solver in Fortran", &[Purpose::Test, Purpose::Demo]),
    tool("python3", "python3", "runs unmodified under interception", &[Purpose::Test]),
    tool("find", "findutils", "runs unmodified under interception", &[Purpose::Test]),
    tool("tar", "tar", "runs unmodified under interception", &[Purpose::Test]),
    tool("gzip", "gzip", "runs unmodified under interception", &[Purpose::Test]),
    tool("dash", "dash", "runs unmodified under interception", &[Purpose::Test]),
    tool("bash", "bash", "runs unmodified under interception", &[Purpose::Test]),
    tool("fusermount3", "fuse3", "mounts regions for ordinary users", &[Purpose::Test]),
    tool("go", "golang-go", "compiles a test program without libc", &[Purpose::Test]),
    tool("/usr/sbin/setcap", "libcap2-bin", "gives a test program rights of its own", &[Purpose::Test]),
    tool("make", "make", "builds below the mount", &[Purpose::Full]),
    tool("/usr/src/binutils", "binutils-source", "is built outside the mount", &[Purpose::Full]),
    tool("xz", "xz-utils", "unpacks it", &[Purpose::Full]),
    tool("flex", "flex", "builds it", &[Purpose::Full]),
    tool("fio", "fio", "writes and verifies below the mount", &[Purpose::Full]),
    tool("sqlite3", "sqlite3", "keeps databases below the mount", &[Purpose::Full]),
    tool("/usr/lib/python3/dist-packages/lmdb", "python3-lmdb", "maps databases below the mount", &[Purpose::Full]),
    tool("rsync", "rsync", "copies trees below the mount", &[Purpose::Test]),
    tool("h5repack", "hdf5-tools", "reads and writes HDF5 files below the mount", &[Purpose::Full]),
    tool(
        "/usr/share/doc/libpython3.*-testsuite",
        r"^libpython3\.[0-9]+-testsuite$",
        "Python's tests",
        &[Purpose::Full],
    ),
    tool("mpiexec.mpich", "mpich", "runs the solvers", &[Purpose::Demo, Purpose::Full]),
    tool("mpicc.mpich", "libmpich-dev", "compiles the solvers", &[Purpose::Demo, Purpose::Full]),
    tool("mpiexec.openmpi", "openmpi-bin", "runs LAMMPS", &[Purpose::Lammps, Purpose::Full]),
    tool(
        "/usr/lib/x86_64-linux-gnu/openmpi/include/mpi.h",
        "libopenmpi-dev",
        "compiles a test program",
        &[Purpose::Full],
    ),
    tool("lmp", "lammps", "the application that is killed and restarted", &[Purpose::Lammps]),
];

/// Whether a program is in PATH, or a file there; its name may have one `*`.
pub fn present(sign: &str) -> bool {
    if sign.starts_with('/') {
        return Path::new(sign).exists() || any_is_named(Path::new(sign));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(sign).is_file())
}

fn any_is_named(pattern: &Path) -> bool {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    let Some((before, after)) = name.split_once('*') else { return false };
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(before));
        rest.is_some_and(|rest| rest.ends_with(after))
    })
}

/// Installs what is missing for these purposes, telling first. Quiet when nothing is missing.
pub fn prepare(purposes: &[Purpose]) -> Outcome {
    let fits = |tool: &&Tool| tool.purposes.iter().any(|purpose| purposes.contains(purpose));
    let missing: Vec<_> = TOOLS.iter().filter(fits).filter(|tool| !present(tool.sign)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    let listed = packages.join(" ");
    let told: Vec<_> = missing.iter().map(|tool| format!("{} ({})", tool.package, tool.why)).collect();
    if !present("apt-get") {
        return Err(Failure::new(format!("missing, and there is no apt-get to install it: {}", told.join(", "))));
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !sudo_works() {
        return Err(Failure::new(format!(
            "missing: {listed}; no right to install it: run `sudo apt-get install {listed}` and come back"
        )));
    }
    println!("installing by apt: {}", told.join(", "));
    let install = || apt(root, &[&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat());
    if install().is_err() {
        apt(root, &["update"])?;
        install()?;
    }
    match missing.iter().find(|tool| !present(tool.sign)) {
        Some(tool) => Err(Failure::new(format!("apt installed {}, but there is still no {}", tool.package, tool.sign))),
        None => Ok(()),
    }
}

/// Sudo may ask for a password only where somebody can type it.
fn sudo_works() -> bool {
    present("sudo")
        && (std::io::stdin().is_terminal()
            || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success()))
}

fn apt(root: bool, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root && !std::io::stdin().is_terminal() {
        command.arg("-n");
    } else if !root {
        // A password is asked for on the terminal; later calls find the permission still given.
        run::visibly(Command::new("sudo").arg("-v"))?;
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    run::output_of(&mut command, Duration::from_secs(900)).map(|_| ())
}
