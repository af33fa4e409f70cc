//! The table of commands and how a name is found in it.

use super::context::Ctx;
use super::error::Error;
use super::subcommands::{self, Subcommand};
use super::{
    bits, client, config, connection, expire, hashes, info, introspect, keys, lists, lists_move, persistence, scan,
    set_algebra, sets, strings, strings_multi, transactions, zset_algebra, zset_range, zsets,
};
use crate::resp::Args;

/// What runs a command.
pub(super) type Handler = fn(&mut Ctx<'_>) -> Result<(), Error>;

const NO_FLAGS: u16 = 0;
const READ: u16 = 1;
const WRITE: u16 = 2;
/// May need memory, so it is refused over the memory limit.
const OOM: u16 = 4;
const FAST: u16 = 8;
const ADMIN: u16 = 16;
/// Runs at once even in a transaction.
const NOW: u16 = 32;
/// May change other databases than the selected one.
const GLOBAL: u16 = 64;
/// Argument 1, or 2, is the number of keys that follow it.
const COUNTED_1: u16 = 128;
const COUNTED_2: u16 = 256;

/// Positions of keys: first, last (negative from the end), step.
type Keys = (i8, i8, i8);
const NONE: Keys = (0, 0, 0);
const ONE: Keys = (1, 1, 1);
const TWO: Keys = (1, 2, 1);
const ALL: Keys = (1, -1, 1);

/// One command.
pub struct Command {
    /// Its name, in lower case letters.
    pub name: &'static str,
    /// How many arguments with the name; at least so many if negative.
    pub arity: i8,
    flags: u16,
    /// Which arguments are keys: first, last (negative from the end), step.
    pub keys: (i8, i8, i8),
    /// The kind of command, as COMMAND DOCS groups them.
    pub group: &'static str,
    pub(super) handler: Handler,
    subcommands: &'static [Subcommand],
}

impl Command {
    /// Whether it takes this many arguments.
    #[inline]
    pub fn takes(&self, count: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { count >= arity } else { count == arity }
    }

    /// Fails if it is a family of subcommands and `args` name none of them or have too few or too many for it.
    #[inline]
    pub(super) fn check_subcommand(&self, args: Args<'_>) -> Result<(), Error> {
        if self.subcommands.is_empty() || args.len() < 2 {
            return Ok(());
        }
        subcommands::resolve(self.subcommands, args).map(|_| ())
    }

    /// Whether it may change data.
    #[inline]
    pub fn is_write(&self) -> bool {
        self.flags & WRITE != 0
    }

    /// Whether it is refused over the memory limit.
    #[inline]
    pub fn denies_oom(&self) -> bool {
        self.flags & OOM != 0
    }

    /// Whether it runs at once even in a transaction.
    #[inline]
    pub fn is_immediate(&self) -> bool {
        self.flags & NOW != 0
    }

    /// Whether it may change other databases than the selected one.
    #[inline]
    pub(super) fn is_global(&self) -> bool {
        self.flags & GLOBAL != 0
    }

    /// The argument that says how many keys follow it.
    pub(super) fn key_count_at(&self) -> Option<usize> {
        match self.flags & (COUNTED_1 | COUNTED_2) {
            COUNTED_1 => Some(1),
            COUNTED_2 => Some(2),
            _ => None,
        }
    }

    /// Its flags in the words of redis.
    pub(super) fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        let names = [
            (READ, "readonly"),
            (WRITE, "write"),
            (OOM, "denyoom"),
            (FAST, "fast"),
            (ADMIN, "admin"),
            (COUNTED_1 | COUNTED_2, "movablekeys"),
        ];
        names.into_iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, name)| name)
    }
}

const fn row(name: &'static str, arity: i8, flags: u16, keys: Keys, group: &'static str, handler: Handler) -> Command {
    Command { name, arity, flags, keys, group, handler, subcommands: &[] }
}

const fn family(mut command: Command, subcommands: &'static [Subcommand]) -> Command {
    command.subcommands = subcommands;
    command
}

