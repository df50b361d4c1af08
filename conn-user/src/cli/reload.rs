//! Loads rules again while the agent runs, without keeping the thread that reads records.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::emit;
use super::rules::RuleChoice;
use crate::filter::Names;
use crate::rules::{Layout, RuleSet, Staged};
use crate::service::protocol::RuleSources;
use crate::service::server::State;

/// How long rules may be read before that is reported: a later SIGHUP waits for them.
const LONG: Duration = Duration::from_secs(10);

/// Loads rules and hands them to the agent.
pub(super) struct Reloader {
    choice: RuleChoice,
    /// Whether no rule at all is meant.
    allow_empty: bool,
    /// The active rules.
    active: Arc<Layout>,
    agent: mpsc::Sender<Staged>,
    /// Where clients ask for the rules.
    socket: Option<Arc<State>>,
}

impl Reloader {
    /// Of these rules, into an agent that has the active ones.
    pub(super) const fn new(
        choice: RuleChoice,
        allow_empty: bool,
        active: Arc<Layout>,
        agent: mpsc::Sender<Staged>,
    ) -> Self {
        Self { choice, allow_empty, active, agent, socket: None }
    }

    /// Lets clients know which rules are active.
    pub(super) fn with_socket(mut self, socket: Option<Arc<State>>) -> Self {
        self.socket = socket;
        self
    }

    /// Loads the rules, and waits until they are active. Where they cannot be, that is reported, and the rules from before stay.
    pub(super) async fn reload(&mut self) {
        let (choice, active, allow_empty) = (self.choice.clone(), Arc::clone(&self.active), self.allow_empty);
        // To read and compile many rules takes seconds.
        let mut loading = tokio::task::spawn_blocking(move || load(&choice, &active, allow_empty));
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            () = tokio::time::sleep(LONG) => {
                let long = LONG.as_secs();
                emit(format_args!(
                    "the rules are still being read after {long} s: there are very many, or their file system does not \
                     answer; the previous rules stay active until then"
                ));
                loading.await
            }
        };
        let Ok(Some((staged, sources, names))) = loaded else {
            return emit("the previous rules stay active");
        };
        let layout = Arc::clone(staged.layout());
        let (began, ended) = staged.changes();
        let (replaced, retired) = oneshot::channel();
        let staged = staged.when_replaced(Box::new(move |old| drop(replaced.send(old))));
        // An agent that ends takes no more.
        if self.agent.send(staged).await.is_err() {
            return;
        }
        let Ok(retired) = retired.await else { return };
        self.active = layout;
        if let Some(socket) = &self.socket {
            socket.set_rules(sources, names);
        }
        let count = self.active.len();
        emit(format_args!("{count} rules active: {began} added, {ended} removed"));
        // Not here: they may have much in memory.
        drop(tokio::task::spawn_blocking(move || drop(retired)));
    }
}

/// The rules, ready to take over; `None`: what is wrong was reported.
fn load(
    choice: &RuleChoice,
    active: &Arc<Layout>,
    allow_empty: bool,
) -> Option<(Staged, RuleSources, Arc<Names>)> {
    let (rules, sources) = choice.load_with_sources().ok()??;
    if let Some(why) = refused(&rules, active, allow_empty) {
        emit(why);
        return None;
    }
    Some((active.stage(&rules), sources, rules.names))
}

/// Why rules do not take over. A folder that is being replaced, or is not mounted, looks like one without rules: that must not
/// switch detection off.
fn refused(rules: &RuleSet, active: &Layout, allow_empty: bool) -> Option<&'static str> {
    (rules.rules.is_empty() && !active.is_empty() && !allow_empty).then_some(
        "there is no enabled rule in the rule folders; if that is meant, set `allow_empty_rules = true` in the \
         configuration and restart",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::defaults;
    use crate::rules::host::Host;

    #[test]
    fn no_rules_take_over_only_where_that_is_meant() {
        let some = defaults::set(&Host::default()).expect("the default rules");
        let none = RuleSet { rules: Vec::new(), ..some.clone() };
        let empty = Arc::new(Layout::default());
        let active = Arc::clone(empty.stage(&some).layout());
        assert!(refused(&none, &active, false).is_some_and(|why| why.contains("allow_empty_rules")));
        assert!(refused(&none, &active, true).is_none() && refused(&some, &active, false).is_none());
        assert!(refused(&none, &empty, false).is_none(), "there are none that could stay");
    }

    /// The agent's thread gets them ready, and the rules from before come back to be dropped.
    #[tokio::test(flavor = "current_thread")]
    async fn a_reload_is_done_when_the_agent_has_taken_it() {
        let (agent, mut staged) = mpsc::channel(1);
        let active = Arc::new(Layout::default());
        let mut reloader = Reloader::new(RuleChoice::Default, false, Arc::clone(&active), agent);
        let mut engine = crate::rules::Engine::new(&active.set(), crate::units::BootNs(0));
        reloader.active = Arc::clone(engine.layout());
        let take = async {
            let staged: Staged = staged.recv().await.expect("rules");
            assert!(staged.is_based_on(engine.layout()), "nothing is left to be compared");
            engine.apply(staged, crate::units::BootNs(1), [], &crate::session::Living::default());
        };
        tokio::join!(reloader.reload(), take);
        assert!(Arc::ptr_eq(&reloader.active, engine.layout()) && !reloader.active.is_empty());
    }
}
