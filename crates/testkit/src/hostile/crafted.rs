//! Damage that somebody thought out: cycles, overlaps, counts and offsets that lead astray, tables of zeros and ones.

use super::cases::Case;
use super::places::Place;
use super::population::{Population, SIZE};
use crate::random::Random;
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::FileSystem;
use lifeboat_region::layout::{CELL, CHUNK, LANE};
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space;

const SEQUENCE: u64 = 8;
const FILE_SIZE: u64 = 16;
const ROOT: u64 = 24;
const MODE: u64 = 40;
const LINKS: u64 = 48;
const PARENT: u64 = 96;
const MODIFIED: u64 = 72;
const BLOCKS: u64 = 112;
const FILE_LOCKS: u64 = 136;
const ATTRIBUTES: u64 = 144;

fn case(what: impl Into<String>, words: &[(u64, u64)]) -> Case {
    let bytes = words.iter().map(|(at, word)| (*at, word.to_le_bytes().to_vec())).collect();
    Case { what: what.into(), place: "crafted", bytes, one_bit: false, says_no_links: None }
}

/// An index node of height 1 at this offset, as a map word.
fn index(at: u64, height: u64) -> u64 {
    5 | height << 4 | (at >> 6) << 24
}

/// The links word whose halves agree that there are none.
const NO_LINKS: u64 = !(u32::MAX as u64);

/// Cases about the inodes of the population: those that are never left out, thought out one by one, and the others.
pub fn cases(files: &FileSystem) -> (Vec<Case>, Vec<Case>) {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let at = |path: &str| volume.stat(None, path.as_bytes(), false).expect("stat").number * CELL;
    let word = |at: u64| files.region().load(at).expect("a word");
    let (root, many, deep, er) = (files.root().number() * CELL, at("many"), at("deep"), at("deep/er"));
    let (small, extent, large, sparse) = (at("small"), at("extent"), at("large"), at("sparse"));
    let node = |at: u64| (word(at + ROOT) >> 24) << 6;
    let mut always = vec![
        case("a directory's index leads to itself", &[(node(many), index(node(many), 2))]),
        case("a directory's index leads to its own inode", &[(many + ROOT, index(many, 1))]),
        case("a directory has another's index", &[(deep + ROOT, word(many + ROOT))]),
        case("a directory has the root's index", &[(er + ROOT, word(root + ROOT))]),
        case("a file's map leads to itself", &[(node(large), index(node(large), 1))]),
        case("two files share an extent", &[(extent + ROOT, word(node(large)))]),
        case("two files share a map", &[(sparse + ROOT, word(large + ROOT))]),
        case("a file's map is a directory's index", &[(large + ROOT, word(many + ROOT))]),
        case("a file's extent lies in the tables", &[(extent + ROOT, 1 | (8192 >> 6) << 24)]),
        case("a file's extent lies beyond the region", &[(extent + ROOT, 1 | (SIZE >> 6) << 24)]),
        case("a file's extent ends beyond the region", &[(extent + ROOT, 1 | ((SIZE - 4096) >> 6) << 24)]),
        case("a file's extent has the largest offset", &[(extent + ROOT, 1 | u64::MAX << 24)]),
        case("attributes are a file's extent", &[(small + ATTRIBUTES, word(extent + ROOT))]),
        case("parents in a ring", &[(deep + PARENT, er / CELL), (er + PARENT, deep / CELL)]),
        case("a directory is its own parent", &[(deep + PARENT, deep / CELL)]),
        case("the root has a parent", &[(root + PARENT, deep / CELL)]),
        case("a parent is a file", &[(deep + PARENT, small / CELL)]),
        case("a lock on a chain of locks that leads nowhere", &[(large + FILE_LOCKS, 1 << 48 | 0xffff << 32)]),
        // A recovery that failed once was believed to go on for ever.
        case("a word that a dead transaction is about", &[(small + MODIFIED, 77)]),
        case("a directory that is always being changed", &[(many + SEQUENCE, u64::MAX)]),
        case("a file that is always being cut", &[(large + SEQUENCE, 1)]),
    ];
    let mut found = Vec::new();
    for (name, inode) in [("a file", large), ("a directory", many), ("the root", root)] {
        let no_links = case(format!("{name} has no links"), &[(inode + LINKS, NO_LINKS)]);
        let path = if inode == large { "large" } else { "a directory" };
        always.push(Case { says_no_links: Some(path), ..no_links });
        for value in [0, 1, u64::MAX, 1 << 63, u64::from(u32::MAX), NO_LINKS] {
            if value != NO_LINKS {
                found.push(case(format!("{name} has {value:#x} links"), &[(inode + LINKS, value)]));
            }
            found.push(case(format!("{name} has the size word {value:#x}"), &[(inode + FILE_SIZE, value)]));
            found.push(case(format!("{name} has {value:#x} blocks"), &[(inode + BLOCKS, value)]));
            found.push(case(format!("{name} has the mode {value:#x}"), &[(inode + MODE, value)]));
        }
        for kind in 0..16_u64 {
            found.push(case(format!("{name} has type {kind}"), &[(inode + MODE, kind << 12 | 0o644)]));
        }
    }
    let zeros = |start: u64, count: u64| (0..count).map(|index| (start + index * 8, 0)).collect::<Vec<_>>();
    let g = files.region().geometry();
    always.push(case("a directory's inode is all zeros", &zeros(many, CELL / 8)));
    always.push(case("a directory forgets its entries, one of them a hard link", &[(at("deep/er/est") + ROOT, 0)]));
    always.push(case("the inode of a directory with a hard link is all zeros", &zeros(at("deep/er/est"), CELL / 8)));
    let open_files = (0..g.open_files * 8).map(|index| (g.open_files_at + index * 8, u64::MAX)).collect::<Vec<_>>();
    always.push(case("all open files are ones", &open_files));
    let lanes = (0..g.lanes * LANE / 8).map(|index| (g.lanes_at + index * 8, u64::MAX)).collect::<Vec<_>>();
    always.push(case("all lanes are ones", &lanes));
    always.push(case("no chunk is used", &zeros(g.chunk_words_at, g.chunks)));
    always.extend(ring_beside_lost_entries(files, many));
    found.extend(entries(files, many));
    (always, found)
}

