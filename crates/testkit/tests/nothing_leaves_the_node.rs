//! The fear: a write, a close or a seal asks other nodes, or takes a lock that nodes share, so that what one node does alone slows down
//! with their number.
//!
//! Every system call of these operations is looked at: it may name nothing but the region's own directory, memory, and the kernel's table of
//! processes, while the node
//! shares a folder of claims, or of words, with another node. The figure of one node times the number of nodes is then a statement.
#![cfg(target_arch = "x86_64")]

use lifeboat_fs::{Caller, Claims, LastLink};
use lifeboat_testkit::child::{self, Process, Role};
use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::observed::{self, Operation, Where};
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::report::line;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, this_user};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What is told of another node, and must not be asked while a node writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shared {
    /// `LIFEBOAT_CLAIMS`: who has which file.
    Claims,
    /// `LIFEBOAT_NODES`: who runs what.
    Words,
}

/// Two nodes and what they share. Not on tmpfs: a folder that nodes share is none.
struct Nodes {
    one: Mounted,
    two: Mounted,
    how: Shared,
    folder: PathBuf,
    scratch: ScratchDirectory,
}

impl Nodes {
    fn new(label: &str, how: Shared) -> Self {
        let scratch = ScratchDirectory::new("/tmp", label);
        let folder = scratch.make("shared");
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&folder, rights).expect("a folder of our own");
        let node = |number| Mounted::new(&format!("{label}-{number}"), "64MiB");
        let nodes = Self { one: node(1), two: node(2), how, folder, scratch };
        for node in [&nodes.one, &nodes.two] {
            let mut command = nodes.on(node, &[]);
            command.args(["sh", "-c", "echo own > \"$0/from-$1\""]).arg(node.prefix()).arg(node.name());
            let made = limited(&command, 60).status().expect("lifeboat runs");
            assert!(made.success(), "the region of {}", node.name());
        }
        nodes
    }

    /// `lifeboat exec` on a node; `more` are its options.
    fn on(&self, node: &Mounted, more: &[&str]) -> Command {
        let prefix = node.prefix().to_str().expect("our paths are text");
        let mut command = lifeboat(["exec", "--size", "64MiB", "--name", node.name(), "--mount", prefix]);
        command.args(more).arg("--");
        self.sharing(&mut command);
        command
    }

    fn sharing(&self, command: &mut Command) {
        match self.how {
            Shared::Claims => command.env("LIFEBOAT_CLAIMS", &self.folder),
            Shared::Words => command.env("LIFEBOAT_NODES", &self.folder),
        };
    }

    fn shared(&self) -> BTreeSet<OsString> {
        std::fs::read_dir(&self.folder).expect("our folder").flatten().map(|entry| entry.file_name()).collect()
    }
}

/// What a program did that waits until it is traced, and what else it said.
fn observe(command: Command, region: &Path) -> (Vec<Operation>, Vec<String>) {
    observe_started(Process::start(command, "the program"), region)
}

fn observe_started(mut process: Process, region: &Path) -> (Vec<Operation>, Vec<String>) {
    let thread = process.next_report(LIMIT).parse().expect("the number of a thread");
    let seen = observed::observe(thread, region).expect("the program is traced");
    let ended = process.wait(LIMIT);
    assert!(ended.status.is_some_and(|status| status.success()), "{}", ended.describe());
    (seen, ended.reports)
}

fn show(title: &str, seen: &[Operation]) {
    line(&format!("{title}:"));
    for operation in seen {
        line(&format!("    {:<45} {}", operation.name, operation.counts()));
    }
}

fn assert_stays(seen: &[Operation], at_least: usize) {
    assert!(seen.len() >= at_least, "only {} operations were seen", seen.len());
    for operation in seen {
        assert!(operation.leaves().is_empty(), "{}: {:#?}", operation.name, operation.leaves());
    }
}

/// The program of this test; `None` where there is no compiler.
fn program(folder: &Path) -> Option<PathBuf> {
    compile("gcc", "on_its_node.c", &["-O1", "-Wall"], folder)
}

#[test]
fn write_and_close_name_nothing_but_the_region_of_their_node() {
    let _nothing_left = NoResidue::begin();
    let ways: [(Shared, &[&str], &str); 5] = [
        (Shared::Claims, &[], "files"),
        (Shared::Words, &[], "files"),
        (Shared::Claims, &["--checksums-at-seal"], "files"),
        (Shared::Claims, &["--guard"], "files"),
        (Shared::Claims, &[], "handles-signals"),
    ];
    let mut shown = Vec::new();
    for (how, options, what) in ways {
        let nodes = Nodes::new("stays", how);
        let Some(program) = program(nodes.scratch.path()) else { return };
        let mut command = nodes.on(&nodes.one, options);
        command.arg(&program).arg(what).arg(nodes.one.prefix());
        let (seen, said) = observe(command, &nodes.one.directory());
        let counts: Vec<String> = seen.iter().map(Operation::counts).collect();
        let title = format!("system calls, {what}, {how:?} {options:?}, {}", said.join(", "));
        if shown == counts {
            line(&format!("{title}: the same"));
        } else {
            show(&title, &seen);
            shown = counts;
        }
        assert_stays(&seen, 28);
        // Else nothing was shared, and nothing shown.
        let mut other = nodes.on(&nodes.two, &[]);
        other.args(["sh", "-c", "echo x > \"$0/large\""]).arg(nodes.two.prefix());
        let output = limited(&other, 60).output().expect("lifeboat runs");
        let refused = String::from_utf8_lossy(&output.stderr).contains("is refused: node ");
        assert_eq!(refused, how == Shared::Claims, "{output:?}");
    }
}

