//! Reports in the XML of JUnit, which every CI system shows.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::event::escape;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed {
        /// In one line.
        message: String,
        /// All of it.
        details: String,
    },
    /// It was not judged.
    Skipped {
        /// Why.
        why: String,
    },
}

/// One thing that was tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What it belongs to, as a file or a command.
    pub class: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, where that says something.
    pub took: Option<Duration>,
}

/// The report of one suite of cases, as Jenkins' schema (junit-10.xsd of the xUnit plugin) has it. Texts may hold any bytes that
/// were lossily made text: what acts on a terminal is escaped, and so is what XML cannot hold.
///
/// # Errors
/// None that is known: the text is written to memory.
pub fn report(suite: &str, cases: &[Case]) -> io::Result<Vec<u8>> {
    let count =
        |is_it: fn(&Outcome) -> bool| cases.iter().filter(|case| is_it(&case.outcome)).count().to_string();
    let tests = cases.len().to_string();
    let failures = count(|outcome| matches!(outcome, Outcome::Failed { .. }));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    let counts = [("tests", &*tests), ("failures", &*failures), ("errors", "0")];
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 4);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    // Only a suite counts what was skipped: the schema has no such attribute of all suites together.
    writer
        .create_element("testsuites")
        .with_attribute(("name", "conn"))
        .with_attributes(counts)
        .write_inner_content(|writer| {
            let name = shown(suite);
            let suite = writer.create_element("testsuite").with_attribute(("name", &*name));
            suite
                .with_attributes(counts)
                .with_attribute(("skipped", &*skipped))
                .write_inner_content(|writer| cases.iter().try_for_each(|case| write_case(case, writer)))?;
            Ok(())
        })?;
    let mut out = writer.into_inner();
    out.push(b'\n');
    Ok(out)
}

fn write_case(case: &Case, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let (name, class) = (shown(&case.name), shown(&case.class));
    let mut element = writer.create_element("testcase");
    element = element.with_attributes([("name", &*name), ("classname", &*class)]);
    if let Some(took) = case.took {
        element = element.with_attribute(("time", &*format!("{:.3}", took.as_secs_f64())));
    }
    match &case.outcome {
        Outcome::Passed => element.write_empty()?,
        Outcome::Failed { message, details } => element.write_inner_content(|writer| {
            let details = details.lines().map(shown).collect::<Vec<_>>().join("\n");
            let failure = writer.create_element("failure").with_attribute(("message", &*shown(message)));
            failure.write_text_content(BytesText::new(&details))?;
            Ok(())
        })?,
        Outcome::Skipped { why } => element.write_inner_content(|writer| {
            writer.create_element("skipped").with_attribute(("message", &*shown(why))).write_empty()?;
            Ok(())
        })?,
    };
    Ok(())
}

/// Writes the report of a suite to a file, over what is there.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, suite: &str, cases: &[Case]) -> io::Result<()> {
    fs::write(path, report(suite, cases)?)
}

