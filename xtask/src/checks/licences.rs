//! Licences, banned crates and sources of all dependencies, by the same `deny.toml` that `cargo deny` reads.

use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Every package has an allowed licence, comes from crates.io or from here, and is not banned.
pub fn check(workspace: &Workspace) -> Outcome {
    let path = workspace.root.join("deny.toml");
    let rules = std::fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
    let allowed = strings(&rules, "licenses", "allow");
    let banned = strings(&rules, "bans", "deny");
    if allowed.is_empty() {
        return Err(Failure::new(format!("{} allows no licence", path.display())));
    }
    let mut wrong = Vec::new();
    for package in workspace.metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or("a package without a name");
        match package["license"].as_str() {
            Some(licence) if permits(licence, &allowed) => {}
            Some(licence) => wrong.push(format!("{name}: licence {licence} is not allowed by deny.toml")),
            None => wrong.push(format!("{name}: says no licence")),
        }
        if package["source"].as_str().is_some_and(|source| source != CRATES_IO) {
            wrong.push(format!("{name}: comes from {}", package["source"]));
        }
        if banned.iter().any(|ban| ban == name) {
            wrong.push(format!("{name}: banned by deny.toml"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n   "))) }
}

/// The strings of the array `key` in a section of a TOML file. Lists of tables give the strings of `crate` or `name`.
fn strings(text: &str, section: &str, key: &str) -> Vec<String> {
    let body =
        text.split_once(&format!("[{section}]\n")).map_or("", |(_, rest)| rest.split("\n[").next().unwrap_or(rest));
    let lines: Vec<_> = body.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
    let body = format!("\n{}", lines.join("\n"));
    let Some((_, list)) = body.split_once(&format!("\n{key} = [")) else { return Vec::new() };
    let list = list.split("\n]").next().unwrap_or(list).split("]\n").next().unwrap_or(list);
    let items = list
        .split(['\n', '}'])
        .flat_map(|item| if item.contains('{') { vec![item] } else { item.split(',').collect() });
    items.filter_map(|item| item.split('"').nth(1).map(str::to_owned)).collect()
}

/// Whether a licence expression can be met with the allowed ones.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = both(words, allowed);
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    let Some((&word, rest)) = words.split_first() else { return false };
    *words = rest;
    if word == "(" {
        let met = either(words, allowed);
        *words = words.split_first().map_or(&[], |(_, rest)| rest);
        return met;
    }
    // `Apache-2.0 WITH LLVM-exception` is one licence.
    let mut licence = word.to_owned();
    if let [first, exception, rest @ ..] = *words
        && *first == "WITH"
    {
        licence = format!("{word} WITH {exception}");
        *words = rest;
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_that_is_not_allowed_is_seen() {
        let allowed = ["MIT".to_owned(), "Unicode-3.0".to_owned()];
        assert!(permits("MIT OR GPL-3.0", &allowed));
        assert!(permits("GPL-3.0/MIT", &allowed));
        assert!(permits("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
        assert!(!permits("GPL-3.0", &allowed));
        assert!(!permits("MIT AND GPL-3.0", &allowed));
        assert!(!permits("", &allowed));
        assert!(!permits("(MIT", &["X".to_owned()]));
    }

    #[test]
    fn no_rule_of_the_file_is_overlooked() {
        let text = "[licenses]\nallow = [\n  \"MIT\", # x\n  \"ISC\",\n]\n[bans]\ndeny = [\n  { crate = \"a\", reason = \"b, c\" },\n  { crate = \"d\" },\n]\n";
        assert_eq!(strings(text, "licenses", "allow"), ["MIT", "ISC"]);
        assert_eq!(strings(text, "bans", "deny"), ["a", "d"]);
        assert!(strings(text, "sources", "deny").is_empty());
    }
}
