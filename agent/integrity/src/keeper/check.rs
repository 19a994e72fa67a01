//! One look at a file: whether it changed, who did it, and whether that was to be expected.

use std::path::Path;
use std::time::{Duration, Instant};

use fleetmend_event::table::{Finding, IntegrityChange, IntegrityVerdict, Severity};
use fleetmend_event::{Fact, TimeMicros};

use super::{Keeper, Phase};
use crate::books::{Flags, Record};
use crate::changed::Changed;
use crate::class::{Class, is_suid};
use crate::explain::{Case, Explanation, gained_suid, severity};
use crate::metrics;
use crate::queue::Pending;
use crate::report::{Told, source_word};
use crate::state::{Depth, Digest, FileState, Observed, look, read};
use crate::watch::Kind;
use crate::who::{Touch, last_before};

/// How often a look is put off while a package manager is at work.
const HOLDS_MAX: u32 = 60;
/// How often it is put off for what is not settled, when none is at work: whoever changes a file again and again is not
/// to put it off for long.
const UNSETTLED_HOLDS_MAX: u32 = 5;
/// So long after a change its events may still be on their way, and the sums of a package behind its files.
const SETTLED_NS: i64 = 2_000_000_000;

/// What the room knew of a file before the look.
#[derive(Clone, Copy)]
struct Before {
    /// As it should be; none when it should not be there.
    baseline: Option<FileState>,
    /// As it was last, when that differs: the inner one is none when it was gone.
    last: Option<Option<FileState>>,
    class: Option<Class>,
    racy: bool,
}

impl Before {
    /// As it was known last.
    fn known(&self) -> Option<FileState> {
        self.last.unwrap_or(self.baseline)
    }

