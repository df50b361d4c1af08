//! `conn learn --for`: what this machine does, as it does it.

use std::time::Duration;

use anyhow::Context as _;

use super::{Found, default_rules};
use crate::agent::{self, AgentOptions, AtStart, Consumer, Limits};
use crate::cli::args::{Exit, LearnArgs};
use crate::cli::tail::not_started;
use crate::cli::{emit, machine, note, signals};
use crate::clock::{Clock, boot_now};
use crate::event::human;
use crate::event::model::Event;
use crate::kernel::load::LoadOptions;
use crate::learn::baseline::screen::{Screen, screening};
use crate::priority::Priority;
use crate::units::DurationNs;

/// Learns for so long, or until a signal; `Err`: why it did not start was reported.
pub(super) fn learn(duration: Duration, args: &LearnArgs) -> anyhow::Result<Result<Found, Exit>> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(watch(duration, args))
}

async fn watch(duration: Duration, args: &LearnArgs) -> anyhow::Result<Result<Found, Exit>> {
    let host = machine::identity()?.host;
    let stop = signals::stop().context("installing signal handlers")?;
    tokio::pin!(stop);
    let rules = default_rules()?;
    let options = AgentOptions {
        load: LoadOptions { backend: args.backend, ring_bytes: args.ring_size, log_level: None },
        priority: Priority::default(),
        self_test: true,
        rules: Some(screening(rules)),
        // What was there before is normal too.
        at_start: AtStart::Recording,
        heartbeat: None,
        hashes: false,
        health: false,
        memory: None,
    };
    let mut learner = Learning(Screen::default());
    let mut take = |event: &Event| learner.on_event(event);
    let started = tokio::select! {
        () = &mut stop => return Ok(Err(Exit::Done)),
        started = agent::start(options, &mut take) => started,
    };
    let mut agent = match started {
        Ok(agent) => agent,
        Err(error) => return Ok(Err(not_started(error))),
    };
    for text in agent.session.notes.iter().chain(&agent.notes) {
        note(text);
    }
    let mut span = Vec::new();
    human::write_duration(DurationNs(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)), &mut span);
    let span = String::from_utf8_lossy(&span).into_owned();
    emit(format_args!(
        "tracing with backend {}; learns for {span}; Ctrl-C ends it and writes what was learnt",
        agent.session.plan.backend
    ));
    let limits = Limits { duration: Some(duration) };
    agent::run(&mut agent, &mut learner, limits, stop).await.context("tracing")?;
    learner.0.watched_until(Clock::now().wall(boot_now()));
    let from = format!("live, with the backend {}", agent.session.plan.backend);
    Ok(Ok(Found { learnt: learner.0.learnt(), host, from }))
}

struct Learning(Screen);

impl Consumer for Learning {
    fn on_event(&mut self, event: &Event) {
        self.0.take(event);
    }
}
