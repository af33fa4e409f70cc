//! CLIENT.

use super::context::{Ctx, ReplyMode};
use super::error::{Error, SYNTAX};
use super::introspect::help;
use super::subcommands;
use crate::base::{Digits, SmallBytes, parse_i64, same_ignoring_case, write_i64};
use crate::server::ClientInfo;
use alloc::vec::Vec;

/// `CLIENT ID | SETNAME | GETNAME | LIST | INFO | SETINFO | NO-EVICT | NO-TOUCH | KILL | REPLY | UNPAUSE | GETREDIR | HELP`
pub fn client(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let now_ms = ctx.now_ms;
    if let Some(client) = ctx.server.client_mut(ctx.peer.slot) {
        // The register is otherwise brought up to date when all input has been handled.
        (client.last_command, client.last_ms, client.db) = ("client", now_ms, ctx.peer.db);
    }
    match subcommands::resolve(subcommands::CLIENT, ctx.args)? {
        "id" => ctx.out.integer(ctx.peer.id as i64),
        "setname" => {
            set_name(ctx, ctx.args.at(2))?;
            ctx.out.ok();
        }
        "getname" => match ctx.server.client(ctx.peer.slot).map(|client| client.name.as_slice()) {
            Some(name) if !name.is_empty() => ctx.out.bulk(name),
            _ => ctx.out.null(),
        },
        "list" => list(ctx)?,
        "info" => {
            let mut text = Vec::new();
            if let Some(client) = ctx.server.client(ctx.peer.slot) {
                describe(client, ctx.now_ms, &mut text);
            }
            ctx.out.bulk(&text);
        }
        "setinfo" => set_info(ctx)?,
        "no-evict" | "no-touch" => {
            on_or_off(ctx.args.at(2))?;
            ctx.out.ok();
        }
        "kill" => kill(ctx)?,
        "reply" => reply_mode(ctx)?,
        "unpause" => ctx.out.ok(),
        "getredir" => ctx.out.integer(-1),
        _ => help(ctx, &HELP),
    }
    Ok(())
}

const HELP: [&str; 22] = [
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are: ADDR, ID, SKIPME, TYPE, MAXAGE is not known.",
    "LIST [ID <client-id> [<client-id> ...]] [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)]",
    "    Return information about client connections.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are: LIB-NAME, LIB-VER.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "NO-EVICT (ON|OFF), NO-TOUCH (ON|OFF), UNPAUSE",
    "    Accepted; nothing is evicted, touched or paused here.",
    "HELP",
];

fn on_or_off(word: &[u8]) -> Result<(), Error> {
    if same_ignoring_case(word, "on") || same_ignoring_case(word, "off") { Ok(()) } else { Err(SYNTAX) }
}

/// Text that can stand in a line of CLIENT LIST.
fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|c| (b'!'..=b'~').contains(c))
}

