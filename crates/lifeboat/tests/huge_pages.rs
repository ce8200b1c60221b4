//! Huge pages that the administrator set aside: what is said when there are too few, and what limits them.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lifeboat_testkit::cgroup::MemoryCgroup;
use lifeboat_testkit::huge_pages::{self, HugePages};
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{is_root, tag};
use support::kept::User;
use support::{Ended, end};

#[test]
fn too_few_huge_pages_are_told_with_what_the_administrator_can_do() {
    let _clean = NoResidue::begin();
    let Ok(_alone) = HugePages::of(0) else { return };
    let free = huge_pages::free();
    let size = format!("{}MiB", (free + 4) * 2);
    for user in [User::ordinary("few"), User::new("few", None)] {
        let carriers: &[_] =
            if user.id.is_none() && is_root() { &["keeper-hugetlb", "hugetlbfs"] } else { &["keeper-hugetlb"] };
        for carrier in carriers {
            let ended = user.run(&["region", "create", "k", "--size", &size, "--carrier", carrier]);
            ended.refused(1, &format!("{} huge pages of 2 MiB are needed and {free} are free", free + 4));
            let enough = huge_pages::set_aside() + 4;
            assert!(
                ended.err.contains(&format!("echo {enough} > /sys/kernel/mm/hugepages/hugepages-2048kB/")),
                "{ended:?}"
            );
            assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
        }
    }
    assert_eq!(huge_pages::free(), free);
}

#[test]
fn the_automatic_choice_leaves_pages_that_were_set_aside_to_others() {
    let _clean = NoResidue::begin();
    let Ok(_pages) = HugePages::of(8).map_err(|none| none.skip("huge pages and the automatic choice")) else { return };
    let free = huge_pages::free();
    for user in [User::ordinary("auto"), User::new("auto", None)] {
        user.must(&["region", "create", "k", "--size", "8MiB"]);
        assert_eq!(huge_pages::free(), free);
        assert_eq!(user.json(&["region", "list", "--json"])[0]["maps_files"], true);
    }
}

#[test]
fn a_file_in_pages_that_were_set_aside_cannot_be_mapped_and_programs_are_told() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("map");
    let Some(library) = user.library() else { return };
    let mount = user.here.file("m");
    let script = "import mmap,sys\n\
        f=open(sys.argv[1]+'/a','w+b'); f.write(b'x'*3000000); f.flush()\n\
        for access in (mmap.ACCESS_WRITE, mmap.ACCESS_READ, mmap.ACCESS_COPY):\n\
        \x20try: mmap.mmap(f.fileno(),0,access=access); print('mapped')\n\
        \x20except OSError as error: print('refused')\n\
        f.seek(0); print(f.read()==b'x'*3000000)";
    for (carrier, expected) in
        [("keeper", "mapped\nmapped\nmapped\nTrue\n"), ("keeper-hugetlb", "refused\nrefused\nrefused\nTrue\n")]
    {
        let Some(_kept) = user.keep_on(carrier, "k", "16MiB") else { continue };
        let words = ["exec", "--name", "k", "--mount", mount.to_str().unwrap(), "--", "python3", "-c", script];
        let ended = end(user.command(&words).arg(&mount).env("LIFEBOAT_PRELOAD", &library));
        assert_eq!(String::from_utf8_lossy(&ended.out), expected, "{carrier}: {ended:?}");
        user.must(&["region", "check", "k"]);
        user.must(&["region", "remove", "k"]);
    }
}

/// A control group that limits huge pages, and what was switched on for it.
struct HugePageGroup {
    folder: PathBuf,
    switched_on: Option<PathBuf>,
}

