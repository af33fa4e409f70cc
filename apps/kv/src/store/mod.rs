//! Keys, values, expiry and the account of their memory; nothing here knows of commands or connections.

mod db;
mod hash;
mod list;
mod set;
mod string;
mod value;
mod watch;
mod zset;
mod zset_tree;

pub use db::{Db, NEVER_MS, Record};
pub use hash::{Field, Hash};
pub use list::List;
pub use set::Set;
pub use string::Str;
pub use value::{Kind, Value, WrongType};
pub use watch::Watches;
pub use zset::{Member, Zset};
pub use zset_tree::ordinal;
