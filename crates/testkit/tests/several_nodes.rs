//! The fear: several nodes write one file, each into a region of its own, and it ends in pieces that nobody noticed.
//!
//! Two regions stand for two nodes here: what tells nodes apart is the region, not the machine.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

/// A command of a node, which claims names in `claims`.
fn on(node: &Mounted, claims: &Path) -> Command {
    let mut command = node.exec();
    command.env("LIFEBOAT_CLAIMS", claims);
    command
}

/// A script in the node's mount; what it prints and says.
fn script(node: &Mounted, claims: &Path, text: &str) -> (String, String) {
    let mut command = on(node, claims);
    command.args(["sh", "-c", &format!("cd \"$0\"; {text}")]).arg(node.prefix());
    let (out, said) = shown(&limited(&command, 60).output().expect("the shell runs"));
    (out, said.lines().filter(|line| !line.contains("created region")).collect::<Vec<_>>().join("\n"))
}

fn shown(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn count(claims: &Path) -> usize {
    std::fs::read_dir(claims).expect("the claims are listed").count()
}

#[test]
fn a_file_that_two_nodes_write_is_refused_to_the_second() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("several-nodes");
    let claims = scratch.make("claims");
    let (one, two) = (Mounted::new("node-one", "32MiB"), Mounted::new("node-two", "32MiB"));
    assert_eq!(
        script(&one, &claims, "echo first > shared; echo again >> shared; cat shared"),
        ("first\nagain\n".into(), String::new())
    );
    // Every way to a file of that name.
    for way in [
        "echo second > shared",
        "echo second >> shared",
        "ln -s shared other && echo second > other",
        "echo second > mine && mv mine shared",
        "echo second > mine && ln mine shared",
        "mkdir -p deep/er && ln -s ../../shared deep/er/link && echo second > deep/er/link",
        "python3 -c 'import os; os.mknod(\"shared\", 0o100600)'",
        "python3 -c 'import os; f = os.open(\".\", os.O_TMPFILE | os.O_RDWR); os.link(f\"/proc/self/fd/{f}\", \"shared\", src_dir_fd=0)'",
        "python3 -c 'import os; os.open(\"shared\", os.O_RDWR)'",
        "cp /etc/passwd shared",
    ] {
        let (_, said) = script(&two, &claims, way);
        assert!(said.contains("/shared is refused: node "), "{way}: {said}");
        assert!(said.contains("emote") || way.starts_with("python3"), "{way}: no error was answered: {said}");
        assert_eq!(script(&two, &claims, "test -e shared || echo absent").0, "absent\n", "{way} made half a file");
    }
    // Reading, removing nothing and names of its own stay free, and the first goes on.
    assert_eq!(script(&two, &claims, "cat shared 2>&1 >&-; echo own > own; cat own").0.lines().last(), Some("own"));
    assert_eq!(script(&one, &claims, "echo more >> shared; wc -l < shared").0, "3\n");
}

#[test]
fn a_name_is_free_again_when_its_file_is_removed_or_renamed() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("names-freed");
    let claims = scratch.make("claims");
    let (one, two) = (Mounted::new("freed-one", "32MiB"), Mounted::new("freed-two", "32MiB"));
    let quiet = |node: &Mounted, text: &str| {
        let (out, said) = script(node, &claims, &format!("set -e; {text}; echo done"));
        assert_eq!((out.as_str(), said.as_str()), ("done\n", ""), "{text}");
    };
    quiet(&one, "echo a > file; rm file; echo b > moved; mv moved away");
    quiet(&two, "echo a > file; echo b > moved");
    // Directories take the claims of their files along.
    quiet(&one, "mkdir -p step.tmp/sub; echo x > step.tmp/rank0; echo y > step.tmp/sub/rank1; mv step.tmp step.1");
    quiet(&two, "mkdir -p step.tmp/sub; echo x > step.tmp/rank0; echo z > step.tmp/sub/rank1");
    let (_, said) = script(&two, &claims, "mv step.tmp step.1; ls step.tmp");
    assert!(said.contains("/step.1/") && said.contains("is refused: node "), "half a directory was moved: {said}");
    quiet(&two, "test -e step.tmp/rank0; test ! -e step.1; mkdir step.1; echo q > step.1/rank7");
    // An exchange moves both.
    quiet(&one, "echo 1 > left; mkdir right; echo 2 > right/in");
    let exchange =
        "python3 -c 'import ctypes; c = ctypes.CDLL(None); print(c.renameat2(-100, b\"left\", -100, b\"right\", 2))'";
    assert_eq!(script(&one, &claims, exchange).0, "0\n");
    let (_, said) = script(&two, &claims, "mkdir left; echo 3 > left/in; echo 4 > right");
    assert_eq!(said.matches("is refused").count(), 2, "{said}");
    // All that is left is what exists.
    quiet(&one, "rm -r left right step.1 away");
    quiet(&two, "rm -r file moved step.tmp step.1");
    assert_eq!(count(&claims), 0, "claims of names that are gone");
}