impl HugePageGroup {
    fn new(limit: u64) -> Result<HugePageGroup, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = |fits: &dyn Fn(&str, &str) -> bool| {
            mounts.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                fits(fields[2], fields[3]).then(|| PathBuf::from(fields[1]))
            })
        };
        let name = format!("{}-hugetlb", tag());
        let version_1 =
            mount(&|kind, options| kind == "cgroup" && options.split(',').any(|option| option == "hugetlb"));
        let (parent, file, mut group) = match version_1 {
            Some(parent) => {
                let group = HugePageGroup { folder: parent.join(name), switched_on: None };
                (parent, "hugetlb.2MB.limit_in_bytes", group)
            }
            None => {
                let parent = mount(&|kind, _| kind == "cgroup2").ok_or("no control groups are mounted")?;
                let group = HugePageGroup { folder: parent.join(name), switched_on: None };
                (parent, "hugetlb.2MB.max", group)
            }
        };
        if file == "hugetlb.2MB.max" {
            let switch = parent.join("cgroup.subtree_control");
            let has = |text: String| text.split_whitespace().any(|name| name == "hugetlb");
            if !has(fs::read_to_string(&switch).unwrap_or_default()) {
                fs::write(&switch, "+hugetlb").map_err(|error| format!("{}: {error}", switch.display()))?;
                group.switched_on = Some(switch);
            }
        }
        fs::create_dir(&group.folder).map_err(|error| format!("{}: {error}", group.folder.display()))?;
        fs::write(group.folder.join(file), limit.to_string()).map_err(|error| format!("{file}: {error}"))?;
        Ok(group)
    }

    /// The command, started inside.
    fn command(&self, words: &[String]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs")).args(words);
        shell
    }
}

impl Drop for HugePageGroup {
    fn drop(&mut self) {
        // Ended processes leave the group a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() || !self.folder.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if let Some(switch) = &self.switched_on {
            let _ = fs::write(switch, "-hugetlb");
        }
    }
}

#[test]
fn a_control_group_that_may_have_few_huge_pages_gets_a_line_and_not_a_signal() {
    const NAME: &str = "huge pages in a control group";
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped(NAME, "only root can make one");
    }
    let Ok(_pages) = HugePages::of(24).map_err(|none| none.skip(NAME)) else { return };
    let group = match HugePageGroup::new(12 << 20) {
        Ok(group) => group,
        Err(why) => return skipped(NAME, &why),
    };
    let user = User::new("group", None);
    for carrier in ["keeper-hugetlb", "hugetlbfs"] {
        let create = |size| {
            let words = user.words(&["region", "create", "k", "--size", size, "--carrier", carrier]);
            end(&mut group.command(&words))
        };
        let refused: Ended = create("16MiB");
        refused.refused(1, "16 MiB are needed, but the cgroup ");
        assert!(refused.err.contains("(hugetlb.2MB) has 12 MiB left; ask for at most 12MiB"), "{refused:?}");
        let made = create("12MiB");
        assert_eq!(made.code, Some(0), "{carrier}: {made:?}");
        user.must(&["region", "check", "k"]);
        user.must(&["region", "remove", "k"]);
    }
}

#[test]
fn pages_that_were_set_aside_are_nobodys_memory_budget() {
    const NAME: &str = "huge pages in a control group for memory";
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped(NAME, "only root can make one");
    }
    let Ok(_pages) = HugePages::of(22).map_err(|none| none.skip(NAME)) else { return };
    let group = match MemoryCgroup::new(100 << 20) {
        Ok(group) => group,
        Err(why) => return skipped(NAME, &why),
    };
    let user = User::new("budget", None);
    for (carrier, code) in [("shm", 1), ("keeper-hugetlb", 0), ("hugetlbfs", 0)] {
        let words = user.words(&["region", "create", "k", "--size", "40MiB", "--carrier", carrier]);
        let ended = end(group.command(words[0].as_ref()).args(&words[1..]));
        assert_eq!(ended.code, Some(code), "{carrier}: {ended:?}");
        if code == 0 {
            user.must(&["region", "check", "k"]);
            user.must(&["region", "remove", "k"]);
        } else {
            assert!(ended.err.contains("the memory cgroup"), "{ended:?}");
        }
    }
    assert_eq!(group.kills(), 0);
}
