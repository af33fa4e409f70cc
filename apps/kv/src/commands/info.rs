//! INFO, TIME and DEBUG.

use super::compute::Work;
use super::context::Ctx;
use super::error::Error;
use crate::base::same_ignoring_case;
use crate::server::{DATABASES, Server};
use alloc::string::String;
use core::fmt::Write;

/// The redis whose behaviour this store follows; clients choose features by it.
pub const VERSION: &str = "7.0.15";

type Section = fn(&mut Server, i64, &mut String) -> core::fmt::Result;

const SECTIONS: [(&str, Section); 7] = [
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("replication", replication),
    ("keyspace", keyspace),
];

/// `INFO [section ...]`
pub fn info(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let wanted = ctx.args.from(1);
    let everything = wanted.len() == 0
        || wanted.iter().any(|w| ["all", "default", "everything"].iter().any(|name| same_ignoring_case(w, name)));
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if everything || wanted.iter().any(|w| same_ignoring_case(w, name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a string does not fail.
            let _ = write(ctx.server, ctx.now_ms, &mut text);
        }
    }
    ctx.out.bulk(text.as_bytes());
    Ok(())
}

fn server(server: &mut Server, now_ms: i64, text: &mut String) -> core::fmt::Result {
    let uptime_s = (now_ms - server.started_ms) / 1000;
    write!(
        text,
        "# Server\r\nredis_version:{VERSION}\r\nredis_git_sha1:00000000\r\nredis_mode:standalone\r\nos:Pollux\r\n\
         arch_bits:64\r\nmultiplexing_api:pollux\r\npollux_kv_version:{}\r\nprocess_id:1\r\nrun_id:{}\r\n\
         tcp_port:{}\r\nserver_time_usec:{}\r\nuptime_in_seconds:{uptime_s}\r\nuptime_in_days:{}\r\nhz:10\r\n",
        env!("CARGO_PKG_VERSION"),
        server.run_id(),
        server.config.port,
        now_ms * 1000,
        uptime_s / 86_400,
    )
}

fn clients(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    write!(
        text,
        "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\ntracking_clients:0\r\n",
        server.connected(),
        server.config.max_clients,
    )
}

fn memory(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    let used = server.used_bytes();
    write!(
        text,
        "# Memory\r\nused_memory:{used}\r\nused_memory_human:{}\r\nused_memory_dataset:{}\r\n\
         mem_clients_normal:{}\r\nmaxmemory:{}\r\nmaxmemory_human:{}\r\nmaxmemory_policy:noeviction\r\n\
         mem_allocator:estimate\r\n",
        Human(used),
        server.data_bytes(),
        used - server.data_bytes(),
        server.config.max_memory_bytes,
        Human(server.config.max_memory_bytes),
    )
}

fn persistence(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    write!(
        text,
        "# Persistence\r\nloading:0\r\nrdb_changes_since_last_save:{}\r\nrdb_bgsave_in_progress:0\r\naof_enabled:{}\r\n\
         aof_rewrite_in_progress:{}\r\naof_rewrite_scheduled:{}\r\naof_last_bgrewrite_status:{}\r\n\
         aof_last_write_status:{}\r\n",
        server.stats.changes,
        u8::from(server.journal.is_on()),
        u8::from(server.journal.is_rewriting()),
        u8::from(server.journal.rewrite_wanted),
        if server.journal.status.rewrite_failed { "err" } else { "ok" },
        if server.journal.failure().is_some() { "err" } else { "ok" },
    )?;
    if !server.journal.is_on() {
        return Ok(());
    }
    let status = server.journal.status;
    write!(
        text,
        "aof_current_size:{}\r\naof_base_size:{}\r\naof_buffer_length:{}\r\naof_rewrites:{}\r\n\
         aof_rewrite_longest_slice_us:{}\r\n\
         aof_replayed_records:{}\r\naof_replay_torn:{}\r\naof_replay_lost_pieces:{}\r\n",
        status.log_bytes,
        status.base_bytes,
        server.journal.pending_bytes(),
        status.rewrites,
        status.longest_slice_ns / 1000,
        status.replayed,
        u8::from(status.torn),
        status.lost_chunks,
    )
}

fn stats(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    let expired: u64 = (0..DATABASES).map(|db| server.db(db).expired_keys).sum();
    let stats = &server.stats;
    write!(
        text,
        "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_net_input_bytes:{}\r\n\
         rejected_connections:{}\r\nexpired_keys:{expired}\r\nevicted_keys:0\r\ntotal_error_replies:{}\r\n",
        stats.connections, stats.commands, stats.input_bytes, stats.rejected, stats.errors,
    )
}

fn replication(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    write!(
        text,
        "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:{}\r\nmaster_repl_offset:0\r\n",
        server.run_id(),
    )
}

fn keyspace(server: &mut Server, _now_ms: i64, text: &mut String) -> core::fmt::Result {
    text.push_str("# Keyspace\r\n");
    for index in 0..DATABASES {
        let db = server.db(index);
        if !db.is_empty() {
            write!(text, "db{index}:keys={},expires={},avg_ttl=0\r\n", db.len(), db.expiring())?;
        }
    }
    Ok(())
}

/// A number of bytes as redis prints it for people.
struct Human(usize);

impl core::fmt::Display for Human {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (shift, unit) in [(30, 'G'), (20, 'M'), (10, 'K')] {
            if self.0 >> shift > 0 {
                let hundredths = (self.0 as u128 * 100) >> shift;
                return write!(f, "{}.{:02}{unit}", hundredths / 100, hundredths % 100);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// `TIME`
pub fn time(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    ctx.out.array(2);
    ctx.out.bulk_integer(ctx.now_ms / 1000);
    ctx.out.bulk_integer(ctx.now_ms % 1000 * 1000);
    Ok(())
}

/// `DEBUG OBJECT key | COMPUTE rounds | CHECKPOINT | RESTORE`; everything that stops or breaks a server is refused.
pub fn debug(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, sub, key) = (ctx.now_ms, ctx.args.at(1), ctx.args.at(2));
    let work = [("checkpoint", 2, Some(Work::Checkpoint)), ("restore", 2, Some(Work::Restore)), ("compute", 3, None)];
    let known = |(name, words, _): &(&str, usize, _)| same_ignoring_case(sub, name) && ctx.args.len() == *words;
    if let Some((_, _, what)) = work.into_iter().find(known) {
        return super::compute::work(ctx, what);
    }
    if !same_ignoring_case(sub, "object") || ctx.args.len() != 3 {
        return Err(Error::Text("ERR DEBUG command not allowed on this server, except DEBUG OBJECT key"));
    }
    let (db, out) = ctx.parts();
    let value = db.get(now_ms, key).ok_or(super::error::NO_SUCH_KEY)?;
    let mut text = String::new();
    let _ = write!(
        text,
        "Value at:0x0 refcount:1 encoding:{} serializedlength:{} lru:0 lru_seconds_idle:0",
        value.encoding(),
        value.heap_bytes(),
    );
    out.simple(&text);
    Ok(())
}
