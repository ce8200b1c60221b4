//! The cgroups above this process that limit memory or huge pages.
//!
//! `/proc/self/cgroup` says where the process is in each hierarchy, `/proc/self/mountinfo` where the hierarchies are
//! mounted and which part of them is visible. Every visible ancestor counts: a limit holds for all below it.

use core::ffi::CStr;

use super::reader::{field, for_each_line, number, read_file};
use crate::place::Text;

/// Groups of container managers have long paths, and one that did not fit would be a limit unseen.
type PathText = Text<2048>;

/// Names of the files of one version of a controller.
struct Files {
    /// The controller as /proc/self/cgroup and mount options name it.
    controller: &'static [u8],
    /// Limits and what counts against them: the smallest of these that exist counts.
    limits: [(&'static [u8], &'static [u8]); 2],
    /// Fields of `memory.stat`; what cannot be had back has none.
    cache: Option<CacheFields>,
}

/// Names of fields of `memory.stat`.
struct CacheFields {
    inactive: &'static [u8],
    active: &'static [u8],
    dirty: &'static [u8],
    writeback: &'static [u8],
}

const VERSION_1: Files = Files {
    controller: b"memory",
    limits: [
        (b"memory.limit_in_bytes", b"memory.usage_in_bytes"),
        (b"memory.memsw.limit_in_bytes", b"memory.memsw.usage_in_bytes"),
    ],
    cache: Some(CacheFields {
        inactive: b"total_inactive_file",
        active: b"total_active_file",
        dirty: b"total_dirty",
        writeback: b"total_writeback",
    }),
};

const VERSION_2: Files = Files {
    controller: b"memory",
    // `high` does not kill, but it slows everybody in the group down to a crawl.
    limits: [(b"memory.max", b"memory.current"), (b"memory.high", b"memory.current")],
    cache: Some(CacheFields {
        inactive: b"inactive_file",
        active: b"active_file",
        dirty: b"file_dirty",
        writeback: b"file_writeback",
    }),
};

/// Pages in use, and pages in use or promised to a mapping (which a new page counts against, too).
const HUGETLB_VERSION_1: Files = Files {
    controller: b"hugetlb",
    limits: [
        (b"hugetlb.2MB.limit_in_bytes", b"hugetlb.2MB.usage_in_bytes"),
        (b"hugetlb.2MB.rsvd.limit_in_bytes", b"hugetlb.2MB.rsvd.usage_in_bytes"),
    ],
    cache: None,
};

const HUGETLB_VERSION_2: Files = Files {
    controller: b"hugetlb",
    limits: [(b"hugetlb.2MB.max", b"hugetlb.2MB.current"), (b"hugetlb.2MB.rsvd.max", b"hugetlb.2MB.rsvd.current")],
    cache: None,
};

/// Which controller a limit on huge pages is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedBy {
    Hugetlb,
    Memory,
}

/// Version 1 writes "no limit" as a number near 2^63.
const NO_LIMIT: u64 = 1 << 62;

/// Told (who counts, path below the mount, bytes left, limit).
pub(super) type EachHugePageLimit<'a> = &'a mut dyn FnMut(CountedBy, &[u8], u64, u64);

/// Calls `each` with (path below the mount, bytes left, limit) of every limited memory cgroup above this process.
pub(super) fn for_each_limit(each: &mut dyn FnMut(&[u8], u64, u64)) {
    for_each_group(VERSION_1.controller, &mut |version, group| {
        walk(version, group, if version == 2 { &VERSION_2 } else { &VERSION_1 }, false, each);
    });
}

/// As [`for_each_limit`], of everything that huge pages count against.
pub(super) fn for_each_huge_page_limit(each: EachHugePageLimit<'_>) {
    for_each_group(HUGETLB_VERSION_1.controller, &mut |version, group| {
        let files = if version == 2 { &HUGETLB_VERSION_2 } else { &HUGETLB_VERSION_1 };
        walk(version, group, files, false, &mut |path, left, limit| each(CountedBy::Hugetlb, path, left, limit));
        if version == 2 {
            let each = &mut |path: &[u8], left, limit| each(CountedBy::Memory, path, left, limit);
            walk(version, group, &VERSION_2, true, each);
        }
    });
}

