//! An embedded database under load: transaction after transaction, each synced, and a line for each that is committed.
//!
//! At the start it looks at all that is there: every transaction up to some number as a whole, and nothing of a later one.
//! `found N` says up to which; if anything else is there, it panics with what is wrong. `committed N` says that what the N-th
//! transaction has written is stable. So whatever was said to be committed must be found by the next start.

use std::time::Duration;
use std::{env, fs, thread};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

/// Keys that a transaction writes: its own number, and a place in it.
const KEYS: u64 = 8;
const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
/// How often each account was used: a transaction moves one from an account to another, so the sum stays.
const ACCOUNTS: TableDefinition<u64, i64> = TableDefinition::new("accounts");
const ACCOUNT_COUNT: u64 = 50;
/// Transactions whose entries are kept; older ones are removed, so that pages are used again.
const KEPT: u64 = 200;

/// What a transaction writes at a place.
fn value(number: u64, place: u64) -> Vec<u8> {
    let bytes = 40 + (number * 7 + place * 131) % 700;
    (0..bytes).map(|at| (at * 31 + number * 17 + place) as u8).collect()
}

/// The accounts after so many transactions.
fn accounts(number: u64) -> Vec<i64> {
    let mut accounts = vec![0; ACCOUNT_COUNT as usize];
    for number in 1..=number {
        let (from, to) = transfer(number);
        accounts[from as usize] -= 1;
        accounts[to as usize] += 1;
    }
    accounts
}

fn transfer(number: u64) -> (u64, u64) {
    (number * 13 % ACCOUNT_COUNT, (number * 29 + 7) % ACCOUNT_COUNT)
}

/// Looks at everything: the number of the last transaction.
fn check(database: &Database) -> u64 {
    let read = database.begin_read().expect("a transaction that reads");
    let Ok(entries) = read.open_table(ENTRIES) else { return 0 };
    let keys: Vec<(u64, u64)> =
        entries.iter().expect("entries").map(|entry| entry.expect("an entry").0.value()).collect();
    let last = keys.last().map_or(0, |key| key.0);
    let first = last.saturating_sub(KEPT - 1).max(1);
    let expected: Vec<(u64, u64)> =
        (first..=last).flat_map(|number| (0..KEYS).map(move |place| (number, place))).collect();
    assert_eq!(keys, expected, "the keys of whole transactions, one after the other");
    for (number, place) in keys {
        let found = entries.get((number, place)).expect("readable").expect("it is there");
        assert!(found.value() == value(number, place), "the value of transaction {number} at {place}");
    }
    let table = read.open_table(ACCOUNTS).expect("accounts");
    let found: Vec<i64> =
        (0..ACCOUNT_COUNT).map(|account| table.get(account).expect("readable").map_or(0, |it| it.value())).collect();
    assert_eq!(found, accounts(last), "the accounts after {last} transactions");
    last
}

fn commit(database: &Database, number: u64) {
    let mut write = database.begin_write().expect("a transaction that writes");
    write.set_durability(Durability::Immediate).expect("it can be had");
    {
        let mut entries = write.open_table(ENTRIES).expect("entries");
        for place in 0..KEYS {
            entries.insert((number, place), value(number, place).as_slice()).expect("inserted");
            if let Some(old) = number.checked_sub(KEPT) {
                entries.remove((old, place)).expect("removed");
            }
        }
        let mut table = write.open_table(ACCOUNTS).expect("accounts");
        let (from, to) = transfer(number);
        for (account, change) in [(from, -1), (to, 1)] {
            let before = table.get(account).expect("readable").map_or(0, |it| it.value());
            table.insert(account, before + change).expect("inserted");
        }
    }
    write.commit().expect("committed");
}

fn main() {
    let folder = env::args().nth(1).unwrap_or_else(|| "/data".to_owned());
    // How long it rests between two transactions.
    let rest = env::args().nth(2).and_then(|word| word.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    fs::create_dir_all(&folder).expect("a folder");
    let database = Database::create(format!("{folder}/database.redb")).expect("a database");
    let mut number = check(&database);
    println!("found {number}");
    loop {
        number += 1;
        commit(&database, number);
        println!("committed {number}");
        thread::sleep(rest);
    }
}
