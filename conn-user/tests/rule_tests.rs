//! `conn test` as people and CI systems run it: exit codes, what is printed, and the report. No kernel, no privileges.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

const RULES: &str = "[[rule]]
id = 'shell'
kind = 'process'
find = 'network'
match = 'proc:bash dst:external'
";

const GOOD: &str = "[[test]]
name = 'a shell outside'
events = ['open /usr/bin/bash -> 203.0.113.9:4444', '+1h']
expect = ['raised shell medium at 0s']
";

const BAD: &str = "[[test]]
name = 'a shell inside'
events = ['open /usr/bin/bash -> 10.0.0.9:4444', '+1h']
expect = ['raised shell']
";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("conn-test-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("rules")).expect("a folder");
        for (file, text) in files {
            fs::write(path.join("rules").join(file), text).expect("a file");
        }
        Self(path)
    }

    /// Exit code, standard output, standard error.
    fn conn(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_conn"))
            .args(args)
            .current_dir(&self.0)
            .output()
            .expect("conn runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn one_passes_and_one_fails() {
    let folder = Folder::new("both", &[("a.toml", RULES), ("tests.toml", &format!("{GOOD}{BAD}"))]);
    let (code, out, _) = folder.conn(&["test", "rules", "--junit", "report.xml"]);
    let expected = "\
FAILED rules/tests.toml:5: a shell inside: 1 expected alert not reported
    expected and not reported: raised shell
    nothing was reported
    shell:
      at 0s, connect (open /usr/bin/bash -> 10.0.0.9:4444): its match does not hold
        holds  proc:bash     proc is bash
        no     dst:external  dst is 10.0.0.9
    the test ended at 1h

test result: FAILED. 1 passed; 1 failed
";
    assert_eq!((code, out.as_str()), (1, expected));
    let report = fs::read_to_string(folder.0.join("report.xml")).expect("a report");
    for part in [r#"tests="2""#, r#"failures="1""#, "a shell outside", "no     dst:external  dst is 10.0.0.9"]
    {
        assert!(report.contains(part), "{part} in {report}");
    }

    let (code, out, _) = folder.conn(&["test", "rules", "--json"]);
    let reported: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &reported["kind"], &reported["ok"]), (1, &"test".into(), &false.into()));
    assert_eq!(
        (&reported["passed"], &reported["failed"], &reported["left_out"]),
        (&1.into(), &1.into(), &0.into())
    );
    let (good, bad) = (&reported["tests"][0], &reported["tests"][1]);
    assert_eq!(
        (&good["ok"], &good["name"], &good["message"]),
        (&true.into(), &"a shell outside".into(), &serde_json::Value::Null)
    );
    assert_eq!((&bad["file"], &bad["line"]), (&"rules/tests.toml".into(), &5.into()));
    assert_eq!(bad["message"], "1 expected alert not reported");
    assert!(
        bad["details"].as_str().is_some_and(|text| text.contains("no     dst:external  dst is 10.0.0.9"))
    );

    let (code, out, _) = folder.conn(&["test", "rules", "--filter", "outside"]);
    assert_eq!((code, out.as_str()), (0, "test result: ok. 1 passed; 0 failed; 1 left out\n"));
    let (code, _, error) = folder.conn(&["test", "rules", "--filter", "nowhere"]);
    assert!(code == 1 && error.contains("none of 2 tests"), "{code} {error}");
    // Other commands take the files too.
    let (code, out, _) = folder.conn(&["check", "rules"]);
    assert!(code == 0 && out.ends_with("1 rule ok\n"), "{code} {out}");
}

#[test]
fn nothing_to_test_is_no_success() {
    let folder = Folder::new("none", &[("a.toml", RULES)]);
    let (code, out, error) = folder.conn(&["test", "rules"]);
    assert!(
        code == 1 && out.contains("NOTHING TESTED") && error.contains("there is no test"),
        "{code} {out} {error}"
    );
}

#[test]
fn wrong_files_are_reported_and_nothing_is_run() {
    let folder = Folder::new("wrong", &[("a.toml", RULES), ("tests.toml", &GOOD.replace("open", "opne"))]);
    for command in ["test", "check"] {
        let (code, out, error) = folder.conn(&[command, "rules"]);
        assert_eq!((code, out.as_str()), (2, ""), "{command}");
        assert!(
            error.contains("rules/tests.toml:3:12: `opne` is no event") && error.contains("`open`?"),
            "{error}"
        );
    }
}

#[test]
fn the_default_rules_pass() {
    let folder = Folder::new(
        "defaults",
        &[(
            "a.toml",
            &format!(
                "use = \"defaults\"\n{}",
                GOOD.replace("shell medium", "process.shell")
                    .replace("expect", "rules = ['process.shell']\nexpect")
            ),
        )],
    );
    let (code, out, error) = folder.conn(&["test", "--defaults"]);
    assert!(
        code == 0 && out.starts_with("test result: ok. ") && out.ends_with("; 0 failed\n"),
        "{code} {out} {error}"
    );
    let (code, out, error) = folder.conn(&["test", "rules"]);
    assert_eq!((code, out.as_str()), (0, "test result: ok. 1 passed; 0 failed\n"), "{error}");
}