    fn is_untouched(&self, now: Option<&FileState>) -> bool {
        match (self.known(), now) {
            (Some(known), Some(now)) => !self.racy && now.is_untouched(&known),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether only the time of change moved, as a new hard link does it: what was not read before is what its package
    /// delivered.
    fn is_only_touched(&self, now: Option<&FileState>, agrees: Option<bool>) -> bool {
        let (Some(before), Some(now)) = (&self.baseline, now) else {
            return false;
        };
        agrees == Some(true)
            && self.last.is_none()
            && before.digest == Digest::None
            && before.same_rights(now)
            && (before.size, before.identity()) == (now.size, now.identity())
    }
}

/// Whether an act leaves the content of a file as it was.
fn is_no_write(touch: &Touch) -> bool {
    ["link", "attribute", "chmod", "chown"].contains(&touch.act)
}

impl Keeper {
    /// Looks at a file.
    pub(super) fn check(&mut self, path: &Path, pending: Pending) {
        let record = self.books.get(path);
        let last = self.changed.get(path).map(|changed| changed.now);
        let before = Before {
            baseline: record.map(|record| record.state),
            last,
            class: record.map(|record| record.class),
            racy: record.is_some_and(|record| record.flags & (Flags::RACY | Flags::UNREADABLE) != 0)
                || last.is_some(),
        };
        let now = match look(path) {
            Ok(now) => now,
            Err(error) => return self.not_readable(path, &error),
        };
        if before.is_untouched(now.as_ref()) {
            return;
        }
        let Some(class) = self.class_for(path, &before, now.as_ref()) else {
            return;
        };
        let observed = match self.observe(path) {
            Ok(observed) => observed,
            Err(error) => return self.not_readable(path, &error),
        };
        let new = observed.map(|observed| observed.state);
        if self.is_quiet(path, &before, observed, &pending) {
            if let Some(observed) = observed {
                let flags = self.flags_of(path, &observed);
                self.write_down(path, class, observed.state, flags);
            }
            return;
        }
        match difference(before.baseline.as_ref(), new.as_ref()) {
            Some(_)
                if pending.touches.iter().all(is_no_write)
                    && before.is_only_touched(new.as_ref(), self.agrees(path, observed)) =>
            {
                self.as_it_should_be(path, class, &before, observed, &pending);
            }
            None => self.as_it_should_be(path, class, &before, observed, &pending),
            Some(_)
                if before
                    .last
                    .is_some_and(|last| difference(last.as_ref(), new.as_ref()).is_none()) =>
            {
                // Told before; where it lies may be new.
                if let Some(changed) = self.changed.get(path).cloned() {
                    self.changed.put(path, Changed { now: new, ..changed });
                }
            }
            Some(change) => self.judge(path, (class, change), &before, observed, pending),
        }
    }

    fn not_readable(&mut self, path: &Path, error: &std::io::Error) {
        // What cannot be read is unknown: it neither raises nor resolves.
        tracing::debug!(%error, path = %path.display(), "watched file cannot be looked at");
        self.books.mark(path, |record| record.flags |= Flags::UNREADABLE);
    }

    fn class_for(&self, path: &Path, before: &Before, now: Option<&FileState>) -> Option<Class> {
        let suid = self.watch.watches_suid() && !self.watch.excludes(path);
        let suid = (suid && now.is_some_and(|now| is_suid(now.mode))).then_some(Class::Suid);
        let kind = now
            .copied()
            .or(before.known())
            .map_or(Kind::Any, |state| Kind::of(&state));
        let open = || before.last.is_some().then_some(Class::Suid);
        before
            .class
            .or_else(|| self.watch.class_of(path, kind))
            .or(suid)
            .or_else(open)
    }

    fn observe(&mut self, path: &Path) -> std::io::Result<Option<Observed>> {
        if self.packages.exists() {
            let (watch, books) = (&self.watch, &self.books);
            self.packages
                .refresh(|path| watch.class_of(path, Kind::File).is_some() || books.get(path).is_some());
        }
        let depth = Depth {
            whole_max: self.config.hash_max.get(),
            md5: self.packages.delivered(path).is_some(),
        };
        let token = self.token.clone();
        read(path, depth, &mut |_| !token.is_cancelled())
    }

    /// Whether the content is what the file's package delivered; none when no package says.
    fn agrees(&self, path: &Path, observed: Option<Observed>) -> Option<bool> {
        let md5 = observed?.md5?;
        Some(self.packages.delivered(path)?.md5 == md5)
    }

    /// Whether what is there is simply written down: no baseline says what should be.
    fn is_quiet(&self, path: &Path, before: &Before, observed: Option<Observed>, pending: &Pending) -> bool {
        if before.baseline.is_some() || before.last.is_some() || self.scanning.phase != Phase::Walking {
            return false;
        }
        let kind = observed.map_or(Kind::Any, |observed| Kind::of(&observed.state));
        let made = pending
            .touches
            .iter()
            .any(|touch| touch.act != "open_write" && touch.proven);
        !made && (self.scanning.first || self.watch.is_fresh(path, kind))
    }

    fn as_it_should_be(
        &mut self,
        path: &Path,
        class: Class,
        before: &Before,
        observed: Option<Observed>,
        pending: &Pending,
    ) {
        if let Some(observed) = observed {
            let flags = self.flags_of(path, &observed);
            self.write_down(path, class, observed.state, flags);
        }
        let new = observed.map(|observed| observed.state);
        let Some(last) = before.last else {
            return;
        };
        let time = TimeMicros::now();
        if let Some(change) = difference(last.as_ref(), new.as_ref()) {
            let touches: Vec<&Touch> = believed(pending, before, new.as_ref()).0;
            let writer = last_before(&touches, time_of(new.as_ref()));
            let told = Told {
                verdict: IntegrityVerdict::Expected,
                why: "it is as the baseline says again",
                ..self.told(path, (class, change), before, new.as_ref(), (writer, pending))
            };
            let row = told.row(time);
            self.tell_row(path, row);
        }
        self.resolve(path, time);
    }

    /// Which SUID program, of a package and as it was delivered, a new one is a copy of, with the same owner and rights:
    /// everybody may run that one, and the copy does the same for him. An unpacked system has such.
    fn twin_of(&self, path: &Path, new: &FileState) -> Option<Box<Path>> {
        let is_whole = matches!(new.digest, Digest::Whole(_));
        // Where only some may run it, who they are is not in its rights alone.
        let by_everybody = new.mode & libc::S_IXOTH != 0;
        // Where another class watches too, it is more than one program more.
        let elsewhere = self.watch.class_of(path, Kind::File).is_none();
        if !(is_whole && by_everybody && elsewhere) {
            return None;
        }
        let is_twin = |record: &&Record| {
            record.state.digest == new.digest
                && record.state.same_rights(new)
                // By another name of the same file that one lives on when its package replaces it.
                && record.state.identity() != new.identity()
                && record.flags & (Flags::DISAGREES | Flags::UNREADABLE) == 0
                && self.packages.delivered(&record.path).is_some()
                && self.changed.get(&record.path).is_none()
        };
        Some(self.books.iter().find(is_twin)?.path.clone())
    }

    fn told<'a>(
        &self,
        path: &'a Path,
        (class, change): (Class, IntegrityChange),
        before: &'a Before,
        new: Option<&'a FileState>,
        (writer, pending): (Option<&'a Touch>, &Pending),
    ) -> Told<'a> {
        let source = writer.map_or(pending.noticed, |touch| source_word(touch.source));
        let old = match &before.last {
            Some(last) => last.as_ref(),
            None => before.baseline.as_ref(),
        };
        Told {
            path,
            class,
            change,
            verdict: IntegrityVerdict::Unknown,
            why: "",
            severity: Severity::Info,
            old,
            new,
            baseline: before.baseline.as_ref(),
            package: None,
            agrees: None,
            writer,
            touches: &[],
            unproven: &[],
            copy_of: None,
            source,
        }
    }

    fn judge(
        &mut self,
        path: &Path,
        (class, change): (Class, IntegrityChange),
        before: &Before,
        observed: Option<Observed>,
        mut pending: Pending,
    ) {
        let new = observed.map(|observed| observed.state);
        let delivered = self.packages.delivered(path);
        let agrees = self.agrees(path, observed);
        let (touches, unproven) = believed(&pending, before, new.as_ref());
        let now_ns = TimeMicros::now().0.saturating_mul(1_000);
        let settles = time_of(new.as_ref())
            .is_some_and(|changed| (0..SETTLED_NS).contains(&now_ns.saturating_sub(changed)));
        let case = Case {
            path,
            class,
            change,
            new: new.as_ref(),
            touches: &touches,
            agrees,
            database_ns: self.packages.changed_ns(),
            now_ns,
            worked: self.packages.worked_at(moment_of(path, new.as_ref())),
            manager_runs: pending.holds < HOLDS_MAX
                && touches.iter().any(|touch| touch.writer.manager_runs()),
            unsettled: pending.holds < UNSETTLED_HOLDS_MAX && (settles || self.packages.is_behind()),
        };
        let (verdict, why) = match self.expectations.explain(&case) {
            Explanation::Is(verdict, why) => (verdict, why),
            Explanation::Later => {
                pending.holds += 1;
                pending.due = Instant::now() + Duration::from_secs(1);
                return self.queue.put_back(path.to_owned(), pending);
            }
        };
        let writer = last_before(&touches, time_of(new.as_ref()));
        let known = before.known();
        let states = (known.as_ref(), new.as_ref());
        let shown = if gained_suid(states.0, states.1) {
            Class::Suid
        } else {
            class
        };
        let twin = new.filter(|_| shown == Class::Suid && change == IntegrityChange::Added);
        let copy_of = twin.and_then(|new| self.twin_of(path, &new));
        let grave = severity(shown, path, change, states, writer.map(|touch| &*touch.writer));
        // The row tells the step from what was known last, the finding the way from the baseline.
        let step = difference(states.0, states.1).unwrap_or(change);
        let told = Told {
            verdict,
            why,
            severity: if copy_of.is_some() {
                grave.min(Severity::Low)
            } else {
                grave
            },
            copy_of: copy_of.as_deref(),
            package: delivered.map(|delivered| delivered.package),
            agrees,
            touches: &touches,
            unproven: &unproven,
            ..self.told(path, (shown, step), before, new.as_ref(), (writer, &pending))
        };
        let time = TimeMicros::now();
        let row = told.row(time);
        let lost_rights = class == Class::Suid
            && self.watch.class_of(path, Kind::File).is_none()
            && !new.is_some_and(|new| is_suid(new.mode));
        let accepted = matches!(verdict, IntegrityVerdict::Package | IntegrityVerdict::Expected);
        let finding = (!accepted && !lost_rights).then(|| {
            let open = self.changed.get(path).map(|changed| &changed.finding);
            Told { change, ..told }.finding(time, open)
        });
        self.tell_row(path, row);
        match finding {
            Some((finding, tell)) => self.open(path, class, observed, finding, tell),
            None => {
                self.agree(path, class, observed.filter(|_| !lost_rights));
                self.resolve(path, time);
            }
        }
    }

    fn tell_row(&mut self, path: &Path, row: fleetmend_event::table::IntegrityEvent) {
        metrics::change(row.verdict.as_str());
        self.counts.told = self.counts.told.saturating_add(1);
        self.queue.told(path);
        self.send(row.into());
    }

    fn open(&mut self, path: &Path, class: Class, observed: Option<Observed>, finding: Finding, tell: bool) {
        let changed = Changed {
            now: observed.map(|observed| observed.state),
            finding: finding.clone(),
        };
        if self.changed.is_full_for(path) {
            self.make_room(finding.severity);
        }
        if !self.changed.put(path, changed) {
            // Too many to follow one by one: the rows tell each change once, and the status that there are more.
            self.troubles.beyond = self.troubles.beyond.saturating_add(1);
            self.agree(path, class, observed);
            return;
        }
        if tell {
            self.send(Fact::from(finding));
        }
    }

    /// Who may write to a web root can fill the list: what is graver takes the place of the least grave, which is from
    /// then on as a file beyond the limit.
    fn make_room(&mut self, severity: Severity) {
        let Some(path) = self.changed.less_grave_than(severity) else {
            return;
        };
        self.troubles.beyond = self.troubles.beyond.saturating_add(1);
        if let Err(error) = self.accept(&path) {
            tracing::debug!(%error, path = %path.display(), "changed file cannot be read");
            self.resolve(&path, TimeMicros::now());
        }
    }

    /// Makes what is there the baseline of the file.
    pub(super) fn agree(&mut self, path: &Path, class: Class, observed: Option<Observed>) {
        match observed {
            Some(observed) => {
                let flags = self.flags_of(path, &observed);
                self.write_down(path, class, observed.state, flags);
            }
            None => {
                self.dirty |= self.books.remove(path).is_some();
            }
        }
    }

    /// Resolves the finding of a file, when there is one.
    pub(super) fn resolve(&mut self, path: &Path, time: TimeMicros) {
        if let Some(finding) = self.changed.resolve(path, time) {
            self.send(Fact::from(finding));
        }
    }

    /// Makes a file that differs the baseline, because somebody says so.
    pub(super) fn accept(&mut self, path: &Path) -> std::io::Result<()> {
        let observed = self.observe(path)?;
        let class = self
            .books
            .get(path)
            .map(|record| record.class)
            .or_else(|| self.watch.class_of(path, Kind::Any));
        self.agree(path, class.unwrap_or(Class::Suid), observed);
        self.resolve(path, TimeMicros::now());
        Ok(())
    }
}

/// The touches that are believed to be of this file, and those that are not.
fn believed<'a>(
    pending: &'a Pending,
    before: &Before,
    new: Option<&FileState>,
) -> (Vec<&'a Touch>, Vec<&'a Touch>) {
    let identity = |state: Option<FileState>| state.map(|state| state.identity());
    let now = new.map(FileState::identity);
    let is_of = |touch: &&Touch| {
        touch.is_of(identity(before.baseline), now) || touch.is_of(identity(before.last.flatten()), now)
    };
    pending.touches.iter().partition(is_of)
}

/// When it was last changed, by its own word.
fn time_of(state: Option<&FileState>) -> Option<i64> {
    state
        .filter(|state| !state.is_folder())
        .map(|state| state.changed_ns)
}

/// When it changed, or when it went from its folder.
fn moment_of(path: &Path, new: Option<&FileState>) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    if let Some(ns) = time_of(new) {
        return ns;
    }
    let folder = path.parent().and_then(|folder| folder.metadata().ok());
    folder.map_or(0, |found| {
        found
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(found.mtime_nsec())
    })
}

/// How one state differs from another.
pub(crate) fn difference(old: Option<&FileState>, new: Option<&FileState>) -> Option<IntegrityChange> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(IntegrityChange::Added),
        (Some(_), None) => Some(IntegrityChange::Removed),
        (Some(old), Some(new)) if !old.same_content(new) => Some(IntegrityChange::Content),
        (Some(old), Some(new)) if !old.same_rights(new) => Some(IntegrityChange::Metadata),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
