//! Kills each operation of the file system at its instructions and prints what came of it as a table.
//!
//! `cargo xtask steps` runs this and puts the table into docs/reliability.md.
//!
//!     killed_at_any_instruction [quick | table | full] [SEED] [PART-OF-A-NAME]

#[cfg(target_arch = "x86_64")]
fn main() {
    stepping::main();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("stepping is written for x86-64 only");
}

#[cfg(target_arch = "x86_64")]
mod stepping {
    use lifeboat_testkit::stepping::Outcome;
    use lifeboat_testkit::stepping::report::{Effort, HEAD, on_processor, row, rows, run, sum};
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::os::fd::FromRawFd;
    use std::time::Instant;

    pub fn main() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let effort = match arguments.first().map(String::as_str) {
            Some("full") => Effort::FULL,
            Some("quick") => Effort::QUICK,
            _ => Effort::TABLE,
        };
        let seed = arguments.get(1).map_or(5, |text| text.parse().expect("the seed is a decimal number"));
        let wanted = arguments.get(2).cloned().unwrap_or_default();
        let names: Vec<&'static str> = rows().filter(|name| name.contains(&wanted)).collect();
        let start = Instant::now();
        let outcomes = all(&names, &effort, seed, start);
        print!("{HEAD}");
        for name in &names {
            if let Some(outcome) = outcomes.get(name) {
                print!("{}", row(name, outcome));
            }
        }
        print!("{}", row("all", &sum(outcomes.values())));
        let missing = names.len() - outcomes.len();
        let faults: usize = outcomes.values().map(|outcome| outcome.faults.len()).sum();
        eprintln!("seed {seed}, {} s, {faults} faults, {missing} operations broken off", start.elapsed().as_secs());
        if faults + missing > 0 {
            std::process::exit(1);
        }
    }

    /// Each row in a process of its own, as many at once as there are processors (at most four).
    fn all(names: &[&'static str], effort: &Effort, seed: u64, start: Instant) -> BTreeMap<&'static str, Outcome> {
        let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        let mut streams = Vec::new();
        for worker in 0..workers {
            streams.push(fork_worker(worker, workers, names, effort, seed));
        }
        let mut outcomes = BTreeMap::new();
        for (pid, stream) in streams {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some((index, outcome)) = Outcome::from_line(&line)
                    && let Some(name) = names.get(index)
                {
                    outcomes.insert(*name, outcome);
                }
            }
            // SAFETY: waits for our child.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
        let _ = start;
        outcomes
    }

    fn fork_worker(
        worker: usize,
        workers: usize,
        names: &[&'static str],
        effort: &Effort,
        seed: u64,
    ) -> (i32, std::fs::File) {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors, which are ours afterwards; this process has one thread.
        let (pid, reading, mut writing) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0, "a pipe");
            let pid = libc::fork();
            (pid, std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
        };
        assert!(pid >= 0, "fork");
        if pid > 0 {
            return (pid, reading);
        }
        drop(reading);
        on_processor(worker);
        for (index, name) in names.iter().enumerate().filter(|(index, _)| index % workers == worker) {
            let start = Instant::now();
            // Its place among all: the same draws whichever part is run.
            let place = rows().position(|row| row == *name).unwrap_or(0) as u64;
            match run(name, effort, seed + place) {
                Ok(outcome) => {
                    eprintln!("{name}: {:.0} s, {} faults", start.elapsed().as_secs_f64(), outcome.faults.len());
                    for fault in &outcome.faults {
                        eprintln!("  {:?}: {}", fault.kind, fault.text);
                    }
                    let _ = std::io::Write::write_all(&mut writing, outcome.to_line(index).as_bytes());
                }
                Err(broken) => eprintln!("{name}: broken off: {broken}"),
            }
        }
        drop(writing);
        std::process::exit(0)
    }
}
