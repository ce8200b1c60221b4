//! Copies the product's sources into trees of modules that run over loom's atomics. The text is the product's own; what
//! is replaced is listed here, and nothing else. A *planted* tree has one more replacement: a bug that must be caught.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules of the region that are taken as they are.
const REGION: &[&str] = &[
    "announcements",
    "commit",
    "high_water",
    "image",
    "kept_lane",
    "lane",
    "lock",
    "owner",
    "place_cache",
    "private_cache",
    "process",
    "recovery",
    "search",
    "space",
    "user",
    "version",
    "walk_cache",
    "witness",
    "words",
];

/// Modules of the file system that are not taken: what walks a whole region, or changes mappings.
const NOT_OF_FILES: &[&str] = &["check", "guard", "lib"];

/// Modules that stand in for what the kernel does, and for sizes.
const STAND_IN: &[&str] = &["layout", "proof", "region", "sleep", "thread_hint"];

/// What drives the code of the region.
const SCENARIOS: &[&str] = &["allocation", "looked_up", "publication", "recoverers", "support"];

/// What drives the code of the file system.
const FILE_SCENARIOS: &[&str] = &["files", "cut_against_write", "open_files", "support"];

/// How much of the product a tree has.
#[derive(Clone, Copy, PartialEq)]
enum Floor {
    Region,
    Files,
}

/// A bug: its name, the module, the text that must be there once, and what it becomes.
struct Planted {
    name: &'static str,
    floor: Floor,
    module: &'static str,
    from: &'static str,
    to: &'static str,
}

const PLANTED: &[Planted] = &[
    Planted {
        name: "no_second_look_at_the_chunk",
        floor: Floor::Region,
        module: "search",
        from: "if !self.class.has(after) {",
        to: "if false {",
    },
    Planted {
        name: "no_second_look_at_the_units",
        floor: Floor::Region,
        module: "search",
        from: "// Again, now that nobody can take a unit unseen.\n            if all_free(self.region, chunk, class)? {",
        to: "\n            if true {",
    },
    Planted {
        name: "a_unit_is_stored_not_exchanged",
        floor: Floor::Region,
        module: "search",
        from: "if !self.region.commit_exchange(owner_at, word, mine, MustFence::nothing())? {\n            return Ok(None);\n        }",
        to: "self.region.commit(owner_at, mine, MustFence::nothing())?;",
    },
    Planted {
        name: "relaxed_instead_of_release",
        floor: Floor::Region,
        module: "commit",
        from: "word.store(value, Ordering::Release);",
        to: "word.store(value, Ordering::Relaxed);",
    },
    Planted {
        name: "applied_before_it_is_committed",
        floor: Floor::Region,
        module: "lane",
        from: "region.commit(lane + TRANSACTION, word, data)?;\n        self.apply()?;",
        to: "self.apply()?;\n        region.commit(lane + TRANSACTION, word, data)?;",
    },
    Planted {
        name: "what_the_dead_did_is_stored_again",
        floor: Floor::Region,
        module: "lane",
        from: "region.commit_exchange(offset & !FREES, old, new, MustFence::nothing())?;",
        to: "let _ = old; region.commit(offset & !FREES, new, MustFence::nothing())?;",
    },
    Planted {
        name: "a_recoverer_does_not_look_at_the_slot_again",
        floor: Floor::Region,
        module: "image",
        from: "let won = region.commit_exchange(region.image_at(slot)?, state, claimed, MustFence::nothing())?;",
        to: "region.commit(region.image_at(slot)?, claimed, MustFence::nothing())?; let won = true;",
    },
    Planted {
        name: "a_lock_that_somebody_begins_to_wait_for_is_not_taken_over",
        floor: Floor::Region,
        module: "lock",
        from: "// Somebody began to wait for it, which changes the word: the dead still has it.",
        to: "if word != 0 { break; }",
    },
    Planted {
        name: "a_line_is_looked_at_once",
        floor: Floor::Region,
        module: "version",
        from: "let undisturbed = version & 1 == 0 && self.0.load(Ordering::Relaxed) == version;",
        to: "let undisturbed = version & 1 == 0;",
    },
    Planted {
        name: "unlinked_is_freed_without_a_look_at_announcements",
        floor: Floor::Files,
        module: "truncate",
        from: "if may_be_touched(owner.kind, announced) {",
        to: "if false {",
    },
    Planted {
        name: "an_announcement_is_not_seen_at_once",
        floor: Floor::Files,
        module: "lane",
        from: "self.region.word(self.at + HAZARD)?.swap(inode, Ordering::SeqCst);",
        to: "self.region.word(self.at + HAZARD)?.store(inode, Ordering::Release);",
    },
    Planted {
        name: "what_a_dead_writer_left_is_not_zeroed",
        floor: Floor::Files,
        module: "sweep",
        from: "self.scrub_after_death(lane, written, start, end)",
        to: "let _ = (lane, written); Ok(true)",
    },
    Planted {
        name: "what_the_dead_had_open_stays_open",
        floor: Floor::Files,
        module: "sweep",
        from: "self.reap_image(image)?;",
        to: "",
    },
    Planted {
        name: "who_opens_looks_for_no_name",
        floor: Floor::Files,
        module: "open_count",
        from: "let has_name = self.links(inode).is_ok_and(|links| links != 0);",
        to: "let has_name = true;",
    },
    Planted {
        name: "who_closes_looks_for_no_name",
        floor: Floor::Files,
        module: "open_count",
        from: "let is_over = self.links(inode).is_ok_and(|links| links != 0)\n            && ",
        to: "let is_over = ",
    },
    Planted {
        name: "the_count_is_looked_at_too_early",
        floor: Floor::Files,
        module: "release",
        from: "fence(Ordering::SeqCst);",
        to: "",
    },
    Planted {
        name: "the_range_of_a_kept_lane_is_seen_late",
        floor: Floor::Files,
        module: "in_place",
        from: "write.announced.fence();",
        to: "core::hint::spin_loop();",
    },
    Planted {
        name: "a_place_is_believed_without_its_words",
        floor: Floor::Files,
        module: "place_cache",
        from: "if unsafe { words.load_again(at) }? != value {",
        to: "let _ = (words, at, value);\n            if false {",
    },
    Planted {
        name: "a_write_in_place_looks_for_no_cut",
        floor: Floor::Files,
        module: "in_place",
        from: "if published == Ok(true) {",
        to: "if published.is_ok() {",
    },
    Planted {
        name: "a_write_that_goes_on_is_held_by_no_cut",
        floor: Floor::Files,
        module: "in_place",
        from: "if self.is_being_cut(write.inode) {",
        to: "if false {",
    },
    Planted {
        name: "a_cut_does_not_hold_writers",
        floor: Floor::Files,
        module: "beyond_size",
        from: "self.set(inode, inode::SEQUENCE, sequence | 1)",
        to: "self.set(inode, inode::SEQUENCE, sequence)",
    },
];

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    println!("cargo:rerun-if-changed=build.rs");
    let mut roots = String::new();
    write_tree(&here, &out, "real", Floor::Region, None, &mut roots);
    write_tree(&here, &out, "real_files", Floor::Files, None, &mut roots);
    for planted in PLANTED {
        write_tree(&here, &out, planted.name, planted.floor, Some(planted), &mut roots);
    }
    std::fs::write(out.join("trees.rs"), roots).expect("write the list of trees");
}

