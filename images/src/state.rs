//! What a pair leaves on disk: its folder, its lock, and who supervises it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::code_names::SymbolFile;
use crate::error::{Context, Error, Result};

/// The name of a pair when none is given.
pub const DEFAULT_NAME: &str = "default";
/// Longest name of a pair: the path of its socket must fit into 108 bytes.
const MAX_NAME_BYTES: usize = 32;
/// Which file has the symbols of the guest that has written the console's log.
const SYMBOLS: &str = "symbols.json";

/// The folder that holds one folder for each pair: `$POLLUX_STATE_DIR`, else `pollux-UID` in `$XDG_RUNTIME_DIR` or
/// `/tmp`.
pub fn root() -> PathBuf {
    if let Some(dir) = std::env::var_os("POLLUX_STATE_DIR") {
        return dir.into();
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    base.join(format!("pollux-{}", rustix::process::getuid().as_raw()))
}

/// The folder of one pair. The folder may not exist.
#[derive(Debug, Clone)]
pub struct StateDir {
    /// The name of the pair.
    pub name: String,
    path: PathBuf,
}

impl StateDir {
    /// The folder of the pair `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that would not do as a file name.
    pub fn new(name: &str) -> Result<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(good) || name.starts_with('.') {
            return Err(Error::Usage(format!(
                "{name:?} cannot name a pair: use 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.', not beginning with '.'"
            )));
        }
        Ok(Self { name: name.to_owned(), path: root().join(name) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The supervisor's own log.
    pub fn supervisor_log(&self) -> PathBuf {
        self.file("supervisor.log")
    }

    /// The guest's console.
    pub fn console_log(&self) -> PathBuf {
        self.file("console.log")
    }

    /// The socket by which the supervisor is asked.
    pub fn socket(&self) -> PathBuf {
        self.file("ctl.sock")
    }

    /// The debug output of a replica's shim.
    pub fn debug_log(&self, replica: usize) -> PathBuf {
        self.file(&format!("replica{replica}.debug.log"))
    }

    /// QEMU's own messages about a replica.
    pub fn qemu_log(&self, replica: usize) -> PathBuf {
        self.file(&format!("replica{replica}.qemu.log"))
    }

    /// Makes the folder, for this user only.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] when the folder is another user's.
    pub fn create(&self) -> Result<()> {
        for path in [root(), self.path.clone()] {
            let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&path);
            made.context(|| format!("cannot make {}", path.display()))?;
        }
        self.check_owner()
    }

    /// `/tmp` is everybody's: a folder that someone else has put there is not used.
    fn check_owner(&self) -> Result<()> {
        let described = rustix::fs::stat(&self.path).context(|| format!("cannot read {}", self.path.display()))?;
        let (owner, us) = (described.st_uid, rustix::process::getuid().as_raw());
        if owner != us {
            return Err(Error::Refused(format!(
                "{} belongs to user {owner}, not to {us}: set POLLUX_STATE_DIR to a folder of yours",
                self.path.display()
            )));
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .context(|| format!("cannot protect {}", self.path.display()))
    }

    /// Takes the lock that a supervisor holds as long as it lives; the system releases it whatever its end.
    ///
    /// # Errors
    /// [`Error::NameInUse`] when another supervisor holds it.
    pub fn lock(&self) -> Result<File> {
        let path = self.file("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::NameInUse { name: self.name.clone() }),
            Err(error) => Err(Error::Io { what: format!("cannot lock {}", path.display()), source: error.into() }),
        }
    }

    /// Whether a supervisor answers. Its lock is not tried: that could get in the way of one that starts.
    pub fn is_live(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// Notes who supervises the pair.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state).map_err(io::Error::from).context(|| "cannot write the state")?;
        let (path, temporary) = (self.file("state.json"), self.file("state.tmp"));
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        written.context(|| format!("cannot write {}", path.display()))
    }

    /// Who supervises, or supervised, the pair; `None` when it was never up or was taken down in order.
    pub fn read(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.file("state.json")).ok()?).ok()
    }

    /// Notes which symbols are those of the pair's guest, for whoever shows its console, also when the pair is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_symbols(&self, symbols: &SymbolFile) -> Result<()> {
        let path = self.file(SYMBOLS);
        let text = serde_json::to_vec(symbols).map_err(io::Error::from).context(|| "cannot write down the symbols")?;
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
    }

    /// The symbols of the pair whose console is here, if they were noted.
    pub fn read_symbols(&self) -> Option<SymbolFile> {
        serde_json::from_slice(&fs::read(self.file(SYMBOLS)).ok()?).ok()
    }

    /// Removes what says that the pair is up, and keeps the logs.
    pub fn clear(&self) {
        for name in ["state.json", "ctl.sock", "arbiter"] {
            // What is not there need not be removed.
            let _ = fs::remove_file(self.file(name));
        }
    }
}

/// What `state.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Process id of the supervisor.
    pub supervisor_pid: i32,
    /// The app.
    pub app: String,
    /// The image it runs.
    pub image: PathBuf,
}

/// Names of the pairs whose supervisor lives, sorted.
pub fn running() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root()) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| StateDir::new(name).is_ok_and(|dir| dir.is_live()))
        .collect();
    names.sort();
    names
}