/// Names the connection.
pub fn set_name(ctx: &mut Ctx<'_>, name: &[u8]) -> Result<(), Error> {
    if !is_printable(name) {
        return Err(Error::Text("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    if let Some(client) = ctx.server.client_mut(ctx.peer.slot) {
        client.name = SmallBytes::new(name);
    }
    Ok(())
}

fn set_info(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (field, value) = (ctx.args.at(2), ctx.args.at(3));
    let name = same_ignoring_case(field, "lib-name");
    if !name && !same_ignoring_case(field, "lib-ver") {
        ctx.out.error(&[b"ERR Unrecognized option '", field, b"'"]);
        return Ok(());
    }
    if !is_printable(value) {
        return Err(Error::Text(match name {
            true => "ERR lib-name cannot contain spaces, newlines or special characters.",
            false => "ERR lib-ver cannot contain spaces, newlines or special characters.",
        }));
    }
    if let Some(client) = ctx.server.client_mut(ctx.peer.slot) {
        let place = if name { &mut client.lib_name } else { &mut client.lib_version };
        *place = SmallBytes::new(value);
    }
    ctx.out.ok();
    Ok(())
}

fn reply_mode(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    match ctx.args.at(2) {
        word if same_ignoring_case(word, "on") => {
            ctx.peer.reply = ReplyMode::On;
            ctx.out.ok();
        }
        word if same_ignoring_case(word, "off") => ctx.peer.reply = ReplyMode::Off,
        word if same_ignoring_case(word, "skip") => {
            if ctx.peer.reply == ReplyMode::On {
                ctx.peer.reply = ReplyMode::SkipNext;
            }
        }
        _ => return Err(SYNTAX),
    }
    Ok(())
}

fn list(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let wanted = match ctx.args.len() {
        2 => None,
        4 if same_ignoring_case(ctx.args.at(2), "type") => {
            let kind = ctx.args.at(3);
            if !["normal", "master", "replica", "slave", "pubsub"].iter().any(|k| same_ignoring_case(kind, k)) {
                ctx.out.error(&[b"ERR Unknown client type '", kind, b"'"]);
                return Ok(());
            }
            // All clients are normal ones.
            (!same_ignoring_case(kind, "normal")).then(Vec::new)
        }
        len if len > 3 && same_ignoring_case(ctx.args.at(2), "id") => {
            let ids = ctx.args.from(3).iter().map(|id| parse_i64(id).filter(|&id| id > 0).map(|id| id as u64));
            Some(ids.collect::<Option<Vec<u64>>>().ok_or(Error::Text("ERR Invalid client ID"))?)
        }
        _ => return Err(SYNTAX),
    };
    let mut text = Vec::new();
    for client in ctx.server.clients().filter(|client| wanted.as_ref().is_none_or(|ids| ids.contains(&client.id))) {
        describe(client, ctx.now_ms, &mut text);
    }
    ctx.out.bulk(&text);
    Ok(())
}

/// Appends the line of one client.
fn describe(client: &ClientInfo, now_ms: i64, text: &mut Vec<u8>) {
    let mut digits: Digits = [0; 20];
    let mut number = |text: &mut Vec<u8>, label: &str, value: i64| {
        text.extend_from_slice(label.as_bytes());
        text.extend_from_slice(write_i64(value, &mut digits));
    };
    number(text, "id=", client.id as i64);
    text.extend_from_slice(b" addr=");
    text.extend_from_slice(client.address.as_bytes());
    text.extend_from_slice(b" laddr= fd=");
    number(text, "", client.id as i64);
    text.extend_from_slice(b" name=");
    text.extend_from_slice(client.name.as_slice());
    number(text, " age=", (now_ms - client.since_ms) / 1000);
    number(text, " idle=", (now_ms - client.last_ms) / 1000);
    text.extend_from_slice(if client.in_multi { b" flags=x" } else { b" flags=N" });
    number(text, " db=", client.db as i64);
    number(text, " sub=0 psub=0 ssub=0 multi=", if client.in_multi { client.queued as i64 } else { -1 });
    number(text, " qbuf=", client.input_bytes as i64);
    number(text, " obl=", client.output_bytes as i64);
    number(text, " tot-mem=", client.bytes as i64);
    text.extend_from_slice(b" events=r cmd=");
    text.extend_from_slice(client.last_command.as_bytes());
    text.extend_from_slice(b" user=default redir=-1 resp=2 lib-name=");
    text.extend_from_slice(client.lib_name.as_slice());
    text.extend_from_slice(b" lib-ver=");
    text.extend_from_slice(client.lib_version.as_slice());
    text.push(b'\n');
}

#[derive(Default)]
struct Filter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    none: bool,
    keep_me: bool,
}

fn kill(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let old_form = ctx.args.len() == 3;
    let mut filter = Filter { keep_me: true, ..Filter::default() };
    if old_form {
        filter = Filter { address: Some(ctx.args.at(2)), ..Filter::default() };
    }
    for at in (2..ctx.args.len()).step_by(2).filter(|_| !old_form) {
        if at + 1 >= ctx.args.len() {
            return Err(SYNTAX);
        }
        let value = ctx.args.at(at + 1);
        match ctx.args.at(at) {
            word if same_ignoring_case(word, "id") => {
                let id = parse_i64(value).filter(|&id| id > 0);
                filter.id = Some(id.ok_or(Error::Text("ERR client-id should be greater than 0"))? as u64);
            }
            word if same_ignoring_case(word, "addr") => filter.address = Some(value),
            word if same_ignoring_case(word, "type") => filter.none |= !same_ignoring_case(value, "normal"),
            word if same_ignoring_case(word, "user") => filter.none |= value != b"default",
            word if same_ignoring_case(word, "skipme") => match value {
                value if same_ignoring_case(value, "yes") => filter.keep_me = true,
                value if same_ignoring_case(value, "no") => filter.keep_me = false,
                _ => return Err(SYNTAX),
            },
            _ => return Err(SYNTAX),
        }
    }
    let matches = |client: &ClientInfo| {
        !filter.none
            && filter.id.is_none_or(|id| id == client.id)
            && filter.address.is_none_or(|address| address == client.address.as_bytes())
            && !(filter.keep_me && client.id == ctx.peer.id)
    };
    let ids: Vec<u64> = ctx.server.clients().filter(|client| matches(client)).map(|client| client.id).collect();
    for &id in &ids {
        if id == ctx.peer.id {
            ctx.peer.closing = true;
        } else {
            ctx.server.kill(id);
        }
    }
    match (old_form, ids.len()) {
        (true, 0) => return Err(Error::Text("ERR No such client")),
        (true, _) => ctx.out.ok(),
        (false, killed) => ctx.out.count(killed),
    }
    Ok(())
}
