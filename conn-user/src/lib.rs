//! The agent: watches TCP connections as the kernel makes them and attributes each to its process.
//!
//! One folder a room, in the order of the table in ARCHITECTURE.md; a room uses those above it, never those
//! below.

// What is shipped fails with an error and not with a panic (`unwrap` is a warning in the whole workspace).
#![cfg_attr(not(test), deny(clippy::expect_used))]

pub mod units;

pub mod clock;

pub mod priority;

pub mod host;

pub mod kernel;

pub mod process;

pub mod flow;

pub mod event;

pub mod filter;

pub mod sockets;

pub mod rules;

pub mod session;

pub mod learn;

pub mod output;

pub mod history;

pub mod replay;

pub mod rule_test;

pub mod run;

pub mod agent;

pub mod service;

pub mod cli;
