//! A bank whose transfers panic when something is wrong with them, half done.
//!
//! | command | answer |
//! |---|---|
//! | `transfer FROM TO AMOUNT ROUNDS` | takes it from one account, computes so many rounds, gives it to the other: `done`, or `undone: ` and why |
//! | `balance ACCOUNT` | a number |
//! | `sum` | of all accounts: always the same |
//! | `lost` | bytes of stacks that panics have cost |

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use runtime::checkpoint::{Checkpoints, Memory};
use runtime::compute::contained_bytes;

use super::{control, text, word};
use crate::transaction::{Transactional, Undone};

const ACCOUNTS: usize = 1000;
const BALANCE: u64 = 100;

/// In place, and without a thought about what is half done when it panics.
fn transfer(accounts: &mut [u64], [from, to, amount, rounds]: [u64; 4]) {
    let left = accounts[from as usize].checked_sub(amount);
    accounts[from as usize] = left.unwrap_or(u64::MAX);
    // Somebody else's turn comes here if epochs are cut.
    let computed =
        (0..rounds).fold(1_u64, |state, round| state.rotate_left(7).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ round);
    assert!(core::hint::black_box(computed) != 0 && left.is_some(), "account {from} is overdrawn");
    accounts[to as usize] += amount;
}

pub async fn run() -> Result<(), String> {
    let checkpoints = Checkpoints::new("bank");
    let accounts = checkpoints.value("accounts", 1, vec![BALANCE; ACCOUNTS]).map_err(text)?;
    let bank = Rc::new(Transactional::new(checkpoints, accounts, Memory::new(1 << 20)));
    control::serve(move |command| {
        let bank = Rc::clone(&bank);
        async move { obey(&bank, &command.split_ascii_whitespace().collect::<Vec<_>>()).await }
    })
    .await
}

async fn obey(bank: &Transactional<Vec<u64>>, words: &[&str]) -> String {
    match words.first().copied().unwrap_or_default() {
        "transfer" => {
            let order = core::array::from_fn(|at| word(words, at + 1));
            match bank.run(move |accounts| transfer(accounts, order)).await {
                Ok(()) => "done".into(),
                Err(Undone::Panicked(panicked)) => format!("undone: {}", panicked.message()),
                Err(Undone::Checkpoint(error)) => format!("failed: {error}"),
            }
        }
        "balance" => {
            let account = word(words, 1) as usize;
            bank.with(|accounts| format!("{:?}", accounts.get(account))).await
        }
        "sum" => format!("{}", bank.with(|accounts| accounts.iter().sum::<u64>()).await),
        "lost" => format!("{}", contained_bytes()),
        other => format!("unknown command {other:?}"),
    }
}
