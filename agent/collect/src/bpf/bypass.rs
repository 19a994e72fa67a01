//! Programs that pass by the hooks of system calls: those that use io_uring, and those of 32 bits.
//!
//! While one of them runs, the families that hook calls do not keep their promise whole, and say so.

use crate::process::{Inventory, ProcessKey};

/// Programs that are remembered. One more that outlives them all would be forgotten while it still passes by, so this is
/// far above what hosts have; each is looked up once a second.
const PROGRAMS_MAX: usize = 1024;

/// How a program passes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// Its ring runs calls without making them.
    Uring,
    /// Its calls have numbers of their own.
    Compat,
}

/// The programs that pass by now.
#[derive(Debug, Default)]
pub(crate) struct Bypass {
    programs: Vec<(ProcessKey, String, How)>,
}

impl Bypass {
    /// A program that began to.
    pub(crate) fn note(&mut self, key: ProcessKey, comm: &str, how: How) {
        let known = self
            .programs
            .iter()
            .any(|(one, _, its)| (*one, *its) == (key, how));
        if !known && self.programs.len() < PROGRAMS_MAX {
            self.programs.push((key, comm.to_owned(), how));
        }
    }

    /// Forgets those that ended.
    pub(crate) fn refresh(&mut self, inventory: &Inventory) {
        self.programs.retain(|(key, _, _)| {
            // One that was never seen beginning, or ending, is asked for itself.
            let known = inventory.get(*key).map(|process| !process.ended);
            known.unwrap_or_else(|| inventory.proc().stat(key.pid).is_some())
        });
    }

    /// What is not seen now, in words; `None` when everything is.
    pub(crate) fn reason(&self) -> Option<String> {
        let (first, comm, _) = self.programs.first()?;
        let count = |wanted| self.programs.iter().filter(|(_, _, how)| *how == wanted).count();
        let (urings, compats) = (count(How::Uring), count(How::Compat));
        Some(format!(
            "{urings} programs with io_uring and {compats} of 32 bits run, whose calls are not all seen (the first: {comm}, pid {})",
            first.pid
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessConfig;

    #[test]
    fn program_that_passes_by_is_named_as_long_as_it_runs() {
        let inventory = Inventory::new(ProcessConfig::default());
        let mut bypass = Bypass::default();
        assert_eq!(bypass.reason(), None);
        let own = ProcessKey::new(std::process::id(), 1);
        bypass.note(own, "own", How::Uring);
        bypass.note(own, "own", How::Uring);
        bypass.refresh(&inventory);
        let reason = bypass.reason().unwrap();
        assert!(
            reason.starts_with("1 programs with io_uring and 0 of 32 bits"),
            "{reason}"
        );
        bypass.programs.clear();
        // No process has this number: the kernel's limit is lower.
        bypass.note(ProcessKey::new(u32::MAX, 1), "gone", How::Compat);
        bypass.refresh(&inventory);
        assert_eq!(bypass.reason(), None);
    }
}
