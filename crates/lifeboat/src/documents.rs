//! The command's page, man pages and shell completions, made from the table of arguments.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::arguments::{Arguments, DocumentsArguments};
use crate::failure::{Failure, io_reason};
use crate::output::out;

/// Runs `lifeboat documents`.
pub fn run(arguments: &DocumentsArguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut out = out();
    if let Some(directory) = &arguments.man {
        write_man_pages(&command, "lifeboat", directory).map_err(|error| {
            Failure::operation(format_args!("cannot write {}: {}", directory.display(), io_reason(&error)))
        })?;
    }
    if let Some(shell) = arguments.completions {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "lifeboat", &mut script);
        out.write_all(&script)?;
    }
    if arguments.markdown {
        out.write_all(markdown(&command).as_bytes())?;
    }
    if arguments.man.is_none() && arguments.completions.is_none() && !arguments.markdown {
        return Err(Failure::usage("say what to write: --markdown, --man DIR or --completions SHELL"));
    }
    Ok(out.flush()?)
}

fn write_man_pages(command: &Command, name: &str, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let page = command.clone().display_name(name.to_string());
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    fs::write(directory.join(format!("{name}.1")), text)?;
    for child in visible(command) {
        write_man_pages(child, &format!("{name}-{}", child.get_name()), directory)?;
    }
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help")
}

fn markdown(command: &Command) -> String {
    let mut page = String::from("# The command\n\nWritten by `lifeboat documents --markdown`.\n\n");
    let about = command.get_long_about().map(|text| text.to_string()).unwrap_or_default();
    let _ = writeln!(page, "{about}\n\n{}\n", as_text(command.get_after_help()));
    for child in visible(command) {
        section(&mut page, child, &format!("lifeboat {}", child.get_name()));
    }
    page
}

/// Text of a help page; the example becomes a code block.
fn as_text(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(|text| text.to_string()).unwrap_or_default();
    let (before, example) = text.split_once("Example:\n").unwrap_or((&text, ""));
    let mut out = before.trim_end().to_string();
    if !example.is_empty() {
        let gap = if out.is_empty() { "" } else { "\n\n" };
        let lines: Vec<&str> = example.lines().map(str::trim).collect();
        let _ = write!(out, "{gap}```sh\n{}\n```", lines.join("\n"));
    }
    out
}

fn section(page: &mut String, command: &Command, name: &str) {
    let children: Vec<&Command> = visible(command).collect();
    if !children.is_empty() {
        for child in children {
            section(page, child, &format!("{name} {}", child.get_name()));
        }
        return;
    }
    let about = command.get_about().map(|text| text.to_string()).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(page, "## {name}\n\n{about}.\n\n`{}`\n", usage.trim_start_matches("Usage: "));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|argument| shown(argument)).collect();
    if !arguments.is_empty() {
        let _ = writeln!(page, "| argument | meaning |\n|---|---|");
        for argument in arguments {
            let _ = writeln!(page, "| `{}` | {} |", spelled(argument), meaning(argument));
        }
        page.push('\n');
    }
    let after = as_text(command.get_after_help());
    if !after.is_empty() {
        let _ = writeln!(page, "{after}\n");
    }
}

fn shown(argument: &Arg) -> bool {
    !argument.is_hide_set() && argument.get_id() != "help" && argument.get_id() != "version"
}

fn spelled(argument: &Arg) -> String {
    let values: Vec<String> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| name.to_string()).collect();
    let values = if argument.get_action().takes_values() { values.join(" ") } else { String::new() };
    let short = argument.get_short().map(|letter| format!("-{letter}"));
    let long = argument.get_long().map(|word| format!("--{word}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    format!("{} {values}", flags.join(", ")).trim().to_string()
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().map(|text| text.to_string()).unwrap_or_default().replace('|', "\\|");
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " [default: {}]", defaults.join(", "));
    }
    text
}
