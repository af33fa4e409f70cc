//! COMMAND: the table of commands as clients see it.

use super::context::Ctx;
use super::error::Error;
use super::subcommands;
use super::table::{COMMANDS, Command, lookup};
use crate::base::{glob_match, parse_i64, same_ignoring_case};
use crate::resp::{Args, Output};

/// Writes help text as redis does, a simple string a line.
pub fn help(ctx: &mut Ctx<'_>, lines: &[&str]) {
    ctx.out.array(lines.len());
    lines.iter().for_each(|line| ctx.out.simple(line));
}

/// `COMMAND [COUNT | LIST | INFO | DOCS | GETKEYS | HELP]`
pub fn command(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.args.len() == 1 {
        ctx.out.array(COMMANDS.len());
        COMMANDS.iter().for_each(|command| describe(command, ctx.out));
        return Ok(());
    }
    let names = ctx.args.from(2);
    match subcommands::resolve(subcommands::COMMAND, ctx.args)? {
        "count" => ctx.out.count(COMMANDS.len()),
        "info" if names.len() == 0 => {
            ctx.out.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| describe(command, ctx.out));
        }
        "info" => {
            ctx.out.array(names.len());
            for name in names.iter() {
                match lookup(name) {
                    Some(command) => describe(command, ctx.out),
                    None => ctx.out.null_array(),
                }
            }
        }
        "docs" => docs(names, ctx.out),
        "list" => return list(names, ctx.out),
        "getkeys" => return get_keys(names, ctx.out),
        _ => help(ctx, &HELP),
    }
    Ok(())
}

const HELP: [&str; 15] = [
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands.",
    "LIST [FILTERBY (ACLCAT <cat>|PATTERN <pattern>)]",
    "    Return a list of all commands.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "HELP",
    "    Print this help.",
];

/// The ten fields of COMMAND INFO.
fn describe(command: &Command, out: &mut Output) {
    out.array(10);
    out.bulk(command.name.as_bytes());
    out.integer(i64::from(command.arity));
    out.array(command.flag_names().count());
    command.flag_names().for_each(|flag| out.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|position| out.integer(i64::from(position)));
    out.array(2);
    out.raw(b"+@");
    out.raw(command.group.as_bytes());
    out.raw(b"\r\n");
    out.simple(if command.is_write() { "@write" } else { "@read" });
    // Tips, key specifications and subcommands.
    (0..3).for_each(|_| out.array(0));
}

fn docs(names: Args<'_>, out: &mut Output) {
    let mark = out.mark();
    let mut count = 0;
    let mut write = |command: &Command| {
        out.bulk(command.name.as_bytes());
        out.array(4);
        out.bulk(b"summary");
        out.bulk(b"As in redis.");
        out.bulk(b"group");
        out.bulk(command.group.as_bytes());
        count += 2;
    };
    if names.len() == 0 {
        COMMANDS.iter().for_each(write);
    } else {
        names.iter().filter_map(lookup).for_each(&mut write);
    }
    out.insert_array(mark, count);
}

fn list(filter: Args<'_>, out: &mut Output) -> Result<(), Error> {
    let pattern = match filter.len() {
        0 => &b"*"[..],
        3 if same_ignoring_case(filter.at(0), "filterby") && same_ignoring_case(filter.at(1), "pattern") => {
            filter.at(2)
        }
        _ => return Err(super::error::SYNTAX),
    };
    let mark = out.mark();
    let chosen = COMMANDS.iter().filter(|command| glob_match(pattern, command.name.as_bytes()));
    let count = chosen.map(|command| out.bulk(command.name.as_bytes())).count();
    out.insert_array(mark, count);
    Ok(())
}

fn get_keys(args: Args<'_>, out: &mut Output) -> Result<(), Error> {
    let command = lookup(args.at(0)).ok_or(Error::Text("ERR Invalid command specified"))?;
    if !command.takes(args.len()) {
        return Err(Error::Text("ERR Invalid number of arguments specified for command"));
    }
    let (first, last, step) = command.keys;
    let mark = out.mark();
    let mut count = 0;
    let mut write = |at: usize| {
        out.bulk(args.at(at));
        count += 1;
    };
    if first > 0 {
        let last = if last < 0 { args.len() - last.unsigned_abs() as usize } else { last as usize };
        (first as usize..=last).step_by(step.max(1) as usize).for_each(&mut write);
    }
    if let Some(number_at) = command.key_count_at() {
        let keys = parse_i64(args.at(number_at)).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        if keys == 0 || keys >= args.len() - number_at {
            return Err(Error::Text("ERR Invalid arguments specified for command"));
        }
        (number_at + 1..=number_at + keys).for_each(&mut write);
    }
    if count == 0 {
        return Err(Error::Text("ERR The command has no key arguments"));
    }
    out.insert_array(mark, count);
    Ok(())
}
