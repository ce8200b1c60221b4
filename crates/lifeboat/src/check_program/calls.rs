//! libc's functions that reach a file without passing through another function that could be intercepted.
//!
//! What is served is not written here: that is what the interception library defines. A function of this table that the
//! library defines is served, or refused with an error; one that it lacks is missed. Functions in neither (`strlen`, and `fread` on a stream that
//! an intercepted `fopen` made) concern no file by themselves.

/// What becomes of a call that the interception library lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The kernel does it without libc: only FUSE serves it. The interception library may define it, to refuse it.
    Fuse,
    /// It meets the covered directory, or the placeholder of an open file.
    Missed,
    /// So it does, but programs call it for other ends than the files of a mount.
    Seldom,
}

/// Functions that are missed in the same way.
#[derive(Debug)]
pub struct Group {
    /// What they do to a file in the mount.
    pub what: &'static str,
    /// How much that matters.
    pub weight: Weight,
    /// Their names, as in a dynamic symbol table.
    pub functions: &'static [&'static str],
}

/// Functions with which a program loads libraries while it runs.
pub const LOADERS: &[&str] = &["dlopen", "dlmopen"];

/// All that have to be intercepted and may not be.
pub const GROUPS: &[Group] = &[
    Group {
        what: "the kernel itself reads and writes",
        weight: Weight::Fuse,
        functions: &[
            "io_setup",
            "io_submit",
            "io_pgetevents",
            "io_queue_init",
            "io_queue_run",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_enter2",
            "io_uring_register",
            "io_uring_queue_init",
            "io_uring_queue_init_mem",
            "io_uring_queue_init_params",
            "io_uring_submit",
            "io_uring_submit_and_wait",
        ],
    },
    Group { what: "any system call at all", weight: Weight::Missed, functions: &["syscall"] },
    Group {
        what: "walks a tree inside libc",
        weight: Weight::Missed,
        functions: &[
            "fts64_children",
            "fts64_close",
            "fts64_open",
            "fts64_read",
            "fts64_set",
            "fts_children",
            "fts_close",
            "fts_open",
            "fts_read",
            "fts_set",
            "ftw",
            "ftw64",
            "getdirentries",
            "getdirentries64",
            "nftw",
            "nftw64",
        ],
    },
    Group {
        what: "reads and writes inside libc",
        weight: Weight::Missed,
        functions: &["lio_listio", "lio_listio64", "remap_file_pages"],
    },
    Group {
        what: "an older or private name of a call",
        weight: Weight::Missed,
        functions: &[
            "__close_nocancel",
            "__fstat64",
            "__mmap",
            "__munmap",
            "__open64_nocancel",
            "__open_nocancel",
            "__pread64_nocancel",
            "__read_nocancel",
            "__statfs",
            "__vfork",
            "__write_nocancel",
            "__xmknod",
            "__xmknodat",
        ],
    },
    Group {
        what: "runs a program, which may lie in the mount",
        weight: Weight::Seldom,
        functions: &["execl", "execle", "execlp"],
    },
    Group { what: "a socket may have a name in the mount", weight: Weight::Seldom, functions: &["bind", "connect"] },
    Group {
        what: "watches a name for changes",
        weight: Weight::Seldom,
        functions: &["fanotify_mark", "inotify_add_watch"],
    },
    Group {
        what: "looks a name up inside libc",
        weight: Weight::Seldom,
        functions: &[
            "__mktemp",
            "__setmntent",
            "acct",
            "catopen",
            "ftok",
            "mktemp",
            "pivot_root",
            "quotactl",
            "setmntent",
            "swapoff",
            "swapon",
            "wordexp",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The table of all functions that reach files, which the interception library is held against.
    const SYMBOLS: &str = include_str!("../../../preload/symbols.txt");

    #[test]
    fn this_table_and_that_of_the_interception_library_agree() {
        let lines = SYMBOLS.lines().filter(|line| !line.starts_with('#'));
        let fates: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(' ')).collect();
        let ours: BTreeSet<&str> = GROUPS.iter().flat_map(|group| group.functions).copied().collect();
        let is_unserved = |name: &&str| fates.get(*name) == Some(&"unserved");
        let forgotten: Vec<&str> =
            fates.keys().copied().filter(is_unserved).filter(|name| !ours.contains(name)).collect();
        assert!(forgotten.is_empty(), "unserved, and not here: {forgotten:?}");
        let needs_no_hook = |name: &&str| fates.get(*name).is_some_and(|fate| !["hook", "unserved"].contains(fate));
        let harmless: Vec<&str> = ours.iter().copied().filter(needs_no_hook).collect();
        assert!(harmless.is_empty(), "here, and said to need no hook: {harmless:?}");
    }

    #[test]
    fn no_function_is_named_twice() {
        let mut seen = BTreeSet::new();
        for name in GROUPS.iter().flat_map(|group| group.functions).chain(LOADERS) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
