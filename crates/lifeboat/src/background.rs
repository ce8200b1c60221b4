//! Processes of this program that go on behind the command: keepers, servers of mounts, words for other nodes.

use std::process::Command;

/// The program that runs, wherever its file has gone meanwhile.
const SELF: &str = "/proc/self/exe";

/// `lifeboat VERB`, for a process that belongs to no program, no directory and no mount.
pub fn own_command(verb: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(SELF);
    command.arg0("lifeboat").arg(verb);
    // The interception library would attach a region to the process, and lead its own look at the mount into the region.
    for name in ["LD_PRELOAD", "LIFEBOAT_REGION", "LIFEBOAT_MOUNT", "LIFEBOAT_PRELOAD"] {
        command.env_remove(name);
    }
    command.current_dir("/");
    command
}

/// A name for `ps`; without it the name would be that of the link to the program.
pub fn be_called(name: &str) {
    let _ = std::fs::write("/proc/self/comm", name);
}

/// Leaves the terminal: one that is closed or interrupted does not reach a session of its own.
pub fn leave_terminal() {
    let _ = rustix::process::setsid();
}