#[test]
fn exactly_one_of_two_nodes_that_create_a_file_at_once_has_it() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("at-once");
    let claims = scratch.make("claims");
    let nodes = [Mounted::new("once-one", "32MiB"), Mounted::new("once-two", "32MiB")];
    // Refusals are told eight times in a process, so a few are made by each.
    let body = "for i in $(seq 0 5); do (echo x > f$i && echo f$i) 2>/dev/null; done";
    let made: Vec<String> = (0..5)
        .flat_map(|round| {
            let text = format!("mkdir -p r{round}; cd r{round}; {body}");
            let run = |node: &Mounted| script(node, &claims, &text).0;
            thread::scope(|scope| {
                let both = nodes.each_ref().map(|node| scope.spawn(|| run(node)));
                both.map(|one| one.join().expect("the node's thread ends"))
            })
            .iter()
            .flat_map(|out| out.lines().map(|name| format!("r{round}/{name}")).collect::<Vec<_>>())
            .collect::<Vec<_>>()
        })
        .collect();
    let mut names = made.clone();
    names.sort();
    names.dedup();
    assert_eq!((made.len(), names.len()), (30, 30), "two nodes or none have a file: {made:?}");
    assert_eq!(count(&claims), 30);
}

#[test]
fn a_program_of_several_processes_claims_once_for_its_node() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("one-node");
    let claims = scratch.make("claims");
    let node = Mounted::new("same-node", "32MiB");
    // An emptied environment, other directories, a killed writer and a program started anew.
    let (out, said) = script(
        &node,
        &claims,
        "env -i sh -c 'echo 1 > a'; (echo 2 >> a) & wait; sh -c 'echo 3 >> a; kill -9 $$'; sh -c 'cd /; echo 4 >> \"$1/a\"' - \"$0\"; wc -l < a",
    );
    assert_eq!((out.as_str(), said.replace("Killed", "").trim()), ("4\n", ""));
    assert_eq!(count(&claims), 1);
}

#[test]
fn a_folder_of_claims_that_fails_is_told_and_stops_nobody() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("no-claims");
    let node = Mounted::new("alone", "32MiB");
    let (out, said) = script(&node, &scratch.path().join("missing"), "echo safe > f; cat f");
    assert_eq!(out, "safe\n");
    assert!(said.contains("cannot be said"), "{said}");
}

#[test]
fn a_kernel_mount_claims_like_the_library() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("mount-claims");
    let claims = scratch.make("claims");
    let other = Mounted::new("beside-mount", "32MiB");
    assert_eq!(script(&other, &claims, "echo theirs > shared").1, "");
    let Some(mount) = FuseMounted::with_environment("claims", "32MiB", &[("LIFEBOAT_CLAIMS", claims.as_os_str())])
    else {
        return;
    };
    let error = std::fs::write(mount.at().join("shared"), "ours").expect_err("the other node has it");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::REMOTE.raw_os_error()));
    std::fs::write(mount.at().join("own"), "ours").expect("a name of its own is written");
    let (_, said) = script(&other, &claims, "echo mine > own");
    assert!(said.contains("/own is refused"), "{said}");
}

