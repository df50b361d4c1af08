//! The local socket of an agent: a stream of its events, lists with exact ages, its state, for who may connect.
//!
//! Nothing here waits on the thread that reads records: a client has threads of its own ([`server`]), which ask by a bounded queue; the
//! agent's thread answers between two batches ([`hub`]), and what goes to a client goes through a bounded queue and a thread.

pub mod access;
pub mod client;
pub mod hub;
pub mod list;
pub mod protocol;
pub mod server;
pub mod status;

use std::path::{Path, PathBuf};

/// Where an agent listens.
pub const SOCKET: &str = "/run/conn/conn.sock";
/// The environment variable that has another path for agent and clients; empty: none.
pub const SOCKET_VARIABLE: &str = "CONN_SOCKET";
/// The group whose members may connect.
pub const GROUP: &str = "conn";

/// The socket of this machine's agent, unless the environment says otherwise. `None`: there is to be none.
pub fn default_socket() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE)
        .map_or_else(|| Some(PathBuf::from(SOCKET)), |path| Some(PathBuf::from(path)))
        .filter(|path| path != Path::new(""))
}

/// What keeps events beyond the agent's memory.
pub trait Keeper: Send + Sync {
    /// Commits what the agent reported so far: it can be read afterwards. May wait, on a client's thread.
    ///
    /// # Errors
    /// Why it cannot, for people.
    fn commit(&self) -> Result<(), String>;

    /// The folder of its files.
    fn folder(&self) -> &Path;

    /// What it has, for `conn status`.
    fn state(&self) -> status::History;
}
