//! debug
use lifeboat_fs::*;
use lifeboat_testkit::scratch::ScratchRegion;
const ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0o022 };
fn main() {
    let scratch = ScratchRegion::new("dbg", 160 << 20);
    let fs = scratch.attach();
    let fs = &fs;
    std::thread::scope(|s| {
        for t in 0..8u64 {
            s.spawn(move || {
                let mut names: Vec<String> = vec![];
                let mut r = t + 1;
                for i in 0..20000u64 {
                    r = r.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if names.len() < 60 && (r >> 40) % 2 == 0 {
                        let n = format!("/t{t}-{i}");
                        let f = fs.open(&ROOT, fs.root(), n.as_bytes(), 0o301, 0o644).unwrap();
                        let len = [0usize, 10, 4096, 10000, 70000][(r >> 50) as usize % 5];
                        match fs.write(f, &[UserSource::from_slice(&vec![3; len])], Position::Current) {
                            Ok(n) if n == len => {}
                            other => {
                                println!("t{t} i{i} {other:?} usage {:?}", fs.usage());
                                let mut c = std::collections::BTreeMap::new();
                                lifeboat_region::space::each_unit(fs.region(), |u, o| {
                                    *c.entry(format!("{:?} {:?} {:?}", u.class, o.state, o.kind)).or_insert(0) += 1;
                                    Ok(())
                                })
                                .unwrap();
                                println!("{c:#?}");
                                std::process::exit(1);
                            }
                        }
                        fs.close(f).unwrap();
                        names.push(n);
                    } else if !names.is_empty() {
                        let k = (r >> 45) as usize % names.len();
                        let n = names.swap_remove(k);
                        fs.unlink(&ROOT, fs.root(), n.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    let c = check(fs, &mut |f| println!("{f}")).unwrap();
    println!("{c:?} {:?}", fs.usage());
}
