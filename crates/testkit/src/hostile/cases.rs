//! Cases: a region is damaged in one way, read, used, checked, repaired, checked again. They run one after the other in a
//! process of their own, which an alarm ends when one of them does not come to an end.

use super::places::{Place, byte_at, total};
use super::population::{Node, Population, SIZE};
use super::verdict::{Reading, is_found_by_number, read_all, use_it};
use crate::random::Random;
use crate::scratch::attach;
use lifeboat_fs::{FileSystem, Finding, check, repair};
use lifeboat_region::Region;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// A case that takes longer hangs. (A second is what it should take at most, on a machine with nothing else to do.)
pub const LIMIT: u32 = 20;

/// One damage.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is damaged, for people.
    pub what: String,
    /// Kind of structure.
    pub place: &'static str,
    /// Bytes to write, and where.
    pub bytes: Vec<(u64, Vec<u8>)>,
    /// Whether one bit is all that is wrong.
    pub one_bit: bool,
    /// All that is damaged is the count of links of what this names (or a directory): both halves of its word agree that it has none. Ordinary use
    /// must believe that, since a word and its complement are all that it has to go by, so whoever closes a file takes
    /// it apart; a directory with names in it never. A check knows better, and must mend it before that.
    pub says_no_links: Option<&'static str>,
}

/// What came of many cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases.
    pub cases: u64,
    /// The region was not attached.
    pub refused: u64,
    /// The check found something, the repair mended all of it, and everything is read as it must be.
    pub repaired: u64,
    /// As above, but for something that no redundancy covers (a time, a mode, a target).
    pub mended: u64,
    /// The check found something that the repair left.
    pub named: u64,
    /// The check found nothing, and everything is read as it must be.
    pub harmless: u64,
    /// The check found nothing, and something is read differently: attributes, targets of links.
    pub unnoticed: u64,
    /// What must never happen.
    pub faults: u64,
    /// Longest case, in milliseconds.
    pub longest: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        self.cases += other.cases;
        self.refused += other.refused;
        self.repaired += other.repaired;
        self.mended += other.mended;
        self.named += other.named;
        self.harmless += other.harmless;
        self.unnoticed += other.unnoticed;
        self.faults += other.faults;
        self.longest = self.longest.max(other.longest);
    }

    /// As text that [`Tally::decode`] takes back.
    pub fn encode(&self) -> String {
        format!(
            "cases={} refused={} repaired={} mended={} named={} harmless={} unnoticed={} faults={} longest_ms={}",
            self.cases,
            self.refused,
            self.repaired,
            self.mended,
            self.named,
            self.harmless,
            self.unnoticed,
            self.faults,
            self.longest
        )
    }

    /// A tally in a line of text.
    pub fn decode(text: &str) -> Self {
        let values: BTreeMap<&str, u64> = text
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
            .collect();
        let value = |key: &str| values.get(key).copied().unwrap_or(0);
        Self {
            cases: value("cases"),
            refused: value("refused"),
            repaired: value("repaired"),
            mended: value("mended"),
            named: value("named"),
            harmless: value("harmless"),
            unnoticed: value("unnoticed"),
            faults: value("faults"),
            longest: value("longest_ms"),
        }
    }
}

/// One flipped bit: which byte (by its number among all places), and which bit of it the seed says.
pub fn flip(population: &Population, places: &[Place], number: u64, bit: u32) -> Case {
    let (at, place) = byte_at(places, number);
    let what = format!("bit {bit} of byte {at:#x} ({place})");
    let bytes = vec![(at, vec![population.byte(at) ^ 1 << bit])];
    Case { what, place, bytes, one_bit: true, says_no_links: None }
}

/// The bit to flip of byte `number`: of a seed, so that all bits come in turn.
pub fn bit_of(seed: u64, number: u64) -> u32 {
    Random::new(seed ^ number.wrapping_mul(0x9e37_79b9)).below(8) as u32
}

/// How many bytes there are to flip.
pub fn flips(places: &[Place]) -> u64 {
    total(places)
}

/// Whether what has lost a name is read rightly by another one.
fn has_another_name(population: &Population, after: &Reading, node: &Node) -> bool {
    // Empty files are all alike.
    let is_file = matches!(node, Node::File(_, 1..));
    is_file && after.right.iter().any(|name| population.names.get(name) == Some(node))
}

struct Judged {
    tally: Tally,
    faults: Vec<String>,
}

/// Runs a case; faults are lines of text.
pub fn run(population: &Population, case: &Case) -> (Tally, Vec<String>) {
    // SAFETY: only arms the timer of this process, whose signal ends it.
    unsafe { libc::alarm(LIMIT) };
    let start = Instant::now();
    let mut judged = Judged { tally: Tally { cases: 1, ..Tally::default() }, faults: Vec::new() };
    judged.unrepaired(population, case);
    judged.repaired(population, case);
    let took = start.elapsed();
    judged.tally.longest = took.as_millis() as u64;
    judged.tally.faults = judged.faults.len() as u64;
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    if took > Duration::from_secs(u64::from(LIMIT)) {
        judged.faults.push(format!("took {took:?}"));
    }
    let faults = judged.faults.into_iter().map(|fault| format!("{}: {fault}", case.what)).collect();
    (judged.tally, faults)
}

fn damage(population: &Population, case: &Case) {
    population.restore();
    for (at, data) in &case.bytes {
        population.put(*at, data);
    }
}