/// All commands.
#[rustfmt::skip]
pub static COMMANDS: [Command; 148] = [
    row("ping", -1, FAST, NONE, "connection", connection::ping),
    row("echo", 2, FAST, NONE, "connection", connection::echo),
    row("select", 2, FAST, NONE, "connection", connection::select),
    row("quit", -1, FAST | NOW, NONE, "connection", connection::quit),
    row("auth", -2, FAST, NONE, "connection", connection::auth),
    row("hello", -1, FAST, NONE, "connection", connection::hello),
    row("reset", 1, FAST | NOW, NONE, "connection", connection::reset),
    family(row("client", -2, NO_FLAGS, NONE, "connection", client::client), subcommands::CLIENT),
    family(row("config", -2, ADMIN, NONE, "server", config::config), subcommands::CONFIG),
    row("info", -1, NO_FLAGS, NONE, "server", info::info),
    family(row("command", -1, NO_FLAGS, NONE, "server", introspect::command), subcommands::COMMAND),
    row("dbsize", 1, READ | FAST, NONE, "server", keys::dbsize),
    row("flushdb", -1, WRITE, NONE, "server", keys::flushdb),
    row("flushall", -1, WRITE | GLOBAL, NONE, "server", keys::flushall),
    row("bgrewriteaof", 1, ADMIN, NONE, "server", persistence::bgrewriteaof),
    row("time", 1, FAST, NONE, "server", info::time),
    row("debug", -2, ADMIN, NONE, "server", info::debug),
    row("swapdb", 3, WRITE | FAST | GLOBAL, NONE, "server", keys::swapdb),
    row("keys", 2, READ, NONE, "generic", keys::keys),
    row("scan", -2, READ, NONE, "generic", scan::scan),
    row("type", 2, READ | FAST, ONE, "generic", keys::type_of),
    row("exists", -2, READ | FAST, ALL, "generic", keys::exists),
    row("touch", -2, READ | FAST, ALL, "generic", keys::exists),
    row("del", -2, WRITE, ALL, "generic", keys::del),
    row("unlink", -2, WRITE | FAST, ALL, "generic", keys::del),
    row("expire", -3, WRITE | FAST, ONE, "generic", expire::expire),
    row("pexpire", -3, WRITE | FAST, ONE, "generic", expire::pexpire),
    row("expireat", -3, WRITE | FAST, ONE, "generic", expire::expireat),
    row("pexpireat", -3, WRITE | FAST, ONE, "generic", expire::pexpireat),
    row("ttl", 2, READ | FAST, ONE, "generic", expire::ttl),
    row("pttl", 2, READ | FAST, ONE, "generic", expire::pttl),
    row("expiretime", 2, READ | FAST, ONE, "generic", expire::expiretime),
    row("pexpiretime", 2, READ | FAST, ONE, "generic", expire::pexpiretime),
    row("persist", 2, WRITE | FAST, ONE, "generic", expire::persist),
    row("rename", 3, WRITE, TWO, "generic", keys::rename),
    row("renamenx", 3, WRITE | FAST, TWO, "generic", keys::renamenx),
    row("randomkey", 1, READ, NONE, "generic", keys::randomkey),
    row("copy", -3, WRITE | OOM | GLOBAL, TWO, "generic", keys::copy),
    row("move", 3, WRITE | FAST | GLOBAL, ONE, "generic", keys::move_key),
    family(row("object", -2, READ, (2, 2, 1), "generic", keys::object), subcommands::OBJECT),
    row("set", -3, WRITE | OOM, ONE, "string", strings::set),
    row("setnx", 3, WRITE | OOM | FAST, ONE, "string", strings::setnx),
    row("setex", 4, WRITE | OOM, ONE, "string", strings::setex),
    row("psetex", 4, WRITE | OOM, ONE, "string", strings::psetex),
    row("get", 2, READ | FAST, ONE, "string", strings::get),
    row("getset", 3, WRITE | OOM | FAST, ONE, "string", strings::getset),
    row("getdel", 2, WRITE | FAST, ONE, "string", strings::getdel),
    row("getex", -2, WRITE | FAST, ONE, "string", strings::getex),
    row("mget", -2, READ | FAST, ALL, "string", strings_multi::mget),
    row("mset", -3, WRITE | OOM, (1, -1, 2), "string", strings_multi::mset),
    row("msetnx", -3, WRITE | OOM, (1, -1, 2), "string", strings_multi::msetnx),
    row("append", 3, WRITE | OOM | FAST, ONE, "string", strings::append),
    row("strlen", 2, READ | FAST, ONE, "string", strings::strlen),
    row("setrange", 4, WRITE | OOM, ONE, "string", strings::setrange),
    row("getrange", 4, READ, ONE, "string", strings::getrange),
    row("substr", 4, READ, ONE, "string", strings::getrange),
    row("incr", 2, WRITE | OOM | FAST, ONE, "string", strings::incr),
    row("decr", 2, WRITE | OOM | FAST, ONE, "string", strings::decr),
    row("incrby", 3, WRITE | OOM | FAST, ONE, "string", strings::incrby),
    row("decrby", 3, WRITE | OOM | FAST, ONE, "string", strings::decrby),
    row("incrbyfloat", 3, WRITE | OOM | FAST, ONE, "string", strings::incrbyfloat),
    row("setbit", 4, WRITE | OOM, ONE, "bitmap", bits::setbit),
    row("getbit", 3, READ | FAST, ONE, "bitmap", bits::getbit),
    row("bitcount", -2, READ, ONE, "bitmap", bits::bitcount),
    row("lpush", -3, WRITE | OOM | FAST, ONE, "list", lists::lpush),
    row("rpush", -3, WRITE | OOM | FAST, ONE, "list", lists::rpush),
    row("lpushx", -3, WRITE | OOM | FAST, ONE, "list", lists::lpushx),
    row("rpushx", -3, WRITE | OOM | FAST, ONE, "list", lists::rpushx),
    row("lpop", -2, WRITE | FAST, ONE, "list", lists::lpop),
    row("rpop", -2, WRITE | FAST, ONE, "list", lists::rpop),
    row("llen", 2, READ | FAST, ONE, "list", lists::llen),
    row("lrange", 4, READ, ONE, "list", lists::lrange),
    row("lindex", 3, READ, ONE, "list", lists::lindex),
    row("lset", 4, WRITE | OOM, ONE, "list", lists::lset),
    row("lrem", 4, WRITE, ONE, "list", lists::lrem),
    row("ltrim", 4, WRITE, ONE, "list", lists::ltrim),
    row("linsert", 5, WRITE | OOM, ONE, "list", lists::linsert),
    row("lpos", -3, READ, ONE, "list", lists_move::lpos),
    row("rpoplpush", 3, WRITE | OOM, TWO, "list", lists_move::rpoplpush),
    row("lmove", 5, WRITE | OOM, TWO, "list", lists_move::lmove),
    row("sadd", -3, WRITE | OOM | FAST, ONE, "set", sets::sadd),
    row("srem", -3, WRITE | FAST, ONE, "set", sets::srem),
    row("smembers", 2, READ, ONE, "set", sets::smembers),
    row("sismember", 3, READ | FAST, ONE, "set", sets::sismember),
    row("smismember", -3, READ | FAST, ONE, "set", sets::smismember),
    row("scard", 2, READ | FAST, ONE, "set", sets::scard),
    row("spop", -2, WRITE | FAST, ONE, "set", sets::spop),
    row("srandmember", -2, READ, ONE, "set", sets::srandmember),
    row("smove", 4, WRITE | FAST, TWO, "set", sets::smove),
    row("sinter", -2, READ, ALL, "set", set_algebra::sinter),
    row("sunion", -2, READ, ALL, "set", set_algebra::sunion),
    row("sdiff", -2, READ, ALL, "set", set_algebra::sdiff),
    row("sinterstore", -3, WRITE | OOM, ALL, "set", set_algebra::sinterstore),
    row("sunionstore", -3, WRITE | OOM, ALL, "set", set_algebra::sunionstore),
    row("sdiffstore", -3, WRITE | OOM, ALL, "set", set_algebra::sdiffstore),
    row("sintercard", -3, READ | COUNTED_1, NONE, "set", set_algebra::sintercard),
    row("sscan", -3, READ, ONE, "set", scan::sscan),
    row("hset", -4, WRITE | OOM | FAST, ONE, "hash", hashes::hset),
    row("hsetnx", 4, WRITE | OOM | FAST, ONE, "hash", hashes::hsetnx),
    row("hmset", -4, WRITE | OOM | FAST, ONE, "hash", hashes::hmset),
    row("hget", 3, READ | FAST, ONE, "hash", hashes::hget),
    row("hmget", -3, READ | FAST, ONE, "hash", hashes::hmget),
    row("hgetall", 2, READ, ONE, "hash", hashes::hgetall),
    row("hdel", -3, WRITE | FAST, ONE, "hash", hashes::hdel),
    row("hexists", 3, READ | FAST, ONE, "hash", hashes::hexists),
    row("hlen", 2, READ | FAST, ONE, "hash", hashes::hlen),
    row("hkeys", 2, READ, ONE, "hash", hashes::hkeys),
    row("hvals", 2, READ, ONE, "hash", hashes::hvals),
    row("hincrby", 4, WRITE | OOM | FAST, ONE, "hash", hashes::hincrby),
    row("hincrbyfloat", 4, WRITE | OOM | FAST, ONE, "hash", hashes::hincrbyfloat),
    row("hstrlen", 3, READ | FAST, ONE, "hash", hashes::hstrlen),
    row("hrandfield", -2, READ, ONE, "hash", hashes::hrandfield),
    row("hscan", -3, READ, ONE, "hash", scan::hscan),
    row("zadd", -4, WRITE | OOM | FAST, ONE, "sorted-set", zsets::zadd),
    row("zincrby", 4, WRITE | OOM | FAST, ONE, "sorted-set", zsets::zincrby),
    row("zrem", -3, WRITE | FAST, ONE, "sorted-set", zsets::zrem),
    row("zscore", 3, READ | FAST, ONE, "sorted-set", zsets::zscore),
    row("zmscore", -3, READ | FAST, ONE, "sorted-set", zsets::zmscore),
    row("zcard", 2, READ | FAST, ONE, "sorted-set", zsets::zcard),
    row("zrank", 3, READ | FAST, ONE, "sorted-set", zsets::zrank),
    row("zrevrank", 3, READ | FAST, ONE, "sorted-set", zsets::zrevrank),
    row("zpopmin", -2, WRITE | FAST, ONE, "sorted-set", zsets::zpopmin),
    row("zpopmax", -2, WRITE | FAST, ONE, "sorted-set", zsets::zpopmax),
    row("zrandmember", -2, READ, ONE, "sorted-set", zsets::zrandmember),
    row("zrange", -4, READ, ONE, "sorted-set", zset_range::zrange),
    row("zrevrange", -4, READ, ONE, "sorted-set", zset_range::zrevrange),
    row("zrangebyscore", -4, READ, ONE, "sorted-set", zset_range::zrangebyscore),
    row("zrevrangebyscore", -4, READ, ONE, "sorted-set", zset_range::zrevrangebyscore),
    row("zrangebylex", -4, READ, ONE, "sorted-set", zset_range::zrangebylex),
    row("zrevrangebylex", -4, READ, ONE, "sorted-set", zset_range::zrevrangebylex),
    row("zrangestore", -5, WRITE | OOM, TWO, "sorted-set", zset_range::zrangestore),
    row("zcount", 4, READ | FAST, ONE, "sorted-set", zset_range::zcount),
    row("zlexcount", 4, READ | FAST, ONE, "sorted-set", zset_range::zlexcount),
    row("zremrangebyrank", 4, WRITE, ONE, "sorted-set", zset_range::zremrangebyrank),
    row("zremrangebyscore", 4, WRITE, ONE, "sorted-set", zset_range::zremrangebyscore),
    row("zremrangebylex", 4, WRITE, ONE, "sorted-set", zset_range::zremrangebylex),
    row("zunionstore", -4, WRITE | OOM | COUNTED_2, ONE, "sorted-set", zset_algebra::zunionstore),
    row("zinterstore", -4, WRITE | OOM | COUNTED_2, ONE, "sorted-set", zset_algebra::zinterstore),
    row("zdiffstore", -4, WRITE | OOM | COUNTED_2, ONE, "sorted-set", zset_algebra::zdiffstore),
    row("zunion", -3, READ | COUNTED_1, NONE, "sorted-set", zset_algebra::zunion),
    row("zinter", -3, READ | COUNTED_1, NONE, "sorted-set", zset_algebra::zinter),
    row("zdiff", -3, READ | COUNTED_1, NONE, "sorted-set", zset_algebra::zdiff),
    row("zscan", -3, READ, ONE, "sorted-set", scan::zscan),
    row("multi", 1, FAST | NOW, NONE, "transactions", transactions::multi),
    row("exec", 1, NOW | GLOBAL, NONE, "transactions", transactions::exec),
    row("discard", 1, FAST | NOW, NONE, "transactions", transactions::discard),
    row("watch", -2, FAST | NOW, ALL, "transactions", transactions::watch),
    row("unwatch", 1, FAST, NONE, "transactions", transactions::unwatch),
];

