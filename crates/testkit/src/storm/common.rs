//! What all writers do to the same files and names, held against what they logged: by sets, because nobody knows in which
//! order the calls of several processes took effect.

use super::action::{Action, Deed};
use super::board::{Entry, TOKENS, WRITERS};
use super::seen::read_all;
use super::tree::put;
use super::writer::{COUNTER, CURRENT, STRIPE, STRIPES, prize, token, version_number};
use crate::random::bytes;
use crate::volume::{Answer, RegionVolume, Volume};
use crate::workers::{LOG, record};
use std::collections::BTreeMap;

/// The log is begun anew when it is this long.
const LOG_LONGEST: u64 = 6 << 20;
const RECORD_HEADER: usize = 24;
const RECORD_LONGEST: usize = 1500;

/// Records of one process.
#[derive(Clone, Copy, Debug, Default)]
struct Records {
    returned: u64,
    perhaps: u64,
    found: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Prize {
    winners: u64,
    perhaps: u64,
    losers: u64,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    from: u64,
    to: u64,
    certain: bool,
}

/// A version of the file that everybody replaces; `ended` is `None` when a death interrupted it.
#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    began: u64,
    ended: Option<u64>,
}

/// Everything that was logged of what is done in common, since it was last held against the region.
#[derive(Debug)]
pub struct Commons {
    records: BTreeMap<u64, Records>,
    log_read: u64,
    prizes: BTreeMap<u64, Prize>,
    steps: [Vec<Step>; TOKENS],
    places: [u64; TOKENS],
    versions: Vec<Version>,
    counted: u64,
    perhaps_counted: u64,
    stripes: [Vec<u8>; WRITERS],
}

fn failed(what: &str) -> impl Fn(i32) -> String + '_ {
    move |error| format!("{what}: errno {error}")
}

impl Commons {
    /// Makes what all use.
    pub fn make(volume: &RegionVolume<'_>) -> Answer<Self> {
        for directory in ["prizes", "tokens", "all"] {
            volume.mkdir(None, directory.as_bytes(), 0o755)?;
        }
        let new = |name: &[u8], data: &[u8]| {
            let file = volume.open(None, name, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644)?;
            volume.write(file, data, None)?;
            volume.close(file)
        };
        new(LOG, b"")?;
        new(COUNTER, &[0; 8])?;
        new(CURRENT, &[0; 8])?;
        new(STRIPES, &[0; STRIPE * WRITERS])?;
        for number in 0..TOKENS {
            new(token(number, 0).as_bytes(), b"")?;
        }
        Ok(Self {
            records: BTreeMap::new(),
            log_read: 0,
            prizes: BTreeMap::new(),
            steps: [const { Vec::new() }; TOKENS],
            places: [0; TOKENS],
            versions: vec![Version { number: 0, began: 0, ended: Some(0) }],
            counted: 0,
            perhaps_counted: 0,
            stripes: std::array::from_fn(|_| vec![0; STRIPE]),
        })
    }

    /// Notes an action that returned, or (`certain` false) that a death interrupted. An error when the answer is none that
    /// the race allows.
    pub fn note(&mut self, writer: usize, incarnation: u64, entry: &Entry, certain: bool) -> Result<(), String> {
        let Entry { action, answer, began, ended } = entry;
        let refused = certain && *answer != 0;
        let allowed = match action.deed {
            Deed::Prize => libc::EEXIST,
            Deed::Move => libc::ENOENT,
            _ => 0,
        };
        if refused && *answer != allowed as u64 {
            return Err(format!("writer {writer}: {action:?} answered errno {answer}"));
        }
        match action.deed {
            Deed::Record => {
                let records = self.records.entry(incarnation).or_default();
                *(if certain { &mut records.returned } else { &mut records.perhaps }) += 1;
            }
            Deed::Prize => {
                let prize = self.prizes.entry(action.tag).or_default();
                match (certain, refused) {
                    (false, _) => prize.perhaps += 1,
                    (_, true) => prize.losers += 1,
                    _ => prize.winners += 1,
                }
            }
            Deed::Move if !refused => {
                let to = u64::from(action.offset) << 32 | u64::from(action.length);
                self.steps[usize::from(action.path)].push(Step { from: action.tag, to, certain });
            }
            Deed::Publish => {
                let ended = certain.then_some(*ended);
                self.versions.push(Version { number: action.tag, began: *began, ended });
            }
            Deed::Locked if certain => self.counted += 1,
            Deed::Locked => self.perhaps_counted += 1,
            Deed::Stripe if certain => {
                let data = bytes(action.tag, action.length as usize);
                put(&mut self.stripes[writer], action.offset as usize, &data);
            }
            _ => {}
        }
        Ok(())
    }

