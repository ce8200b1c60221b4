//! The fear: another user of the machine reads, changes or stops what is ours, or makes our programs run what is his.

use lifeboat_testkit::command::{self, lifeboat};
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, is_root, this_user};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Two ordinary users of this machine, whom root becomes.
const NOBODY: u32 = 65534;
const SOMEBODY: u32 = 65533;

/// A user with a directory for regions and copies of the programs; his regions go when it is dropped.
struct User {
    id: Option<u32>,
    scratch: ScratchDirectory,
}

impl User {
    /// Who runs the tests.
    fn same(label: &str) -> User {
        User::new(label, None)
    }

    fn new(label: &str, id: Option<u32>) -> User {
        let scratch = ScratchDirectory::on_tmpfs(label);
        let programs = scratch.make("programs");
        for name in ["lifeboat", "liblifeboat_preload.so"] {
            fs::copy(command::path().with_file_name(name), programs.join(name)).unwrap();
            fs::set_permissions(programs.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let user = User { id, scratch };
        let home = user.home();
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
        chown(&home, id, id).unwrap();
        user
    }

    fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    fn base(&self) -> PathBuf {
        self.home().join("base")
    }

    fn mount(&self) -> PathBuf {
        self.home().join("mount")
    }

    fn program(&self) -> PathBuf {
        self.scratch.path().join("programs/lifeboat")
    }

    fn library(&self) -> PathBuf {
        self.scratch.path().join("programs/liblifeboat_preload.so")
    }

    /// A shell of this user's, in which `$L` is the command, `$B` the directory for regions and `$M` the mount.
    fn shell(&self, script: &str) -> Output {
        let mut command = lifeboat([""]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(|v| v.to_owned()))).collect();
        command = Command::new("timeout");
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["-k", "2", "40", "sh", "-c", script]);
        command.env("L", self.program()).env("B", self.base()).env("M", self.mount()).current_dir("/");
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn must(&self, script: &str) -> String {
        let output = self.shell(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ =
            self.shell("for r in $(ls \"$B\" 2>/dev/null); do \"$L\" region remove --place \"$B\" --force $r; done");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

fn assert_refused_in_one_line(output: &Output, what: &str) {
    assert!(!output.status.success(), "{what}: {output:?}");
    assert_ne!(output.status.code(), Some(124), "{what}: did not end in time");
    assert_eq!(said(output).lines().count(), 1, "{what}: {output:?}");
}

/// Calls `each` with every name below a directory, without following links.
fn walk(path: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let metadata = fs::symlink_metadata(path).unwrap();
    each(path, &metadata);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), each);
        }
    }
}

/// All that is made is its owner's alone. What a program goes on using that has given up its user id, through descriptors
/// that it has, is open to all below a directory that is not: `tags`, `images`, and what is in them.
fn assert_closed(base: &Path, what: &str) {
    let mut seen = 0;
    walk(base, &mut |path, metadata| {
        seen += 1;
        let mode = metadata.mode() & 0o7777;
        let shared = ["tags", "images"];
        let name = |path: &Path| path.file_name().is_some_and(|name| shared.iter().any(|shared| name == *shared));
        let allowed = match metadata.file_type() {
            kind if kind.is_dir() && name(path) => 0o777,
            kind if kind.is_dir() => 0o700,
            _ if path.parent().is_some_and(name) && path.file_name().is_some_and(|name| name != "filler") => 0o666,
            kind if kind.is_file() || kind.is_socket() => 0o600,
            kind => panic!("{what}: {} is a {kind:?}", path.display()),
        };
        assert_eq!(mode, allowed, "{what}: {} has mode {mode:o}", path.display());
    });
    assert!(seen > 5, "{what}: only {seen} names were looked at");
}

