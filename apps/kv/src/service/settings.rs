//! What the arguments say, and how the memory is divided.

use alloc::string::String;
use core::fmt;

use runtime::net::Options;

use crate::Config;
use crate::persist::Fsync;

/// Heap that tasks, tables and the code's own needs may take, in bytes.
const FIXED_BYTES: usize = 256 * 1024;
/// Heap that persistence takes beside: effects that wait, those being written, and a chunk of the log.
const PERSISTENCE_BYTES: usize = 1024 * 1024;
/// Smallest memory for the store, in bytes: below it nothing useful fits.
const LEAST_STORE_BYTES: usize = 512 * 1024;
/// Part of the heap that connections may take unless `maxclients` says otherwise: one in this.
const CONNECTIONS_FRACTION: usize = 4;
/// Most clients unless `maxclients` says otherwise, as in redis.
const MOST_CLIENTS: usize = 10_000;

/// How the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Port to listen on.
    pub port: u16,
    /// Most connections.
    pub max_clients: usize,
    /// Limit of keys, values and connections' buffers by the store's own estimate, in bytes; `None` for three quarters of `store_bytes`.
    pub max_memory_bytes: Option<usize>,
    /// Receive buffer of a connection, in bytes.
    pub rx_bytes: usize,
    /// Send buffer of a connection, in bytes.
    pub tx_bytes: usize,
    /// Whether clients may keep the processor busy by DEBUG COMPUTE.
    pub debug: bool,
    /// The disk that keeps the data, if one does.
    pub disk: Option<String>,
    /// When writes are made stable on it.
    pub append_fsync: Fsync,
    /// A log that is damaged in the middle is cut there rather than refused.
    pub aof_repair: bool,
    /// Heap that is left to the store when all connections are open, in bytes.
    pub store_bytes: usize,
}

/// What is wrong with the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsError {
    /// A word that is not a setting.
    Unknown(String),
    /// A value that is not a number, or out of range.
    Value {
        /// The word.
        word: String,
        /// What is expected.
        expected: &'static str,
    },
    /// The heap is too small for what the settings ask.
    Memory {
        /// Bytes of the heap.
        heap_bytes: usize,
        /// Bytes that the settings need.
        needed_bytes: usize,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(
                    f,
                    "unknown argument `{word}`: expected port=, maxmemory=, maxclients=, rx=, tx=, debug=, appendonly=, \
                     appendfsync=, aof-repair= or disk="
                )
            }
            Self::Value { word, expected } => write!(f, "`{word}`: expected {expected}"),
            Self::Memory { heap_bytes, needed_bytes } => write!(
                f,
                "the settings need {needed_bytes} bytes of memory and there are {heap_bytes}: lower maxmemory, \
                 maxclients, rx or tx, or give the machine more memory"
            ),
        }
    }
}

impl core::error::Error for SettingsError {}