    /// The cheap part, while others go on: this writer's part of the common file, and every returned record.
    /// `interrupted`: what the writer was doing when it died.
    pub fn after_death(
        &mut self,
        volume: &RegionVolume<'_>,
        writer: usize,
        interrupted: Option<&Action>,
    ) -> Result<(), String> {
        self.read_log(volume)?;
        self.all_records_are_there()?;
        self.hold_stripe(volume, writer, interrupted.filter(|action| action.deed == Deed::Stripe))
    }

    fn hold_stripe(&mut self, volume: &RegionVolume<'_>, writer: usize, wrote: Option<&Action>) -> Result<(), String> {
        let file = volume.open(None, STRIPES, libc::O_RDONLY, 0).map_err(failed("open the common file"))?;
        let data = volume.read(file, STRIPE, Some((writer * STRIPE) as u64)).map_err(failed("read the common file"))?;
        volume.close(file).map_err(failed("close the common file"))?;
        let old = &self.stripes[writer];
        let new = wrote.map(|action| {
            let mut new = old.clone();
            put(&mut new, action.offset as usize, &bytes(action.tag, action.length as usize));
            new
        });
        let new = new.as_ref().unwrap_or(old);
        let wrong = (0..STRIPE).find(|&at| data.get(at) != Some(&old[at]) && data.get(at) != Some(&new[at]));
        if let Some(at) = wrong {
            return Err(format!("byte {at} of part {writer} of the common file is neither old nor new"));
        }
        self.stripes[writer] = data;
        Ok(())
    }

