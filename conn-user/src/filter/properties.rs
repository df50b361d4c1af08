//! Properties: printing, the naive evaluator, anchors, and texts that are no filters.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::anchor::Anchor;
use super::ast::{Expr, Form, Value, Word};
use super::key::{Key, Takes};
use super::naive::Naive;
use super::trace::Seen;
use super::*;
use crate::event::model::EventBody;
use crate::event::samples;
use crate::flow::model::{Actor, Change};
use crate::process::identity::Identity;
use crate::process::info::ProcessInfo;

fn value(form: Form, text: impl Into<String>) -> Value {
    Value { form, text: text.into(), span: 0..0 }
}

fn bare(texts: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Value> {
    texts.prop_map(|text| value(Form::Bare, text)).boxed()
}

fn named(names: Vec<&'static str>) -> BoxedStrategy<Value> {
    bare(select(names).prop_map(str::to_owned))
}

/// Values that a key takes, near those that the events of the tests have.
fn values(key: Key) -> BoxedStrategy<Value> {
    match (key.about().takes, key) {
        (Takes::Numbers | Takes::Counts, _) => bare(prop_oneof![
            (select(vec!["<", "<=", ">", ">="]), 1..300_u32)
                .prop_map(|(sign, number)| format!("{sign}{number}")),
            (0..6_u32).prop_map(|number| number.to_string()),
            (0..4_u32, 0..4_u32).prop_map(|(low, more)| format!("{low}-{}", low + more)),
        ]),
        (Takes::Ports, _) => bare(prop_oneof![
            select(vec!["80", "443", "8080", "0-79", "1-65535", ">79", "<=80", ">=8080", "<443"])
                .prop_map(str::to_owned),
            any::<u16>().prop_map(|port| port.to_string()),
        ]),
        (Takes::Durations, _) => bare(
            select(vec![
                ">0s",
                "<1us",
                ">=1m30s",
                "<=100d",
                "1ns-2h",
                ">1d",
                "0s-5000000000000ms",
                ">=18446744073s",
                "0s-1d",
                "1d-300d",
            ])
            .prop_map(str::to_owned),
        ),
        (Takes::Bytes, _) => bare(
            select(vec!["0", "10K", "<1G", ">1G", ">=8E", "1K-15E", "<=9223372036854775807", ">=7E"])
                .prop_map(str::to_owned),
        ),
        (Takes::Flags, _) => named(vec!["true", "false"]),
        (Takes::Addresses, _) => bare(prop_oneof![
            select(vec![
                "loopback",
                "rfc1918",
                "internal",
                "external",
                "office",
                "any",
                "10.0.1.1",
                "10.0.0.0/8",
                "10.0.1.9/24",
                "0.0.0.0/0",
                "2001:db8::1",
                "2001:db8::/32",
                "::/0",
                "10.0.1.1%nginx",
                "any%nginx",
                "0.0.0.0/0%eth0"
            ])
            .prop_map(str::to_owned),
            (any::<u128>(), 0..=128_u8)
                .prop_map(|(bits, prefix)| format!("{}/{prefix}", std::net::Ipv6Addr::from(bits)))
                .prop_filter("mapped networks have a test of their own", |net| !net.starts_with("::ffff:")),
        ]),
        (Takes::Text, _) => prop_oneof![
            bare(
                select(vec![
                    "nginx",
                    "curl",
                    "n*",
                    "*",
                    "?url",
                    "kworker/[0-9]*",
                    "/usr/*/nginx",
                    "-s",
                    "--all",
                    "*.service",
                    "nginx.service",
                    "0f7d84f32c4d",
                    "pts/*",
                    "/tmp",
                    "fentry:*",
                ])
                .prop_map(str::to_owned)
            ),
            select(vec!["tmux: server", "a b", "nginx", "n*", "\"\\", ""])
                .prop_map(|text| value(Form::Quoted, text)),
            select(vec!["^ng", "url$", "(?i)NGINX", "[^a-z,]", "a{1,2}", "\\/usr", "."])
                .prop_map(|text| value(Form::Regex, text)),
        ]
        .boxed(),
        (Takes::Errors, _) => {
            named(vec!["ECONNREFUSED", "ECONNRESET", "104", "0", "100-120", "cancelled", "524"])
        }
        (Takes::Names, key) => named(tests::names_of(key).expect("names")),
    }
}

fn any_value(key: Key) -> BoxedStrategy<Value> {
    prop_oneof![
        8 => values(key),
        1 => select(vec![list(key), "empty"]).prop_map(|list| value(Form::List, list)),
    ]
    .boxed()
}

/// The lists of the tests: one for each sort of values.
pub(super) const LISTS: &[(&str, &[&str])] = &[
    ("empty", &[]),
    ("numbers", &["1", "3-4", ">100"]),
    ("ports", &["80", "8000-9000", "443"]),
    ("nets", &["office", "external", "2001:db8::1", "10.0.2.0/24"]),
    ("text", &["nginx", "tmux: server", "\"n*\"", "/^cu/", "*.service", "a,b", "/usr/sbin/nginx"]),
    ("durations", &[">1h", "1us-1ms"]),
    ("sizes", &["<1K", ">=8E"]),
    ("errors", &["ECONNRESET", "111", "cancelled"]),
    ("flags", &["true"]),
];

/// A list that the key can take.
fn list(key: Key) -> &'static str {
    match key.about().takes {
        Takes::Numbers | Takes::Counts => "numbers",
        Takes::Ports => "ports",
        Takes::Addresses => "nets",
        Takes::Text => "text",
        Takes::Durations => "durations",
        Takes::Bytes => "sizes",
        Takes::Errors => "errors",
        Takes::Flags => "flags",
        Takes::Names => "empty",
    }
}

