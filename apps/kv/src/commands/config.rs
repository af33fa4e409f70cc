//! The server's configuration, and CONFIG to read and change it.

use super::context::Ctx;
use super::error::Error;
use super::introspect::help;
use super::subcommands;
use crate::base::{Digits, glob_match, same_ignoring_case, write_u64};
use crate::persist::Fsync;
use crate::server::Server;
use alloc::vec::Vec;

/// How a server is set up. Everything that could differ between runs comes in here.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Keys, values and connection buffers together may take this many bytes; 0 is no limit. Leave the allocator a
    /// reserve beyond it: one reply, one argument and a doubling buffer can come on top.
    pub max_memory_bytes: usize,
    /// Longest argument and longest string value, in bytes.
    pub bulk_bytes: usize,
    /// A connection's commands wait while this many reply bytes have not been taken.
    pub output_soft_bytes: usize,
    /// No reply may make a connection's output longer than this many bytes.
    pub output_hard_bytes: usize,
    /// Commands that connections have sent in part, or queued in transactions, may take this many bytes, all together.
    pub client_bytes: usize,
    /// Most connections.
    pub max_clients: usize,
    /// Places keys in hash tables; clients must not be able to guess it.
    pub hash_seed: u64,
    /// Seed of random choices (SPOP, RANDOMKEY, the run id).
    pub random_seed: u64,
    /// The port that INFO reports.
    pub port: u16,
    /// Seconds between two probes of a silent client.
    pub keep_alive_s: u64,
    /// Whether clients may keep the processor busy by DEBUG COMPUTE.
    pub debug: bool,
    /// When writes are made stable, if there is a device for them.
    pub append_fsync: Fsync,
    /// By how many percent the log must have grown to be replaced; 0: only when the device demands it.
    pub rewrite_percentage: u64,
    /// How many bytes it must have for that.
    pub rewrite_min_bytes: u64,
}

impl Config {
    /// Limits for a server with about `memory_bytes` to use for everything.
    ///
    /// Three quarters go to `max_memory_bytes`, the rest is the reserve for replies and growth.
    pub const fn for_memory(memory_bytes: usize, hash_seed: u64, random_seed: u64) -> Self {
        let bulk_bytes = memory_bytes / 16;
        Self {
            max_memory_bytes: memory_bytes / 4 * 3,
            bulk_bytes: if bulk_bytes > 512 << 20 { 512 << 20 } else { bulk_bytes },
            output_soft_bytes: 64 * 1024,
            output_hard_bytes: memory_bytes / 8,
            client_bytes: memory_bytes / 4,
            max_clients: 10_000,
            hash_seed,
            random_seed,
            port: 6379,
            keep_alive_s: 60,
            debug: false,
            append_fsync: Fsync::EverySec,
            rewrite_percentage: 100,
            rewrite_min_bytes: 1 << 20,
        }
    }
}

/// Parameters that have one value here; clients and tools ask for some of them.
const FIXED: [(&str, &str); 19] = [
    ("activedefrag", "no"),
    ("bind", "*"),
    ("cluster-enabled", "no"),
    ("databases", "16"),
    ("dir", "/"),
    ("hash-max-listpack-entries", "128"),
    ("hash-max-listpack-value", "64"),
    ("io-threads", "1"),
    ("lazyfree-lazy-user-del", "no"),
    ("list-max-listpack-size", "128"),
    ("maxmemory-policy", "noeviction"),
    ("maxmemory-samples", "5"),
    ("notify-keyspace-events", ""),
    ("requirepass", ""),
    ("save", ""),
    ("set-max-intset-entries", "512"),
    ("slowlog-log-slower-than", "-1"),
    ("timeout", "0"),
    ("zset-max-listpack-entries", "128"),
];

/// Parameters that have a number in [`Config`].
const NUMBERS: [&str; 8] = [
    "auto-aof-rewrite-min-size",
    "auto-aof-rewrite-percentage",
    "maxclients",
    "maxmemory",
    "port",
    "proto-max-bulk-len",
    "client-query-buffer-limit",
    "tcp-keepalive",
];

/// Parameters that have a word of their own.
const WORDS: [&str; 2] = ["appendfsync", "appendonly"];

fn word(server: &Server, name: &str) -> &'static str {
    match name {
        "appendfsync" => server.config.append_fsync.name(),
        _ if server.journal.is_on() => "yes",
        _ => "no",
    }
}

fn number(config: &Config, name: &str) -> u64 {
    match name {
        "auto-aof-rewrite-min-size" => config.rewrite_min_bytes,
        "auto-aof-rewrite-percentage" => config.rewrite_percentage,
        "maxclients" => config.max_clients as u64,
        "maxmemory" => config.max_memory_bytes as u64,
        "port" => u64::from(config.port),
        "tcp-keepalive" => config.keep_alive_s,
        "proto-max-bulk-len" => config.bulk_bytes as u64,
        _ => config.client_bytes as u64,
    }
}

/// `CONFIG GET pattern [pattern ...] | SET parameter value [parameter value ...] | RESETSTAT | HELP`
pub fn config(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    match subcommands::resolve(subcommands::CONFIG, ctx.args)? {
        "get" => get(ctx),
        "set" => return set(ctx),
        "resetstat" => {
            ctx.server.reset_stats();
            ctx.out.ok();
        }
        "rewrite" => return Err(Error::Text("ERR The server is running without a config file")),
        _ => help(ctx, &HELP),
    }
    Ok(())
}

const HELP: [&str; 9] = [
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "HELP",
    "    Print this help.",
];