    /// Reads what the log has more than before: whole records, each writer's in order.
    fn read_log(&mut self, volume: &RegionVolume<'_>) -> Result<(), String> {
        let file = volume.open(None, LOG, libc::O_RDONLY, 0).map_err(failed("open the log"))?;
        let mut content = Vec::new();
        loop {
            let at = self.log_read + content.len() as u64;
            let piece = volume.read(file, 256 << 10, Some(at)).map_err(failed("read the log"))?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        volume.close(file).map_err(failed("close the log"))?;
        let mut at = 0;
        while at < content.len() {
            let torn = || format!("a torn record at {} of the log", self.log_read + at as u64);
            let field = |index: usize| {
                let bytes = content.get(at + index * 8..at + index * 8 + 8)?;
                Some(u64::from_le_bytes(bytes.try_into().ok()?))
            };
            let [Some(incarnation), Some(sequence), Some(length)] = [field(0), field(1), field(2)] else {
                return Err(torn());
            };
            let end = at + RECORD_HEADER + length as usize;
            if length > RECORD_LONGEST as u64
                || content.get(at..end) != Some(&record(incarnation, sequence, length as usize)[..])
            {
                return Err(torn());
            }
            let found = &mut self.records.entry(incarnation).or_default().found;
            if sequence != *found {
                return Err(format!("record {sequence} of process {incarnation} follows {found} others"));
            }
            *found += 1;
            at = end;
        }
        self.log_read += content.len() as u64;
        Ok(())
    }

    fn all_records_are_there(&self) -> Result<(), String> {
        match self.records.iter().find(|(_, records)| records.found < records.returned) {
            Some((incarnation, records)) => Err(format!("process {incarnation}: lost records: {records:?}")),
            None => Ok(()),
        }
    }

    /// The dear part, while all writers rest. Begins the books anew.
    pub fn at_rest(&mut self, volume: &RegionVolume<'_>) -> Result<(), String> {
        self.read_log(volume)?;
        self.all_records_are_there()?;
        let more = |records: &&Records| records.found > records.returned + records.perhaps;
        if let Some(records) = self.records.values().find(more) {
            return Err(format!("records that nobody wrote: {records:?}"));
        }
        if self.log_read > LOG_LONGEST {
            volume.truncate(None, LOG, 0).map_err(failed("empty the log"))?;
            self.log_read = 0;
        }
        for writer in 0..WRITERS {
            self.hold_stripe(volume, writer, None)?;
        }
        self.hold_prizes(volume)?;
        for number in 0..TOKENS {
            self.hold_token(volume, number)?;
        }
        self.hold_current(volume)?;
        self.hold_counter(volume)
    }

    fn hold_prizes(&mut self, volume: &RegionVolume<'_>) -> Result<(), String> {
        for (number, facts) in std::mem::take(&mut self.prizes) {
            let name = prize(number).into_bytes();
            let there = match volume.unlink(None, &name) {
                Ok(()) => true,
                Err(libc::ENOENT) => false,
                Err(error) => return Err(failed("unlink a prize")(error)),
            };
            let right = facts.winners <= 1
                && (facts.winners == 0 || there)
                && (!there || facts.winners + facts.perhaps > 0)
                && (facts.losers == 0 || there);
            if !right {
                return Err(format!("name {number}, created by many: there {there}, {facts:?}"));
            }
        }
        Ok(())
    }

    fn hold_token(&mut self, volume: &RegionVolume<'_>, number: usize) -> Result<(), String> {
        let directory = volume.open(None, b"tokens", libc::O_RDONLY | libc::O_DIRECTORY, 0);
        let directory = directory.map_err(failed("open tokens"))?;
        let names = volume.list(directory).map_err(failed("list tokens"))?;
        volume.close(directory).map_err(failed("close tokens"))?;
        let prefix = format!("{number}-");
        let texts = names.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok());
        let places: Vec<u64> =
            texts.filter_map(|name| name.strip_prefix(&prefix)).filter_map(|place| place.parse().ok()).collect();
        let [place] = places[..] else {
            return Err(format!("a file that was only renamed has {} names: {places:?}", places.len()));
        };
        let steps = std::mem::take(&mut self.steps[number]);
        let certain = steps.iter().filter(|step| step.certain).count();
        if !leads_to(&steps, self.places[number], place, certain) {
            let start = self.places[number];
            return Err(format!("renames {steps:?} do not lead from {start} to {place}, where the file is"));
        }
        self.places[number] = place;
        Ok(())
    }

    fn hold_current(&mut self, volume: &RegionVolume<'_>) -> Result<(), String> {
        let data = read_all(volume, CURRENT).map_err(failed("read what everybody replaces"))?;
        let number = version_number(&data).ok_or("the file that everybody replaces is torn")?;
        let known = self.versions.iter().find(|version| version.number == number);
        let shown = *known.ok_or_else(|| format!("version {number:x} was lost before, and is shown again"))?;
        let later = |version: &&Version| version.ended.is_some() && shown.ended.is_some_and(|end| version.began > end);
        if let Some(version) = self.versions.iter().find(later) {
            return Err(format!("{shown:?} is shown, but {version:?} came later and returned"));
        }
        // Whatever returns from now on came later.
        self.versions = vec![Version { began: 0, ended: Some(0), ..shown }];
        Ok(())
    }

    fn hold_counter(&mut self, volume: &RegionVolume<'_>) -> Result<(), String> {
        let data = read_all(volume, COUNTER).map_err(failed("read the counter"))?;
        let count = u64::from_le_bytes(data.try_into().map_err(|_| "the counter is not eight bytes")?);
        if (self.counted..=self.counted + self.perhaps_counted).contains(&count) {
            (self.counted, self.perhaps_counted) = (count, 0);
            return Ok(());
        }
        let (least, more) = (self.counted, self.perhaps_counted);
        Err(format!("counted under a lock: {count}, wanted {least} and at most {more} more"))
    }
}

/// Whether the steps lead from one place to the other, over all that are certain and some of the others. No place is
/// reached by two steps, so only one that was interrupted leaves a choice.
fn leads_to(steps: &[Step], from: u64, to: u64, certain: usize) -> bool {
    if from == to {
        return certain == 0;
    }
    let next = steps.iter().filter(|step| step.from == from);
    next.into_iter().any(|step| leads_to(steps, step.to, to, certain.wrapping_sub(usize::from(step.certain))))
}