/// A name of 1 to 16 letters as two words in which case does not count, the rest zero.
///
/// Bit 5 is set in every byte of the name. That maps capitals to small letters, and only those two to small letters: a
/// name that equals one of the table this way differs from it in case alone, because the table has only letters.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Folded {
    head: u64,
    tail: u64,
}

const FOLD: u64 = 0x2020_2020_2020_2020;
const MAX_NAME: usize = 16;

impl Folded {
    const fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let mut words = [0u64; 2];
        let mut at = 0;
        while at < name.len() {
            words[at / 8] |= ((name[at] | 0x20) as u64) << (at % 8 * 8);
            at += 1;
        }
        Some(Self { head: words[0], tail: words[1] })
    }

    #[inline]
    const fn slot(self) -> usize {
        let mixed = (self.head ^ self.tail.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - SLOT_BITS)) as usize
    }
}

const SLOT_BITS: u32 = 10;
const SLOTS: usize = 1 << SLOT_BITS;
const EMPTY: u8 = u8::MAX;

struct Index {
    slots: [u8; SLOTS],
    names: [Folded; COMMANDS.len()],
}

/// Built by the compiler: an open-addressed table from folded names to places in [`COMMANDS`], a fifth full.
static INDEX: Index = {
    let mut index = Index { slots: [EMPTY; SLOTS], names: [Folded { head: 0, tail: 0 }; COMMANDS.len()] };
    assert!(COMMANDS.len() < EMPTY as usize);
    let mut at = 0;
    while at < COMMANDS.len() {
        let Some(folded) = Folded::new(COMMANDS[at].name.as_bytes()) else { panic!("a name of 1 to 16 letters") };
        index.names[at] = folded;
        let mut slot = folded.slot();
        while index.slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        index.slots[slot] = at as u8;
        at += 1;
    }
    index
};