fn get(ctx: &mut Ctx<'_>) {
    let patterns = ctx.args.from(2);
    let wanted = |name: &str| {
        patterns.iter().any(|pattern| {
            let mut lower = Vec::from(pattern);
            lower.make_ascii_lowercase();
            glob_match(&lower, name.as_bytes())
        })
    };
    let mark = ctx.out.mark();
    let mut count = 0;
    for (name, value) in FIXED.iter().filter(|(name, _)| wanted(name)) {
        ctx.out.bulk(name.as_bytes());
        ctx.out.bulk(value.as_bytes());
        count += 2;
    }
    for name in WORDS.iter().filter(|name| wanted(name)) {
        ctx.out.bulk(name.as_bytes());
        ctx.out.bulk(word(ctx.server, name).as_bytes());
        count += 2;
    }
    for name in NUMBERS.iter().filter(|name| wanted(name)) {
        let mut digits: Digits = [0; 20];
        ctx.out.bulk(name.as_bytes());
        ctx.out.bulk(write_u64(number(&ctx.server.config, name), &mut digits));
        count += 2;
    }
    ctx.out.insert_array(mark, count);
}

/// Reads `123`, `10kb`, `2mb`, `1gb` (and the decimal `k`, `m`, `g`) as bytes.
fn memory(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let factor = match () {
        () if unit.is_empty() || same_ignoring_case(unit, "b") => 1,
        () if same_ignoring_case(unit, "k") => 1000,
        () if same_ignoring_case(unit, "kb") => 1 << 10,
        () if same_ignoring_case(unit, "m") => 1_000_000,
        () if same_ignoring_case(unit, "mb") => 1 << 20,
        () if same_ignoring_case(unit, "g") => 1_000_000_000,
        () if same_ignoring_case(unit, "gb") => 1 << 30,
        () => return None,
    };
    core::str::from_utf8(number).ok()?.parse::<usize>().ok()?.checked_mul(factor)
}

fn set(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let pairs = ctx.args.from(2);
    if !pairs.len().is_multiple_of(2) {
        return Err(Error::SubcommandArity("set"));
    }
    let mut config = ctx.server.config;
    for at in (0..pairs.len()).step_by(2) {
        let (name, value) = (pairs.at(at), pairs.at(at + 1));
        if let Err(problem) = set_one(&mut config, ctx.server.journal.is_on(), name, value) {
            let (before, after) = match problem {
                Problem::Unknown => ("ERR Unknown option or number of arguments for CONFIG SET - '", "'"),
                Problem::Invalid => (FAILED, "') - argument couldn't be parsed into an integer or memory value"),
                Problem::Word => (FAILED, "') - argument must be one of the following: always, everysec, no"),
                Problem::Fixed => (FAILED, "') - can't be changed on this server"),
            };
            ctx.out.error(&[before.as_bytes(), name, after.as_bytes()]);
            return Ok(());
        }
    }
    ctx.server.config = config;
    ctx.out.ok();
    Ok(())
}

const FAILED: &str = "ERR CONFIG SET failed (possibly related to argument '";

enum Problem {
    Unknown,
    Invalid,
    Word,
    Fixed,
}

fn set_one(config: &mut Config, persistent: bool, name: &[u8], value: &[u8]) -> Result<(), Problem> {
    if same_ignoring_case(name, "maxmemory") {
        config.max_memory_bytes = memory(value).ok_or(Problem::Invalid)?;
    } else if same_ignoring_case(name, "maxclients") {
        config.max_clients = memory(value).filter(|&n| n > 0).ok_or(Problem::Invalid)?;
    } else if same_ignoring_case(name, "proto-max-bulk-len") {
        let bytes = memory(value).ok_or(Problem::Invalid)?;
        // Lengths are kept in 32 bits.
        config.bulk_bytes = Some(bytes).filter(|bytes| (1 << 20..=1 << 30).contains(bytes)).ok_or(Problem::Invalid)?;
    } else if same_ignoring_case(name, "appendfsync") {
        let known = Fsync::NAMES.iter().find(|(known, _)| same_ignoring_case(value, known));
        config.append_fsync = known.ok_or(Problem::Word)?.1;
    } else if same_ignoring_case(name, "auto-aof-rewrite-percentage") {
        config.rewrite_percentage = memory(value).ok_or(Problem::Invalid)? as u64;
    } else if same_ignoring_case(name, "auto-aof-rewrite-min-size") {
        config.rewrite_min_bytes = memory(value).ok_or(Problem::Invalid)? as u64;
    } else if same_ignoring_case(name, "appendonly") {
        // There is a device for it from the start, or never.
        let wanted = if persistent { "yes" } else { "no" };
        if !same_ignoring_case(value, wanted) {
            return Err(Problem::Fixed);
        }
    } else if let Some((_, fixed)) = FIXED.iter().find(|(known, _)| same_ignoring_case(name, known)) {
        // Setting what already holds is no harm, and tools do it.
        if value != fixed.as_bytes() {
            return Err(Problem::Fixed);
        }
    } else {
        return Err(if NUMBERS.iter().any(|known| same_ignoring_case(name, known)) {
            Problem::Fixed
        } else {
            Problem::Unknown
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_units() {
        for (text, bytes) in [
            ("100", Some(100)),
            ("1k", Some(1000)),
            ("1KB", Some(1024)),
            ("2mb", Some(2 << 20)),
            ("1G", Some(1_000_000_000)),
            ("", None),
            ("x", None),
            ("1tb", None),
            ("99999999999999999999", None),
            ("99999999999gb", None),
        ] {
            assert_eq!(memory(text.as_bytes()), bytes, "{text}");
        }
    }
}
