//! What may stand where a keeper stood: another process with its number, another user's, or no process at all. Every
//! command ends in time, with one line, and harms nobody.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::kept::{KEPT, User};

/// A process of the user's that does nothing; ended when dropped.
struct Bystander(Child);

impl Bystander {
    fn of(user: &User) -> Bystander {
        Bystander(user.program("sleep").arg("60").spawn().unwrap())
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    assert!(start.elapsed() < Duration::from_secs(15), "{what} took {:?}", start.elapsed());
    done
}

#[test]
fn a_process_that_got_the_keepers_number_is_not_taken_for_it_and_not_ended() {
    let _clean = NoResidue::begin();
    for carrier in KEPT {
        let user = User::ordinary("reuse");
        let Some(kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        kept.signal("-KILL");
        assert!(kept.has_ended());
        // Starts are told in hundredths of a second; no number comes round again within one.
        std::thread::sleep(Duration::from_millis(30));
        let mut bystander = Bystander::of(&user);
        // The number is another's now; when the keeper started is still said.
        let note = kept.directory.join("keeper");
        let text = fs::read_to_string(&note).unwrap();
        let (_, rest) = text.split_once(' ').unwrap();
        fs::write(&note, format!("{} {rest}", bystander.0.id())).unwrap();
        let listed = user.json(&["region", "list", "--json"]);
        assert_eq!(listed[0]["state"], "lost", "{listed}");
        user.run(&["region", "check", "k"]).refused(3, "keeper process has ended");
        user.must(&["region", "remove", "k"]);
        assert!(bystander.is_alive());
    }
}

#[test]
fn another_users_process_in_place_of_the_keeper_is_not_believed() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped("another user in place of a keeper", "only root can be two users");
    }
    let user = User::ordinary("foreign");
    let Some(kept) = user.keep("k", "8MiB") else { return };
    kept.signal("-KILL");
    assert!(kept.has_ended());
    let socket = kept.directory.join("keeper.sock");
    fs::remove_file(&socket).unwrap();
    // Takes connections and says nothing: whoever believed it would wait.
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).unwrap();
    for command in [&["ls", "--name", "k"][..], &["region", "info", "k"], &["region", "check", "k"]] {
        in_time("a command", || user.run(command).refused(3, "a process of user 0 answers in place of its keeper"));
    }
    let listed = in_time("list", || user.json(&["region", "list", "--json"]));
    assert!(listed[0]["problem"].as_str().unwrap().contains("user 0"), "{listed}");
    in_time("remove", || user.must(&["region", "remove", "k"]));
    assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0);
}

type Plant = fn(&Path);

/// What is no keeper's socket, by name.
const PLANTS: [(&str, Plant); 6] = [
    ("a file", |path| fs::write(path, "not a socket").unwrap()),
    ("a FIFO", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
    ("a link to itself", |path| std::os::unix::fs::symlink(path, path).unwrap()),
    ("a link to nothing", |path| std::os::unix::fs::symlink("/no/such/socket", path).unwrap()),
    ("a socket without owner", |path| drop(UnixListener::bind(path).unwrap())),
    ("a socket of another kind", |path| drop(UnixDatagram::bind(path).unwrap())),
];

#[test]
fn whatever_lies_in_place_of_the_keepers_socket_is_one_line_and_removable() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("planted");
    for (what, plant) in PLANTS {
        let Some(kept) = user.keep("k", "8MiB") else { return };
        let socket = kept.directory.join("keeper.sock");
        fs::remove_file(&socket).unwrap();
        plant(&socket);
        let ended = in_time(what, || user.run(&["region", "check", "k"]));
        assert_eq!((ended.code, ended.err.lines().count()), (Some(3), 1), "{what}: {ended:?}");
        in_time(what, || user.must(&["region", "list"]));
        in_time(what, || user.must(&["region", "remove", "k", "--force"]));
        assert!(kept.has_ended(), "{what}");
        assert_eq!(fs::read_dir(user.here.place()).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn a_note_that_says_nonsense_is_no_reason_to_lose_a_region_or_to_end_others() {
    let _clean = NoResidue::begin();
    for carrier in KEPT {
        let user = User::ordinary("note");
        let Some(kept) = user.keep_on(carrier, "k", "8MiB") else { continue };
        user.must(&["cp", "--name", "k", "/etc/passwd", ":a"]);
        let mut bystander = Bystander::of(&user);
        let id = bystander.0.id();
        let long = "9".repeat(4000);
        let notes = [
            String::new(),
            "\u{0}\u{0}\u{0}".into(),
            "x y z".into(),
            "1 1 1".into(),
            "-1 -1 -1 -1 -1".into(),
            "99999999999999999999 1 1".into(),
            format!("{id} 0 0"),
            long,
        ];
        for note in notes {
            fs::write(kept.directory.join("keeper"), &note).unwrap();
            in_time("list", || user.must(&["region", "list"]));
            in_time("check", || user.must(&["region", "check", "k"]));
        }
        in_time("remove", || user.must(&["region", "remove", "k", "--force"]));
        assert!(kept.has_ended(), "{carrier}: it was not told, but its directory is gone");
        assert!(bystander.is_alive());
    }
}

#[test]
fn many_stopped_keepers_do_not_add_up() {
    let _clean = NoResidue::begin();
    let user = User::ordinary("stopped");
    let names: Vec<String> = (0..5).map(|number| format!("k{number}")).collect();
    let mut kept = Vec::new();
    for name in &names {
        let Some(keeper) = user.keep(name, "8MiB") else { return };
        kept.push(keeper);
    }
    kept.iter().for_each(|keeper| keeper.signal("-STOP"));
    let start = Instant::now();
    let listed = user.json(&["region", "list", "--json"]);
    let waited = start.elapsed();
    let silent = listed.as_array().unwrap().iter().filter(|region| region["state"] == "not answering").count();
    assert_eq!(silent, names.len(), "{listed}");
    // Two seconds each, one after the other, would be ten.
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    for name in &names {
        in_time("remove", || user.must(&["region", "remove", name]));
    }
    assert!(kept.iter().all(support::kept::Kept::has_ended));
}
