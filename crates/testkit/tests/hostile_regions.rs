//! The fear: a region whose bytes somebody chose, or changes while it is used, kills a process, hangs it, or shows it what is
//! another file's; or garbage over it goes unnoticed. `LIFEBOAT_SEED` repeats the choices of a run, `LIFEBOAT_CASES=text` does only
//! the cases with that in their names.

use lifeboat_fs::{Caller, LastLink};
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, State};
use lifeboat_region::space;
use lifeboat_testkit::child::{self, Role, number, report, setting};
use lifeboat_testkit::hostile::population::{Node, SIZE};
use lifeboat_testkit::hostile::verdict::{read_all, use_it};
use lifeboat_testkit::hostile::{Case, Population, Tally, cases, crafted, places, population};
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::{full, line, sized};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{attach, check};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn entry_of_child_processes() {
    child::enter(&[
        (population::HOLDER, population::hold),
        ("tormented", tormented),
        ("meddler", meddler),
        ("walker", walker),
        ("sprayer", sprayer),
    ]);
}

/// Runs the cases that the setting CASES names.
fn tormented() {
    let population = Population::new("hostile");
    let files = population.region.attach();
    let places = places::places(&files);
    let mut random = Random::new(number("SEED"));
    let (mut always, mut list) = match setting("CASES").as_str() {
        "crafted" => crafted::cases(&files),
        "astray" => (crafted::one_bit_from_another_inode(&files, sized(2, 20, 200)), Vec::new()),
        "maps" => (Vec::new(), crafted::within_one_map(&files)),
        "fills" => (Vec::new(), crafted::fills(&places, &mut random)),
        _ => {
            let list = crafted::misplaced(&population, &places, &mut random, sized(40, 1000, 20_000));
            (crafted::met_before(&files), list)
        }
    };
    drop(files);
    if let Ok(only) = std::env::var("LIFEBOAT_CASES") {
        always.retain(|case| case.what.contains(&only));
        list.retain(|case| case.what.contains(&only));
    }
    let mut all = Tally::default();
    let step = 1 + list.len() / sized(16, 200, list.len() + 1);
    let sampled = list.iter().skip(random.below(step as u64) as usize).step_by(step);
    for case in always.iter().chain(sampled) {
        report(&format!("doing: {}", case.what));
        let (tally, faults) = cases::run(&population, case);
        all.add(&tally);
        faults.iter().for_each(|fault| report(&format!("fault: {fault}")));
    }
    report(&format!("tally: {}", all.encode()));
}

fn torment(which: &str) {
    let _nothing_left = NoResidue::begin();
    let seed = seed(23);
    let process = Role::new("tormented").with("CASES", which).with("SEED", seed).spawn();
    let pid = process.id();
    let ended = process.wait(Duration::from_secs(if full() { 4 * 3600 } else { 120 }));
    Population::clear_after("hostile", pid);
    assert!(ended.status.is_some_and(|status| status.success()), "{which}: {}", ended.describe());
    let faults: Vec<&String> = ended.reports.iter().filter(|line| line.starts_with("fault")).collect();
    let tally = ended.reports.iter().rev().find_map(|line| line.strip_prefix("tally: ")).unwrap_or_default();
    line(&format!("hostile: {which} {tally} seed={seed}"));
    let first: Vec<&str> = faults.iter().take(30).map(|text| text.as_str()).collect();
    assert!(faults.is_empty(), "{} faults, the first:\n{}", faults.len(), first.join("\n"));
}

#[test]
fn cycles_overlaps_and_absurd_counts_are_errors() {
    torment("crafted");
}

#[test]
fn tables_of_zeros_ones_and_noise_are_errors() {
    torment("fills");
}

#[test]
fn words_that_stand_in_other_places_are_errors() {
    torment("misplaced");
}

#[test]
fn an_entry_with_the_inode_of_another_is_never_made_whole() {
    torment("astray");
}

#[test]
fn words_in_other_places_of_one_map_are_errors() {
    torment("maps");
}

