//! What a host may send of one stream, and what it has sent.

/// How far frames of the critical lane may go beyond the credit; the protocol says so to the agent.
const CRITICAL_BYTES: u64 = 512 * 1024;

/// The credit of one stream, in bytes of frames since its beginning.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    obeyed: bool,
    granted: u64,
    received: u64,
}

impl Credit {
    /// The host has said that it sends within it.
    pub(super) fn obeys(&mut self) {
        self.obeyed = true;
    }

    pub(super) fn is_obeyed(&self) -> bool {
        self.obeyed
    }

    /// Grants `ahead` bytes beyond what has come; what was granted stays granted.
    pub(super) fn grant(&mut self, ahead: u64) -> u64 {
        self.granted = self.granted.max(self.received.saturating_add(ahead));
        self.granted
    }

    /// Counts frames; by how much a host that said that it obeys went beyond its credit.
    pub(super) fn received(&mut self, bytes: u64) -> Option<u64> {
        self.received = self.received.saturating_add(bytes);
        let excess = self
            .received
            .saturating_sub(self.granted.saturating_add(CRITICAL_BYTES));
        (self.obeyed && excess > 0).then_some(excess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_counts_from_what_came_and_never_falls() {
        let mut credit = Credit::default();
        credit.obeys();
        assert_eq!(credit.grant(1_000), 1_000);
        assert_eq!(credit.received(400), None);
        assert_eq!(credit.grant(100), 1_000, "what was granted stays");
        assert_eq!(credit.grant(1_000), 1_400);
        assert_eq!(
            credit.received(1_000 + CRITICAL_BYTES),
            None,
            "the critical lane goes beyond"
        );
        assert_eq!(credit.received(1), Some(1));
        let mut old = Credit::default();
        assert_eq!(old.received(u64::MAX), None, "who knows of none has a window");
    }
}