/// Offsets of the words of a directory's index that lead to chains.
fn heads(files: &FileSystem, dir: u64) -> Vec<u64> {
    let word = |at: u64| files.region().load(at).expect("a word");
    let node = (word(dir + ROOT) >> 24) << 6;
    (0..32).map(|child| node + child * 8).filter(|at| word(*at) & 15 == 6).collect()
}

/// Two chains in a ring whose second entries, to which nothing leads any more, are a bit away from what leads to the first: a
/// repair that flips bits back without asking where entries belong loses one that was found.
fn ring_beside_lost_entries(files: &FileSystem, dir: u64) -> Option<Case> {
    let word = |at: u64| files.region().load(at).expect("a word");
    let entry = |link: u64| (word(link) >> 24) << 6;
    let heads: Vec<u64> = heads(files, dir).into_iter().filter(|head| word(entry(*head)) & 15 == 6).collect();
    let pairs = heads.iter().flat_map(|one| heads.iter().map(move |other| (*one, *other)));
    let is_near =
        |(one, other): &(u64, u64)| [*one, *other].iter().any(|to| (word(entry(*other)) ^ word(*to)).count_ones() == 1);
    let (one, other) = pairs.filter(|(one, other)| one < other).find(is_near)?;
    Some(case(
        "two chains in a ring beside entries that they lost",
        &[(entry(one), word(other)), (entry(other), word(one))],
    ))
}

/// Chains that lead in rings or away.
fn entries(files: &FileSystem, dir: u64) -> Vec<Case> {
    let word = |at: u64| files.region().load(at).expect("a word");
    let heads = heads(files, dir);
    let entry = |head: u64| (word(head) >> 24) << 6;
    let mut found = Vec::new();
    for pair in heads.windows(2).take(4) {
        let (one, other) = (entry(pair[0]), entry(pair[1]));
        found.push(case("an entry follows itself", &[(one, word(pair[0]))]));
        found.push(case("two chains join", &[(one, word(pair[1]))]));
        found.push(case("two chains in a ring", &[(one, word(pair[1])), (other, word(pair[0]))]));
        found.push(case("one chain twice", &[(pair[0], word(pair[1]))]));
        found.push(case("two chains exchanged", &[(pair[0], word(pair[1])), (pair[1], word(pair[0]))]));
        found.push(case("a name longer than its place", &[(one + 24, word(one + 24) | 0xff)]));
        found.push(case("a name of no length", &[(one + 24, word(one + 24) & !0xff)]));
        found.push(case("a name in the tables", &[(one + 24, word(one + 24) & 0xffff | 128 << 24)]));
        found.push(case("an entry of the directory itself", &[(one + 16, dir / CELL)]));
        found.push(case("the name of an inode far away", &[(one + 16, u64::MAX >> 24)]));
    }
    found
}