#[test]
fn a_region_cut_off_at_any_structure_is_refused_in_words() {
    let _nothing_left = NoResidue::begin();
    let population = Population::new("lengths");
    let lengths = crafted::lengths(&places::places(&population.region.attach()));
    for length in &lengths {
        population.restore();
        population.file().set_len(*length).expect("another length");
        let text = match attach(population.region.path()) {
            Ok(_) => panic!("a region of {length} instead of {SIZE} bytes is attached"),
            Err(text) => text,
        };
        assert!(!text.contains('\n') && text.len() > 20, "{length} bytes: not one clear line: {text:?}");
    }
    population.restore();
    let files = population.region.attach();
    assert_eq!(read_all(&files, &population.names).right.len(), population.names.len(), "refusals changed the region");
    line(&format!("hostile: truncations cases={} refused={} faults=0", lengths.len(), lengths.len()));
}

/// Changes bits of the metadata for some time.
fn meddler() {
    let path = Path::new(&setting("REGION")).join("memory/region");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the region's file");
    let list = {
        let files = attach(Path::new(&setting("REGION"))).expect("attach");
        places::places(&files)
    };
    let mut random = Random::new(number("SEED"));
    report("ready");
    let end = Instant::now() + Duration::from_millis(number("MILLISECONDS"));
    let mut count = 0_u64;
    while Instant::now() < end {
        let (at, _) = places::byte_at(&list, random.below(places::total(&list)));
        let mut byte = [0];
        if file.read_exact_at(&mut byte, at).is_ok() {
            byte[0] ^= 1 << random.below(8);
            let _ = file.write_all_at(&byte, at);
            count += 1;
        }
        // Each other flip is taken back at once: words that change and change back.
        if random.chance(50) {
            byte[0] ^= 1 << random.below(8);
            let _ = file.write_all_at(&byte, at);
        }
        std::thread::sleep(Duration::from_micros(random.below(300)));
    }
    report(&format!("flips={count}"));
}

/// Walks, uses and checks what a meddler changes.
fn walker() {
    let end = Instant::now() + Duration::from_millis(number("MILLISECONDS"));
    let names = population::names();
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while Instant::now() < end {
        // SAFETY: only arms the timer of this process, whose signal ends it.
        unsafe { libc::alarm(cases::LIMIT) };
        let start = Instant::now();
        if let Ok(files) = attach(Path::new(&setting("REGION"))) {
            read_all(&files, &names);
            use_it(&files);
            let _ = check(&files);
        }
        longest = longest.max(start.elapsed());
        rounds += 1;
    }
    report(&format!("rounds={rounds} longest_ms={}", longest.as_millis()));
}

#[test]
fn a_peer_that_changes_metadata_under_a_call_ends_no_process() {
    let _nothing_left = NoResidue::begin();
    let seed = seed(29);
    let milliseconds = sized(2500, 30_000, 600_000);
    let population = Population::new("meddled");
    population.restore();
    let start = |role: &str, seed: u64| {
        let role = Role::new(role).with("REGION", population.region.path().display()).with("SEED", seed);
        role.with("MILLISECONDS", milliseconds).spawn()
    };
    let mut meddler = start("meddler", seed);
    assert_eq!(meddler.next_report(Duration::from_secs(20)), "ready");
    let walkers: Vec<_> = (0..2).map(|share| start("walker", seed + share)).collect();
    let patience = Duration::from_millis(milliseconds) + Duration::from_secs(60);
    let mut said = Vec::new();
    for walker in walkers {
        let ended = walker.wait(patience);
        assert!(ended.status.is_some_and(|status| status.success()), "seed {seed}: a walker {}", ended.describe());
        said.extend(ended.reports);
    }
    let ended = meddler.wait(patience);
    line(&format!("hostile: meddling {} walkers {} faults=0 seed={seed}", ended.reports.join(" "), said.join(" ")));
}