#[test]
fn everything_that_is_made_is_closed_to_others_and_open_to_its_owner_whatever_the_umask() {
    let _clean = NoResidue::begin();
    let ids = if is_root() { vec![None, Some(NOBODY)] } else { vec![None] };
    for id in ids {
        for umask in ["000", "022", "077", "777"] {
            for carrier in ["auto", "shm", "keeper"] {
                let user = User::new("umask", id);
                let what = format!("umask {umask}, user {id:?}, carrier {carrier}");
                let make =
                    format!("umask {umask}; \"$L\" region create r --place \"$B\" --size 8MiB --carrier {carrier}");
                let made = user.shell(&make);
                if carrier == "keeper"
                    && ["user namespace", "may not mount"].iter().any(|why| said(&made).contains(why))
                {
                    skipped("carrier keeper", &said(&made));
                    continue;
                }
                assert!(made.status.success(), "{what}: {made:?}");
                user.must(&format!(
                    "umask {umask}; \"$L\" exec --place \"$B\" --name r --mount \"$M\" -- sh -c 'exec 3>\"$M\"/f; echo x >&3; \
                     mkfifo -m 600 \"$M\"/p; ls \"$M\" >/dev/null'"
                ));
                user.must(&format!(
                    "umask {umask}; \"$L\" ls --place \"$B\" --name r; \"$L\" region check --place \"$B\" r"
                ));
                assert_closed(&user.base(), &what);
                user.must(&format!("umask {umask}; \"$L\" region remove --place \"$B\" r"));
            }
        }
    }
}

#[test]
fn another_users_region_is_refused_in_one_line_by_every_way_in() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped("regions of two users", "only root can be two users");
    }
    let owner = User::new("owner", Some(NOBODY));
    owner.must("\"$L\" region create r --place \"$B\" --size 8MiB --carrier shm && echo secret > \"$B\"/../secret");
    owner.must("\"$L\" cp --place \"$B\" --name r \"$B\"/../secret :s");
    for id in [Some(SOMEBODY), None] {
        let other = User::new("other", id);
        let (base, library) = (owner.base(), other.library());
        let base = base.to_str().unwrap();
        for words in [
            "ls --name r",
            "cat --name r :s",
            "region check r",
            "region info r",
            "region remove --force r",
            "region list",
        ] {
            let (verb, rest) =
                words.split_at(words.find(" --name").or_else(|| words.rfind(" --force")).unwrap_or(words.len()));
            let ended = other.shell(&format!("\"$L\" {verb} --place {base} {rest}"));
            assert_refused_in_one_line(&ended, words);
            assert!(!String::from_utf8_lossy(&ended.stdout).contains("secret"), "{words}");
        }
        let ended = other.shell(&format!("\"$L\" exec --place {base} --name r --mount \"$M\" -- cat \"$M\"/s"));
        assert_refused_in_one_line(&ended, "exec");
        // The library itself, with the environment that `exec` would have given.
        let ended = other.shell(&format!(
            "LIFEBOAT_REGION={base}/r LIFEBOAT_MOUNT=/m LD_PRELOAD={} cat /m/s",
            library.to_str().unwrap()
        ));
        assert!(!ended.status.success() && !String::from_utf8_lossy(&ended.stdout).contains("secret"), "{ended:?}");
        // Which other programs do not even notice.
        let ended = other.shell(&format!(
            "LIFEBOAT_REGION={base}/r LIFEBOAT_MOUNT=/m LD_PRELOAD={} echo unharmed",
            library.to_str().unwrap()
        ));
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "unharmed\n", "{ended:?}");
    }
    assert_eq!(owner.must("\"$L\" cat --place \"$B\" --name r :s"), "secret\n");
}

#[test]
fn a_keeper_gives_its_memory_to_nobody_else() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped("a keeper of another user", "only root can be two users");
    }
    // Not 65534, which a namespace shows for every user that it does not have.
    let owner = User::new("kept", Some(SOMEBODY));
    let made = owner.shell("\"$L\" region create r --place \"$B\" --size 8MiB --carrier keeper");
    if !made.status.success() {
        return skipped("carrier keeper", &said(&made));
    }
    let socket = owner.base().join("r/keeper.sock");
    assert_eq!(fs::symlink_metadata(&socket).unwrap().mode() & 0o777, 0o600);
    // Root comes past every mode; the keeper looks who it is.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"", "the keeper answered another user");
    // Ordinary users do not come that far.
    let ended = User::new("stranger", Some(NOBODY)).shell(&format!("test -e {}", socket.display()));
    assert!(!ended.status.success());
    owner.must("\"$L\" ls --place \"$B\" --name r");
}

/// Whether set-uid programs have an effect in a directory.
fn honours_set_uid(folder: &Path) -> bool {
    let path = std::ffi::CString::new(folder.to_str().unwrap()).unwrap();
    // SAFETY: a C string and a structure of ours, which zeros are a value of.
    unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        libc::statvfs(path.as_ptr(), &mut about) == 0 && about.f_flag & libc::ST_NOSUID == 0
    }
}