#[test]
fn a_file_from_before_the_claims_is_claimed_when_it_is_written_again() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("old-files");
    let claims = scratch.make("claims");
    let other = Mounted::new("old-other", "32MiB");
    let Some(mount) = FuseMounted::with_environment("old", "32MiB", &[("LIFEBOAT_CLAIMS", claims.as_os_str())]) else {
        return;
    };
    // Made by a run that claimed nothing, on both nodes.
    let all = "mkdir -p deep/er; for f in a b c deep/er/d e f g; do echo old > $f; done";
    for node in [mount.region(), &other] {
        let mut command = node.exec();
        command.args(["sh", "-c", &format!("cd \"$0\"; {all}")]).arg(node.prefix());
        assert!(limited(&command, 60).status().is_ok_and(|status| status.success()), "files of {}", node.name());
    }
    let taken = |name: &str, result: std::io::Result<()>| {
        let error = result.expect_err(name);
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::REMOTE.raw_os_error()), "{name}");
    };
    let append = |path: &Path| std::fs::OpenOptions::new().append(true).open(path).map(drop);
    // The other node comes first, in every way in which a file can be named.
    let (_, said) = script(
        &other,
        &claims,
        "echo x >> a; python3 -c 'import os
os.truncate(\"b\", 1)
os.close(os.open(\"/proc/self/fd/%d\" % os.open(\"deep/er/d\", os.O_RDONLY), os.O_WRONLY))'",
    );
    assert_eq!(said, "");
    for name in ["a", "b", "deep/er/d"] {
        taken(name, append(&mount.at().join(name)));
    }
    let cut = |name: &str| {
        let code = "import os, sys; os.truncate(sys.argv[1], 1)";
        let done = Command::new("python3").args(["-c", code]).arg(mount.at().join(name)).output();
        shown(&done.expect("python3 runs")).1
    };
    assert!(cut("a").contains("Object is remote"), "a was cut by the second");
    // Now the mount: by a name, by a size, by a descriptor whose name has changed since.
    append(&mount.at().join("c")).expect("nobody has c");
    assert_eq!(cut("e"), "", "nobody has e");
    let reading = std::fs::File::open(mount.at().join("f")).expect("open f");
    let mut renaming = mount.region().exec();
    renaming.arg("mv").args([mount.at().join("f"), mount.at().join("deep/er/moved")]);
    assert!(limited(&renaming, 60).status().is_ok_and(|status| status.success()), "rename behind the mount");
    append(Path::new(&format!("/proc/self/fd/{}", reading.as_raw_fd()))).expect("nobody has it");
    let (_, said) =
        script(&other, &claims, "echo x >> c; echo x >> e; mkdir -p deep/er; echo x > deep/er/moved; echo x >> g");
    for name in ["/c", "/e", "/deep/er/moved"] {
        assert!(said.contains(&format!("{name} is refused")), "{name}: {said}");
    }
    assert_eq!(said.matches("is refused").count(), 3, "{said}");
}

#[test]
fn a_job_of_several_nodes_says_what_it_wants_before_it_runs() {
    let _nothing_left = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("job");
    let node = Mounted::new("job", "32MiB");
    assert!(node.exec().arg("true").status().is_ok_and(|status| status.success()), "make a region");
    let run = |variables: &[(&str, &str)], claims: Option<&str>| {
        let mut command = node.exec();
        let variables = variables.iter().copied().chain(claims.map(|folder| ("LIFEBOAT_CLAIMS", folder)));
        command.args(["sh", "-c", "echo ran $LIFEBOAT_CLAIMS"]).envs(variables);
        let output = limited(&command, 60).output().expect("lifeboat runs");
        (output.status.code(), shown(&output))
    };
    let mpich = |rank| [("PMI_SIZE", "4"), ("MPI_LOCALNRANKS", "2"), ("PMI_RANK", rank)];
    let slurm = [("SLURM_NNODES", "3"), ("SLURM_PROCID", "0")];
    let torch = [("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("RANK", "0")];
    let hosts = scratch.path().join("hosts");
    std::fs::write(&hosts, "node1\nnode1\nnode2\n").expect("a file of hosts");
    let pbs = [("PBS_NODEFILE", hosts.to_str().expect("our paths are text"))];
    let lsf = [("LSB_MCPU_HOSTS", "node1 16 node2 16")];
    for variables in [&mpich("0")[..], &slurm, &torch, &pbs, &lsf] {
        let (code, (out, said)) = run(variables, None);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{said}");
        assert!(said.lines().count() == 1 && said.contains(" nodes") && said.contains("--claims none"), "{said}");
    }
    assert_eq!(run(&mpich("3"), None), (Some(2), (String::new(), String::new())), "every rank tells");
    let folder = scratch.make("claims");
    let folder = folder.to_str().expect("our paths are text");
    assert_eq!(run(&mpich("0"), Some(folder)).1.0, format!("ran {folder}\n"));
    let alone = [("PMI_SIZE", "2"), ("MPI_LOCALNRANKS", "2"), ("PMI_RANK", "0")];
    assert_eq!(run(&alone, None).1, ("ran\n".to_owned(), String::new()));
    std::fs::write(&hosts, "node1\nnode1\n").expect("a file of hosts");
    assert_eq!(run(&pbs, None).1.0, "ran\n");
    assert_eq!(run(&[("LSB_MCPU_HOSTS", "node1 16")], None).1.0, "ran\n");
    let prefix = node.prefix().to_str().expect("our paths are text");
    let mut none =
        lifeboat(["exec", "--name", node.name(), "--mount", prefix, "--claims", "none", "--", "echo", "ran"]);
    let output = none.envs(mpich("0")).output().expect("lifeboat runs");
    assert_eq!(shown(&output), ("ran\n".to_owned(), String::new()));
}