fn shown(text: &str) -> String {
    // The last characters that XML 1.0 cannot hold; the others act on a terminal, too.
    escape::string(text.as_bytes()).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_escapes_and_keeps_lines() {
        let case = |name: &str, outcome| Case {
            name: name.to_owned(),
            class: "rules/a.toml".to_owned(),
            outcome,
            took: None,
        };
        let cases = [
            case("a <b> & \"c\"", Outcome::Passed),
            case(
                "d\u{1b}[31m",
                Outcome::Failed { message: "no ]]>".to_owned(), details: "one\ntwo \u{202e}".to_owned() },
            ),
            Case {
                took: Some(Duration::from_millis(1500)),
                ..case("e", Outcome::Skipped { why: "no kernel".to_owned() })
            },
        ];
        let text = String::from_utf8(report("tests", &cases).expect("a report")).expect("UTF-8");
        assert!(text.contains(r#"tests="3""#) && text.contains(r#"failures="1""#), "{text}");
        assert!(text.contains("a &lt;b&gt; &amp; &quot;c&quot;"), "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains("one\ntwo"),
            "{text}"
        );
        assert!(text.contains(r#"time="1.500""#) && text.contains("no kernel"), "{text}");
    }

    /// An element: its name, its attributes, those that it must have, and its children.
    type Element = (&'static str, Names, Names, Names);
    type Names = &'static [&'static str];

    /// What an element may have, by junit-10.xsd of Jenkins' xUnit plugin: its attributes, those that it must have, and its children.
    const SCHEMA: [Element; 5] = [
        ("testsuites", &["name", "time", "tests", "failures", "disabled", "errors"], &[], &["testsuite"]),
        (
            "testsuite",
            &[
                "name",
                "tests",
                "failures",
                "errors",
                "time",
                "disabled",
                "skipped",
                "timestamp",
                "hostname",
                "id",
                "package",
            ],
            &["name", "tests"],
            &["properties", "testcase", "system-out", "system-err"],
        ),
        (
            "testcase",
            &["name", "assertions", "time", "classname", "status", "class", "file", "line"],
            &["name"],
            &["skipped", "error", "failure", "system-out", "system-err"],
        ),
        ("failure", &["type", "message"], &[], &[]),
        ("skipped", &["type", "message"], &[], &[]),
    ];

    /// Checks one report against [`SCHEMA`].
    fn validate(text: &str) {
        let rule = |name: &str| SCHEMA.iter().find(|(of, ..)| *of == name).expect("an element of the schema");
        let mut reader = quick_xml::Reader::from_str(text);
        let mut open: Vec<String> = Vec::new();
        loop {
            let event = reader.read_event().expect("XML");
            let is_start = matches!(event, Event::Start(_));
            match event {
                Event::Start(element) | Event::Empty(element) => {
                    let name = String::from_utf8(element.name().as_ref().to_vec()).expect("UTF-8");
                    let (_, allowed, required, _) = rule(&name);
                    match open.last() {
                        Some(parent) => assert!(rule(parent).3.contains(&&*name), "{name} in {parent}"),
                        None => assert_eq!(name, "testsuites"),
                    }
                    let attributes: Vec<_> = element
                        .attributes()
                        .map(|attribute| {
                            let attribute = attribute.expect("an attribute");
                            let key = String::from_utf8(attribute.key.as_ref().to_vec()).expect("UTF-8");
                            let counted = ["tests", "failures", "errors", "skipped"].contains(&&*key);
                            let number = std::str::from_utf8(&attribute.value).expect("UTF-8").parse::<u64>();
                            assert!(!counted || number.is_ok(), "{key}");
                            key
                        })
                        .collect();
                    assert!(attributes.iter().all(|key| allowed.contains(&&**key)), "{name}: {attributes:?}");
                    assert!(required.iter().all(|key| attributes.iter().any(|has| has == key)), "{name}");
                    if is_start {
                        open.push(name);
                    }
                }
                Event::End(_) => drop(open.pop()),
                Event::Eof => return,
                _ => {}
            }
        }
    }

    #[test]
    fn every_report_is_valid_by_the_schema_of_jenkins() {
        let case = |outcome| Case {
            name: "a\u{ffff}<\u{0}".to_owned(),
            class: "b\n\"c\"".to_owned(),
            outcome,
            took: Some(Duration::from_nanos(1)),
        };
        let cases = [
            case(Outcome::Passed),
            case(Outcome::Failed { message: "<&\u{fffe}".to_owned(), details: "x\u{1b}\ny".to_owned() }),
            case(Outcome::Skipped { why: "z".to_owned() }),
        ];
        for cases in [&cases[..], &[]] {
            let text = String::from_utf8(report("s", cases).expect("a report")).expect("UTF-8");
            validate(&text);
            let is_allowed = |c: char| c == '\n' || (c >= ' ' && !('\u{fffe}'..='\u{ffff}').contains(&c));
            assert!(text.chars().all(is_allowed), "{text:?}");
        }
    }
}
