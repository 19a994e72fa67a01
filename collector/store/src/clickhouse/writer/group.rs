//! A group: commits that go through the ledger together.

use std::collections::{HashMap, HashSet};

use fleetmend_event::{HostId, RecordId, TimeMicros};

use super::{Command, Reply, Tokens};
use crate::admit::{Admitted, LossKind, conflict};
use crate::clickhouse::Shared;
use crate::clickhouse::ledger::{Claim, ClaimKind};
use crate::clickhouse::rows::{RecordRows, of_loss};
use crate::clock::ClockAhead;
use crate::error::CommitError;
use crate::mark::{Pending, StreamKey};
use crate::own::OwnFrame;
use crate::shape::Origin;
use crate::writer::answer;

/// Commits that go together.
pub(super) struct Group {
    now: TimeMicros,
    /// What earlier commits of the group will have stored.
    pending: Pending,
    commits: Vec<Commit>,
    own: Vec<Own>,
    claims: HashMap<(HostId, RecordId, bool), Claim>,
    bytes: usize,
}

struct Commit {
    host: HostId,
    token: i64,
    admitted: Admitted,
    reply: Option<Reply>,
    _room: tokio::sync::OwnedSemaphorePermit,
}

struct Own {
    host: HostId,
    frames: Vec<OwnFrame>,
    reply: Option<Reply>,
}

impl Group {
    pub(super) fn new(now: TimeMicros) -> Self {
        Self {
            now,
            pending: Pending::default(),
            commits: Vec::new(),
            own: Vec::new(),
            claims: HashMap::new(),
            bytes: 0,
        }
    }