fn attach_to_check(population: &Population) -> Result<FileSystem, String> {
    let region = Region::attach(population.region.path().as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    Ok(FileSystem::attach_to_check(region))
}

impl Judged {
    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    fn no_foreign_bytes(&mut self, when: &str, reading: &Reading) {
        for foreign in &reading.foreign {
            self.fault(format!("{when}: {foreign}"));
        }
    }

    /// Names that were read rightly before must be now.
    fn nothing_got_worse(&mut self, when: &str, before: &Reading, after: &Reading) {
        for name in before.right.difference(&after.right).take(3) {
            let how = after.errors.get(name).map_or("differs".to_string(), |error| format!("errno {error}"));
            self.fault(format!("{when}: {name:.40} was right before, now {how}"));
        }
    }

    /// The damaged region is used as it is.
    fn unrepaired(&mut self, population: &Population, case: &Case) {
        damage(population, case);
        let files = match attach(population.region.path()) {
            Ok(files) => files,
            Err(text) => {
                if text.contains('\n') || text.len() < 10 {
                    self.fault(format!("refused without a clear line: {text:?}"));
                }
                return;
            }
        };
        // Else the dead process is met by who waits for its lock, which takes 50 ms.
        if !matches!(case.place, "lanes" | "process slots" | "run words" | "inodes" | "crafted") {
            let _ = files.sweep();
        }
        let before = read_all(&files, &population.names);
        self.no_foreign_bytes("reading", &before);
        use_it(&files);
        let after = read_all(&files, &population.names);
        self.no_foreign_bytes("reading after using it", &after);
        let removed = case.says_no_links.filter(|name| matches!(population.names.get(*name), Some(Node::File(..))));
        let mut expected = before;
        expected.right.retain(|name| Some(name.as_str()) != removed);
        self.nothing_got_worse("using it", &expected, &after);
        let _ = check(&files, &mut |_| ());
    }

    /// The damaged region is checked and repaired.
    fn repaired(&mut self, population: &Population, case: &Case) {
        damage(population, case);
        let files = match attach_to_check(population) {
            Ok(files) => files,
            Err(_) => {
                self.tally.refused += 1;
                return;
            }
        };
        let before = match case.says_no_links {
            // As it was: the check comes first, and all of it is there to be mended.
            Some(_) => Reading { right: population.names.keys().cloned().collect(), ..Reading::default() },
            None => {
                let _ = files.sweep();
                read_all(&files, &population.names)
            }
        };
        let found = self.check("first check", &files);
        if found.is_empty() {
            let same = before.right.len() == population.names.len();
            self.tally.harmless += u64::from(same);
            self.tally.unnoticed += u64::from(!same);
            if let Some(displaced) = before.displaced.first() {
                self.fault(format!("the check finds nothing, and {displaced}"));
            }
            if !same && !before.errors.is_empty() {
                self.fault(format!("errors, and the check finds nothing: {:?}", before.errors.iter().next()));
            }
        }
        let mended = match repair(&files, &mut |_| ()) {
            Ok(mended) => mended,
            Err(error) => {
                self.fault(format!("repair ends with errno {}", error.raw_os_error()));
                return;
            }
        };
        let left = self.check("check after the repair", &files);
        if case.says_no_links.is_some() && (found.is_empty() || !left.is_empty()) {
            self.fault(format!("a wrong count of links is not counted again: found {found:?}, left {left:?}"));
        }
        let after = read_all(&files, &population.names);
        self.no_foreign_bytes("reading after the repair", &after);
        self.nothing_got_worse("the repair", &before, &after);
        if left.is_empty()
            && let Some(displaced) = after.displaced.first()
        {
            self.fault(format!("the repair leaves nothing to find, and {displaced}"));
        }
        if left.iter().any(Finding::is_repairable) {
            self.fault(format!("the repair leaves what it could mend: {}", left[0]));
        }
        if repair(&files, &mut |_| ()) != Ok(0) {
            self.fault("a second repair finds something to do");
        }
        if !found.is_empty() {
            let same = after.right.len() == population.names.len();
            match (left.is_empty(), same) {
                (true, true) => self.tally.repaired += 1,
                (true, false) => self.tally.mended += 1,
                (false, _) => self.tally.named += 1,
            }
            // Of several faults one may have taken a name, and another all that said what it was, or the inode itself. A file
            // whose inode was not touched is there.
            let error = after.errors.iter().find(|(name, error)| {
                let is_there = |node: &Node| {
                    has_another_name(population, &after, node)
                        || is_found_by_number(&files, node)
                        || population.is_hit(name, &case.bytes)
                };
                case.one_bit
                    || **error != libc::ENOENT
                    || population.names.get(*name).is_none_or(|node| !is_there(node))
            });
            if left.is_empty() && error.is_some() {
                self.fault(format!("errors after a repair that left nothing: {error:?}; it had found {found:?}"));
            }
        } else if mended > 0 {
            self.fault("the check finds nothing, the repair does");
        }
        use_it(&files);
        drop(files);
        let Ok(files) = attach(population.region.path()) else {
            if left.is_empty() {
                self.fault("not attached after a repair that left nothing");
            }
            return;
        };
        let used = read_all(&files, &population.names);
        self.no_foreign_bytes("reading after repair and use", &used);
        self.nothing_got_worse("using the repaired region", &after, &used);
        let last = self.check("check after use", &files);
        if left.is_empty() && !last.is_empty() {
            self.fault(format!("using the repaired region damaged it: {}", last[0]));
        }
    }

    fn check(&mut self, when: &str, files: &FileSystem) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Err(error) = check(files, &mut |finding| found.push(finding)) {
            self.fault(format!("{when} ends with errno {}", error.raw_os_error()));
        }
        found
    }
}

/// Bytes of the region that lie behind the one with this offset: for truncations.
pub const fn region_size() -> u64 {
    SIZE
}
