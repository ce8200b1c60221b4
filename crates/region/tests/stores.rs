//! The region is published through `commit` and nothing else: a plain store elsewhere is an order that nobody checked.

use std::path::{Path, PathBuf};

/// Files that may store plainly, and what they store: only words that no other process reads as published, or volatile
/// notes that are read after a proof of death.
const ALLOWED: [(&str, &str); 18] = [
    ("region/src/commit.rs", "the one place"),
    ("region/src/lane.rs", "a lane's own notes and uncommitted entries; the guard of a sequence word"),
    ("region/src/kept_lane.rs", "announcements of a lane that the image keeps, and private notes of it"),
    ("region/src/image.rs", "fields of a slot before it is live; private words"),
    ("region/src/recovery.rs", "notes of a dead lane"),
    ("region/src/high_water.rs", "how many entries of a table were ever used (volatile)"),
    ("region/src/search.rs", "private cursors and notes"),
    ("region/src/carrier/populate.rs", "how far a new file is, between threads of this process"),
    ("region/src/mapping.rs", "words that nobody reads before another is published"),
    ("region/src/private_cache.rs", "memory of this process alone"),
    ("region/src/place_cache.rs", "memory of this process alone"),
    ("region/src/version.rs", "memory of this process alone"),
    ("region/src/walk_cache.rs", "memory of this process alone"),
    ("fs/src/read_targets.rs", "memory of this process alone"),
    ("fs/src/open_count.rs", "a count that is never too low"),
    ("fs/src/open_file.rs", "the mark of a tagged slot (volatile); private cursors"),
    ("fs/src/file_lock_table.rs", "how many records were ever taken (volatile)"),
    ("fs/src/file_io.rs", "offsets of open files (volatile)"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_plain_store_publishes_anything() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["region/src", "fs/src"] {
        sources(&crates.join(folder), &mut files);
    }
    assert!(files.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(crates).unwrap().to_str().unwrap().to_owned();
        if ALLOWED.iter().any(|(allowed, _)| *allowed == name) {
            continue;
        }
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            if [".store(", ".swap(", ".fetch_", ".compare_exchange("].iter().any(|call| line.contains(call)) {
                // Private state of this process is no region memory.
                let names =
                    ["self.predecessors_done", "self.open_file_cursor", "self.process_locks", "self.told", ".checks."];
                let private = names.iter().any(|name| line.contains(name));
                if !private {
                    wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "stores outside `commit`:\n{}", wrong.join("\n"));
}
