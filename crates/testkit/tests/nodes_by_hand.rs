//! The fear: a command is started by hand on several nodes, each writes its half of a file, and nobody notices.
//!
//! A node is a directory for regions of its own here: what tells nodes apart is the region, not the machine.

use lifeboat_testkit::command::{lifeboat, limited};
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A node's own directory for regions.
struct Node(ScratchDirectory);

/// What the nodes of one test have in common.
struct Cluster {
    mount: PathBuf,
    variable: (&'static str, PathBuf),
    _scratch: ScratchDirectory,
}

impl Cluster {
    fn new(label: &str) -> Self {
        let scratch = ScratchDirectory::new("/tmp", label);
        let words = scratch.make("words");
        std::fs::set_permissions(&words, PermissionsExt::from_mode(0o700)).expect("a folder of our own");
        Self { mount: scratch.path().join("mount"), variable: ("LIFEBOAT_NODES", words), _scratch: scratch }
    }

    /// The words that lie in the folder now.
    fn words(&self) -> Vec<PathBuf> {
        let folder = match self.variable.0 {
            "HOME" => self.variable.1.join(".local/state/lifeboat/nodes"),
            _ => self.variable.1.clone(),
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
    }

    /// Waits until nobody has left word.
    fn quiet(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.words().is_empty() {
            assert!(Instant::now() < end, "still there: {:?}", self.words());
            sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, node: &Node, arguments: &[&str]) -> Command {
        let (verb, rest) = arguments.split_first().expect("a command");
        let mut command = lifeboat([*verb, "--place"]);
        command.arg(node.0.path()).args(rest).env_remove("LIFEBOAT_NODES").env_remove("XDG_STATE_HOME");
        command.env(self.variable.0, &self.variable.1);
        command
    }

    /// `lifeboat exec` on the node.
    fn exec(&self, node: &Node, options: &[&str], script: &str) -> Command {
        let mount = self.mount.to_str().expect("our paths are text");
        let mut arguments = vec!["exec", "--size", "16MiB", "--mount", mount];
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", script]);
        let mut command = self.command(node, &arguments);
        command.env("MOUNT", mount);
        command
    }

    /// Runs a script on the node to its end: code, output, what the command said.
    fn run(&self, node: &Node, options: &[&str], script: &str) -> (Option<i32>, String, String) {
        ended(&mut limited(&self.exec(node, options, script), 60))
    }

    /// Starts a program that runs until its standard input is closed.
    fn start(&self, node: &Node, options: &[&str]) -> Child {
        let mut command = self.exec(node, options, "echo x > $MOUNT/own; echo runs; read line");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start lifeboat");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its first line");
        assert_eq!(line, "runs\n");
        child
    }
}

fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("lifeboat runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said =
        text(&output.stderr).lines().filter(|line| !line.contains("created region")).collect::<Vec<_>>().join("\n");
    (output.status.code(), text(&output.stdout), said)
}

/// The command with its standard output also as descriptor 9, as scripts have it.
fn with_output_twice(inner: &Command) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", "exec 9>&1; exec \"$@\"", "-"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().expect("the program ends");
}

impl Node {
    fn new(label: &str) -> Self {
        let place = ScratchDirectory::on_tmpfs(label);
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).expect("a directory of our own");
        Self(place)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let regions = std::fs::read_dir(self.0.path()).into_iter().flatten().flatten();
        for name in regions.map(|entry| entry.file_name()).filter(|name| !name.as_encoded_bytes().starts_with(b".")) {
            let mut command = lifeboat(["region", "remove", "--place"]);
            let removed = command.arg(self.0.path()).arg(&name).output().expect("lifeboat runs");
            if !removed.status.success() {
                let why = String::from_utf8_lossy(&removed.stderr).into_owned();
                lifeboat_testkit::report::line(&format!("{}: {why}", name.display()));
            }
        }
    }
}

fn assert_refused(told: &(Option<i32>, String, String)) {
    let (code, out, said) = told;
    assert_eq!((code, out.as_str()), (&Some(2), ""), "{said}");
    assert!(said.lines().count() == 1 && said.contains(" runs with region") && said.contains("--claims DIR"), "{said}");
}