#[test]
fn a_program_with_rights_of_its_own_is_neither_served_nor_led_astray() {
    let _clean = NoResidue::begin();
    if !is_root() {
        return skipped("set-uid programs", "only root can make some with rights that the tests do not have");
    }
    let user = User::new("privileged", Some(NOBODY));
    user.must("\"$L\" region create r --place \"$B\" --size 8MiB --carrier shm");
    let folder =
        ["/var/tmp", "/tmp", "/root", "/dev/shm"].into_iter().find(|folder| honours_set_uid(Path::new(folder)));
    let Some(folder) = folder else {
        return skipped("set-uid programs", "no file system here honours them");
    };
    let programs = ScratchDirectory::new(folder, "privileged");
    let cat = programs.path().join("cat");
    fs::copy("/bin/cat", &cat).unwrap();
    let plain =
        user.must(&format!("\"$L\" exec --place \"$B\" --name r --mount \"$M\" -- {} /proc/self/maps", cat.display()));
    assert!(plain.contains("liblifeboat"), "without rights of its own it has the library");
    for (what, owner, mode) in [("set-uid", 0, 0o4755), ("set-gid", NOBODY, 0o2755)] {
        let group = if what == "set-gid" { 0 } else { NOBODY };
        chown(&cat, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&cat, PermissionsExt::from_mode(mode)).unwrap();
        let maps = user
            .must(&format!("\"$L\" exec --place \"$B\" --name r --mount \"$M\" -- {} /proc/self/maps", cat.display()));
        assert!(!maps.contains("liblifeboat"), "{what}: the library is in it");
        let ended = user.shell(&format!(
            "LD_PRELOAD={} LIFEBOAT_REGION=\"$B\"/r LIFEBOAT_MOUNT=/m {} /m/x",
            user.library().display(),
            cat.display()
        ));
        assert!(said(&ended).contains("No such file"), "{what}: {ended:?}");
    }
    // File capabilities count as rights, too.
    fs::set_permissions(&cat, PermissionsExt::from_mode(0o755)).unwrap();
    if Command::new("setcap").arg("cap_net_raw+ep").arg(&cat).status().is_ok_and(|status| status.success()) {
        let maps = user
            .must(&format!("\"$L\" exec --place \"$B\" --name r --mount \"$M\" -- {} /proc/self/maps", cat.display()));
        assert!(!maps.contains("liblifeboat"), "capabilities: the library is in it");
    } else {
        skipped("file capabilities", "no setcap here");
    }
    // The command itself trusts its caller's environment, so it must not have more rights than its caller.
    let command = programs.path().join("lifeboat");
    fs::copy(user.program(), &command).unwrap();
    fs::set_permissions(&command, PermissionsExt::from_mode(0o4755)).unwrap();
    let ended = user.shell(&format!("{} region list", command.display()));
    assert_refused_in_one_line(&ended, "the command with rights of its own");
    assert!(said(&ended).contains("set-uid"), "{ended:?}");
}

#[test]
fn a_library_that_others_could_have_put_there_is_not_loaded() {
    let _clean = NoResidue::begin();
    let user = User::same("library");
    let other = user.home().join("liblifeboat_preload.so");
    fs::copy(user.library(), &other).unwrap();
    let run = || {
        user.shell(&format!(
            "LIFEBOAT_PRELOAD={} \"$L\" exec --place \"$B\" --name r --size 8MiB --mount \"$M\" -- true",
            other.display()
        ))
    };
    fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).unwrap();
    let ended = run();
    assert!(ended.status.success(), "{ended:?}");
    fs::set_permissions(&other, PermissionsExt::from_mode(0o757)).unwrap();
    let ended = run();
    assert_refused_in_one_line(&ended, "writable by all");
    assert!(said(&ended).contains("LIFEBOAT_PRELOAD"), "{ended:?}");
    fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).unwrap();
    if this_user().uid == 0 {
        chown(&other, Some(NOBODY), None).unwrap();
        let ended = run();
        assert_refused_in_one_line(&ended, "of another user");
        assert!(said(&ended).contains("belongs to user 65534"), "{ended:?}");
    }
}
