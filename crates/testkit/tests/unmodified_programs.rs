//! The fear: an ordinary program behaves otherwise on the mount than on tmpfs.
//!
//! Each script runs twice: on tmpfs as it is, and below `lifeboat exec` with `$D` in the mount. `$S` (sources, on
//! tmpfs) and `$T` (output, on another file system) are outside both times, so data goes in both directions. What is printed, the exit code, and the trees of
//! `$D` and `$T` must be equal. The tree in the mount is read from the region itself, not through interception.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::model::{compare, walk};
use lifeboat_testkit::programs::{self, compile, is_installed};
use lifeboat_testkit::random::bytes;
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use lifeboat_testkit::volume::{KernelVolume, RegionVolume};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod scripts {
    /// Name, programs that it takes, script.
    pub type Case = (&'static str, &'static [&'static str], &'static str);

    pub const FILES: &[Case] = &[
        (
            "cat",
            &["cat"],
            "cat $S/text > $D/a; cat $D/a $S/text $D/a > $T/b; cat < $D/a | cat - $D/a > $D/c; cat $D/none; cat $D",
        ),
        (
            "cp in and out",
            &["cp"],
            "cp $S/blob $D/x; cp $D/x $D/y; cp $D/y $T/z; cp -p $S/text $D/p; cp -n $S/text $D/x; cp --sparse=always $S/sparse $D/s; cp $D/none $T",
        ),
        ("cp -a in", &["cp"], "cp -a $S $D/tree"),
        (
            "cp -a out",
            &["cp"],
            "cp -a $S $D/tree && cp -a $D/tree $T/tree && cp -a $D/tree $D/again && cp -aT $S $D/again",
        ),
        (
            "cp -r within",
            &["cp"],
            "cp -r $S $D/one; cp -rL $D/one/sub $D/two; cp -rl $D/one $D/three; cd $D && cp -s one/text four && cat four | wc -l",
        ),
        (
            "mv",
            &["mv"],
            "cp -a $S $D/t; mv $D/t $D/u; mv $D/u/text $D/u/sub/; mv -n $D/u/blob $D/u/empty; mv $D/u/sub $T/sub; mv $T/sub $D/back; mv $D/u/blob $D/back/inner; mv $D/back $D/back/inner; mv $D/none $D/x",
        ),
        (
            "mv exchange",
            &["mv", "ln"],
            "echo 1 > $D/a; echo 2 > $D/b; ln $D/a $D/c; mv $D/a $D/b; mv -T $D/b $D/c; mkdir $D/d $D/e; touch $D/e/f; mv -T $D/d $D/e; mv -T $D/e $D/d",
        ),
        (
            "rm -r",
            &["rm", "cp"],
            "cp -a $S $D/t; cp -a $S $D/k; rm -r $D/t; rm $D/k; rm -rf $D/none; rm $D/k/text $D/k/none; rmdir $D/k; ls $D",
        ),
        (
            "ls -lR",
            &["ls", "cp", "awk"],
            "cp -a $S $D/t; ls -lR --time-style=full-iso $D/t | awk '/^total/ {next} /^d/ {$5=\"\"} {$1=$1; print}'; ls -a $D; ls -d $D/t/*; ls $D/none",
        ),
        (
            "find",
            &["find", "sort"],
            "cp -a $S $D/t; find $D/t ! -type d -printf '%P %y %M %n %U %G %s %T@ %l\\n' | sort; find $D -type d -printf '%P %d %n\\n' | sort; find $D -name '*x*' -newer $D/t/text -o -size +100k | sort; find $D -type f -exec md5sum {} + | sort; find $D/t -name sub -prune -o -name te\\* -delete; cd $D && find . | sort",
        ),
        (
            "dd",
            &["dd"],
            "dd if=$S/blob of=$D/a bs=7777 status=none; dd if=$D/a of=$T/b bs=1M status=none; dd if=$D/a of=$D/c bs=4k skip=3 seek=5 count=7 status=none; dd if=$S/text of=$D/c bs=100 seek=2 conv=notrunc,fsync status=none; dd if=$S/text of=$D/c oflag=append conv=notrunc bs=1k status=none; dd if=$S/sparse of=$D/s conv=sparse bs=4k status=none; dd if=$D/none of=$T/x; dd if=/dev/zero of=$D/z bs=1 count=0 seek=123456 status=none",
        ),
        (
            "truncate and touch",
            &["truncate", "touch", "stat"],
            "cp $S/blob $D/a; truncate -s 5000 $D/a; truncate -s +70000 $D/a; truncate -s 10K $D/new; touch -d @12345.678 $D/a; touch -r $D/a $D/new; touch $D/t; touch -c $D/none; stat -c '%n %s %Y %F %a' $D/a $D/new; stat -c %n $D/none",
        ),
        (
            "install and mkdir",
            &["install", "mkdir", "ln", "readlink"],
            "install -m 750 $S/text $D/i; install -d -m 711 $D/q/w/e; mkdir -p $D/a/b/c; mkdir $D/a; ln $D/i $D/h; ln -s i $D/l; ln -sf h $D/l; readlink $D/l; readlink -f $D/l | sed s:.*/::; ln -s loop $D/loop; cat $D/loop; chmod 600 $D/h; chmod -R g+w $D/a; ln $D/a $D/b; mkfifo $D/fifo; ls -l $D/fifo | cut -c1-10",
        ),
        (
            "FIFOs",
            &["mkfifo", "mknod", "tail", "seq"],
            "cd $D; mkfifo p; (echo hello > p) & cat p; wait; mkfifo -m 640 q; stat -c '%F %a %h %s' q; exec 5<>q; echo x >&5; read a <&5; echo got $a; stat -L -c '%F %a' /dev/fd/5; rm q; echo y >&5; read a <&5; echo got $a; stat -L -c '%F %h' /dev/fd/5; exec 5>&-; mkfifo r; (cat r | tr a-z A-Z > out) & cp $S/text r; wait; md5sum < out; ln r r2; (cat < r2 > out2) & echo by link > r; wait; cat out2; mv r r3; cat r3 & echo moved > r2; wait; rm r2 r3; mknod n p; tail -n 1 n & seq 10 > n; wait; dd if=$S/blob of=n bs=64k status=none & md5sum n; wait; mkfifo t; tee t < $S/text > u & cmp t $S/text && echo same; wait; [ -p t ] && echo a fifo; cp -a t v; ls -l v | cut -c1-10; mv v $T/w; mv $T/w x; [ -p x ] && echo still; timeout 0.2 cat x; echo code $?",
        ),
        (
            "relative paths from outside",
            &["basename"],
            "top=$(dirname $D); above=$(dirname $top); m=$(basename $top); c=$(basename $D); cd $above && echo in > $m/$c/f; cat $m/$c/f; cp $S/text ./$m/$c/t; cd $m/$c && pwd -P | sed s:.*/::; cat f ../$c/f; cd ../..; ls $m/$c; mkdir -p $m/$c/x/y; install -d $D/q/w; cd $m && cat $c/f",
        ),
        (
            "links from inside to outside",
            &["ln", "readlink"],
            "echo in > $D/f; mkdir $D/d; ln -s $T $D/out; echo out > $D/out/written; cat $T/written; ls $D/out/; cd $D/out && pwd -P; cat written; cd ..; pwd; readlink -f $D/out/written; rm $D/out",
        ),
        (
            "links from outside to inside",
            &["ln", "readlink", "find"],
            "ln -s $D $T/in; echo a > $T/in/f; cat $T/in/f $D/f; mkdir $T/in/d $T/in/d/e; ls $T/in $T/in/ | sort; stat -c '%F %h' $T/in $T/in/ $T/in/d; cp -a $S/text $T/in/d; cat $T/in/d/text | wc; (cd $T/in && pwd -P && touch x && ls && cd d/e && cat ../text ../../f | wc); mv $T/in/f $T/in/d/g; ls $D/d; ln $T/in/d/g $D/h; ln -s ../d/g $T/in/d/l; cat $T/in/d/l; ln -s $D/new $T/new; echo new > $T/new; cat $D/new; readlink $T/new; readlink -f $T/in/d/../new; find -L $T/in -type f | sort; chmod 600 $T/in/new; truncate -s 5 $T/in/new; cp -rL $T/in $T/copy; cat $T/in/none; cat $T/in/none/x; cat $T/in/new/x; mkdir $T/new; rm -r $T/in/d; rm $T/new; rmdir $T/in/none; touch $T/in/d/x; rm $T/in",
        ),
        (
            "links of links, and loops",
            &["ln", "readlink"],
            "mkdir $T/a $D/b; ln -s ../a $T/a/again; ln -s $D $T/a/in; ln -s again/again/in/b $T/a/far; echo x > $T/a/far/f; cat $T/a/again/far/f $D/b/f; ln -s $T/a $D/out; echo y > $D/out/in/b/g; cat $D/out/far/../b/g; ln -s one $T/two; ln -s two $T/one; cat $T/one; ln -s $D/back $D/out/there; ln -s $T/there $D/back; cat $T/a/there; ln -s $D/b/none $T/dangling; cat $T/dangling; echo now > $T/dangling; cat $D/b/none; rm -r $T/a $T/one $T/two $T/dangling $D/out $D/back",
        ),
        (
            "through the directories above",
            &["basename", "find"],
            "top=$(dirname $D); above=$(dirname $top); m=$(basename $top); c=$(basename $D); mkdir $D/d; echo x > $D/d/f; cd $above && cat ./../$(basename $above)/$m/$c/d/f; find $above/$m/$c -type f | sed s:.*/case:case:; find $above -name f 2> /dev/null | grep -c $m/$c/d/f; cd / && cd $above/nowhere/../$m/$c 2>/dev/null; cd $m/../$m/$c 2>/dev/null; cd $above/$m/../$m/$c && pwd -P | sed s:.*/:: && cd ../../$m/$c/d && cat f; cd ../../.. && ls $m/$c; cd $m && cd .. && cd ./$m && cat $c/d/f",
        ),
        (
            "rsync",
            &["rsync"],
            "rsync -a $S/ $D/one/ && rsync -a $D/one/ $T/two/ && rsync -a $D/one/ $D/three/; rsync -ain $S/ $D/one/; echo more >> $D/one/text; rsync -ai --no-t --no-D $D/one/ $T/two/ | sed 's/ .*//' | sort; rsync -a --inplace $S/ $D/one/; rsync -aS --delete $S/sub/ $D/three/; cd $D && rsync -a one/sub four && rsync -aR one/sub/deeper five; ls -A five/one; rsync -a $D/none $T/none 2> /dev/null; echo code $?; cd / && rsync -a ${D#/}/four $T/six",
        ),
        (
            "programs and scripts in the mount",
            &["env", "find", "xargs"],
            "printf '#!/bin/sh\\necho \"$0 $# $1\"\\n' > $D/run; chmod +x $D/run; $D/run a b; cd $D; ./run; PATH=$D:$PATH run x; cp /bin/echo say; $D/say hello; ./say; PATH=$D say there; printf \"#! $D/run  one arg\\necho never\\n\" > chain; chmod +x chain; ./chain z; $D/chain; cp run no; chmod -x no; ./no; printf '#!/none\\n' > bad; chmod +x bad; ./bad 2> /dev/null; echo $?; ln -s $D/run $T/out; $T/out c; ln -s $T/out back; ./back d; rm $T/out back; env ./say e; env -i $D/say i; env -i PATH=$D say p; find . -name run -exec {} found \\;; echo z | xargs $D/run; sh -c 'exec ./run q'; (exec -a other ./say r); echo 'echo no line $1' > plain; chmod +x plain; ./plain s; env PATH=$D:$PATH plain t; mkdir dir; ./dir; ./none/x; timeout 5 ./run u; sh -c './run v; ./say w' | cat; rm chain",
        ),
        (
            "split, head, tail, wc",
            &["split", "head", "tail", "wc", "tee"],
            "cp $S/text $D/t; split -b 10000 $D/t $D/p-; cat $D/p-* | cmp - $S/text && echo same; head -c 100 $D/t; tail -c 100 $D/t; tail -n 3 $D/t; wc $D/t; tee $D/x $T/y < $D/t | md5sum; tac $D/t | md5sum; od -c $D/t | tail -2",
        ),
        (
            "cmp and diff",
            &["cmp", "diff"],
            "cp -a $S $D/t; cmp $S/blob $D/t/blob && echo same; diff -r $S $D/t && echo same; echo more >> $D/t/text; cmp $S/text $D/t/text | sed s:/.*/::g; diff -rq $S $D/t | sed s:/[^\\ ]*/::g",
        ),
    ];

    pub const DATA: &[Case] = &[
        (
            "tar",
            &["tar"],
            "tar cf $D/a.tar -C $S . --sort=name; mkdir $D/x $T/y; tar xpf $D/a.tar -C $D/x; tar xpf $D/a.tar -C $T/y; tar cf - -C $D/x . --sort=name | tar tf -; tar df $D/a.tar -C $D/x && echo no difference; tar rf $D/a.tar -C $S text; tar tf $D/a.tar | wc -l; tar xf $D/none.tar",
        ),
        (
            "tar with gzip",
            &["tar", "gzip"],
            "tar czf $D/a.tgz -C $S --sort=name --mtime=@1 .; mkdir $D/x; tar xzpf $D/a.tgz -C $D/x; tar tzf $D/a.tgz; rm $D/a.tgz",
        ),
        (
            "gzip",
            &["gzip"],
            "cp -p $S/text $D/t; gzip -n $D/t; gzip -t $D/t.gz && echo good; gzip -dc $D/t.gz | md5sum; gzip -dk $D/t.gz; gzip -n < $S/blob > $D/b.gz; zcat $D/b.gz | cmp - $S/blob && echo same; gzip $D/none",
        ),
        (
            "md5sum",
            &["md5sum", "sha256sum"],
            "cp -a $S $D/t; cd $D/t; md5sum text blob empty > $T/sums; md5sum -c $T/sums; md5sum text > $D/sums; echo x >> text; md5sum -c $D/sums; sha256sum blob; md5sum none",
        ),
        (
            "sort",
            &["sort", "uniq"],
            "cp $S/text $D/t; sort $D/t > $D/s; sort -r -o $D/t $D/t; sort -S 64k -T $D $S/text | md5sum; sort -m $D/s $D/s | uniq -c | md5sum; sort -u -k2 $D/t > $T/u; sort $D/none",
        ),
        (
            "sed and awk",
            &["sed", "awk", "grep"],
            "cp $S/text $D/t; sed -i 's/a/AA/g' $D/t; sed -i.bak -n 1,20p $D/t; awk 'NR % 100 == 0 { print > (FILENAME \".\" NR % 3) }' $D/t.bak; grep -c AA $D/t.bak; grep -rl AAA $D | wc -l; grep x $D/none",
        ),
        (
            "git",
            &["git"],
            "export HOME=$T GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='@1 +0000' GIT_COMMITTER_DATE='@1 +0000'; cd $D && git init -q w && cd w && cp $S/text . && git add text && git -c user.name=n -c user.email=e commit -qm m && git log --oneline && git status --short && git fsck && cd .. && rm -rf w",
        ),
    ];

    pub const SHELLS: &str = r#"
cd "$D" && echo one > f && echo two >> f && cat < f
cat > g <<EOF
here $((6 * 7))
EOF
exec 3> h; echo three >&3; exec 3>&-
exec 4< g; read line <&4; echo "read $line"; exec 4<&-
exec 5<> rw; echo both >&5; exec 5>&-; cat rw
while read a b; do echo "[$a] [$b]"; done < f
(echo sub; echo err >&2) > out 2> err; cat out err
{ echo both; echo streams >&2; } > all 2>&1; wc -l < all
set -C; echo no > f; echo "refused $?"; echo yes >| f; set +C
for i in 1 2 3; do echo $i; done | tee p1 | cat > p2
[ -f f ] && [ -s f ] && [ ! -e none ] && [ -d . ] && [ -r f ] && [ -w f ] && ! [ -x f ] && [ f -ef ./f ] && echo tests
mkdir sub && cd sub && pwd | sed 's:.*/::' && echo rel > ../from-sub && cd .. && cat from-sub
echo *; echo s*/; cat none; echo "code $?"
printf '#!/bin/sh\necho script $1; exit 7\n' > run; sh ./run arg; echo "code $?"
. ./g 2> /dev/null; umask 077; echo x > private; ls -l private | cut -c1-10
rm f && mv g gg && ln -s gg gl && cat gl
cat gg > /dev/null & wait; echo "background $?"
cat "$S/text" | (read first; echo "$first"; cat > rest); wc -c < rest
exit 9
"#;
}

struct Matrix {
    mounted: Mounted,
    /// On tmpfs: the sources, and `$D` of the plain runs.
    folder: ScratchDirectory,
    /// On another file system, as the mount is another one too: `$T`.
    outputs: ScratchDirectory,
    sources: PathBuf,
    failures: Vec<String>,
    cases: usize,
}

impl Matrix {
    fn new(label: &str) -> Self {
        let folder = ScratchDirectory::on_tmpfs(label);
        let sources = folder.make("sources");
        make_sources(&sources);
        let outputs = ScratchDirectory::new("/tmp", label);
        let mounted = Mounted::new(label, "96MiB");
        // Creating a region says so; the scripts' own words are to be compared.
        let created = mounted.shell("true");
        assert!(created.status.success(), "lifeboat exec cannot start: {created:?}");
        Self { mounted, folder, outputs, sources, failures: Vec::new(), cases: 0 }
    }

    fn run_all(&mut self, cases: &[scripts::Case]) {
        for (name, programs, script) in cases {
            if programs.iter().all(|program| is_installed(program)) {
                self.run(name, "bash", script);
            }
        }
    }

    /// One script on both sides.
    fn run(&mut self, name: &str, shell: &str, script: &str) {
        self.cases += 1;
        let case = format!("case-{}", self.cases);
        let (plain_d, mount_d) = (self.folder.path().join(&case), self.mounted.prefix().join(&case));
        let plain_t = self.outputs.make(&format!("{case}-plain"));
        let mount_t = self.outputs.make(&format!("{case}-mount"));
        let script = format!("mkdir \"$D\" || exit 99\n{script}");
        let mut direct = Command::new(shell);
        direct.args(["-c", &script]);
        let mut below = self.mounted.exec();
        below.args([shell, "-c", &script]);
        let expected = self.start(&direct, &plain_d, &plain_t);
        let found = self.start(&below, &mount_d, &mount_t);
        let differences = [
            text_difference(&found, &expected),
            self.tree_difference(&plain_d, &case).map(|text| format!("in $D: {text}")),
            kernel_difference(&mount_t, &plain_t).map(|text| format!("in $T: {text}")),
            self.mounted.escaped().first().map(|path| format!("{} was written past the mount", path.display())),
        ];
        let differences: Vec<String> = differences.into_iter().flatten().collect();
        if !differences.is_empty() {
            self.failures.push(format!("{name} ({shell}):\n  {}", differences.join("\n  ")));
        }
    }

    fn start(&self, command: &Command, d: &Path, t: &Path) -> Output {
        let mut command = limited(command, 60);
        command.env("D", d).env("T", t).env("S", &self.sources).env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command.env_remove("LIFEBOAT_TESTKIT_ROLE");
        let mut output = command.output().expect("start a program");
        for stream in [&mut output.stdout, &mut output.stderr] {
            *stream = placed(stream, d, t);
        }
        output
    }

    fn tree_difference(&self, plain: &Path, name: &str) -> Option<String> {
        let files = match attach(&self.mounted.directory()) {
            Ok(files) => files,
            Err(text) => return Some(text),
        };
        let volume = match RegionVolume::over(&files, name.as_bytes()) {
            Ok(volume) => volume,
            Err(error) => return Some(format!("{name} is not in the region: errno {error}")),
        };
        let kernel = KernelVolume::over(plain, false).expect("the plain run's directory");
        let (found, expected) = (walk(&volume, b""), walk(&kernel, b""));
        match (found, expected) {
            (Ok(found), Ok(expected)) => compare(&found, &expected),
            (found, _) => Some(format!("cannot walk the trees: errno {:?}", found.err())),
        }
    }

    /// Fails with all differences at once.
    fn finish(self, what: &str) {
        note(what, &format!("{} of {} scripts equal", self.cases - self.failures.len(), self.cases));
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        let files = attach(&self.mounted.directory()).expect("attach");
        let checked = check(&files);
        assert!(checked.is_clean(), "{checked}");
    }
}

/// The text without the names of the places, which differ.
fn placed(text: &[u8], d: &Path, t: &Path) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let text = text.replace(&d.display().to_string(), "$D").replace(&t.display().to_string(), "$T");
    text.into_bytes()
}

