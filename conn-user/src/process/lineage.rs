//! Who created a process, and who created that, up to init.

use std::sync::Arc;

pub use super::info::Ancestor;
use super::info::ProcessInfo;

/// Most ancestors that are kept, nearest first: bounds what a chain of shells costs.
pub const ANCESTORS_MAX: usize = 16;

impl Ancestor {
    /// The process itself, as an ancestor of others.
    pub fn of(process: &ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            start: process.start,
            comm: process.comm.clone(),
            exe: process.exe.clone(),
            exe_is_host: process.identity.exe_is_host(),
        }
    }
}

/// The ancestors of a child of `parent`.
pub fn below(parent: &ProcessInfo) -> Arc<[Ancestor]> {
    std::iter::once(Ancestor::of(parent))
        .chain(parent.ancestors.iter().take(ANCESTORS_MAX - 1).cloned())
        .collect()
}

/// Returns the nearest ancestors, of so many programs: those that one process forked, one from the other, without an exec count as
/// one. A program that forks a few times before it acts would be beyond any number of generations otherwise.
pub fn near(ancestors: &[Ancestor], programs: usize) -> impl Iterator<Item = &Ancestor> + Clone {
    let mut last = None;
    let mut count = 0;
    ancestors.iter().take_while(move |one| {
        let exe = one.exe.as_deref();
        if exe.is_none() || last != exe {
            count += 1;
        }
        last = exe;
        count <= programs
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BootNs, Pid};

    #[test]
    fn forks_without_an_exec_are_no_generations() {
        let ancestor = |pid, exe: Option<&str>| Ancestor {
            pid: Pid(pid),
            start: BootNs(1),
            comm: Box::default(),
            exe: exe.map(|exe| exe.as_bytes().into()),
            exe_is_host: None,
        };
        let exes = [Some("/sh"), Some("/py"), Some("/py"), Some("/py"), Some("/sh"), None, None];
        let ancestors: Vec<_> = (1..).zip(exes).map(|(pid, exe)| ancestor(pid, exe)).collect();
        let near = |programs| near(&ancestors, programs).map(|one| one.pid.0).collect::<Vec<_>>();
        assert_eq!(near(0), [0; 0]);
        assert_eq!(near(1), [1]);
        assert_eq!(near(2), [1, 2, 3, 4]);
        assert_eq!(near(4), [1, 2, 3, 4, 5, 6]);
        assert_eq!(near(9), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_long_chain_is_bounded_and_keeps_the_nearest() {
        let mut process = ProcessInfo::new(Pid(1), BootNs(1));
        for pid in 2..100 {
            let child = ProcessInfo { ancestors: below(&process), ..ProcessInfo::new(Pid(pid), BootNs(1)) };
            process = child;
        }
        assert_eq!(process.ancestors.len(), ANCESTORS_MAX);
        assert_eq!((process.ancestors[0].pid, process.ancestors[15].pid), (Pid(98), Pid(83)));
    }
}
