//! Rule files: folders of `*.toml` become a [`RuleSet`]. Reference: `docs/rules.md`.
//!
//! Files are read in the order of their names, folder after folder. A zone or list of a later file replaces
//! the earlier one of that name, a rule that of its id, and an `[[override]]` changes single keys. Then
//! everything is compiled. All that is wrong is reported at once; a set with an error is none. `[[test]]`
//! tables are kept as source: who runs them reads them, and adds what is wrong with them.

mod baseline;
mod compile;
mod draft;
mod error;
mod keys;
mod naming;
#[cfg(test)]
mod page;
mod shape;
pub mod source;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use self::compile::Compiler;
use self::draft::Draft;
pub(crate) use self::error::{At, Problem, Problems};
pub use self::error::{Place, RuleError, RuleErrors};
pub(crate) use self::text::Texts;
pub(crate) use self::value::{Field, Node, Value, find};
use super::baseline::{Baseline, Window};
use super::defaults::texts as defaults;
use super::host::Host;
use super::model::Rule;
use super::set::RuleSet;
use crate::event::escape;
use crate::filter::Names;
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;

/// What was found in rule files.
#[derive(Debug)]
pub struct Checked {
    /// Each file with the number of its rules, in the order in which they were read.
    pub files: Vec<(PathBuf, usize)>,
    /// The rules that are active, or all that is wrong.
    pub rules: Result<RuleSet, RuleErrors>,
    /// Rules that are right but not active (`enabled = false`).
    pub off: Vec<Arc<Rule>>,
    /// What is allowed and hardly meant, such as no rule at all; one line each.
    pub warnings: Vec<String>,
    /// The text of each file, in the same order: what was compiled, whatever becomes of the files.
    pub texts: Vec<(PathBuf, String)>,
}

/// Rule files that were compiled, while errors of their tests can still be added.
#[derive(Debug)]
pub struct Compiled {
    files: Vec<(PathBuf, usize)>,
    rules: RuleSet,
    off: Vec<Arc<Rule>>,
    warnings: Vec<String>,
    /// The values of `test`, one for each file that has it.
    tests: Vec<Node>,
    /// The ids of all rules, with whether they are enabled; `None`: not all rules could be read.
    ids: Option<HashMap<String, bool>>,
    texts: Texts,
    problems: Problems,
    errors: RuleErrors,
}

/// The tests of rule files as they were written, with what a reader of them needs.
#[derive(Debug)]
pub(crate) struct TestSource<'a> {
    /// The values of `test`, one for each file that has it.
    pub(crate) tables: &'a [Node],
    /// The ids of all rules, with whether they are enabled; `None`: not all rules could be read, so a missing
    /// one is no error.
    pub(crate) rules: Option<&'a HashMap<String, bool>>,
    /// The texts, for places in them.
    pub(crate) texts: &'a Texts,
    /// Takes what is wrong.
    pub(crate) problems: &'a mut Problems,
}

impl Compiled {
    /// Returns the tests as source.
    pub(crate) const fn tests(&mut self) -> TestSource<'_> {
        let Self { tests, ids, texts, problems, .. } = self;
        TestSource { tables: tests.as_slice(), rules: ids.as_ref(), texts, problems }
    }

    /// Looks up the place of each error; with one, no rule is active.
    pub fn finish(self) -> Checked {
        let Self { files, rules, off, mut warnings, texts, problems, mut errors, .. } = self;
        texts.report(problems, &mut errors);
        if errors.is_empty() && rules.rules.is_empty() {
            warnings.push(match off.len() {
                0 => "no rule is active: there are none".to_owned(),
                disabled => format!("no rule is active: all {disabled} are disabled"),
            });
        }
        let texts = texts.into_first(files.len());
        Checked {
            files,
            rules: if errors.is_empty() { Ok(rules) } else { Err(errors) },
            off,
            warnings,
            texts,
        }
    }
}

/// Reads rule folders (or single files). The zones of every filter, those of this host and the lists of the
/// default rules are there to be named; the default rules are only if a file says `use = "defaults"`. Tests
/// are not looked at.
///
/// # Errors
/// Everything that is wrong with files and rules; then nothing is loaded.
pub fn load(paths: &[PathBuf], host: &Host) -> Result<RuleSet, RuleErrors> {
    read(paths, host).rules
}

/// Reads rule folders as [`load`] does, and returns also what was read and what is hardly meant.
pub fn read(paths: &[PathBuf], host: &Host) -> Checked {
    compile(paths, host).finish()
}