fn any_expr() -> BoxedStrategy<Expr> {
    let word = select(Key::ALL).prop_flat_map(|key| {
        (any::<bool>(), vec(any_value(key), 1..4)).prop_map(move |(negated, values)| Word {
            negated,
            key,
            values,
        })
    });
    vec(word, 0..4).prop_map(|words| Expr { words }).boxed()
}

/// Mostly words that can be anchors.
fn anchored() -> BoxedStrategy<Expr> {
    let keys = vec![
        Key::Dport,
        Key::Port,
        Key::Lport,
        Key::Rport,
        Key::Sport,
        Key::Dst,
        Key::Laddr,
        Key::Raddr,
        Key::Ip,
        Key::Uid,
        Key::Exe,
        Key::Unit,
        Key::Proc,
        Key::User,
        Key::Kind,
        Key::Dir,
    ];
    let word = select(keys).prop_flat_map(|key| {
        let value = match key {
            Key::Dport | Key::Port | Key::Lport | Key::Rport | Key::Sport => bare(
                select(vec!["80", "443", "8080", "1-64", "1-65", "0", "<81", "79-81"])
                    .prop_map(str::to_owned),
            ),
            Key::Kind | Key::Dir | Key::Uid | Key::Dst | Key::Laddr | Key::Raddr | Key::Ip => any_value(key),
            _ => prop_oneof![
                4 => bare(select(vec!["nginx", "curl", "/usr/sbin/nginx", "/usr/bin/curl", "/usr/*", "/usr/bin/c?rl", "nginx.service"])
                    .prop_map(str::to_owned)),
                1 => any_value(key),
            ]
            .boxed(),
        };
        (prop::bool::weighted(0.1), vec(value, 1..3)).prop_map(move |(negated, values)| Word {
            negated,
            key,
            values,
        })
    });
    vec(word, 0..3).prop_map(|words| Expr { words }).boxed()
}

fn without_late_facts(mut event: Event) -> Event {
    let forget = |process: &mut Arc<ProcessInfo>| {
        *process = Arc::new(ProcessInfo { identity: Identity::default(), ..ProcessInfo::clone(process) });
    };
    let forget_all = |actors: &mut [Option<&mut Actor>]| {
        actors.iter_mut().flatten().filter_map(|actor| actor.process.as_mut()).for_each(forget);
    };
    match &mut event.body {
        EventBody::Flow(
            Change::Connect(conn)
            | Change::Accept(conn)
            | Change::Established(conn)
            | Change::Failed(conn, _),
        ) => forget_all(&mut [Some(&mut conn.owner), conn.listener.as_mut()]),
        EventBody::Flow(Change::Close(conn, ending)) => {
            forget_all(&mut [Some(&mut conn.owner), conn.listener.as_mut(), Some(&mut ending.closer)]);
        }
        EventBody::Flow(Change::Listen(listener)) => forget_all(&mut [Some(&mut listener.owner)]),
        EventBody::Flow(Change::Unlisten(listener, end)) => {
            forget_all(&mut [Some(&mut listener.owner), Some(&mut end.closer)]);
        }
        EventBody::Exec(of) | EventBody::Exit(of, _) => forget(&mut of.process),
        EventBody::Facts(of) => forget(&mut of.process),
        EventBody::Gap(_)
        | EventBody::Repair(_)
        | EventBody::Degraded(_)
        | EventBody::Heartbeat(_)
        | EventBody::Alert(_)
        | EventBody::Start(_)
        | EventBody::Sample(_)
        | EventBody::Clock => {}
    }
    event
}

fn compiled(expr: &Expr) -> Result<Filter, TestCaseError> {
    let filter = Filter::with_names(&expr.to_string(), &tests::names());
    filter.map_err(|error| TestCaseError::fail(error.to_string()))
}