fn text_difference(found: &Output, expected: &Output) -> Option<String> {
    if found.status != expected.status {
        let said = String::from_utf8_lossy(&found.stderr).into_owned();
        return Some(format!("mount ended with {}, tmpfs with {}; it said {said}", found.status, expected.status));
    }
    for (what, found, expected) in
        [("output", &found.stdout, &expected.stdout), ("errors", &found.stderr, &expected.stderr)]
    {
        let (found, expected) = (String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
        let (mut found_lines, mut expected_lines) = (found.lines(), expected.lines());
        for line in 1.. {
            match (found_lines.next(), expected_lines.next()) {
                (None, None) => break,
                (found, expected) if found == expected => {}
                (found, expected) => {
                    return Some(format!("{what}, line {line}:\n    mount {found:?}\n    tmpfs {expected:?}"));
                }
            }
        }
    }
    None
}

fn kernel_difference(found: &Path, expected: &Path) -> Option<String> {
    let tree = |path: &Path| walk(&KernelVolume::over(path, false).expect("a folder for output"), b"");
    match (tree(found), tree(expected)) {
        (Ok(found), Ok(expected)) => compare(&found, &expected),
        _ => Some("cannot walk the trees".to_string()),
    }
}

/// What the programs work on. All times lie before 2001, so that they are compared exactly.
fn make_sources(top: &Path) {
    let write = |name: &str, data: &[u8]| std::fs::write(top.join(name), data).expect("a source file");
    for folder in ["sub", "sub/deeper", "none in it"] {
        std::fs::create_dir(top.join(folder)).expect("a source folder");
    }
    let text: String = (0..4000_u64)
        .map(|line| format!("{} line {line} abcdefgh {}\n", line * 7919 % 4001, "x".repeat(line as usize % 40)))
        .collect();
    write("text", text.as_bytes());
    write("blob", &bytes(3, 1_300_000));
    write("empty", b"");
    write("sub/one byte", b"1");
    write("sub/deeper/t\u{e4}xt", b"umlaut\n");
    write("sub/deeper/block", &bytes(4, 4096));
    let sparse = std::fs::File::create(top.join("sparse")).expect("a source file");
    sparse.set_len(900_000).expect("a sparse file");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 500_000).expect("a sparse file");
    std::fs::hard_link(top.join("sub/one byte"), top.join("second name")).expect("a hard link");
    std::os::unix::fs::symlink("sub/deeper/block", top.join("link")).expect("a link");
    std::os::unix::fs::symlink("nowhere", top.join("sub/dangling")).expect("a link");
    std::fs::set_permissions(top.join("blob"), std::fs::Permissions::from_mode(0o640)).expect("rights");
    std::fs::set_permissions(top.join("sub/deeper"), std::fs::Permissions::from_mode(0o750)).expect("rights");
    let touched =
        Command::new("find").arg(top).args(["-exec", "touch", "-h", "-d", "1999-05-06 07:08:09.1", "{}", "+"]).status();
    assert!(touched.is_ok_and(|status| status.success()), "cannot set the times of the sources");
}