/// Compiles the rules of folders (or single files), and keeps the tests as source.
pub fn compile(paths: &[PathBuf], host: &Host) -> Compiled {
    let mut errors = RuleErrors::default();
    let mut texts = Texts::default();
    let mut warnings = Vec::new();
    for path in paths {
        let before = texts.len();
        texts.read(path, &mut errors);
        if texts.len() == before && errors.is_empty() {
            warnings.push(format!("{}: there is no rule file (*.toml) in this folder", escape::path(path)));
        }
    }
    warnings.append(&mut texts.warnings);
    let mut compiled = assemble(texts, errors, host, false);
    compiled.warnings.splice(..0, warnings);
    compiled
}

/// Compiles texts as if they were the rule files, each with its name. `defaults`: the default rules are there
/// too, whether or not a text says so.
pub fn compile_texts(texts: &[(&str, &str)], host: &Host, defaults: bool) -> Compiled {
    let mut all = Texts::default();
    for (name, text) in texts {
        all.add(PathBuf::from(name), (*text).to_owned());
    }
    assemble(all, RuleErrors::default(), host, defaults)
}

/// The default rules, and nothing else.
///
/// # Errors
/// None but by a mistake in this program: a test compiles them.
pub(super) fn built_in(host: &Host) -> Result<RuleSet, RuleErrors> {
    compile_texts(&[], host, true).finish().rules
}

/// A file, read.
#[derive(Debug, Default)]
struct Document {
    zones: Option<Node>,
    lists: Option<Node>,
    baseline: Option<Node>,
    rules: Vec<Draft>,
    overrides: Vec<Draft>,
    tests: Option<Node>,
    /// It says `use = "defaults"`.
    uses_defaults: bool,
    /// It is not TOML all through: what it lacks may be there once it is.
    broken: bool,
}

/// Compiles all texts. `defaults`: the default rules are there, whether or not a file says so.
fn assemble(mut texts: Texts, errors: RuleErrors, host: &Host, defaults: bool) -> Compiled {
    let mut problems = Problems::default();
    let files = texts.len();
    for (name, text) in defaults::FILES {
        texts.add(PathBuf::from(format!("{name} (built in)")), (*text).to_owned());
    }
    let mut documents: Vec<Document> =
        (0..texts.len()).map(|number| document(texts.text(number), number, &mut problems)).collect();
    let tests = documents.iter_mut().take(files).filter_map(|document| document.tests.take()).collect();
    let (own, built_in) = documents.split_at(files);
    let defaults = defaults || own.iter().any(|document| document.uses_defaults);
    // A file that could not be read may have what seems to be missing.
    let broken = !errors.is_empty() || own.iter().any(|document| document.broken);

    let names = names(built_in.iter().chain(own), host, &mut problems);
    let rules = if defaults { built_in } else { &[] };
    let drafts = drafts(rules.iter().chain(own), broken, &mut problems);
    let ids = built_in.iter().flat_map(|document| &document.rules).chain(&drafts);
    let ids = ids.map(|draft| draft.id.as_str()).collect();
    let mut compiler = Compiler { names: &names, texts: &texts, problems: &mut problems, ids };
    let mut warnings = Vec::new();
    let (mut enabled, mut off) = (Vec::with_capacity(drafts.len()), Vec::new());
    for (rule, is_enabled) in drafts.iter().filter_map(|draft| compiler.rule(draft)) {
        if is_enabled {
            enabled.push(Arc::new(rule));
        } else {
            off.push(Arc::new(rule));
        }
    }
    let baseline = baseline(own, &names, &mut warnings, &texts, &mut problems);
    if baseline.is_empty() {
        for rule in enabled.extract_if(.., |rule: &mut Arc<Rule>| rule.asks_baseline()) {
            warnings.push(format!(
                "the rule {} is not active: it asks for a baseline, and there is no entry of one (see `conn learn`)",
                quoted(&rule.about.id)
            ));
            off.push(rule);
        }
    }
    let counts = own
        .iter()
        .enumerate()
        .map(|(number, document)| (texts.path(number).to_owned(), document.rules.len()));
    let files = counts.collect();
    let ids = (!broken).then(|| {
        let named = drafts.iter().filter(|draft| draft.is_named());
        named.map(|draft| (draft.id.clone(), draft.is_enabled())).collect()
    });
    let rules = RuleSet { rules: enabled, names: Arc::new(names), baseline: Arc::new(baseline) };
    Compiled { files, rules, off, warnings, tests, ids, texts, problems, errors }
}