/// Reads `123`, `10kb`, `2mb` or `1gb` as bytes.
fn bytes(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// The disk that keeps the data unless `disk` names another.
const DEFAULT_DISK: &str = "data";

/// What the arguments have said of persistence so far.
struct Persistence<'a> {
    wanted: bool,
    disk: &'a str,
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

impl Settings {
    /// Reads the arguments for a heap of this size.
    ///
    /// # Errors
    /// The first argument that is wrong, or that they ask for more memory than there is.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>, heap_bytes: usize) -> Result<Self, SettingsError> {
        let mut settings = Self {
            port: 6379,
            max_clients: 0,
            max_memory_bytes: None,
            rx_bytes: 4 * 1024,
            tx_bytes: 8 * 1024,
            debug: false,
            disk: None,
            append_fsync: Fsync::EverySec,
            aof_repair: false,
            store_bytes: 0,
        };
        let mut persistence = Persistence { wanted: false, disk: DEFAULT_DISK };
        for word in words {
            settings.apply(word, &mut persistence)?;
        }
        settings.disk = persistence.wanted.then(|| persistence.disk.into());
        settings.divide(heap_bytes)?;
        Ok(settings)
    }

    fn apply<'a>(&mut self, word: &'a str, persistence: &mut Persistence<'a>) -> Result<(), SettingsError> {
        let unknown = || SettingsError::Unknown(word.into());
        let (name, value) = word.split_once('=').ok_or_else(unknown)?;
        let wrong = |expected| move || SettingsError::Value { word: word.into(), expected };
        let buffer = |value: &str| {
            let size = bytes(value).filter(|size| (1024..=1 << 20).contains(size));
            size.ok_or_else(wrong("a buffer of 1kb to 1mb"))
        };
        match name {
            "port" => {
                let port = value.parse().ok().filter(|&port: &u16| port != 0);
                self.port = port.ok_or_else(wrong("a port from 1 to 65535"))?;
            }
            "maxclients" => {
                let number = value.parse().ok().filter(|number| (1..=1_000_000).contains(number));
                self.max_clients = number.ok_or_else(wrong("a number of connections from 1 to 1000000"))?;
            }
            "maxmemory" => {
                let limit = bytes(value).filter(|&limit| limit > 0);
                self.max_memory_bytes = Some(limit.ok_or_else(wrong("a size such as 8mb"))?);
            }
            "rx" => self.rx_bytes = buffer(value)?,
            "tx" => self.tx_bytes = buffer(value)?,
            "debug" => self.debug = yes_or_no(value).ok_or_else(wrong("yes or no"))?,
            "appendonly" => persistence.wanted = yes_or_no(value).ok_or_else(wrong("yes or no"))?,
            "appendfsync" => {
                self.append_fsync = Fsync::from_name(value).ok_or_else(wrong("always, everysec or no"))?;
            }
            "aof-repair" => self.aof_repair = yes_or_no(value).ok_or_else(wrong("yes or no"))?,
            "disk" if value.is_empty() => return Err(wrong("the name of a disk")()),
            "disk" => persistence.disk = value,
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Divides the heap between connections and store.
    fn divide(&mut self, heap_bytes: usize) -> Result<(), SettingsError> {
        let connection_bytes = self.net_options().connection_bytes();
        if self.max_clients == 0 {
            self.max_clients = (heap_bytes / CONNECTIONS_FRACTION / connection_bytes).clamp(1, MOST_CLIENTS);
        }
        let persistence_bytes = if self.disk.is_some() { PERSISTENCE_BYTES } else { 0 };
        let taken_bytes = FIXED_BYTES + persistence_bytes + self.max_clients * connection_bytes;
        let least_bytes = self.max_memory_bytes.unwrap_or(0).max(LEAST_STORE_BYTES);
        let needed_bytes = taken_bytes + least_bytes;
        if needed_bytes > heap_bytes {
            return Err(SettingsError::Memory { heap_bytes, needed_bytes });
        }
        self.store_bytes = heap_bytes - taken_bytes;
        Ok(())
    }

    /// The network's part.
    pub fn net_options(&self) -> Options {
        Options { tcp_rx_bytes: self.rx_bytes, tcp_tx_bytes: self.tx_bytes, ..Options::default() }
    }

    /// The store's part.
    pub fn config(&self, hash_seed: u64, random_seed: u64) -> Config {
        let mut config = Config::for_memory(self.store_bytes, hash_seed, random_seed);
        config.max_clients = self.max_clients;
        config.port = self.port;
        config.debug = self.debug;
        config.append_fsync = self.append_fsync;
        if let Some(limit) = self.max_memory_bytes {
            config.max_memory_bytes = limit;
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAP_BYTES: usize = 14 << 20;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(text.split_ascii_whitespace(), HEAP_BYTES)
    }

    #[test]
    fn defaults_divide_a_small_machine() {
        let settings = parse("").expect("defaults fit");
        assert_eq!(settings.port, 6379);
        assert!(settings.max_clients > 200, "{}", settings.max_clients);
        assert!(settings.config(1, 2).max_memory_bytes > 7 << 20, "{}", settings.config(1, 2).max_memory_bytes);
    }

    #[test]
    fn arguments_are_taken() {
        let settings = parse("port=7000 maxmemory=2mb maxclients=60 rx=2kb tx=16384 debug=yes").expect("all good");
        assert_eq!((settings.port, settings.max_clients), (7000, 60));
        assert_eq!((settings.rx_bytes, settings.tx_bytes), (2048, 16384));
        let config = settings.config(1, 2);
        assert!(config.debug);
        assert_eq!((config.max_memory_bytes, config.max_clients, config.port), (2 << 20, 60, 7000));
    }

    #[test]
    fn persistence_is_off_unless_asked_for() {
        assert_eq!(parse("disk=log appendfsync=always").expect("all good").disk, None);
        let settings = parse("appendonly=yes appendfsync=always").expect("all good");
        assert_eq!((settings.disk.as_deref(), settings.append_fsync), (Some("data"), Fsync::Always));
        assert!(!settings.aof_repair && parse("appendonly=yes aof-repair=yes").expect("all good").aof_repair);
        assert_eq!(parse("disk=log appendonly=yes").expect("all good").disk.as_deref(), Some("log"));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (text, said) in [
            ("ports=1", "unknown argument `ports=1`"),
            ("verbose", "unknown argument `verbose`"),
            ("port=0", "`port=0`: expected a port"),
            ("port=99999", "`port=99999`"),
            ("maxclients=0", "`maxclients=0`"),
            ("maxmemory=lots", "`maxmemory=lots`"),
            ("maxmemory=99999999999999999gb", "expected a size"),
            ("debug=maybe", "`debug=maybe`: expected yes or no"),
            ("appendonly=1", "`appendonly=1`: expected yes or no"),
            ("appendfsync=never", "expected always, everysec or no"),
            ("disk=", "expected the name of a disk"),
            ("rx=1", "`rx=1`: expected a buffer"),
            ("maxmemory=20mb", "the settings need"),
            ("maxclients=5000", "give the machine more memory"),
        ] {
            let error = alloc::string::ToString::to_string(&parse(text).expect_err(text));
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