/// The command of this name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    find(Folded::new(name)?)
}

/// The command that `args` name.
#[inline]
pub(super) fn command_of(args: Args<'_>) -> Option<&'static Command> {
    match args.name_word() {
        Some((word, len)) => find(Folded { head: word | (FOLD >> (64 - 8 * len)), tail: 0 }),
        None => lookup(args.at(0)),
    }
}

#[inline]
fn find(folded: Folded) -> Option<&'static Command> {
    let mut slot = folded.slot();
    loop {
        let at = usize::from(*INDEX.slots.get(slot)?);
        if *INDEX.names.get(at)? == folded {
            return COMMANDS.get(at);
        }
        slot = (slot + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Span;
    use alloc::collections::BTreeSet;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else_is() {
        for command in &COMMANDS {
            assert!(command.name.bytes().all(|c| c.is_ascii_lowercase()));
            let upper = command.name.to_ascii_uppercase();
            for name in [command.name.as_bytes(), upper.as_bytes()] {
                assert_eq!(lookup(name).map(|found| found.name), Some(command.name));
                let buffer = [name, b"\r\n$3\r\nkey\r\n"].concat();
                let spans = [Span { start: 0, end: name.len() as u32 }];
                for buffer in [&buffer[..], name] {
                    let found = command_of(Args::new(buffer, &spans));
                    assert_eq!(found.map(|found| found.name), Some(command.name));
                }
                for flip in 0..name.len() {
                    for bit in [0, 1, 2, 3, 4, 6, 7] {
                        let mut wrong = name.to_vec();
                        wrong[flip] ^= 1 << bit;
                        let found = lookup(&wrong).map(|found| found.name.as_bytes());
                        assert!(found.is_none_or(|found| found.eq_ignore_ascii_case(&wrong)), "{}", command.name);
                    }
                }
            }
        }
        for name in ["", "x", "ge", "gett", "subscribe", "zremrangebyscoreszz", "\0et"] {
            assert!(lookup(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn names_are_unique_and_probes_are_short() {
        assert_eq!(COMMANDS.iter().map(|command| command.name).collect::<BTreeSet<_>>().len(), COMMANDS.len());
        let mut longest = 0;
        for (at, name) in INDEX.names.iter().enumerate() {
            let place = INDEX.slots.iter().position(|&slot| usize::from(slot) == at).expect("every command has a slot");
            longest = longest.max((place + SLOTS - name.slot()) % SLOTS);
        }
        assert!(longest <= 3, "a probe of {longest} steps");
    }
}
