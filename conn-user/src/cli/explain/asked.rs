//! An alert of the agent that runs here: its lines, and the rules that raised it.

use super::super::args::{Exit, ExplainArgs};
use super::super::{emit, socket};
use crate::rules::file::RuleErrors;
use crate::rules::host::Host;
use crate::rules::{RuleSet, defaults, file};
use crate::service::client::{Client, ClientError};
use crate::service::protocol::{AlertFound, Request, RuleSources};

/// The rules (`None`: it has none) and the alert's lines. What is wrong is reported here.
pub(super) fn agent(id: &str, args: &ExplainArgs) -> Result<(Option<RuleSet>, Vec<u8>), Exit> {
    let lines = asked(lines(id)?)?;
    let rules = if args.rules.is_empty() {
        let mut client = socket::needed("conn explain without a file")?;
        compiled(&asked(client.ask::<RuleSources>(&Request::Rules))?)?
    } else {
        args.choice().load()?
    };
    Ok((rules, lines))
}

fn lines(id: &str) -> Result<Result<Vec<u8>, ClientError>, Exit> {
    let client = socket::needed("conn explain without a file")?;
    let read = |mut client: Client| {
        client.ask::<AlertFound>(&Request::Alert { id: id.to_owned() })?;
        let mut lines = Vec::new();
        client.rest_to_end(&mut lines)?;
        Ok(lines)
    };
    Ok(read(client))
}

fn asked<T>(answer: Result<T, ClientError>) -> Result<T, Exit> {
    answer.map_err(|error| {
        emit(error);
        Exit::Error
    })
}

fn compiled(sources: &RuleSources) -> Result<Option<RuleSet>, Exit> {
    let host = Host::read();
    let rules: Result<RuleSet, RuleErrors> = match sources {
        RuleSources::None => return Ok(None),
        RuleSources::Default => defaults::set(&host),
        RuleSources::Files { files } => {
            let texts: Vec<(&str, &str)> = files.iter().map(|file| (&*file.path, &*file.text)).collect();
            file::compile_texts(&texts, &host, false).finish().rules
        }
    };
    rules.map(Some).map_err(|errors| {
        emit(errors);
        Exit::Error
    })
}