#[test]
fn what_does_leave_the_node_is_found() {
    let _nothing_left = NoResidue::begin();
    let nodes = Nodes::new("leaves", Shared::Claims);
    let Some(program) = program(nodes.scratch.path()) else { return };
    let elsewhere = nodes.scratch.make("elsewhere");
    let before = nodes.shared();
    let mut command = nodes.on(&nodes.one, &[]);
    command.arg(&program).arg("found").arg(nodes.one.prefix()).arg(&elsewhere);
    let (seen, _) = observe(command, &nodes.one.directory());
    show("system calls that leave the region", &seen);
    assert!(nodes.shared().len() > before.len(), "nothing was claimed");
    assert_eq!(seen.len(), 10);
    for operation in &seen {
        line(&format!("    {}: {}", operation.name, operation.leaves().join("; ")));
        assert!(!operation.leaves().is_empty(), "{} was not found", operation.name);
    }
    let claims = nodes.folder.display().to_string();
    for operation in &seen[..2] {
        let found = operation.leaves().iter().any(|why| why.contains(&claims));
        assert!(found, "{}: the claim was not found", operation.name);
    }
}

/// A few files to be sealed.
fn fill(nodes: &Nodes) {
    let mut command = nodes.on(&nodes.one, &[]);
    let script = "cd \"$0\"; head -c 20000000 /dev/urandom > large; echo small > small; : > empty";
    command.args(["sh", "-c", script]).arg(nodes.one.prefix());
    assert!(limited(&command, 60).status().is_ok_and(|status| status.success()), "files to be sealed");
}

#[test]
fn entry_of_child_processes() {
    child::enter(&[("seals", seals)]);
}

/// Seals by the calls of the file system itself.
fn seals() {
    observed::wait_for_the_tracer();
    let claims = child::setting("CLAIMS");
    let claims = Claims::new(claims.as_bytes(), b"this", |_, _| ()).expect("a short path");
    let files = attach(Path::new(&child::setting("REGION"))).expect("attach").with_claims(claims);
    let who = Caller { uid: this_user().uid, gid: 0, groups: &[], umask: 0, checked: true };
    for (name, operation) in [
        ("large", c"seal of 20 MB, first call of its process"),
        ("small", c"seal of a line"),
        ("empty", c"seal of an empty file"),
        ("large", c"seal of 20 MB again"),
    ] {
        let inode = files.resolve(&who, files.root(), name.as_bytes(), LastLink::Follow).expect("the file");
        observed::begin(operation);
        let sealed = files.seal(&who, inode);
        observed::end();
        sealed.expect("seal");
    }
}

#[test]
fn a_seal_names_nothing_but_the_region_of_its_node() {
    let _nothing_left = NoResidue::begin();
    let nodes = Nodes::new("seals", Shared::Claims);
    fill(&nodes);
    let before = nodes.shared();
    let role =
        Role::new("seals").with("REGION", nodes.one.directory().display()).with("CLAIMS", nodes.folder.display());
    let (seen, _) = observe_started(role.spawn(), &nodes.one.directory());
    show("system calls of seals", &seen);
    assert_stays(&seen, 4);
    assert_eq!(nodes.shared(), before);
}

/// Of the whole command, from its first instruction: it is loaded, looks at the machine and says what it did; nothing of that may change or lock
/// what is not its own, nor look at what nodes share.
#[test]
fn the_command_that_seals_asks_no_other_node() {
    let _nothing_left = NoResidue::begin();
    for how in [Shared::Claims, Shared::Words] {
        let nodes = Nodes::new("seal-command", how);
        let Some(program) = program(nodes.scratch.path()) else { return };
        fill(&nodes);
        let mut command = Command::new(program);
        let seal = lifeboat(["seal", "--name", nodes.one.name(), "large", "small"]);
        command.arg("run").arg(seal.get_program()).args(seal.get_args());
        nodes.sharing(&mut command);
        let (seen, _) = observe(command, &nodes.one.directory());
        show(&format!("system calls of lifeboat seal, {how:?}"), &seen);
        let [whole] = &seen[..] else { panic!("{} operations", seen.len()) };
        assert!(whole.calls.len() > 20, "only {} calls", whole.calls.len());
        let mut looked_at = BTreeSet::new();
        for call in whole.calls.iter().filter(|call| call.leaves().is_some()) {
            let why = call.leaves().unwrap_or_default();
            let to_a_pipe =
                |named: &Where| matches!(named, Where::Elsewhere(at) if at.to_string_lossy().starts_with("pipe:"));
            let said = call.name == "write" && call.named.iter().all(to_a_pipe);
            let scratch = nodes.scratch.path().display().to_string();
            assert!(call.is_known && (call.only_looks || said), "{why}");
            assert!(!why.contains(&scratch), "it looked at what nodes share: {why}");
            looked_at.insert(why);
        }
        for why in looked_at {
            line(&format!("    {why}"));
        }
    }
}