fn without_spans(mut expr: Expr) -> Expr {
    for value in expr.words.iter_mut().flat_map(|word| &mut word.values) {
        value.span = 0..0;
    }
    expr
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_is_printed_reads_back(expr in any_expr()) {
        let printed = expr.to_string();
        prop_assert_eq!(without_spans(parse::parse(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?), expr);
    }

    #[test]
    fn compiled_equals_naive(expr in any_expr(), event in samples::any_event()) {
        let filter = compiled(&expr)?;
        let naive = Naive::of(&event);
        prop_assert_eq!(filter.matches(&event), expr.words.iter().all(|word| naive.holds(word)), "{}", expr);
    }

    #[test]
    fn a_trace_says_what_the_filter_says(expr in any_expr(), event in samples::any_event()) {
        let filter = compiled(&expr)?;
        let trace = filter.trace(&event, &tests::names());
        prop_assert_eq!(trace.len(), expr.words.len());
        prop_assert_eq!(trace.iter().all(|word| word.holds), filter.matches(&event), "{}", expr);
        for (word, written) in trace.iter().zip(&expr.words) {
            prop_assert_eq!(&word.word, &written.to_string());
            // It holds by a value that it looked at, and fails because none fits.
            let fits = matches!(&word.seen, Seen::Values(values) if values.iter().any(|value| value.fits));
            prop_assert_eq!(fits, word.holds != word.negated, "{}: {:?}", word.word, word.seen);
            // Ranges of ages that touch fit together what none fits alone.
            prop_assert!(written.key == Key::Age || fits != word.fitting.is_empty(), "{word:?}");
        }
    }

    #[test]
    fn what_matches_has_the_anchor(expr in anchored(), event in samples::any_event()) {
        let filter = compiled(&expr)?;
        for anchor in filter.anchors() {
            let mut fits = false;
            anchor::probes(&event, |probe| fits |= anchor.fits(probe));
            prop_assert!(fits || !filter.matches(&event), "{expr}: {anchor:?}");
            // One word and its anchor say the same; but that a text begins like a glob is not all.
            let exact = match &anchor {
                Anchor::Text(_, texts) => texts.prefixes.is_empty(),
                // Nor is an address all that a scoped one asks for.
                Anchor::Address(..) => !expr.to_string().contains('%'),
                _ => true,
            };
            if let ([_], true) = (&expr.words[..], exact) {
                prop_assert_eq!(fits, filter.matches(&event), "{}: {:?}", expr, anchor);
            }
        }
        if filter.matches(&event) {
            let direction = View::of(&event).socket.and_then(|socket| socket.direction);
            prop_assert!(filter.may_match(event.body.kind()) && filter.may_go(direction));
        }
    }

    #[test]
    fn late_facts_change_only_who_needs_them(expr in any_expr(), event in samples::any_event()) {
        let filter = compiled(&expr)?;
        if !filter.needs_late_facts() {
            prop_assert_eq!(filter.matches(&event), filter.matches(&without_late_facts(event)), "{}", expr);
        }
    }

    #[test]
    fn a_zone_of_an_address_has_it(bits in any::<u128>(), v4 in any::<bool>()) {
        let ip: std::net::IpAddr =
            if v4 { std::net::Ipv4Addr::from(bits as u32).into() } else { std::net::Ipv6Addr::from(bits).into() };
        let names = tests::names();
        let zone = names.zone(names.zone_of(ip)).expect("a zone");
        prop_assert!(zone.contains(ip));
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        refused_or_stable(&text)?;
    }

    #[test]
    fn long_texts_are_read_or_refused(word in "(-?(port|proc|exe|dst|duration):[@<>=/\"]?[a-z0-9\\[\\]{},*.-]{0,12} ?)", times in 1..8_000_usize) {
        let text = word.repeat(times);
        refused_or_stable(&text[..text.len().min(64 << 10)])?;
    }

    #[test]
    fn near_texts_are_read_or_refused(text in "(-?(port|proc|exe|dst|kind|errno|duration|bytes_in|x):?[@<>=]{0,2}[a-z0-9/\"\\\\,{}\\[\\]*. :-]{0,12} ?){0,4}") {
        refused_or_stable(&text)?;
    }
}

/// No text panics, an error can be shown, and a filter means the same after printing.
fn refused_or_stable(text: &str) -> Result<(), TestCaseError> {
    match Filter::with_names(text, &tests::names()) {
        Ok(filter) => {
            let printed = filter.to_string();
            let again = parse::parse(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(without_spans(again), without_spans(parse::parse(text).expect("it was read")));
        }
        Err(error) => {
            let shown = error.to_string();
            prop_assert!(
                !shown.lines().any(|line| line.chars().any(crate::event::escape::is_hidden)),
                "{shown:?}"
            );
            prop_assert!(shown.contains('^'));
        }
    }
    Ok(())
}

#[test]
fn a_long_filter_is_refused_quickly() {
    assert!(Filter::new(&"port:1,".repeat(100_000)).is_err());
    let many = format!("port:1{}", ",1".repeat(5_000));
    assert!(Filter::new(&many).is_ok());
    let regexes = "proc:/a{1,9}/ ".repeat(900);
    let error = Filter::new(&regexes).expect_err("many regular expressions");
    assert!(error.message.contains("regular expressions"), "{error}");
}

#[test]
fn lists_cannot_make_a_filter_endless() {
    let mut names = Names::builtin().clone();
    names.set_list("x", vec!["nginx".to_owned(); 1_000]).expect("a name");
    assert!(Filter::with_names(&"proc:@x ".repeat(50), &names).is_ok());
    let error = Filter::with_names(&"proc:@x ".repeat(100), &names).expect_err("too many values");
    assert!(error.message.contains("more than 65536 values"), "{error}");
}