#[test]
fn the_second_node_is_refused_before_it_writes_a_byte() {
    let _nothing_left = NoResidue::begin();
    let cluster = Cluster::new("by-hand");
    let (one, two) = (Node::new("hand-one"), Node::new("hand-two"));
    let first = cluster.start(&one, &[]);
    assert_refused(&cluster.run(&two, &[], "echo half > $MOUNT/own; echo ran"));
    assert_eq!(cluster.words().len(), 1, "the refused command left word");
    let ran = (Some(0), "ran\n".to_owned(), String::new());
    // What is no second half: the same region, another one, another mount, and what was said by hand or by a launcher.
    assert_eq!(cluster.run(&one, &[], "cat $MOUNT/own >&2; echo ran").1, "ran\n");
    let claims = cluster.variable.1.with_file_name("claims");
    let claims = claims.to_str().expect("our paths are text");
    let elsewhere = cluster.mount.with_file_name("elsewhere");
    let elsewhere = elsewhere.to_str().expect("our paths are text");
    for options in [&["--name", "other"][..], &["--mount", elsewhere], &["--claims", claims], &["--claims", "none"]] {
        if options[0] == "--mount" {
            let arguments = ["exec", "--size", "16MiB", "--mount", elsewhere, "--", "echo", "ran"];
            assert_eq!(ended(&mut limited(&cluster.command(&two, &arguments), 60)), ran, "{options:?}");
        } else {
            assert_eq!(cluster.run(&two, options, "echo ran"), ran, "{options:?}");
        }
    }
    let launched = [("PMI_SIZE", "2"), ("MPI_LOCALNRANKS", "2"), ("PMI_RANK", "0")];
    let mut command = cluster.exec(&two, &[], "echo ran");
    assert_eq!(ended(&mut limited(command.envs(launched), 60)), ran);
    // Inside `--claims none` nothing is asked either.
    let inner = format!("{} exec -- echo ran", lifeboat_testkit::command::path().display());
    assert_eq!(cluster.run(&two, &["--claims", "none"], &inner), ran);
    end(first);
    cluster.quiet();
    assert_eq!(cluster.run(&two, &[], "echo ran"), ran);
    cluster.quiet();
}

#[test]
fn a_home_directory_that_other_nodes_may_see_is_enough() {
    let _nothing_left = NoResidue::begin();
    let mut cluster = Cluster::new("home");
    // On a disk of this node alone nobody leaves word: the documented limit.
    cluster.variable = ("HOME", cluster.mount.with_file_name("words"));
    let (one, two) = (Node::new("home-one"), Node::new("home-two"));
    let first = cluster.start(&one, &[]);
    assert_eq!(cluster.run(&two, &[], "echo half > $MOUNT/own; echo ran"), (Some(0), "ran\n".into(), String::new()));
    end(first);
    assert!(
        !cluster.variable.1.join(".local").exists(),
        "something was written into a home directory of this node's own"
    );
    // A file system that is not known to be of one machine.
    let Some(home) = FuseMounted::new("home", "16MiB") else { return };
    cluster.variable = ("HOME", home.at().to_path_buf());
    let first = cluster.start(&one, &[]);
    assert_refused(&cluster.run(&two, &[], "echo half > $MOUNT/own; echo ran"));
    end(first);
    cluster.quiet();
    cluster.variable = ("XDG_STATE_HOME", home.at().join("state"));
    let first = cluster.start(&one, &[]);
    assert_refused(&cluster.run(&two, &[], "echo half > $MOUNT/own; echo ran"));
    end(first);
    let left = home.at().join("state/lifeboat/nodes");
    let end = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&left).expect("the folder").count() > 0 {
        assert!(Instant::now() < end, "word is left in {}", left.display());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn of_two_nodes_that_start_at_once_never_both_run() {
    let _nothing_left = NoResidue::begin();
    let cluster = Cluster::new("at-once");
    let nodes = [Node::new("once-one"), Node::new("once-two")];
    let mut ran = 0;
    for round in 0..15 {
        let start = |node: &Node| {
            let mut command = limited(&cluster.exec(node, &[], "sleep 1; echo ran"), 60);
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start lifeboat")
        };
        let both = nodes.each_ref().map(start).map(|child| child.wait_with_output().expect("it ends").stdout);
        let count = both.iter().filter(|out| out.as_slice() == b"ran\n").count();
        assert!(count < 2, "both nodes ran in round {round}");
        ran += count;
        cluster.quiet();
    }
    lifeboat_testkit::report::line(&format!("one of two nodes ran in {ran} of 15 rounds, else none"));
}

#[test]
fn word_is_kept_as_long_as_something_runs_and_no_longer() {
    let _nothing_left = NoResidue::begin();
    let cluster = Cluster::new("as-long");
    let (one, two) = (Node::new("long-one"), Node::new("long-two"));
    // The killed program takes nothing away itself.
    let mut first = cluster.start(&one, &[]);
    first.kill().expect("kill our child");
    first.wait().expect("it has ended");
    cluster.quiet();
    // What goes on in the background, with a file of the region in its hands, still runs.
    // Nobody in the background has the end of a pipe that was inherited: else the output would not end here.
    let script = "(exec > $MOUNT/log 2>&1 9>&-; echo x; while [ ! -e $GO ]; do sleep 0.05; done) & echo ran";
    let go = cluster.mount.with_file_name("go");
    let command = with_output_twice(cluster.exec(&one, &[], script).env("GO", &go));
    let start = Instant::now();
    assert_eq!(ended(&mut limited(&command, 60)).1, "ran\n");
    assert!(start.elapsed() < Duration::from_secs(30), "something in the background held the output");
    sleep(Duration::from_millis(2500));
    assert_refused(&cluster.run(&two, &[], "echo half > $MOUNT/log"));
    std::fs::write(&go, "").expect("the program's word to end");
    cluster.quiet();
    // A region that is removed and made anew at once is no other node, and nobody speaks for the one before.
    for _ in 0..5 {
        assert_eq!(cluster.run(&one, &[], "echo x > $MOUNT/log; echo ran"), (Some(0), "ran\n".into(), String::new()));
        let removed = lifeboat(["region", "remove", "--place"]).arg(one.0.path()).arg("default").output();
        assert!(removed.as_ref().is_ok_and(|output| output.status.success()), "{removed:?}");
    }
    // A program that cannot be started leaves nothing either.
    let at = cluster.mount.to_str().expect("our paths are text");
    let mut missing = cluster.command(&one, &["exec", "--size", "16MiB", "--mount", at, "--", "/no/such"]);
    assert_eq!(ended(&mut missing).0, Some(127));
    cluster.quiet();
}

#[test]
fn a_node_that_died_binds_nobody_after_two_minutes() {
    let _nothing_left = NoResidue::begin();
    let cluster = Cluster::new("died");
    let (one, two) = (Node::new("died-one"), Node::new("died-two"));
    let first = cluster.start(&one, &[]);
    let [word] = &cluster.words()[..] else { panic!("not one word: {:?}", cluster.words()) };
    // A copy that nobody touches, as a dead node leaves it.
    let left = word.with_file_name("left.json");
    std::fs::copy(word, &left).expect("a copy");
    end(first);
    while word.exists() {
        sleep(Duration::from_millis(20));
    }
    let age = |seconds: u64| {
        let file = std::fs::File::options().write(true).open(&left).expect("the word");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(seconds)).expect("an older word");
    };
    age(60);
    assert_refused(&cluster.run(&two, &[], "echo ran"));
    age(130);
    assert_eq!(cluster.run(&two, &[], "echo ran"), (Some(0), "ran\n".into(), String::new()));
    assert!(!left.exists(), "the word of a dead node stays for ever");
    cluster.quiet();
}