fn write_tree(here: &Path, out: &Path, tree: &str, floor: Floor, planted: Option<&Planted>, roots: &mut String) {
    let folder = out.join(tree);
    std::fs::create_dir_all(&folder).expect("make a folder");
    let about = planted.map_or("The product's code.".to_owned(), |planted| {
        format!("The product's code, but in `{}`: {:?}.", planted.module, planted.to)
    });
    writeln!(roots, "#[doc = {about:?}]\n#[allow(missing_docs, dead_code, unused)]\npub mod {tree} {{").expect("text");
    writeln!(roots, "    pub use crate::{{DAMAGED, Errno, MustFence, Result, atomics, harness, memory}};")
        .expect("text");
    writeln!(roots, "    pub use user::{{UserSource, UserTarget}};").expect("text");
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut sources = vec![("../region/src", names(REGION)), ("src/stand_in", names(STAND_IN))];
    match floor {
        Floor::Region => sources.push(("src/scenarios", names(SCENARIOS))),
        Floor::Files => {
            writeln!(roots, "    pub use crate::{{NAME_LONGEST, OUTSIDE, PATH_LONGEST, TRIES}};").expect("text");
            writeln!(roots, "    pub use lifeboat_kernels::{{checksum_slice, checksum_zeros, tuning}};").expect("text");
            writeln!(roots, "    pub use region::Region;").expect("text");
            sources.push(("../fs/src", modules_of_files(here)));
            sources.push(("src/scenarios", names(FILE_SCENARIOS)));
        }
    }
    for (from, modules) in sources {
        for module in modules {
            let source = here.join(from).join(format!("{module}.rs"));
            println!("cargo:rerun-if-changed={}", source.display());
            let mut text = std::fs::read_to_string(&source).expect("read a source");
            if let Some(planted) = planted.filter(|planted| planted.module == module) {
                assert_eq!(text.matches(planted.from).count(), 1, "{}: not once in {module}.rs", planted.name);
                text = text.replace(planted.from, planted.to);
            }
            let copy = folder.join(format!("{module}.rs"));
            std::fs::write(&copy, rewritten(&text, tree, floor)).expect("write a source");
            writeln!(roots, "    #[path = {:?}]\n    pub mod {module};", copy.display()).expect("text");
        }
    }
    writeln!(roots, "}}").expect("text");
}

fn modules_of_files(here: &Path) -> Vec<String> {
    let folder = here.join("../fs/src");
    println!("cargo:rerun-if-changed={}", folder.display());
    let entries = std::fs::read_dir(folder).expect("the file system's source");
    let names = entries.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned));
    let mut modules: Vec<_> = names.filter(|name| !NOT_OF_FILES.contains(&name.as_str())).collect();
    modules.sort();
    modules
}

/// The same text, for a tree of its own and loom's atomics; and whoever finds a lock held does not spin.
fn rewritten(text: &str, tree: &str, floor: Floor) -> String {
    let text = text.replace("lifeboat_region::", "crate::");
    let text = text.replace("crate::", &format!("crate::{tree}::"));
    let text = text.replace("core::sync::atomic::fence", "crate::atomics::fence");
    let text = text.replace("use core::sync::atomic::{Ordering, fence};", "use crate::atomics::{Ordering, fence};");
    let text =
        text.replace("use core::sync::atomic::{AtomicU64, Ordering};", "use crate::atomics::{AtomicU64, Ordering};");
    let text = text.replace("const SPINS: u32 = 200;", "const SPINS: u32 = 0;");
    // A model's stack is small.
    let text = text.replace("const LINES: usize = 64;", "const LINES: usize = 2;");
    match floor {
        Floor::Region => text,
        // Room for inodes.
        Floor::Files => text.replace("pub const CHUNK: u64 = 512;", "pub const CHUNK: u64 = 8192;"),
    }
}
