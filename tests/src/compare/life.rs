//! Puts the facts of one connection or listener together.

use std::collections::{HashMap, HashSet};

use crate::compare::Truth;
use crate::truth::{Fact, Kind, Via};

/// The facts of one connection or one listener, as indices into [`Truth::facts`], in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The facts.
    pub facts: Vec<usize>,
}

impl Life {
    /// The fact with which it began: connect, accept or listen; none when nobody accepted it or it is too old.
    pub fn begin<'a>(&self, truth: &'a Truth) -> Option<&'a Fact> {
        self.facts.iter().map(|&f| &truth.facts[f]).find(|f| begins(f.kind))
    }
}

const fn begins(kind: Kind) -> bool {
    matches!(kind, Kind::Connect | Kind::Accept | Kind::Listen)
}

/// Each fact belongs to the latest life of its socket ends that has no fact of its kind yet; the facts are in order.
pub fn lives(facts: &[Fact]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut of_ends: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, fact) in facts.iter().enumerate() {
        // Two processes that listen on one port are distinguished by who listens.
        let listener = fact.kind.is_listener().then_some(fact.pid);
        let here = of_ends.entry((&fact.sock, fact.dir, listener)).or_default();
        let lacks = |life: usize| !lives[life].facts.iter().any(|&f| facts[f].kind == fact.kind);
        let open = here.iter().copied().rfind(|&life| lacks(life)).or_else(|| {
            // A listener may be destroyed by another process than its own.
            let others = fact.kind == Kind::Unlisten;
            others.then(|| lives.iter().rposition(|life| listens_still(facts, life, fact))).flatten()
        });
        match open {
            Some(life) if !begins(fact.kind) => lives[life].facts.push(i),
            _ => {
                here.push(lives.len());
                lives.push(Life { facts: vec![i] });
            }
        }
    }
    lives
}

/// Whether it is a listener with this fact's address that has no end yet.
fn listens_still(facts: &[Fact], life: &Life, end: &Fact) -> bool {
    let [listen] = life.facts[..] else { return false };
    facts[listen].kind == Kind::Listen && facts[listen].sock == end.sock
}

/// What is wrong with the truth itself: a workload that contradicts itself proves nothing.
pub fn contradictions(truth: &Truth) -> Vec<String> {
    let mut wrong = Vec::new();
    if truth.facts.is_empty() {
        wrong.push("no facts at all".to_owned());
    }
    for fact in &truth.facts {
        if fact.until_ns < fact.from_ns {
            wrong.push(format!("ends before it begins: {}", super::brief(fact)));
        }
        if let Some(pid) = fact.pid
            && truth.image(pid, fact.from_ns).is_none()
        {
            wrong.push(format!("nobody reported process {pid}: {}", super::brief(fact)));
        }
    }
    for life in lives(&truth.facts) {
        let kinds: Vec<_> = life.facts.iter().map(|&f| truth.facts[f].kind).collect();
        let first = &truth.facts[life.facts[0]];
        let whole = match kinds.as_slice() {
            [Kind::Connect, Kind::Established, Kind::Close]
            | [Kind::Connect, Kind::Failed]
            | [Kind::Accept, Kind::Close]
            | [Kind::Listen, Kind::Unlisten] => true,
            [Kind::Close] => first.early || first.end == Some(crate::truth::End::NeverAccepted),
            [Kind::Unlisten] => first.early,
            _ => false,
        };
        if !whole {
            wrong.push(format!("{kinds:?} is no whole life: {}", super::brief(first)));
        }
    }
    // Each established connection has another end.
    // Which may be in another network namespace.
    let ends = |f: &Fact| (f.sock.lport, f.sock.remote.map(|r| r.port()));
    let accepted = truth.facts.iter().filter(|f| f.dir == Some(crate::truth::Dir::In));
    let accepted: HashSet<_> = accepted.map(ends).collect();
    for out in truth.facts.iter().filter(|f| f.kind == Kind::Established) {
        let (local, remote) = ends(out);
        let other = accepted.contains(&(remote, local));
        let to_self = out.sock.remote.is_some_and(|r| Some(r.port()) == out.sock.lport);
        if !other && !to_self && out.via != Via::DeferAccept {
            wrong.push(format!("no other end: {}", super::brief(out)));
        }
    }
    wrong
}