/// Reads a text as far as one can without the others.
fn document(text: &str, number: usize, problems: &mut Problems) -> Document {
    let (fields, errors) = value::parse(text, number);
    let mut document = Document { broken: !errors.is_empty(), ..Document::default() };
    // What follows from what could not be read is not reported.
    let mut ignored = Problems::default();
    for error in errors {
        problems.push(error);
    }
    let problems = if document.broken { &mut ignored } else { problems };
    let mut ids = HashSet::new();
    for Field { name, at, node } in fields {
        match name.as_str() {
            "zones" => document.zones = Some(node),
            "lists" => document.lists = Some(node),
            "baseline" => document.baseline = Some(node),
            "rule" => document.rules = many("rule", node, problems),
            "test" => document.tests = (!document.broken).then_some(node),
            "override" => document.overrides = many("override", node, problems),
            "use" => match &node.value {
                Value::Text(text) if text == "defaults" => document.uses_defaults = true,
                _ => problems.push(Problem::new(
                    &node.at,
                    "there is nothing of this name to use",
                    "use = \"defaults\"",
                )),
            },
            _ => {
                let known = ["zones", "lists", "rule", "override", "test", "baseline", "use"];
                let near =
                    nearest(&name, known).map_or_else(String::new, |near| format!("did you mean `{near}`? "));
                let help = format!(
                    "{near}a rule file has [zones], [lists], [[rule]], [[override]], [[test]], [[baseline.connection]] and its like, and use = \"defaults\""
                );
                problems.push(Problem::new(&at, format!("unknown key {}", quoted(&name)), help));
            }
        }
    }
    document.rules.retain(|draft| {
        let first = !draft.is_named() || ids.insert(draft.id.clone());
        if !first {
            let message = format!("the id {} is used twice in this file", quoted(&draft.id));
            problems.push(Problem::new(&draft.at, message, "give one of the rules another id"));
        }
        first
    });
    if document.broken {
        document.rules.clear();
        document.overrides.clear();
    }
    document
}

fn many(what: &str, node: Node, problems: &mut Problems) -> Vec<Draft> {
    let takes = format!("[[{what}]] and the keys below it");
    let Value::Array(nodes) = node.value else {
        problems.push(node.wrong(what, &takes));
        return Vec::new();
    };
    nodes.into_iter().filter_map(|node| Draft::new(what, node, problems)).collect()
}

fn names<'a>(documents: impl Iterator<Item = &'a Document>, host: &Host, problems: &mut Problems) -> Names {
    let mut names = Names::builtin().clone();
    host.name_in(&mut names);
    let mut ignored = Problems::default();
    for document in documents {
        let problems = if document.broken { &mut ignored } else { &mut *problems };
        if let Some(zones) = &document.zones {
            naming::zones(zones, &mut names, problems);
        }
        if let Some(lists) = &document.lists {
            naming::lists(lists, &mut names, problems);
        }
    }
    names
}

/// The entries of all files.
fn baseline(
    documents: &[Document],
    names: &Names,
    warnings: &mut Vec<String>,
    texts: &Texts,
    problems: &mut Problems,
) -> Baseline {
    let (mut entries, mut windows) = (Vec::new(), Vec::<Window>::new());
    for (number, document) in documents.iter().enumerate().filter(|(_, document)| !document.broken) {
        let Some(node) = &document.baseline else { continue };
        let before = windows.len();
        baseline::read(node, names, &mut entries, &mut windows, problems);
        let lost = windows[before..].iter().fold(0_u64, |lost, window| lost.saturating_add(window.lost));
        if lost > 0 {
            warnings.push(format!(
                "{}: {lost} records were lost while this baseline was learnt; what it lacks may be normal",
                escape::path(texts.path(number))
            ));
        }
    }
    Baseline::new(entries, windows)
}

fn drafts<'a>(
    documents: impl Iterator<Item = &'a Document> + Clone,
    broken: bool,
    problems: &mut Problems,
) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for draft in documents.clone().flat_map(|document| &document.rules) {
        if let Some(place) = places.get(draft.id.as_str()) {
            drafts[*place] = draft.clone();
        } else {
            if draft.is_named() {
                places.insert(&draft.id, drafts.len());
            }
            drafts.push(draft.clone());
        }
    }
    for change in documents.flat_map(|document| &document.overrides) {
        change.check_override(problems);
        match places.get(change.id.as_str()) {
            Some(place) => drafts[*place].change(change.clone()),
            None if broken || !change.is_named() => {}
            None => {
                let near = nearest(&change.id, places.keys().copied());
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "the default rules are there to be overridden with use = \"defaults\"; \
                             `conn check --defaults` prints them"
                        .to_owned(),
                };
                problems.push(Problem::new(
                    &change.at,
                    format!("there is no rule {}", quoted(&change.id)),
                    help,
                ));
            }
        }
    }
    drafts
}
