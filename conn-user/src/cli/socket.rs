//! The local socket on both sides: the agent's own, and that of the agent that runs here.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::args::Exit;
use super::config::Config;
use super::history::Kept;
use super::{emit, note};
use crate::clock::{Clock, boot_now};
use crate::event::escape;
use crate::event::json::StreamIdentity;
use crate::filter::Names;
use crate::kernel::plan::Backend;
use crate::service::access::{self, BindError, Bound};
use crate::service::client::{Client, ClientError};
use crate::service::hub::Asker;
use crate::service::protocol::{About, RuleSources};
use crate::service::server::{Facts, Server, State};
use crate::service::{Keeper, default_socket};

/// The socket of an agent that starts.
pub(super) struct Socket {
    bound: Bound,
    of: Option<(StreamIdentity, Asker)>,
    kept: Option<Kept>,
}

impl Socket {
    /// That of a configuration; `None`: it has none, or it cannot be made, which is reported.
    ///
    /// # Errors
    /// When another agent has it: two would raise each alert twice.
    pub(super) fn bind(config: &Config) -> Result<Option<Self>, Exit> {
        let Some(path) = config.socket() else { return Ok(None) };
        match access::bind(&path, &config.group) {
            Ok(bound) => Ok(Some(Self { bound, of: None, kept: None })),
            Err(error @ BindError::Taken { .. }) => {
                emit(error);
                Err(Exit::Error)
            }
            Err(error) => {
                emit(format_args!("warning: {error}; there is no socket for clients"));
                Ok(None)
            }
        }
    }

    /// Of the run with this identity; questions go in there.
    pub(super) fn of(self, identity: StreamIdentity, asker: Asker) -> Self {
        Self { of: Some((identity, asker)), ..self }
    }

    /// With the history of that run.
    pub(super) fn keeping(self, kept: Option<Kept>) -> Self {
        Self { kept, ..self }
    }

    /// Begins to serve clients.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn serve(
        self,
        config: &Config,
        backend: Backend,
        rules: Option<(RuleSources, Arc<Names>)>,
    ) -> anyhow::Result<Option<(Server, Arc<State>)>> {
        let Some((identity, asker)) = self.of else { return Ok(None) };
        let path = escape::path(&self.bound.path);
        match &self.bound.group {
            Some(group) => emit(format_args!("clients connect at {path}: root, and the group {group}")),
            None => note(format_args!(
                "clients connect at {path}: root alone, for there is no group {}; `groupadd --system {0}` makes one",
                escape::string(config.group.as_bytes())
            )),
        }
        let since = boot_now();
        let facts = Facts {
            about: About {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                host: identity.host.clone(),
                run: format!("{}-{:x}", identity.boot8(), identity.agent_start.0),
            },
            since,
            since_wall: Clock::now().wall(since),
            backend: backend.to_string(),
            folders: config.rules.iter().map(|folder| folder.display().to_string()).collect(),
            keeper: self.kept.map(|kept| Arc::new(kept) as Arc<dyn Keeper>),
            log: Box::new(|line| emit(line)),
        };
        let (sources, names) =
            rules.unwrap_or_else(|| (RuleSources::None, Arc::new(Names::builtin().clone())));
        let state = Arc::new(State::new(facts, identity, asker, sources, names));
        let server = Server::start(self.bound, Arc::clone(&state)).context("starting the socket's thread")?;
        Ok(Some((server, state)))
    }
}

/// The agent that runs here.
pub(super) enum Running {
    /// It takes clients.
    Yes(Client),
    /// There is none.
    No,
    /// There is one that this user may not ask, for this reason.
    Denied(String),
}

/// Connects to the agent that runs here, if there is one.
///
/// # Errors
/// When the connection breaks.
pub(super) fn running() -> Result<Running, ClientError> {
    let Some(path) = default_socket() else { return Ok(Running::No) };
    match Client::connect(&path) {
        Ok(client) => Ok(Running::Yes(client)),
        Err(error) if error.is_nobody() => Ok(Running::No),
        Err(error) if error.is_denied() => Ok(Running::Denied(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Connects to the agent that runs here, for a command that does nothing without it. What is wrong is reported here.
pub(super) fn needed(what: &str) -> Result<Client, Exit> {
    let path: PathBuf = default_socket().ok_or_else(|| {
        emit(format_args!("{what} asks a running agent, and CONN_SOCKET says that there is none"));
        Exit::Error
    })?;
    Client::connect(&path).map_err(|error| {
        emit(&error);
        if error.is_denied() { Exit::NotPermitted } else { Exit::Error }
    })
}

/// How an agent is named where its answer is reported.
pub(super) fn named(agent: &About) -> String {
    format!("agent {} (pid {})", escape::string(agent.version.as_bytes()), agent.pid)
}