#[test]
fn a_folder_that_fails_or_holds_anything_else_stops_nobody() {
    let _nothing_left = NoResidue::begin();
    let mut cluster = Cluster::new("fails");
    let node = Node::new("fails");
    let folder = cluster.variable.1.clone();
    for (name, bytes) in [("empty.json", &b""[..]), ("text.json", b"{"), ("long.json", &[b'x'; 9000])] {
        std::fs::write(folder.join(name), bytes).expect("a file");
    }
    std::os::unix::fs::symlink("/dev/zero", folder.join("link.json")).expect("a link");
    std::fs::create_dir(folder.join("folder.json")).expect("a folder");
    let made = Command::new("mkfifo").arg(folder.join("fifo.json")).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    assert_eq!(cluster.run(&node, &[], "echo ran"), (Some(0), "ran\n".into(), String::new()));
    // Where it cannot be made, where it is no folder, and where others may take words away.
    let open = folder.with_file_name("open");
    std::fs::create_dir(&open).expect("a folder");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("a folder of everybody's");
    for bad in [folder.join("empty.json"), Path::new("/proc/no/such").into(), open] {
        cluster.variable.1 = bad.clone();
        let (code, out, said) = cluster.run(&node, &[], "echo ran");
        assert_eq!((code, out.as_str()), (Some(0), "ran\n"), "{}: {said}", bad.display());
        assert!(said.lines().count() == 1 && said.contains("cannot be said"), "{}: {said}", bad.display());
    }
    cluster.variable.1 = "none".into();
    assert_eq!(cluster.run(&node, &[], "echo ran"), (Some(0), "ran\n".into(), String::new()));
    let end = Instant::now() + Duration::from_secs(20);
    let count = || std::fs::read_dir(&folder).expect("the folder").count();
    while count() > 6 {
        assert!(Instant::now() < end, "word is left");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_mount_for_the_kernel_counts_as_a_program_that_runs() {
    let _nothing_left = NoResidue::begin();
    let cluster = Cluster::new("mounts");
    let (one, two) = (Node::new("mounts-one"), Node::new("mounts-two"));
    let at = cluster.mount.to_str().expect("our paths are text");
    for node in [&one, &two] {
        assert_eq!(cluster.run(node, &["--claims", "none"], "true").0, Some(0));
    }
    if FuseMounted::new("mounts-probe", "8MiB").is_none() {
        return;
    }
    let first = cluster.start(&one, &[]);
    assert_refused(&ended(&mut limited(&cluster.command(&two, &["mount", at]), 60)));
    end(first);
    cluster.quiet();
    // The server must not hold the end of an inherited pipe either.
    let mounted = ended(&mut limited(&with_output_twice(&cluster.command(&one, &["mount", at])), 60));
    assert_eq!(mounted.0, Some(0), "{}", mounted.2);
    assert_refused(&cluster.run(&two, &[], "echo half > $MOUNT/own"));
    let undone = lifeboat(["unmount", at]).output().expect("lifeboat runs");
    assert!(undone.status.success(), "{}", String::from_utf8_lossy(&undone.stderr));
    cluster.quiet();
}