/// Calls `each` with the version and this process's group of every hierarchy that can have `controller`.
fn for_each_group(controller: &[u8], each: &mut dyn FnMut(u8, &[u8])) {
    for_each_line(c"/proc/self/cgroup", &mut |line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            return true;
        };
        if controllers.is_empty() {
            each(2, group);
        } else if controllers.split(|&byte| byte == b',').any(|found| found == controller) {
            each(1, group);
        }
        true
    });
}

/// Visits `group` and its ancestors where a mount shows them; `accounting` if memory cgroups must be told to count huge
/// pages there.
fn walk(version: u8, group: &[u8], files: &Files, accounting: bool, each: &mut dyn FnMut(&[u8], u64, u64)) {
    let fits = |mount: &Mount<'_>| match version {
        2 => mount.kind == b"cgroup2" && (!accounting || mount.has(b"memory_hugetlb_accounting")),
        _ => mount.kind == b"cgroup" && mount.has(files.controller),
    };
    if let Some((mount_point, below)) = find(c"/proc/self/mountinfo", group, &fits) {
        visit_with_ancestors(&mount_point, &below, files, each);
    }
}

/// Where a mount that fits shows `group`, as mount point and path below: the last one that shows it whole, because what is
/// mounted later lies on top; else the last that shows anything (its root is an ancestor).
///
/// A cgroup namespace and containers leave mounts of other parts of the tree behind, and mounts that others cover.
fn find(table: &CStr, group: &[u8], fits: &dyn Fn(&Mount<'_>) -> bool) -> Option<(PathText, PathText)> {
    let mut best = None;
    let mut best_is_whole = false;
    for_each_line(table, &mut |line| {
        let Some(mount) = parse_mount(line).filter(|mount| fits(mount)) else { return true };
        let inside = relative(group, mount.root);
        let mount_point = unescaped(mount.point);
        let below = PathText::from_bytes(inside.unwrap_or(b""));
        let mut shown = mount_point;
        shown.push(below.as_bytes());
        shown.push(b"/cgroup.procs");
        let is_there = !shown.is_cut() && rustix::fs::stat(shown.as_c_str()).is_ok();
        if is_there && (inside.is_some() || !best_is_whole) {
            best = Some((mount_point, below));
            best_is_whole = inside.is_some();
        }
        true
    });
    best
}

fn visit_with_ancestors(
    mount_point: &PathText,
    below: &PathText,
    files: &Files,
    each: &mut dyn FnMut(&[u8], u64, u64),
) {
    let mut end = below.as_bytes().len();
    loop {
        visit(mount_point, &below.as_bytes()[..end], files, each);
        match below.as_bytes()[..end].iter().rposition(|&byte| byte == b'/') {
            Some(slash) => end = slash,
            None => break,
        }
    }
}

fn visit(mount_point: &PathText, group: &[u8], files: &Files, each: &mut dyn FnMut(&[u8], u64, u64)) {
    let mut directory = *mount_point;
    directory.push(group);
    let read = |name: &[u8], buffer: &mut [u8]| {
        let path = directory.joined(name);
        if path.is_cut() { None } else { read_file(path.as_c_str(), buffer).and_then(number) }
    };
    let mut buffer = [0u8; 64];
    let mut reclaimable = None;
    for (limit, usage) in files.limits {
        // "max" is not a number.
        let Some(limit) = read(limit, &mut buffer).filter(|&limit| limit < NO_LIMIT) else { continue };
        let Some(usage) = read(usage, &mut buffer) else { continue };
        let reclaimable = *reclaimable.get_or_insert_with(|| clean_cache(&directory, files.cache.as_ref()));
        let left = limit.saturating_sub(usage.saturating_sub(reclaimable));
        each(if group.is_empty() { b"/" } else { group }, left.min(limit), limit);
    }
}

/// Page cache of files that the kernel gives up before it kills anybody: all that is old and clean, half of what is in use.
fn clean_cache(directory: &PathText, fields: Option<&CacheFields>) -> u64 {
    let Some(fields) = fields else { return 0 };
    let path = directory.joined(b"memory.stat");
    let mut buffer = [0u8; 8192];
    let Some(text) = read_file(path.as_c_str(), &mut buffer) else { return 0 };
    let of = |name| field(text, name).unwrap_or(0);
    (of(fields.inactive) + of(fields.active) / 2).saturating_sub(of(fields.dirty) + of(fields.writeback))
}

struct Mount<'a> {
    root: &'a [u8],
    point: &'a [u8],
    kind: &'a [u8],
    options: &'a [u8],
}