/// Each structure whole, and each half, of zeros, of ones, and at random.
pub fn fills(places: &[Place], random: &mut Random) -> Vec<Case> {
    let mut found = Vec::new();
    let mut last = "";
    for place in places {
        // Of the many cells and entries a few.
        if place.what == last && !random.chance(4) {
            continue;
        }
        last = place.what;
        for (how, fill) in [("zeros", 0), ("ones", 0xff), ("random bytes", 1)] {
            let data: Vec<u8> = (0..place.length).map(|_| if fill == 1 { random.word() as u8 } else { fill }).collect();
            let bytes = vec![(place.at, data)];
            found.push(Case {
                what: format!("{how} over {} at {:#x}", place.what, place.at),
                place: "fill",
                bytes,
                one_bit: false,
                says_no_links: None,
            });
        }
    }
    found
}

/// Words of a map that stand in other places of the same map: every pair of the words in nodes of a large file, of a sparse one
/// and of a directory.
pub fn within_one_map(files: &FileSystem) -> Vec<Case> {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let mut found = Vec::new();
    let word = |at: u64| files.region().load(at).expect("a word");
    for path in ["large", "sparse", "sealed", "many"] {
        let inode = volume.stat(None, path.as_bytes(), false).expect("stat").number;
        let mut words = Vec::new();
        let walked = space::each_unit(files.region(), |unit, owner| {
            let step = if owner.kind == Kind::Extents { 16 } else { 8 };
            let holds_words = matches!(owner.kind, Kind::Extents | Kind::Index | Kind::Blocks);
            if owner.state == State::Live && holds_words && u64::from(owner.holder) == inode {
                words.extend((unit.at..unit.at + CELL).step_by(step).filter(|at| word(*at) != 0));
            }
            Ok(())
        });
        walked.expect("a whole region");
        for to in &words {
            for from in words.iter().filter(|from| *from != to) {
                found.push(case(format!("{path}: the map word of {from:#x} at {to:#x}"), &[(*to, word(*from))]));
            }
        }
    }
    found
}

