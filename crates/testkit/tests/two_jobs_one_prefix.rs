//! The fear: two jobs of one user on one node, with one mount prefix, see or spoil each other's files.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::residue::NoResidue;
use std::process::{Command, Output};
use std::thread;

fn job(region: &Mounted, prefix: &Mounted, script: &str) -> Command {
    let at = prefix.prefix().to_str().expect("our paths are text");
    let mut command = lifeboat(["exec", "--name", region.name(), "--mount", at, "--size", "16MiB", "--"]);
    command.args(["bash", "-c", script]).env("DIR", at).env("JOB", region.name());
    limited(&command, 60)
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_jobs_with_one_prefix_have_files_of_their_own() {
    let _nothing_left = NoResidue::begin();
    let (one, two) = (Mounted::new("job-one", "16MiB"), Mounted::new("job-two", "16MiB"));
    // Both are busy at the same time: each makes, renames, locks and lists names that the other has, too.
    let busy = "for i in $(seq 60); do
            echo $JOB $i > $DIR/file.tmp && mv $DIR/file.tmp $DIR/file && flock $DIR/file true
            mkdir -p $DIR/d && echo $i >> $DIR/d/log
            [ \"$(cat $DIR/file)\" = \"$JOB $i\" ] || echo wrong $i
        done; cat $DIR/file; ls $DIR/d; wc -l < $DIR/d/log; ls $DIR | wc -l";
    let run = |region: &Mounted| job(region, &one, busy).output().expect("lifeboat runs");
    let outputs = thread::scope(|scope| {
        let both = [&one, &two].map(|region| scope.spawn(|| run(region)));
        both.map(|one| one.join().expect("the job's thread ends"))
    });
    for (region, output) in [&one, &two].into_iter().zip(&outputs) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(out(output), format!("{} 60\nlog\n60\n2\n", region.name()), "{said}");
    }
    // One job's region goes, the other's files stay.
    let removed = limited(&lifeboat(["region", "remove", two.name()]), 60).output().expect("lifeboat runs");
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let last = job(&one, &one, "cat $DIR/file").output().expect("lifeboat runs");
    assert_eq!(out(&last), format!("{} 60\n", one.name()), "{}", String::from_utf8_lossy(&last.stderr));
}
