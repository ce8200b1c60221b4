//! The fear: a region larger than the job's memory limit gets the job killed by the kernel.

use lifeboat_testkit::cgroup::{MemoryCgroup, memory_left};
use lifeboat_testkit::command::{self, Mounted};
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

const LIMIT: u64 = 160 << 20;

/// What one takes is not left for the other, and comes back while that asks.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_region_larger_than_all_memory_that_is_left_is_refused() {
    let _alone = alone();
    let _nothing_left = NoResidue::begin();
    let mut tries = 0;
    let (mounted, size, output) = loop {
        let mounted = Mounted::new("memory", "8MiB");
        // Whatever limits this process already has, its own group's or the machine's.
        let size = (memory_left() >> 20) + 64;
        let output = command::lifeboat(["region", "create", mounted.name(), "--size", &format!("{size}MiB")]).output();
        let output = output.expect("start lifeboat");
        if !output.status.success() || tries == 5 {
            break (mounted, size, output);
        }
        // Clean pages of files count as taken here, and were given back for the region: then it did fit.
        drop(mounted);
        assert!(memory_left() >= size << 20, "{size} MiB: a region larger than what is left was made");
        tries += 1;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), None, "the command was killed; it said {said:?}");
    assert!(!output.status.success(), "{size} MiB: a region larger than what is left was made");
    assert_eq!(said.trim_end().lines().count(), 1, "not one line: {said:?}");
    assert!(!mounted.directory().exists(), "a refused region left its directory");
}

#[test]
fn a_region_larger_than_the_memory_limit_is_refused_and_nothing_is_killed() {
    let _alone = alone();
    let _nothing_left = NoResidue::begin();
    let group = match MemoryCgroup::new(LIMIT) {
        Ok(group) => group,
        Err(why) => return skipped("region larger than the control group allows", &why),
    };
    for size in ["192MiB", "160MiB", "8GiB", "1TiB"] {
        let mounted = Mounted::new("cgroup", size);
        let mut create = group.command(&command::path());
        create.args(["region", "create", mounted.name(), "--size", size]);
        let output = create.output().expect("start lifeboat");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), None, "{size}: the command was killed; it said {said:?}");
        assert!(!output.status.success(), "{size}: a region larger than the limit was made");
        assert_eq!(said.trim_end().lines().count(), 1, "{size}: not one line: {said:?}");
        assert!(said.contains("memory") || said.contains("limit"), "{size}: does not say why: {said:?}");
        assert_eq!((group.kills(), group.hits()), (0, 0), "{size}: the limit was hit");
        assert!(!mounted.directory().exists(), "{size}: a refused region left its directory");
    }
    // One that fits, all of it written to: the pages were there before they were promised.
    let mounted = Mounted::new("cgroup-fits", "48MiB");
    let prefix = mounted.prefix().to_str().expect("our paths are text");
    let mut exec = group.command(&command::path());
    exec.args(["exec", "--size", "48MiB", "--name", mounted.name(), "--mount", prefix, "--"]);
    exec.args(["bash", "-c", &format!("head -c 32M /dev/zero > {prefix}/file && stat -c %s {prefix}/file")]);
    let output = exec.output().expect("start lifeboat");
    assert!(output.status.success(), "a region that fits: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), (32 << 20).to_string());
    assert_eq!(group.kills(), 0, "a process was killed for its memory");
    drop(mounted);
}