#[test]
fn tools_for_files_behave_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mut matrix = Matrix::new("tools");
    matrix.run_all(scripts::FILES);
    matrix.finish("tools for files");
}

#[test]
fn tools_for_data_behave_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mut matrix = Matrix::new("data");
    matrix.run_all(scripts::DATA);
    matrix.finish("tools for data");
}

#[test]
fn shells_redirect_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mut matrix = Matrix::new("shells");
    for shell in ["bash", "dash"] {
        if is_installed(shell) {
            matrix.run(shell, shell, scripts::SHELLS);
        }
    }
    matrix.finish("shells");
}

#[test]
fn odd_corners_of_the_calls_behave_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mut matrix = Matrix::new("edges");
    let folder = ScratchDirectory::new("/tmp", "programs");
    let Some(program) = compile("gcc", "edges.c", &["-O1", "-w", "-pthread"], folder.path()) else { return };
    let parts = [
        "pointers",
        "counts",
        "descriptors",
        "locks",
        "copies",
        "mappings",
        "walks",
        "threads",
        "spawned",
        "limits",
        "tree_walk",
    ];
    for part in parts {
        matrix.run(part, "bash", &format!("{} \"$D\" {part}; echo code $?", program.display()));
    }
    if let Some(program) = compile("gcc", "paths.c", &["-O1", "-w"], folder.path()) {
        matrix.run("paths", "bash", &format!("{} \"$D\"; echo code $?", program.display()));
    }
    matrix.finish("odd corners");
}

