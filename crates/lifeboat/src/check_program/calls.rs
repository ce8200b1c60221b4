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
        functions: &["ftw", "ftw64", "nftw", "nftw64", "fts_open", "fts64_open", "getdirentries", "getdirentries64"],
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
            "chroot",
            "ftok",
            "mktemp",
            "open_by_handle_at",
            "pivot_root",
            "quotactl",
            "setmntent",
            "swapoff",
            "swapon",
            "tempnam",
            "wordexp",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_function_is_named_twice() {
        let mut seen = BTreeSet::new();
        for name in GROUPS.iter().flat_map(|group| group.functions).chain(LOADERS) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
