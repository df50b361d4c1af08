//! Command lines, read and resolved.

use clap::CommandFactory;

use super::*;
use crate::event::samples;
use crate::kernel::plan::Backend;
use crate::sockets::Selection;
use crate::sockets::sort::{Sort, SortKey};

fn read(line: &[&str]) -> Result<TailArgs, clap::Error> {
    let words = ["conn", "tail"].iter().chain(line);
    match Cli::read(words.map(OsString::from))?.command {
        Command::Tail(tail) => Ok(tail),
        other => panic!("{other:?}"),
    }
}

fn resolve(line: &[&str]) -> Result<TailOptions, FilterError> {
    read(line).unwrap_or_else(|error| panic!("{error}")).resolve(Environment::default())
}

fn refused(line: &[&str]) -> String {
    read(line).expect_err("refused by clap").to_string()
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn defaults() {
    let options = resolve(&[]).expect("nothing is fine");
    assert_eq!(options.format, Format::Text { color: false, terminal: false });
    assert_eq!((options.backend, options.ring_size), (BackendChoice::Auto, 8 << 20));
    assert_eq!((options.count, options.duration), (None, None));
    assert!(options.self_test && !options.bpf_log && options.filter.is_empty());
    assert!(options.kinds.contains(EventKind::Connect) && !options.kinds.contains(EventKind::Exec));
}

#[test]
fn a_summary_has_the_end_of_each_connection() {
    let kinds = resolve(&["--summary"]).expect("understood").kinds;
    let shown =
        [EventKind::Close, EventKind::Failed, EventKind::Listen, EventKind::Unlisten, EventKind::Alert];
    let hidden = [EventKind::Connect, EventKind::Established, EventKind::Accept, EventKind::Exec];
    assert!(
        shown.iter().all(|kind| kinds.contains(*kind)) && !hidden.iter().any(|kind| kinds.contains(*kind))
    );
    assert!(refused(&["--summary", "--all"]).contains("cannot be used with"));
}

#[test]
fn everything_at_once() {
    let line = "--json --backend kprobe --kind connect,close --count 5 --for 1h30m --no-self-test --bpf-log --ring-size 16M \
                port:443 -proc:nginx";
    let options = resolve(&line.split_whitespace().collect::<Vec<_>>()).expect("all of it is right");
    assert_eq!(options.format, Format::Json { compact: false });
    assert_eq!((options.backend, options.ring_size), (BackendChoice::Only(Backend::Kprobe), 16 << 20));
    assert_eq!((options.count, options.duration), (NonZeroU64::new(5), Some(Duration::from_mins(90))));
    assert!(!options.self_test && options.bpf_log);
    assert_eq!(options.filter.to_string(), "port:443 -proc:nginx");
    assert!(options.kinds.contains(EventKind::Close) && !options.kinds.contains(EventKind::Accept));
}

/// Issue 13: names of values are understood as filters understand them.
#[test]
fn values_in_upper_case() {
    let line = "--kind CONNECT,Close --backend KPROBE --color NEVER --priority Nice";
    let options = resolve(&line.split_whitespace().collect::<Vec<_>>()).expect("understood");
    assert!(options.kinds.contains(EventKind::Connect) && options.kinds.contains(EventKind::Close));
    assert!(!options.kinds.contains(EventKind::Accept));
    assert_eq!(options.backend, BackendChoice::Only(Backend::Kprobe));
    let mut command = Cli::command();
    command.build();
    for command in command.get_subcommands() {
        for arg in command.get_arguments().filter(|arg| !arg.get_possible_values().is_empty()) {
            let takes_values = arg.get_action().takes_values();
            assert!(!takes_values || arg.is_ignore_case_set(), "{} {}", command.get_name(), arg.get_id());
        }
    }
}

#[test]
fn a_recording_is_of_everything() {
    let options = resolve(&["--record"]).expect("fine");
    assert_eq!(
        (options.format, options.kinds, options.record),
        (Format::Json { compact: false }, KindSet::ALL, true)
    );
    assert!(!KindSet::DEFAULT.contains(EventKind::Start));
    for line in [&["--record", "--kind", "close"][..], &["--record", "--alerts"], &["--record", "port:1"]] {
        assert!(refused(line).contains("cannot be used with"), "{line:?}");
    }
}

#[test]
fn learn_needs_a_source() {
    let learn = |line: &[&str]| match Cli::read(["conn", "learn"].iter().chain(line).map(Into::into))?.command
    {
        Command::Learn(args) => Ok::<_, clap::Error>(args),
        other => panic!("{other:?}"),
    };
    let source = |line: &[&str]| {
        let args = learn(line).expect("right");
        args.source().map(|source| format!("{source:?}"))
    };
    assert!(source(&[]).is_err_and(|why| why.starts_with("say from what to learn")));
    assert_eq!(source(&["--from-units"]).as_deref(), Ok("Units([])"));
    assert_eq!(source(&["--from-units", "a", "b", "-o", "c"]).as_deref(), Ok("Units([\"a\", \"b\"])"));
    assert_eq!(source(&["--for", "2s", "--backend", "kprobe"]).as_deref(), Ok("Live(2s)"));
    assert_eq!(source(&["a", "b"]).as_deref(), Ok("Recordings([\"a\", \"b\"])"));
    assert_eq!(source(&["--diff", "a.toml", "b.toml"]).as_deref(), Ok("Baseline(\"b.toml\")"));
    assert!(source(&["--diff", "a.toml", "b.toml", "-o", "c"]).is_err_and(|why| why.contains("--output")));
    assert_eq!(source(&["--diff", "a.toml", "b", "-o", "c"]).as_deref(), Ok("Recordings([\"b\"])"));
    assert!(source(&["a.toml"]).is_err() && source(&["--diff", "a.toml", "b.toml", "c.toml"]).is_err());
    assert_eq!(source(&["--accept", "-", "-o", "c"]).as_deref(), Ok("Alerts(\"-\")"));
    assert!(learn(&["--accept", "-"]).is_err() && learn(&["a", "--backend", "kprobe"]).is_err());
}

/// clap does not ask for what an argument requires where that conflicts with another one that is there: the argument has to
/// conflict with it too.
#[test]
fn what_means_nothing_is_refused() {
    let refused = |line: &str| {
        let words = ["conn"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        Cli::read(words).expect_err(line).to_string()
    };
    for line in [
        "explain x --alert a1 --rule r",
        "explain x --alert a1 --event 1",
        "learn x --json --from-units",
        "learn --from-units --json",
        "learn --accept x -o y --json",
        "learn --accept x -o y --exit-code",
        "learn --accept x --from-units",
        "learn --accept x --for 1h",
        "learn --accept x --backend kprobe -o y",
        "check --defaults --json",
        "check --defaults x",
        "test --defaults x",
        "tail --no-rules --exit-code",
        "tail --record --alerts",
        "run --rules x --learn y -- true",
    ] {
        assert!(refused(line).contains("cannot be used with"), "{line}: {}", refused(line));
    }
    for line in [
        "explain x --rule r",
        "learn x --json",
        "learn --accept x",
        "learn x --exit-code",
        "check --json",
        "test --json",
    ] {
        assert!(refused(line).contains("required"), "{line}: {}", refused(line));
    }
}

/// A negated word looks like a flag: it must reach the filter, and flags after it must not.
#[test]
fn negated_words_and_flags_mix() {
    for line in [
        &["-proc:nginx", "port:80", "--json", "--count", "3"][..],
        &["--json", "-proc:nginx", "--count", "3", "port:80"],
        &["--count=3", "-proc:nginx", "port:80", "--json"],
        &["--count", "3", "--json", "--", "-proc:nginx", "port:80"],
    ] {
        let options = resolve(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let words: std::collections::BTreeSet<_> =
            options.filter.to_string().split(' ').map(str::to_owned).collect();
        assert_eq!(words, ["-proc:nginx", "port:80"].map(str::to_owned).into(), "{line:?}");
        assert_eq!(
            (options.format, options.count),
            (Format::Json { compact: false }, NonZeroU64::new(3)),
            "{line:?}"
        );
    }
}

#[test]
fn an_unknown_flag_is_no_filter() {
    assert!(refused(&["--jsno"]).contains("a similar argument exists: '--json'"));
    assert!(refused(&["port:80", "--cuont=3"]).contains("'--count'"));
    assert!(refused(&["-x", "-proc:nginx"]).contains("unexpected argument '-x'"));
    assert!(refused(&["--proc:nginx"]).contains("unexpected argument"));
    assert!(resolve(&["-x:nginx"]).expect_err("no such key").message.contains("unknown key `x`"));
}

/// What people write, and what they are reported to write.
#[test]
fn what_is_refused_has_a_remedy() {
    for (line, remedy) in [
        (&["tail", "--pid", "1"][..], "conn tail pid:1"),
        (&["tail", "--pid=1"], "conn tail pid:1"),
        (&["list", "--lport", "22"], "conn list lport:22"),
        (&["list", "--login-uid"], "conn list login_uid:"),
        (&["tail", "--proc:nginx"], "conn tail proc:nginx"),
        (&["tail", "-tulpn"], "conn list -l lists"),
        (&["tail", "-tn"], "conn list lists"),
        (&["list", "-tulpne"], "conn list -l lists"),
        (&["check"], "conn check --defaults"),
        (&["check", "--json"], "conn check --defaults"),
        (&["test"], "conn test --defaults"),
    ] {
        let words = ["conn"].iter().chain(line).map(OsString::from);
        let error = Cli::read(words).expect_err("refused").to_string();
        assert!(error.contains(remedy), "{line:?}: {error}");
        assert_eq!(error.matches("tip:").count(), 1, "{error}");
    }
}

#[test]
fn a_wrong_filter_says_where() {
    let error = resolve(&["proc:nginx", "prot:80"]).expect_err("no such key").to_string();
    assert!(
        error.contains("             ^^^^\ndid you mean `port`?") && error.starts_with("unknown key"),
        "{error}"
    );
}

#[test]
fn a_filter_that_asks_for_exec_shows_it() {
    use EventKind::{Degraded, Exec, Gap};
    let options = resolve(&["kind:exec"]).expect("a filter");
    let shown: Vec<_> = samples::all().into_iter().filter(|event| options.shows(event)).collect();
    let kinds: Vec<_> = shown.iter().map(|event| event.body.kind()).collect();
    assert_eq!(kinds, [Exec, Exec, Exec, Exec, Gap, Gap, Degraded]);
}

#[test]
fn gaps_are_shown_whatever_is_asked_for() {
    let options = resolve(&["--kind", "connect", "port:1"]).expect("a filter");
    let gap = samples::all().into_iter().find(|event| event.body.kind() == EventKind::Gap).expect("a gap");
    assert!(options.shows(&gap));
    assert!(!resolve(&["-kind:gap"]).expect("a filter").shows(&gap));
}

/// `--count` counts what was asked for.
#[test]
fn what_is_always_shown_is_counted_only_where_it_is_asked_for() {
    use EventKind::{Degraded, Gap};
    let asked = |line: &[&str]| {
        let options = resolve(line).expect("a filter");
        let counted = |event: &Event| options.shows(event) && options.asks_for(event);
        let kinds =
            samples::all().into_iter().filter(|event| event.body.kind().is_always_shown() && counted(event));
        kinds.map(|event| event.body.kind()).collect::<Vec<_>>()
    };
    for line in [&[][..], &["port:443"], &["--kind", "connect"], &["--all"], &["-kind:gap"]] {
        assert_eq!(asked(line), [], "{line:?}");
    }
    assert_eq!(asked(&["kind:gap"]), [Gap, Gap]);
    assert_eq!(asked(&["lost:>1"]), [Gap]);
    assert_eq!(asked(&["--kind", "gap,degraded"]), [Gap, Gap, Degraded]);
    assert_eq!(asked(&["--kind", "gap", "port:443"]), [Gap, Gap]);
    let connect = samples::all().swap_remove(1);
    assert!(resolve(&["pid:4242"]).expect("a filter").asks_for(&connect));
}

/// The lists and zones of the default rules are known without any rules of one's own.
#[test]
fn lists_of_the_rules_are_known() {
    let options = resolve(&["proc:@shells", "-dst:containers"]).expect("a list and a zone");
    assert_eq!(options.filter.to_string(), "proc:@shells -dst:containers");
    assert!(resolve(&["--no-rules", "proc:@shells"]).is_ok());
    assert!(list("proc:@shells").is_ok());
    let error = resolve(&["proc:@shels"]).expect_err("no such list").to_string();
    assert!(error.contains("did you mean `@shells`?"), "{error}");
}

#[test]
fn kinds() {
    assert!(refused(&["--kind", "conect"]).contains("a similar value exists: 'connect'"));
    assert!(refused(&["--kind", "connect", "--all"]).contains("cannot be used with"));
    assert_eq!(resolve(&["--all"]).expect("all").kinds, KindSet::of_stream(false));
    let both = resolve(&["--kind", "exec", "--kind", "exit"]).expect("twice is fine");
    assert_eq!(both.kinds, [EventKind::Exec, EventKind::Exit].into_iter().collect());
}

#[test]
fn backends() {
    for backend in Backend::ALL {
        let options = resolve(&["--backend", backend.key()]).expect("a backend");
        assert_eq!(options.backend, BackendChoice::Only(backend));
    }
    assert!(read(&["--backend", "kprobes"]).is_err());
}

#[test]
fn durations() {
    for (text, seconds) in [("10s", 10), ("2m", 120), ("1h30m", 5_400), ("36h", 129_600)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    for text in ["", "10", "-1s", "0s", "ten", "1 fortnight", "1s ago"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    assert!(refused(&["--for", "10"]).contains("write a time such as 10s"));
}

#[test]
fn ring_sizes() {
    for (text, size) in
        [("64K", 64 << 10), ("8M", 8 << 20), ("8MiB", 8 << 20), ("1G", 1 << 30), ("1048576", 1 << 20)]
    {
        assert_eq!(parse_ring_size(text), Ok(size), "{text}");
    }
    for text in ["", "M", "8X", "0", "4K", "2G", "-8M", "99999999999999999999", "18446744073709551615G"] {
        assert!(parse_ring_size(text).is_err(), "{text}");
    }
    assert_eq!(parse_ring_size("10M"), Err("the kernel wants a power of two: 8M or 16M".to_owned()));
}

#[test]
fn colour() {
    let terminal = Environment { terminal: true, ..Environment::default() };
    let pipe = Environment::default();
    for (environment, choice, expected) in [
        (terminal, ColorChoice::Auto, true),
        (pipe, ColorChoice::Auto, false),
        (pipe, ColorChoice::Always, true),
        (terminal, ColorChoice::Never, false),
        (Environment { no_color: true, ..terminal }, ColorChoice::Auto, false),
        (Environment { no_color: true, ..terminal }, ColorChoice::Always, true),
        (Environment { force_color: true, ..pipe }, ColorChoice::Auto, true),
        (Environment { force_color: true, no_color: true, ..pipe }, ColorChoice::Auto, false),
        (Environment { dumb: true, ..terminal }, ColorChoice::Auto, false),
    ] {
        assert_eq!(environment.color(choice), expected, "{environment:?} {choice:?}");
    }
}

#[test]
fn the_long_help_lists_the_exit_codes() {
    let help = Cli::command().find_subcommand_mut("tail").expect("tail").render_long_help().to_string();
    for exit in [Exit::Done, Exit::Error, Exit::Usage, Exit::NotPermitted, Exit::Unsupported] {
        assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{help}");
    }
}

#[test]
fn the_other_commands() {
    let json = |words: &[&str]| match Cli::try_parse_from(words).expect("a command").command {
        Command::Doctor(doctor) => doctor.json,
        other => panic!("{other:?}"),
    };
    assert!(!json(&["conn", "doctor"]) && json(&["conn", "doctor", "--json"]));
    let schema = |words: &[&str]| match Cli::try_parse_from(words).expect("a command").command {
        Command::Schema(schema) => schema.of,
        other => panic!("{other:?}"),
    };
    assert_eq!(schema(&["conn", "schema"]), SchemaOf::Events);
    assert_eq!(schema(&["conn", "schema", "list"]), SchemaOf::List);
    assert_eq!(schema(&["conn", "schema", "run"]), SchemaOf::Run);
    assert_eq!(
        Cli::try_parse_from(["conn"]).expect_err("no command").exit_code(),
        i32::from(Exit::Usage as u8)
    );
}

fn list(line: &str) -> Result<ListOptions, FilterError> {
    let words = ["conn", "list"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    match Cli::read(words).unwrap_or_else(|error| panic!("{error}")).command {
        Command::List(list) => list.resolve(Environment::default()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists() {
    let selection = |line| list(line).expect("a list").asked.selection;
    assert_eq!(selection(""), Selection::Connected);
    assert_eq!(selection("-l"), Selection::Listening);
    assert_eq!(selection("-a"), Selection::All);
    assert_eq!(selection("-la"), Selection::All, "as ss does");
    assert_eq!(selection("state:listen"), Selection::All, "the filter says which");
    assert_eq!(selection("state:TIME-WAIT proc:x"), Selection::All);
    assert_eq!(selection("-state:established"), Selection::Connected);
    assert_eq!(selection("socket_unit:ssh.socket"), Selection::Listening);
    assert_eq!(selection("-l dir:in"), Selection::Listening);
    assert_eq!(selection("-tlnp"), Selection::Listening, "as people write it for ss");
    assert_eq!(selection("-tulpn"), Selection::Listening);
    assert_eq!(selection("-tan"), Selection::All);
    let options = list("-l --sort -age -proc:sshd --json dport:22").expect("a list");
    assert_eq!(options.asked.filter, "dport:22 -proc:sshd");
    assert_eq!(options.sort, Some(Sort { key: SortKey::Age, reverse: true }));
    assert!(options.json && !options.color);
    assert!(list("kind:listen").is_err(), "a list has no events");
}

fn run(line: &[&str]) -> Result<RunArgs, String> {
    let words = ["conn", "run"].iter().chain(line).map(OsString::from);
    match Cli::read(words).map_err(|error| error.to_string())?.command {
        Command::Run(run) => Ok(run),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_has_a_command() {
    let args = run(&["--", "true"]).expect("a command");
    assert!(args.rules.is_empty() && !args.allow_loss && args.wait_tree.is_none());
    assert_eq!((args.exit_code, args.ring_size, args.backend), (6, 8 << 20, BackendChoice::Auto));
    let all = "--rules a --rules b --junit c --json d -o e --allow-loss --exit-code 33 --wait-tree 2s --backend kprobe \
               --ring-size 1M -- true";
    let args = run(&all.split_whitespace().collect::<Vec<_>>()).expect("all at once");
    assert_eq!((args.rules.len(), args.exit_code, args.wait_tree), (2, 33, Some(Duration::from_secs(2))));
    assert!(args.allow_loss && args.output.is_some() && args.junit.is_some() && args.json.is_some());
    for line in [&[][..], &["--"], &["true"], &["--rules", "a", "--learn", "b", "--", "true"]] {
        assert!(run(line).is_err(), "{line:?}");
    }
    assert!(run(&["--exit-code", "256", "--", "true"]).is_err_and(|why| why.contains("256")));
    assert!(
        run(&["--wait-tree", "soon", "--", "true"]).is_err_and(|why| why.contains("write a time such as"))
    );
}

/// What looks like a flag of ours, a negated word of a filter or a separator is the command's.
#[test]
fn the_words_of_a_command_are_its_own() {
    let command = ["curl", "-proc:nginx", "--json", "-o", "x", "--", "--allow-loss", "dst:x"];
    let args = run(&[&["--"][..], &command].concat()).expect("a command");
    assert_eq!(args.command, command);
    assert!(args.json.is_none() && args.output.is_none() && !args.allow_loss);
}