#[test]
fn compiled_and_interpreted_programs_behave_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mut matrix = Matrix::new("languages");
    let folder = ScratchDirectory::new("/tmp", "programs");
    for (compiler, source, options) in [
        ("gcc", "fortify.c", &["-O2", "-D_FORTIFY_SOURCE=2"][..]),
        ("gcc", "fortify.c", &["-O0", "-D_FILE_OFFSET_BITS=64"][..]),
        ("gcc", "raw.c", &["-O1", "-w"][..]),
        ("gcc", "queues.c", &["-O1", "-w"][..]),
        ("gcc", "sockets.c", &["-O1", "-w"][..]),
        ("g++", "streams.cpp", &["-std=c++17", "-O2", "-D_FORTIFY_SOURCE=2"][..]),
        ("gfortran", "records.f90", &["-O2"][..]),
    ] {
        if let Some(program) = compile(compiler, source, options, folder.path()) {
            let name = format!("{source} {}", options.join(" "));
            matrix.run(&name, "bash", &format!("{} \"$D\"; echo code $?", program.display()));
        }
    }
    if let Some(program) = compile("gcc", "fts.c", &["-O1", "-w"], folder.path()) {
        matrix.run("fts.c", "bash", &format!("mkdir \"$T/w\"; {} \"$D\" \"$T/w\"; echo code $?", program.display()));
    }
    // Once with libc's own streams, once as on a libc whose streams are not known.
    for source in ["functions.c", "fifos.c"] {
        let Some(program) = compile("gcc", source, &["-O1", "-w", "-pthread"], folder.path()) else { continue };
        for how in ["", "LIFEBOAT_STDIO=functions"] {
            let script = format!("{how} {} \"$D\"; echo code $?", program.display());
            matrix.run(&format!("{source} {how}"), "bash", &script);
        }
    }
    if is_installed("python3") {
        let script = programs::folder().join("files.py");
        matrix.run("files.py", "bash", &format!("python3 -B {} \"$D\"; echo code $?", script.display()));
        let script = script.with_file_name("entering.py");
        matrix.run("entering.py", "bash", &format!("python3 -B {} \"$D\" \"$T\"; echo code $?", script.display()));
    }
    matrix.finish("languages");
}
