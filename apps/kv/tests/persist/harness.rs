//! A store with its engine on the model device, and what it holds as text.

use std::cell::RefCell;
use std::collections::BTreeMap;

use kv::persist::{Engine, EngineError, Fsync, Loaded};
use kv::store::{NEVER_MS, Record, Value};
use kv::{Config, DATABASES, Server, Session};
use recordstore::model::{ModelDevice, ModelError, run};

pub const NOW_MS: i64 = 1_700_000_000_000;

/// What a server holds: by database and key, the value and its expiry.
pub type Contents = BTreeMap<(usize, Vec<u8>), (String, i64)>;

fn text(record: &Record) -> String {
    let bytes = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match record.value() {
        Value::Str(value) => format!("string {}", bytes(value.text(&mut [0; 20]))),
        Value::List(list) => format!("list {:?}", list.iter().map(bytes).collect::<Vec<_>>()),
        Value::Set(set) => {
            let mut members: Vec<String> = set.iter().map(bytes).collect();
            members.sort();
            format!("set {members:?}")
        }
        Value::Hash(hash) => {
            let fields = hash.iter().map(|field| (bytes(field.name()), bytes(field.value())));
            format!("hash {:?}", fields.collect::<BTreeMap<_, _>>())
        }
        Value::Zset(zset) => {
            let members = zset.iter().map(|member| (bytes(member.name()), member.score().to_bits()));
            format!("zset {:?}", members.collect::<BTreeMap<_, _>>())
        }
    }
}

/// All that a server holds and that has not expired at `now_ms`.
pub fn contents(server: &Server, now_ms: i64) -> Contents {
    (0..DATABASES)
        .flat_map(|db| server.records(db).map(move |record| (db, record)))
        .filter(|(_, record)| record.expire_at_ms() == NEVER_MS || record.expire_at_ms() >= now_ms)
        .map(|(db, record)| ((db, record.key().to_vec()), (text(record), record.expire_at_ms())))
        .collect()
}

pub struct Machine {
    pub server: RefCell<Server>,
    pub engine: Engine<ModelDevice>,
    pub session: Session,
    pub loaded: Loaded,
    pub now_ms: i64,
}

impl Machine {
    pub fn start(device: &ModelDevice, fsync: Fsync) -> Result<Self, EngineError<ModelError>> {
        let mut config = Config::for_memory(64 << 20, 1, 2);
        config.append_fsync = fsync;
        // A log of so few bytes is replaced often, where a test does not ask for it.
        config.rewrite_min_bytes = 16 << 10;
        let mut server = Server::new(config, NOW_MS);
        let (engine, loaded) = run(Engine::start(device.clone(), &mut server, 7), || ())?;
        let session = Session::open(&mut server, NOW_MS, "10.0.2.2:1").expect("room for a client");
        Ok(Self { server: RefCell::new(server), engine, session, loaded, now_ms: NOW_MS })
    }

    /// Runs one command and gives the reply.
    pub fn ask(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        ask(&mut self.session, &mut self.server.borrow_mut(), self.now_ms, args)
    }

    /// As [`ask`](Self::ask), of words.
    pub fn say(&mut self, line: &str) -> String {
        let args: Vec<Vec<u8>> = line.split(' ').map(Vec::from).collect();
        String::from_utf8_lossy(&self.ask(&args)).into_owned()
    }

    /// Lets the engine do one step, making stable what there is; `between` runs whenever it waits for the device.
    pub fn step(&mut self, mut between: impl FnMut(&mut Session, &RefCell<Server>)) {
        let Self { server, engine, session, now_ms, .. } = self;
        run(engine.step(server, *now_ms, true), || between(session, server));
    }

    pub fn sync(&mut self) {
        self.step(|_, _| ());
    }

    pub fn contents(&self) -> Contents {
        contents(&self.server.borrow(), self.now_ms)
    }
}

pub fn ask(session: &mut Session, server: &mut Server, now_ms: i64, args: &[Vec<u8>]) -> Vec<u8> {
    let bytes = super::common::encode_command(args);
    assert_eq!(session.feed(server, now_ms, &bytes), bytes.len());
    let reply = session.output().to_vec();
    session.advance_output(reply.len());
    reply
}

/// Says where two stores differ.
pub fn difference(expected: &Contents, found: &Contents) -> Option<String> {
    let missing = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
    if let Some((key, value)) = missing {
        return Some(format!("{key:?} should be {value:?} and is {:?}", found.get(key)));
    }
    found
        .iter()
        .find(|(key, _)| !expected.contains_key(*key))
        .map(|(key, value)| format!("{key:?} = {value:?} came up"))
}
