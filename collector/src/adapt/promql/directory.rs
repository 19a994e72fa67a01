//! Which metrics and hosts there are, kept for a while: a name in PromQL does not say which stored names it stands for,
//! and the name of a host stands in another table than its samples.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use collector_promql::SourceError;
use collector_store::{FactStore, QueryClass, SeriesKey, SeriesSelect};
use fleetmend_event::{HostId, HostScope, TimeMicros};
use parking_lot::Mutex;

use super::fault;
use crate::adapt::host_names::host_names;

/// What was stored lately is looked at again after this long, or at once when a name is not known.
const RECENT_EVERY: Duration = Duration::from_secs(15);
/// How far back samples are "lately".
const RECENT: Duration = Duration::from_secs(3_600);
/// Everything is looked at again after this long: what retention took is forgotten then.
const ALL_EVERY: Duration = Duration::from_secs(1_800);
/// Looks for a name that is not known are this far apart.
const MISS_EVERY: Duration = Duration::from_secs(1);
/// Host names hold so long.
const HOSTS_EVERY: Duration = Duration::from_secs(15);
/// Longest look.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Names remembered; what is beyond is found only by selectors that look at every series.
const NAMES_MAX: usize = 100_000;

/// Names of metrics as they are stored, with their units.
pub(crate) type Names = BTreeMap<String, BTreeSet<String>>;
/// Names of hosts.
pub(crate) type Hosts = BTreeMap<HostId, Arc<str>>;

/// The two lists.
pub(crate) struct Directory {
    store: Arc<dyn FactStore>,
    names: tokio::sync::Mutex<Look<Names>>,
    hosts: tokio::sync::Mutex<Look<Hosts>>,
}

struct Look<T> {
    found: Arc<T>,
    all_at: Option<Instant>,
    recent_at: Option<Instant>,
}

impl<T: Default> Default for Look<T> {
    fn default() -> Self {
        Self {
            found: Arc::default(),
            all_at: None,
            recent_at: None,
        }
    }
}

impl Directory {
    /// Nothing is looked at before it is asked for.
    pub(crate) fn new(store: Arc<dyn FactStore>) -> Self {
        Self {
            store,
            names: tokio::sync::Mutex::default(),
            hosts: tokio::sync::Mutex::default(),
        }
    }

    /// Every metric. `missed` says that a name is wanted that the last answer did not have.
    ///
    /// # Cancel safety
    /// May be dropped; the next call looks again.
    pub(crate) async fn names(&self, missed: bool) -> Result<Arc<Names>, SourceError> {
        // Who comes while one looks waits for that look.
        let mut look = self.names.lock().await;
        let now = Instant::now();
        let older = |at: Option<Instant>, age| at.is_none_or(|at| now.duration_since(at) >= age);
        let recent_every = if missed { MISS_EVERY } else { RECENT_EVERY };
        if older(look.all_at, ALL_EVERY) {
            look.found = Arc::new(self.look(TimeMicros(i64::MIN), &HostScope::All).await?);
            look.all_at = Some(now);
            look.recent_at = Some(now);
        } else if older(look.recent_at, recent_every) {
            let reach = i64::try_from(RECENT.as_micros()).unwrap_or(i64::MAX);
            let recent = self
                .look(TimeMicros::now().plus_micros(-reach), &HostScope::All)
                .await?;
            let mut all = Names::clone(&look.found);
            for (name, units) in recent {
                if all.len() < NAMES_MAX || all.contains_key(&name) {
                    all.entry(name).or_default().extend(units);
                }
            }
            look.found = Arc::new(all);
            look.recent_at = Some(now);
        }
        Ok(Arc::clone(&look.found))
    }

    /// Every metric of these hosts, looked for anew.
    pub(crate) async fn names_of(&self, hosts: &HostScope) -> Result<Names, SourceError> {
        self.look(TimeMicros(i64::MIN), hosts).await
    }

    async fn look(&self, after: TimeMicros, hosts: &HostScope) -> Result<Names, SourceError> {
        let found = Arc::new(Mutex::new(Names::new()));
        let seen = Arc::clone(&found);
        let note = move |key: &SeriesKey| {
            let mut names = seen.lock();
            let full = names.len() >= NAMES_MAX;
            match names.get_mut(&key.name) {
                Some(units) if units.contains(&key.unit) => {}
                Some(units) => drop(units.insert(key.unit.clone())),
                None if full => {}
                None => drop(names.insert(key.name.clone(), BTreeSet::from([key.unit.clone()]))),
            }
            // Only to be seen: nothing is gathered.
            false
        };
        let select = SeriesSelect {
            hosts: hosts.narrow(None),
            keep: Some(Arc::new(note)),
            timeout: TIMEOUT,
            class: QueryClass::System,
            ..SeriesSelect::between(after, TimeMicros(i64::MAX))
        };
        self.store.series_keys(select).await.map_err(fault)?;
        let names = std::mem::take(&mut *found.lock());
        Ok(names)
    }

    /// What every host last called itself.
    ///
    /// # Cancel safety
    /// May be dropped; the next call looks again.
    pub(crate) async fn hosts(&self) -> Result<Arc<Hosts>, SourceError> {
        let mut look = self.hosts.lock().await;
        let now = Instant::now();
        if look.all_at.is_none_or(|at| now.duration_since(at) >= HOSTS_EVERY) {
            let names = host_names(self.store.as_ref(), TIMEOUT).await.map_err(fault)?;
            look.found = Arc::new(names);
            look.all_at = Some(now);
        }
        Ok(Arc::clone(&look.found))
    }
}