impl Mount<'_> {
    fn has(&self, option: &[u8]) -> bool {
        self.options.split(|&byte| byte == b',').any(|found| found == option)
    }
}

/// Takes a line of mountinfo apart: `id parent dev root point options [optional...] - type source super-options`.
fn parse_mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|&byte| byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = rest.next()?;
    let options = rest.nth(1)?;
    Some(Mount { root, point, kind, options })
}

/// `group` as seen from `root`; `None` when it is not below it.
fn relative<'a>(group: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let group = group.strip_suffix(b"/").unwrap_or(group);
    if group.starts_with(b"/..") {
        return None;
    }
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let below = group.strip_prefix(root)?;
    (below.is_empty() || below.starts_with(b"/")).then_some(below)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescaped(path: &[u8]) -> PathText {
    let mut text = PathText::new();
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                text.push(&[(high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0')]);
                rest = after;
            }
            _ => {
                text.push(&[byte]);
                rest = tail;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_below_the_visible_part_only() {
        assert_eq!(relative(b"/", b"/"), Some(&b""[..]));
        assert_eq!(relative(b"/a/b", b"/"), Some(&b"/a/b"[..]));
        assert_eq!(relative(b"/docker/x/y", b"/docker/x"), Some(&b"/y"[..]));
        assert_eq!(relative(b"/docker/x", b"/docker/x"), Some(&b""[..]));
        assert_eq!(relative(b"/docker/xy", b"/docker/x"), None);
        assert_eq!(relative(b"/../other", b"/"), None);
    }

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.root, mount.point), (&b"/"[..], &b"/sys/fs/cgroup/memory"[..]));
        assert!(mount.kind == b"cgroup" && mount.has(b"memory") && !mount.has(b"hugetlb"));
        let line = b"41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,memory_hugetlb_accounting";
        assert!(parse_mount(line).is_some_and(|mount| mount.kind == b"cgroup2" && !mount.has(b"memory")));
        assert!(parse_mount(line).is_some_and(|mount| mount.has(b"memory_hugetlb_accounting")));
        assert!(parse_mount(b"41 31 0:38").is_none());
    }

    #[test]
    fn a_group_is_looked_for_where_a_mount_shows_it_and_not_in_one_that_is_covered_or_of_another_part() {
        let top = std::env::temp_dir().join(std::format!("lifeboat-cgroup-{}-mounts", std::process::id()));
        for folder in ["stale", "whole/job", "covered"] {
            std::fs::create_dir_all(top.join(folder)).unwrap();
        }
        for file in ["stale/cgroup.procs", "whole/job/cgroup.procs", "whole/cgroup.procs"] {
            std::fs::write(top.join(file), "").unwrap();
        }
        let line = |root: &str, folder: &str| {
            std::format!("41 31 0:38 {root} {}/{folder} rw - cgroup2 cgroup2 rw\n", top.display())
        };
        let found_in = |lines: &[std::string::String]| {
            let table = top.join("mountinfo");
            std::fs::write(&table, lines.concat()).unwrap();
            let table = std::ffi::CString::new(table.to_str().unwrap()).unwrap();
            let found = find(&table, b"/job", &|mount| mount.kind == b"cgroup2");
            found.map(|(point, below)| {
                let folder = point.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap().to_vec();
                (std::string::String::from_utf8(folder).unwrap(), below.as_bytes().to_vec())
            })
        };
        // As in a new cgroup namespace, where the mount of before shows an ancestor.
        let (stale, whole, covered) = (line("/..", "stale"), line("/", "whole"), line("/", "covered"));
        let expected = Some(("whole".into(), b"/job".to_vec()));
        assert_eq!(found_in(&[stale.clone(), whole.clone(), covered.clone()]), expected);
        assert_eq!(found_in(&[whole, stale.clone(), covered.clone()]), expected);
        assert_eq!(found_in(&[covered.clone(), stale]), Some(("stale".into(), std::vec::Vec::new())));
        assert_eq!(found_in(&[covered]), None);
        std::fs::remove_dir_all(&top).unwrap();
    }

    /// A hierarchy as the kernel shows it: the limits of `/job` and `/job/step`.
    fn limits(files: &Files, contents: &[(&str, &str)]) -> std::vec::Vec<(std::string::String, u64, u64)> {
        let thread = std::thread::current().id();
        let top = std::env::temp_dir().join(std::format!("lifeboat-cgroup-{}-{thread:?}", std::process::id()));
        std::fs::create_dir_all(top.join("job/step")).unwrap();
        for (path, text) in contents {
            std::fs::write(top.join(path), text).unwrap();
        }
        let mut found = std::vec::Vec::new();
        let mount_point = PathText::from_bytes(top.to_str().unwrap().as_bytes());
        visit_with_ancestors(&mount_point, &PathText::from_bytes(b"/job/step"), files, &mut |path, left, limit| {
            found.push((std::string::String::from_utf8(path.to_vec()).unwrap(), left, limit));
        });
        std::fs::remove_dir_all(&top).unwrap();
        found
    }

    #[test]
    fn every_ancestor_counts_in_version_2() {
        let found = limits(
            &VERSION_2,
            &[
                ("job/step/memory.max", "max\n"),
                ("job/step/memory.high", "900\n"),
                ("job/step/memory.current", "100\n"),
                ("job/memory.max", "1000\n"),
                ("job/memory.current", "700\n"),
                ("job/memory.stat", "anon 5\ninactive_file 200\nactive_file 100\nfile_dirty 30\nfile_writeback 20\n"),
            ],
        );
        // 700 used, of which 200 + 100/2 - 50 can be had back.
        assert_eq!(found, [("/job/step".into(), 800, 900), ("/job".into(), 500, 1000)]);
    }

    #[test]
    fn every_ancestor_counts_in_version_1() {
        let found = limits(
            &VERSION_1,
            &[
                ("job/step/memory.limit_in_bytes", "9223372036854771712\n"),
                ("job/step/memory.usage_in_bytes", "100\n"),
                ("job/memory.limit_in_bytes", "1000\n"),
                ("job/memory.usage_in_bytes", "1700\n"),
                ("job/memory.memsw.limit_in_bytes", "2000\n"),
                ("job/memory.memsw.usage_in_bytes", "1900\n"),
                ("memory.limit_in_bytes", "5000\n"),
                ("memory.usage_in_bytes", "1900\n"),
                ("memory.stat", "total_inactive_file 400\ntotal_active_file 0\n"),
            ],
        );
        // More used than allowed (the limit was lowered) leaves nothing, and never more than the limit.
        assert_eq!(found, [("/job".into(), 0, 1000), ("/job".into(), 100, 2000), ("/".into(), 3500, 5000)]);
    }

    #[test]
    fn huge_pages_in_use_and_promised_count_in_both_versions() {
        let found = limits(
            &HUGETLB_VERSION_2,
            &[
                ("job/step/hugetlb.2MB.max", "8388608\n"),
                ("job/step/hugetlb.2MB.current", "2097152\n"),
                ("job/step/hugetlb.2MB.rsvd.max", "max\n"),
                ("job/step/hugetlb.2MB.rsvd.current", "2097152\n"),
                ("job/hugetlb.2MB.max", "max\n"),
                ("job/hugetlb.2MB.rsvd.max", "4194304\n"),
                ("job/hugetlb.2MB.rsvd.current", "4194304\n"),
                ("job/memory.stat", "inactive_file 1000000\n"),
            ],
        );
        assert_eq!(found, [("/job/step".into(), 6 << 20, 8 << 20), ("/job".into(), 0, 4 << 20)]);
        let found = limits(
            &HUGETLB_VERSION_1,
            &[
                ("job/step/hugetlb.2MB.limit_in_bytes", "9223372036854771712\n"),
                ("job/step/hugetlb.2MB.usage_in_bytes", "0\n"),
                ("job/hugetlb.2MB.limit_in_bytes", "10485760\n"),
                ("job/hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ],
        );
        assert_eq!(found, [("/job".into(), 8 << 20, 10 << 20)]);
    }

    #[test]
    fn escaped_mount_points_are_decoded() {
        assert_eq!(unescaped(br"/a\040b\134c").as_bytes(), br"/a b\c");
        assert_eq!(unescaped(br"/a\9").as_bytes(), br"/a\9");
    }
}
