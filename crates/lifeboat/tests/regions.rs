//! The life of regions: made, listed, examined, removed; creators that die; removal under users.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::{Ended, Here, end};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_region_is_made_listed_examined_and_removed() {
    let _clean = NoResidue::begin();
    let here = Here::new("life");
    assert_eq!(here.must(&["region", "list", "--json"]).trim(), "[]");
    // Rounded up to what a region can have.
    let made = json(&here.must(&["region", "create", "a", "--size", "9000000", "--json"]));
    assert_eq!(made["size"], 10 << 20);
    assert_eq!(made["carrier"], if is_root() { "tmpfs" } else { "shm" });
    here.must(&["region", "create", "--size", "8M", "--carrier", "shm"]);
    let listed = json(&here.must(&["region", "list", "--json"]));
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["name"], "a");
    assert_eq!(listed[0]["survives"], "process, job step");
    assert_eq!(listed[1]["name"], "default");
    assert_eq!(listed[1]["carrier"], "shm");
    assert!(here.must(&["region", "list"]).contains("SURVIVES"));
    let info = json(&here.must(&["region", "info", "a", "--json"]));
    assert_eq!(info["size"], 10 << 20);
    assert_eq!(info["huge_bytes"], made["huge_bytes"]);
    assert!(here.must(&["region", "info"]).contains("8 MiB"));
    assert!(here.must(&["region", "check", "a"]).contains("clean"));
    assert_eq!(json(&here.must(&["region", "check", "a", "--json"]))["clean"], true);
    here.must(&["region", "remove", "a"]);
    here.must(&["region", "remove", "default"]);
    assert_eq!(fs::read_dir(here.place()).unwrap().count(), 0);
}

#[test]
fn every_page_of_a_new_region_is_there() {
    use std::os::unix::fs::MetadataExt;
    let _clean = NoResidue::begin();
    let here = Here::new("pages");
    here.must(&["region", "create", "--size", "16MiB"]);
    let metadata = fs::metadata(here.memory("default")).unwrap();
    assert_eq!(metadata.len(), 16 << 20);
    assert!(metadata.blocks() * 512 >= 16 << 20);
}

#[test]
fn a_region_in_use_is_not_pulled_away() {
    let _clean = NoResidue::begin();
    let here = Here::new("used");
    here.must(&["region", "create", "a", "--size", "8MiB"]);
    // Somebody maps it: a python that holds on until told to stop.
    let script = "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),4096); print('mapped',flush=True); sys.stdin.read()";
    let holder = Command::new("python3")
        .args(["-c", script])
        .arg(here.memory("a"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = match holder {
        Ok(holder) => holder,
        Err(error) => {
            lifeboat_testkit::report::skipped("region in use", &format!("python3: {error}"));
            return;
        }
    };
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
    let refused = here.run(&["region", "remove", "a"]);
    let forced = here.run(&["region", "remove", "a", "--force"]);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    refused.refused(1, "in use by a living process");
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert!(!here.place().join("a").exists());
}

/// Starts creating a large region and kills the creator while it reserves memory.
fn kill_a_creator(here: &Here, carrier: &str) -> bool {
    let mut creator = here
        .command(&["region", "create", "a", "--size", "256MiB", "--carrier", carrier])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let half_made = here.place().join("a/memory/region.new");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) && creator.try_wait().unwrap().is_none() {
        if fs::metadata(&half_made).is_ok_and(|metadata| metadata.len() > 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // It may have ended by itself.
    let _ = creator.kill();
    creator.wait().unwrap().signal() == Some(9)
}

#[test]
fn what_a_killed_creator_left_is_cleared_away_by_the_next() {
    let _clean = NoResidue::begin();
    for carrier in ["shm", "auto"] {
        let here = Here::new("half");
        if !kill_a_creator(&here, carrier) {
            lifeboat_testkit::report::skipped("killed creator", "too little memory, or it was done before the kill");
            return;
        }
        let listed = json(&here.must(&["region", "list", "--json"]));
        assert_eq!(listed[0]["state"], "half made", "{listed}");
        here.run(&["ls", "--name", "a"]).refused(3, "holds no memory");
        let ended = here.run(&["region", "create", "a", "--size", "8MiB"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains("left half made"), "{ended:?}");
        here.must(&["region", "check", "a"]);
        here.must(&["region", "remove", "a"]);
        assert_eq!(fs::read_dir(here.place()).unwrap().count(), 0);
    }
}

#[test]
fn one_of_many_creators_wins_and_the_others_say_why() {
    let _clean = NoResidue::begin();
    let here = Here::new("race");
    let ended: Vec<Ended> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| end(&mut here.command(&["region", "create", "a", "--size", "8MiB"]))))
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(ended.iter().filter(|ended| ended.code == Some(0)).count(), 1, "{ended:?}");
    for loser in ended.iter().filter(|ended| ended.code != Some(0)) {
        loser.refused(1, "exists already");
    }
    here.must(&["region", "check", "a"]);
}

/// The directory of a user whom nobody else is, gone with the test.
struct StandardBase(u32);

impl StandardBase {
    fn path(&self) -> std::path::PathBuf {
        format!("/dev/shm/lifeboat-{}", self.0).into()
    }

    fn command(&self, program: &std::path::Path, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.args(arguments).uid(self.0).gid(self.0).current_dir("/").env_remove("LIFEBOAT_REGION");
        command
    }
}

impl Drop for StandardBase {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path());
    }
}

#[test]
fn the_users_directory_goes_with_its_last_region_also_while_others_are_made() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return lifeboat_testkit::report::skipped("last region", "only root can be a user without regions");
    }
    let here = Here::new("last");
    let program = here.file("lifeboat");
    fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    let base = StandardBase(1_000_000 + std::process::id());
    let run = |arguments: &[&str]| {
        let ended = end(&mut base.command(&program, arguments));
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    };
    run(&["region", "create", "a", "--size", "8M", "--carrier", "shm"]);
    run(&["region", "create", "b", "--size", "8M", "--carrier", "shm"]);
    run(&["region", "remove", "a"]);
    assert!(base.path().exists());
    run(&["region", "remove", "b"]);
    assert!(!base.path().exists());
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let run = &run;
            scope.spawn(move || {
                for _ in 0..15 {
                    run(&["region", "create", name, "--size", "8M", "--carrier", "shm"]);
                    run(&["region", "list"]);
                    run(&["region", "remove", name]);
                }
            });
        }
    });
    assert!(!base.path().exists());
}
