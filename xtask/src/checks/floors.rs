//! Imports never go up: the table of floors in ARCHITECTURE.md is held against the crates and their source.

use super::{code, rust_files};
use crate::failure::{Context, Failure, Outcome};
use crate::workspace::{Member, Workspace};
use std::collections::BTreeMap;

/// Crates that stand beside the floors: they may use all, and nothing but tests may use them.
const ASIDE: u32 = u32::MAX;

/// Every crate has a floor and uses lower ones only.
pub fn check(workspace: &Workspace) -> Outcome {
    let path = workspace.root.join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
    let floors = read_table(&text);
    let mut wrong = Vec::new();
    for member in &workspace.members {
        match floors.get(short(&member.name)) {
            Some(&floor) => {
                wrong.extend(upward_dependencies(member, floor, &floors));
                check_source(member, &|other| may_use(other, floor, &floors), &mut wrong)?;
            }
            None => wrong.push(format!("crate {} is not in the table of floors in ARCHITECTURE.md", member.name)),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n   "))) }
}

/// `lifeboat-fs` is called `fs` in the table.
fn short(name: &str) -> &str {
    name.strip_prefix("lifeboat-").unwrap_or(name)
}

/// Rows like "| 2 contents | `fs` | ... |".
fn read_table(text: &str) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, floor, crates, ..] = cells[..] else { continue };
        let number = match floor.split(' ').next() {
            Some("aside") => ASIDE,
            Some(word) => match word.parse() {
                Ok(number) => number,
                Err(_) => continue,
            },
            None => continue,
        };
        for name in crates.split('`').skip(1).step_by(2) {
            floors.insert(name.to_owned(), number);
        }
    }
    floors
}

/// Whether a crate on this floor may use the other one.
fn may_use(other: &str, floor: u32, floors: &BTreeMap<String, u32>) -> bool {
    match floors.get(short(other)) {
        Some(&ASIDE) => floor == ASIDE,
        Some(&theirs) => theirs < floor,
        None => true,
    }
}

fn upward_dependencies(member: &Member, floor: u32, floors: &BTreeMap<String, u32>) -> Vec<String> {
    let ours = |name: &&String| name.starts_with("lifeboat") || *name == "xtask";
    let for_tests = |name: &str| floors.get(short(name)) == Some(&ASIDE) || may_use(name, floor, floors);
    let code = member.dependencies.iter().filter(ours).filter(|name| !may_use(name, floor, floors));
    let tests = member.test_dependencies.iter().filter(ours).filter(|name| !for_tests(name));
    let say = |name: &String| format!("{} depends on {name}, which is not on a lower floor", member.name);
    code.chain(tests).map(say).collect()
}

fn check_source(member: &Member, may_use: &dyn Fn(&str) -> bool, wrong: &mut Vec<String>) -> Outcome {
    for file in rust_files(&member.folder.join("src"))? {
        let text = std::fs::read_to_string(&file).context(format_args!("read {}", file.display()))?;
        for (number, line) in text.lines().enumerate() {
            for word in upward_words(line, &member.name, may_use) {
                wrong.push(format!("{}:{}: {word} is not on a lower floor", file.display(), number + 1));
            }
            if leaves_the_crate(line) {
                wrong.push(format!("{}:{}: takes source from outside its crate", file.display(), number + 1));
            }
        }
    }
    Ok(())
}

/// Names of our crates in a line of code that its crate may not use.
fn upward_words<'a>(line: &'a str, own: &str, may_use: &dyn Fn(&str) -> bool) -> Vec<&'a str> {
    let own = own.replace('-', "_");
    let words = code(line).split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("lifeboat_") && *word != own);
    ours.filter(|word| !may_use(&word.replace('_', "-"))).collect()
}

fn leaves_the_crate(line: &str) -> bool {
    let code = code(line).trim_start();
    let takes = code.starts_with("include!(") || code.starts_with("#[path");
    takes && code.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| floor | crates | says |\n|---|---|---|\n| 5 fronts | `lifeboat` (the command), `preload` | x |\n\
                         | 1 region | `region` | y |\n| aside | `testkit`, `xtask` | z |\n";

    #[test]
    fn an_import_that_goes_up_is_seen() {
        let floors = read_table(TABLE);
        assert_eq!(floors.get("region"), Some(&1));
        assert_eq!(floors.get("preload"), Some(&5));
        assert_eq!(floors.get("xtask"), Some(&ASIDE));
        let may_use = |other: &str| floors.get(short(other)).is_none_or(|&floor| floor < 1);
        assert_eq!(upward_words("use lifeboat_preload::x;", "lifeboat-region", &may_use), ["lifeboat_preload"]);
        assert!(upward_words("use lifeboat_region::x; // lifeboat_preload", "lifeboat-region", &may_use).is_empty());
    }

    #[test]
    fn a_dependency_that_goes_up_is_seen() {
        let floors = read_table(TABLE);
        let mut member = Member {
            name: "lifeboat-region".into(),
            folder: "/".into(),
            dependencies: vec!["lifeboat-preload".into()],
            test_dependencies: vec![],
        };
        assert_eq!(upward_dependencies(&member, 1, &floors).len(), 1);
        member.dependencies = vec!["libc".into()];
        member.test_dependencies = vec!["lifeboat-testkit".into()];
        assert!(upward_dependencies(&member, 1, &floors).is_empty());
    }

    #[test]
    fn source_from_another_crate_is_seen() {
        assert!(leaves_the_crate("#[path = \"../../fs/src/lib.rs\"]"));
        assert!(!leaves_the_crate("#[path = \"x86_64/copy.rs\"]"));
    }
}