/// Words in other places that long runs had met, each with an answer that was wrong.
pub fn met_before(files: &FileSystem) -> Vec<Case> {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let at = |path: &str| volume.stat(None, path.as_bytes(), false).expect("stat").number * CELL;
    let word = |at: u64| files.region().load(at).expect("a word");
    let mut nameless = Vec::new();
    let walked = space::each_unit(files.region(), |unit, owner| {
        if owner.state == State::Live && owner.kind == Kind::Inode && word(unit.at + LINKS) as u32 == 0 {
            nameless.push(unit.at);
        }
        Ok(())
    });
    walked.expect("a whole region");
    let empty = at("many/file-8");
    let owner_at = space::find_owner(files.region(), space::Class::Cell, empty).expect("a unit");
    let freed = Owner::decode(word(owner_at)).expect("an owner").freed().encode();
    let mut found = vec![
        case("a file's owner word says that it was freed", &[(owner_at, freed)]),
        case("a file's owner word says that a lane has it", &[(owner_at, 0xffff_fffd_0000_0002)]),
        case("a link's target is longer than its place", &[(at("deep/long-link") + FILE_SIZE, 1 << 20)]),
    ];
    let (many, small) = (at("many") / CELL, at("small") / CELL);
    let walked = space::each_unit(files.region(), |unit, owner| {
        if owner.kind == Kind::Entry && u64::from(owner.holder) == many {
            // What follows in the chain may be one bit away from this entry.
            let of_another = Owner { holder: small as u32, ..owner };
            found.push(case("an entry's owner word says that another has it", &[(unit.owner_at, of_another.encode())]));
            let in_limbo = Owner { kind: Kind::Data, ..of_another }.in_limbo();
            found.push(case("an entry's owner word says that it is in limbo", &[(unit.owner_at, in_limbo.encode())]));
        }
        Ok(())
    });
    walked.expect("a whole region");
    for (what, first, last) in [("locks and odd sequences", 64, 144), ("what it touches", 32, 56)] {
        let lanes = (0..8).map(|lane| files.region().lane_at(lane).expect("a lane"));
        let words = lanes.flat_map(|lane| (lane + first..lane + last).step_by(8));
        let garbage: Vec<(u64, u64)> = words.map(|at| (at, at.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        found.push(case(format!("free lanes note garbage: {what}"), &garbage));
    }
    let links =
        |at: &u64| case("a file without a name has a time as its links", &[(*at + LINKS, word(*at + MODIFIED))]);
    found.extend(nameless.iter().map(links));
    found
}

/// Words of the metadata that stand in other places than theirs.
pub fn misplaced(population: &Population, places: &[Place], random: &mut Random, count: usize) -> Vec<Case> {
    let used: Vec<u64> = places
        .iter()
        .flat_map(|place| (place.at..place.at + place.length).step_by(8))
        .filter(|at| (0..8).any(|byte| population.byte(at + byte) != 0))
        .collect();
    let word = |at: u64| (0..8).rev().fold(0, |word, byte| word << 8 | u64::from(population.byte(at + byte)));
    (0..count)
        .map(|_| {
            let (to, from) = (random.pick(&used), random.pick(&used));
            case(format!("the word of {from:#x} at {to:#x}"), &[(to, word(from))])
        })
        .collect()
}

/// Check sum of an entry's words, which stands in bits 16..24 of the last.
fn sum([key, child, info]: [u64; 3]) -> u64 {
    let mixed =
        (key ^ child.rotate_left(17) ^ (info & !(0xff << 16)).rotate_left(41)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> 56
}

fn is_whole(words: [u64; 3]) -> bool {
    sum(words) == words[2] >> 16 & 0xff
}

/// An entry gets the inode of another, and is then one bit away from words that agree: in its ordinal, in its inode, in its
/// check sum. Some of each kind.
pub fn one_bit_from_another_inode(files: &FileSystem, each: usize) -> Vec<Case> {
    let word = |at: u64| files.region().load(at).expect("a word");
    let mut entries = Vec::new();
    let walked = space::each_unit(files.region(), |unit, owner| {
        if owner.state == State::Live && owner.kind == Kind::Entry {
            entries.push((unit.at, [word(unit.at + 8), word(unit.at + 16), word(unit.at + 24)]));
        }
        Ok(())
    });
    walked.expect("a whole region");
    let kind = |words: [u64; 3]| words[2] >> 8 & 0xff;
    assert!(entries.iter().all(|(_, words)| is_whole(*words)), "entries have another check sum");
    let inodes: Vec<u64> = entries.iter().map(|(_, words)| words[1]).collect();
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for (at, words) in &entries {
        for (_, other) in entries.iter().filter(|(_, other)| other[1] != words[1] && kind(*other) == kind(*words)) {
            let astray = [words[0], other[1], words[2]];
            let flips = [(0..4, 0), (0..24, 1), (16..24, 2)];
            for (bits, field) in flips {
                let agrees = bits.into_iter().any(|bit: u32| {
                    let mut flipped = astray;
                    flipped[field] ^= 1 << bit;
                    // Back to what it was is what a repair is for.
                    is_whole(flipped) && flipped[1] != words[1] && inodes.contains(&flipped[1])
                });
                if agrees && found[field].len() < each {
                    let what = format!("the entry at {at:#x} has the inode {:#x}, word {field}", other[1]);
                    found[field].push(case(what, &[(at + 16, other[1])]));
                }
            }
        }
    }
    found.concat()
}

/// Lengths at which a region can be cut off.
pub fn lengths(places: &[Place]) -> Vec<u64> {
    let mut found: Vec<u64> = places
        .iter()
        .filter(|place| place.at < 2 * CHUNK)
        .flat_map(|place| [place.at, place.at + 1, place.at + place.length])
        .chain([1, SIZE - 1, SIZE - 4096, SIZE - CHUNK, SIZE / 2, 8 << 20, SIZE + 1, SIZE + CHUNK, 2 * SIZE, 1 << 33])
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
