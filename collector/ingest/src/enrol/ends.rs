//! When the collector's own certificates and keys end.

use fleetmend_event::TimeMicros;

use super::{Enroller, metrics};

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// What the carrier's and the enrolment listener show.
    Listener,
    /// The one above it and above every host's.
    Issuing,
    /// The key that signs orders and the time: ends when it is rotated.
    Online,
    /// A fleet root; two while it is being replaced.
    Root,
    /// The trust bundle: holds until the next one.
    Bundle,
}

impl KeyKind {
    /// The label of the metric.
    fn as_str(self) -> &'static str {
        match self {
            KeyKind::Listener => "own",
            KeyKind::Issuing => "issuing",
            KeyKind::Online => "online",
            KeyKind::Root => "root",
            KeyKind::Bundle => "bundle",
        }
    }
}

/// One certificate or key of the collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEnd {
    /// Which.
    pub of: KeyKind,
    /// First digits of its key's fingerprint, or the version of the bundle.
    pub key: String,
    /// When it ends; none for what has no end of its own.
    pub not_after: Option<TimeMicros>,
}

impl Enroller {
    /// The collector's own certificates and keys, and when they end. Keys that a bundle lists and another collector
    /// holds are not among them.
    pub fn ends(&self) -> Vec<KeyEnd> {
        let live = &self.inner.authority;
        let authority = live.current();
        let end = |of, key: String, not_after| KeyEnd { of, key, not_after };
        let mut ends = vec![
            end(KeyKind::Listener, String::new(), live.own_not_after()),
            end(KeyKind::Issuing, String::new(), authority.issuing_not_after()),
            end(
                KeyKind::Online,
                authority.online_key().fingerprint().short(),
                None,
            ),
        ];
        let roots = authority.bundle().roots.iter();
        ends.extend(roots.map(|root| end(KeyKind::Root, root.key.fingerprint().short(), root.not_after())));
        ends.push(end(KeyKind::Bundle, authority.bundle().version.to_string(), None));
        ends
    }

    /// Shows the ends as a metric: of each kind the one that comes first.
    pub(super) fn show_ends(&self) {
        let mut ends = self.ends();
        ends.sort_by_key(|end| std::cmp::Reverse(end.not_after));
        for end in ends {
            if let Some(not_after) = end.not_after {
                metrics::cert_not_after(end.of.as_str(), not_after);
            }
        }
    }
}
