//! `conn list`: every socket, and who holds it.

use std::io::Read as _;

use anyhow::Context as _;

use super::args::{Environment, Exit, ListArgs, ListOptions};
use super::machine;
use super::messages::{emit, note};
use super::socket::{self, Running};
use crate::clock::Clock;
use crate::event::escape;
use crate::host::netns_names::NetNsNames;
use crate::process::users::Users;
use crate::service::client::{Client, ClientError};
use crate::service::list::{Wanted, list};
use crate::service::protocol::{ListRequest, Listed, ProtocolError, Request};
use crate::sockets::read::ReadList;
use crate::sockets::text::TextOptions;
use crate::sockets::{Listing, json, text};

/// Runs `conn list`.
///
/// # Errors
/// When nothing can be read, or the output cannot be written; wrong usage is reported here.
pub fn run(args: &ListArgs) -> anyhow::Result<Exit> {
    let environment = Environment::of_process();
    let resolved = args.resolve(environment);
    let client = if args.direct { None } else { agent()? };
    let options = match (resolved, client) {
        (Ok(options), None) => options,
        (Ok(options), Some(client)) => return of_agent(args, &options, client, None),
        (Err(error), None) => {
            emit(error);
            return Ok(Exit::Usage);
        }
        // It may name what the agent's rules define.
        (Err(error), Some(client)) => {
            match (ListArgs { filter: Vec::new(), ..args.clone() }).resolve(environment) {
                Ok(options) => return of_agent(args, &options, client, Some(error.to_string())),
                Err(error) => {
                    emit(error);
                    return Ok(Exit::Usage);
                }
            }
        }
    };
    unlisted(args);
    let wanted = Wanted {
        selection: options.asked.selection,
        filter: &options.filter,
        sort: options.sort,
        facts: needs_facts(&options),
    };
    let listing = list(wanted, &mut |keys| vec![None; keys.len()])?;
    for one in &listing.notes {
        note(one);
    }
    let mut out = Vec::new();
    if options.json {
        let wall = Clock::now().wall(listing.ended);
        json::write(&listing, &options.asked, &machine::identity()?, wall, &mut out);
    } else {
        table(&listing, &options, &mut out);
    }
    super::print(&out)
}

/// The agent that runs here, if this user may ask it.
fn agent() -> anyhow::Result<Option<Client>> {
    Ok(match socket::running()? {
        Running::Yes(client) => Some(client),
        Running::No => None,
        Running::Denied(why) => {
            note(format_args!("{why}; this list is made without it"));
            None
        }
    })
}

fn unlisted(args: &ListArgs) {
    if args.udp {
        note("TCP sockets only: -u lists nothing more");
    }
}

/// The table shows nothing that takes long to find out; a filter may ask for it.
fn needs_facts(options: &ListOptions) -> bool {
    options.json || !options.filter.is_empty()
}

fn table(listing: &Listing, options: &ListOptions, out: &mut Vec<u8>) {
    let (width, netns) = (machine::terminal_width(), machine::own_netns());
    let shown = TextOptions { color: options.color, width, netns };
    text::write(listing, shown, &mut NetNsNames::of_machine(), out);
}

/// Lists by the agent. `wrong`: what is wrong with the filter by the default rules' names.
fn of_agent(
    args: &ListArgs,
    options: &ListOptions,
    mut client: Client,
    wrong: Option<String>,
) -> anyhow::Result<Exit> {
    let request = Request::List(ListRequest {
        selection: options.asked.selection.name().to_owned(),
        filter: args.filter.join(" "),
        sort: options.sort.map(|sort| sort.to_string()),
        facts: needs_facts(options) || wrong.is_some(),
    });
    if let Err(error) = client.ask::<Listed>(&request) {
        let is_refused = matches!(error, ClientError::Protocol { error: ProtocolError::Refused(_), .. });
        return Ok(match wrong.filter(|_| is_refused) {
            Some(wrong) => {
                emit(wrong);
                Exit::Usage
            }
            None => {
                emit(error);
                Exit::Error
            }
        });
    }
    unlisted(args);
    let mut rest = client.rest().context("reading from the agent")?;
    if options.json {
        let mut out = Vec::new();
        rest.read_to_end(&mut out).context("reading from the agent")?;
        return super::print(&out);
    }
    let mut read = ReadList::read(rest).context("reading from the agent")?;
    read.listing.name_users(&mut Users::default());
    for one in &read.notes {
        note(escape::string(one.as_bytes()));
    }
    let mut out = Vec::new();
    table(&read.listing, options, &mut out);
    super::print(&out)
}