    /// Adds what a command wants, unless it is refused at once.
    pub(super) fn stage(&mut self, shared: &Shared, command: Command) {
        match command {
            Command::Commit {
                host,
                token,
                prepared,
                bytes,
                reply,
                room,
            } => {
                if shared.hosts.token(host) != Some(token) {
                    answer(reply, Err(elsewhere()));
                    return;
                }
                match shared.hosts.admit(&mut self.pending, host, prepared) {
                    Ok(admitted) => self.commits.push(Commit {
                        host,
                        token,
                        admitted,
                        reply: Some(reply),
                        _room: room,
                    }),
                    Err(error) => answer(reply, Err(error)),
                }
                self.bytes = self.bytes.saturating_add(bytes);
            }
            Command::Own { host, frames, reply } => self.own.push(Own {
                host,
                frames,
                reply: Some(reply),
            }),
            Command::Seal { .. } => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.commits.len().saturating_add(self.own.len())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the store took it.
    pub(super) fn now(&self) -> TimeMicros {
        self.now
    }

    /// Hosts whose commits wait, each with its token.
    pub(super) fn tokens(&self) -> Tokens {
        let waiting = self.waiting();
        waiting.map(|commit| (commit.host, commit.token)).collect()
    }

    /// What has to be claimed.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let mut known = HashSet::new();
        let mut claims = Vec::new();
        for commit in self.waiting() {
            let ids: HashSet<RecordId> = commit.admitted.records.iter().map(|record| record.id).collect();
            let records = commit.admitted.records.iter().map(|record| Claim {
                host: commit.host,
                id: record.id,
                kind: ClaimKind::Record,
                digest: record.digest,
                taken_at: self.now,
                clock: record.clock,
            });
            let losses = commit
                .admitted
                .losses
                .iter()
                .filter(|loss| !ids.contains(&loss.id))
                .map(|loss| Claim {
                    host: commit.host,
                    id: loss.id,
                    kind: ClaimKind::Loss,
                    digest: None,
                    taken_at: self.now,
                    clock: ClockAhead::NONE,
                });
            claims.extend(records.chain(losses).filter(|claim| known.insert(key(claim))));
        }
        claims
    }

    /// Takes the claims that stand. A record that was claimed with another content is refused, and with it what its
    /// host sent after it.
    pub(super) fn stand(&mut self, claims: &[Claim]) {
        self.claims = claims.iter().map(|claim| (key(claim), *claim)).collect();
        let mut refused: HashSet<HostId> = HashSet::new();
        for commit in &mut self.commits {
            if commit.reply.is_none() {
                continue;
            }
            let standing = &self.claims;
            let other = commit.admitted.records.iter().find(|record| {
                let claim = standing.get(&(commit.host, record.id, false));
                claim.is_some_and(|claim| {
                    claim
                        .digest
                        .zip(record.digest)
                        .is_some_and(|(stored, came)| stored != came)
                })
            });
            let error = match other {
                Some(record) => conflict(commit.host, record.id),
                None if refused.contains(&commit.host) => CommitError::Unavailable {
                    reason: "a record before these was refused; they have to be sent again".to_owned(),
                },
                None => continue,
            };
            refused.insert(commit.host);
            if let Some(reply) = commit.reply.take() {
                answer(reply, Err(error));
            }
        }
    }

    /// Refuses what came from hosts that are another collector's now.
    pub(super) fn lose(&mut self, shared: &Shared, lost: &[HostId]) {
        for commit in self
            .commits
            .iter_mut()
            .filter(|commit| lost.contains(&commit.host))
        {
            shared.hosts.let_go(commit.host, commit.token);
            if let Some(reply) = commit.reply.take() {
                answer(reply, Err(elsewhere()));
            }
        }
    }

    /// The rows of everything that waits, under the claims that stand.
    pub(super) fn rows(&mut self, shared: &Shared) -> Result<Vec<RecordRows>, CommitError> {
        let mut all = Vec::new();
        for commit in self.commits.iter().filter(|commit| commit.reply.is_some()) {
            let host = commit.host;
            let claim = |id: RecordId, is_loss: bool| self.claims.get(&(host, id, is_loss)).copied();
            for record in &commit.admitted.records {
                let (ingested_at, clock) = claim(record.id, false)
                    .map_or((self.now, record.clock), |claim| (claim.taken_at, claim.clock));
                let origin = Origin {
                    host,
                    record: record.id,
                    ingested_at,
                    clock,
                };
                all.extend(
                    record
                        .rows
                        .clone()
                        .map(|(table, rows)| RecordRows { table, origin, rows }),
                );
            }
            for loss in &commit.admitted.losses {
                let claim = claim(loss.id, false).or_else(|| claim(loss.id, true));
                let taken_at = claim.map_or(self.now, |claim| claim.taken_at);
                all.push(of_loss(host, loss.id, loss.kind, (loss.gap.clone(), taken_at))?);
            }
        }
        for own in &mut self.own {
            let (host, ingested_at) = (own.host, self.now);
            all.extend(own.frames.drain(..).map(|frame| RecordRows {
                table: frame.table,
                origin: Origin {
                    host,
                    record: shared.own_numbers.next(frame.template.id),
                    ingested_at,
                    clock: ClockAhead::NONE,
                },
                rows: frame.rows,
            }));
        }
        Ok(all)
    }

    /// Marks to raise: the last record of each stream, and 0 for streams that only begin.
    pub(super) fn marks(&self) -> Vec<(StreamKey, u64)> {
        let mut marks: HashMap<StreamKey, u64> = HashMap::new();
        for commit in self.waiting() {
            let records = commit.admitted.records.iter().map(|record| record.id);
            let begun = begun_by(&commit.admitted);
            for id in records.chain(begun) {
                let mark = marks.entry((commit.host, id.epoch, id.lane)).or_default();
                *mark = id.sequence.0.max(*mark);
            }
        }
        marks.into_iter().collect()
    }

    /// What is true once the group is durable: records, and streams that begin.
    pub(super) fn became_true(&self) -> (Pending, Vec<StreamKey>) {
        let mut pending = Pending::default();
        let mut begun = Vec::new();
        for commit in self.waiting() {
            for record in &commit.admitted.records {
                pending.accept(commit.host, record.id, record.digest);
            }
            begun.extend(begun_by(&commit.admitted).map(|id| (commit.host, id.epoch, id.lane)));
        }
        (pending, begun)
    }

    /// Answers everybody who still waits, once the group is durable.
    pub(super) fn acknowledge(self, shared: &Shared) {
        for commit in self.commits {
            if let Some(reply) = commit.reply {
                answer(reply, Ok(shared.hosts.marks(&commit.admitted.streams)));
            }
        }
        for reply in self.own.into_iter().filter_map(|own| own.reply) {
            answer(reply, Ok(Vec::new()));
        }
    }

    /// Tells everybody who still waits that nothing was stored.
    pub(super) fn refuse(self, error: &CommitError) {
        let of_hosts = self.commits.into_iter().filter_map(|commit| commit.reply);
        for reply in of_hosts.chain(self.own.into_iter().filter_map(|own| own.reply)) {
            answer(reply, Err(error.clone()));
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter().filter(|commit| commit.reply.is_some())
    }
}

fn key(claim: &Claim) -> (HostId, RecordId, bool) {
    (claim.host, claim.id, claim.kind == ClaimKind::Loss)
}

/// Streams whose past was told as lost.
fn begun_by(admitted: &Admitted) -> impl Iterator<Item = RecordId> {
    let losses = admitted.losses.iter();
    let told = losses.filter(|loss| loss.kind == LossKind::Told && loss.id.sequence.0 == 0);
    told.map(|loss| loss.id)
}

fn elsewhere() -> CommitError {
    CommitError::Unavailable {
        reason: "another collector stores for this host now; it has to say hello again".to_owned(),
    }
}