/// Writes garbage over random addresses and dies.
fn sprayer() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let mut random = Random::new(number("SEED"));
    let only_data = setting("WHERE") == "data";
    let mut units = Vec::new();
    space::each_unit(files.region(), |unit, owner| {
        if owner.state == State::Live && owner.kind == Kind::Data {
            units.push((unit.at, unit.class.size()));
        }
        Ok(())
    })
    .expect("a whole region");
    for _ in 0..number("COUNT") {
        let at = if only_data {
            let (at, length) = random.pick(&units);
            at + random.below(length / 8) * 8
        } else {
            random.below(SIZE / 8) * 8
        };
        files.region().write_bytes(at, &random.word().to_le_bytes()).expect("inside").fence();
    }
    report("sprayed");
    // SAFETY: ends this process at once, as a kill does.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

fn spray(population: &Population, place: &str, count: u64, seed: u64) {
    population.restore();
    let role = Role::new("sprayer").with("REGION", population.region.path().display()).with("SEED", seed);
    let ended = role.with("WHERE", place).with("COUNT", count).spawn().wait(Duration::from_secs(30));
    assert_eq!(ended.reports, ["sprayed"], "the sprayer {}", ended.describe());
}

#[test]
fn garbage_over_data_is_named_by_verify_and_touches_no_other_file() {
    let _nothing_left = NoResidue::begin();
    let seed = seed(37);
    let population = Population::new("sprayed");
    let who = Caller { uid: 0, gid: 0, groups: &[], umask: 0, checked: true };
    let (mut bad, mut whole) = (0, 0);
    for round in 0..sized(4, 40, 300) {
        spray(&population, "data", 1 + round * 3, seed + round);
        let files = population.region.attach();
        assert!(check(&files).is_clean(), "seed {seed}, round {round}: {}", check(&files));
        let reading = read_all(&files, &population.names);
        for (path, node) in &population.names {
            if !matches!(node, Node::File(..)) {
                continue;
            }
            let inode = files.resolve(&who, files.root(), path.as_bytes(), LastLink::Keep).expect("a whole path");
            let verified = files.verify(inode).expect("a whole map");
            let same = reading.right.contains(path);
            // Bytes behind the end of a file have no checksum, and show nowhere.
            assert!(
                same || verified.bad + verified.unknown > 0,
                "seed {seed}, round {round}: garbage in {path} goes unnoticed"
            );
            assert!(!same || verified.bad == 0, "seed {seed}, round {round}: {path} is whole and called bad");
            bad += u64::from(verified.bad > 0);
            whole += u64::from(same);
        }
    }
    line(&format!("hostile: garbage-over-data files_bad={bad} files_whole={whole} unnoticed=0 faults=0 seed={seed}"));
}

#[test]
fn garbage_all_over_the_region_ends_no_process() {
    let _nothing_left = NoResidue::begin();
    let seed = seed(41);
    let population = Population::new("garbage");
    let (mut rounds, mut refused, mut noticed) = (0, 0, 0);
    for round in 0..sized(12, 100, 2000) {
        // From a few words to every eighth page.
        spray(&population, "all", 20 << (round % 11), seed + round);
        let role = Role::new("walker").with("REGION", population.region.path().display());
        let ended = role.with("MILLISECONDS", 1).spawn().wait(Duration::from_secs(60));
        assert!(
            ended.status.is_some_and(|status| status.success()),
            "seed {seed}, round {round}: the reader {}",
            ended.describe()
        );
        rounds += 1;
        match attach(population.region.path()) {
            Err(_) => refused += 1,
            Ok(files) => noticed += u64::from(!check(&files).is_clean()),
        }
    }
    line(&format!("hostile: garbage cases={rounds} refused={refused} noticed={noticed} faults=0 seed={seed}"));
}

/// A case made here stays what it was.
#[test]
fn what_a_case_damages_is_made_whole_again() {
    let _nothing_left = NoResidue::begin();
    let population = Population::new("restored");
    let at = population.region.attach().root().number() * CELL;
    let case = Case {
        what: "the root".into(),
        place: "test",
        bytes: vec![(at, vec![0xff; 256])],
        one_bit: false,
        says_no_links: None,
    };
    let (tally, faults) = cases::run(&population, &case);
    assert_eq!((tally.cases, faults.len()), (1, 0), "{faults:?}");
    population.restore();
    assert!(check(&population.region.attach()).is_clean());
}
