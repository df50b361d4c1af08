//! `conn help`: of a command what `--help` prints, of a topic the page of the documentation.

use clap::CommandFactory as _;

use super::args::{Cli, Exit, HelpArgs};
use super::{emit, print};

/// What is more than a command.
const TOPICS: [(&str, &str); 2] =
    [("filter", include_str!("../../../docs/filter.md")), ("rules", include_str!("../../../docs/rules.md"))];

/// Runs `conn help`.
///
/// # Errors
/// When the output cannot be written.
pub(super) fn run(args: &HelpArgs) -> anyhow::Result<Exit> {
    let mut conn = Cli::command();
    conn.build();
    let Some(name) = args.of.as_deref() else {
        return print(conn.render_long_help().to_string().as_bytes());
    };
    if let Some((_, page)) = TOPICS.iter().find(|(topic, _)| *topic == name) {
        return print(text_of(page).as_bytes());
    }
    if let Some(command) = conn.find_subcommand_mut(name) {
        return print(command.render_long_help().to_string().as_bytes());
    }
    emit(format_args!(
        "`{}` is neither a command nor a topic: `conn help` lists the commands, the topics are filter and rules",
        name.escape_debug()
    ));
    Ok(Exit::Usage)
}

/// A page without its remarks for those who write it.
fn text_of(page: &str) -> String {
    let mut text = String::new();
    let mut is_blank = false;
    for line in page.lines().filter(|line| !line.starts_with("<!--")) {
        if !(is_blank && line.is_empty()) {
            text += line;
            text.push('\n');
        }
        is_blank = line.is_empty();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_no_commands_and_their_pages_have_no_remarks() {
        for (topic, page) in TOPICS {
            assert!(Cli::command().find_subcommand(topic).is_none(), "{topic}");
            assert!(text_of(page).starts_with("# ") && !text_of(page).contains("<!--"), "{topic}");
        }
    }
}
