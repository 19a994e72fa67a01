//! Leases: what only one collector of several may do at a time.
//!
//! A lease is a row of `control_leases`: name, holder, fencing token, expiry. Whoever takes it from another, or after
//! it lapsed, gets a token one higher; the token never falls, also not when the lease is given up (the row stays).
//! Time is the database's alone. The holder counts from before it asked, by a clock that does not jump, and stops a
//! [`MARGIN`] before the end: it knows that it lost a lease before anybody else can have it.
//!
//! Work that must not be done twice is fenced in the database too: [`Held::confirm`] inside the transaction that
//! writes it. Renewals of any number of names are one statement per [`BATCH`] names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::statement::{composed, query};
use crate::{Control, ControlError, Engine, Transaction, metrics};

/// Names in one statement.
pub const BATCH: usize = 500;
/// The part of a lease's life, one in so many, by which its holder stops early.
const MARGIN: u32 = 6;
/// Renewals in a lease's life.
const RENEWALS: u32 = 3;
/// The shortest life: a renewal has to fit into it several times.
const LIFE_MIN: Duration = Duration::from_millis(300);

/// Number that rises with every new holder of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub i64);

/// Takes leases for one holder, this process. Clones are the same holder.
#[derive(Debug, Clone)]
pub struct Leases {
    control: Control,
    holder: Arc<str>,
    life: Duration,
}

/// A lease that is held, or was.
#[derive(Debug, Clone)]
pub struct Held {
    /// What it is of.
    pub name: Arc<str>,
    /// Its number.
    pub token: FencingToken,
    holder: Arc<str>,
    until: Instant,
}

impl Held {
    /// Whether nobody else can have it yet.
    pub fn holds(&self) -> bool {
        Instant::now() < self.until
    }

    /// Until when it holds without a renewal.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Makes sure inside a transaction that no other holder has come.
    ///
    /// # Errors
    /// [`ControlError::LeaseLost`] when one has, or the lease has lapsed.
    pub async fn confirm(&self, transaction: &mut Transaction) -> Result<(), ControlError> {
        let now = now_of(transaction.control().engine());
        let held = composed(format!(
            "SELECT token FROM control_leases
             WHERE name = $1 AND holder = $2 AND token = $3 AND expires_at > {now}"
        ))
        .bind(&*self.name)
        .bind(&*self.holder)
        .bind(self.token.0)
        .fetch_value::<i64>(transaction)
        .await?;
        match held {
            Some(_) => Ok(()),
            None => Err(ControlError::LeaseLost(self.name.to_string())),
        }
    }
}

/// The database's clock, in microseconds since 1970.
fn now_of(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        Engine::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
    }
}

impl Leases {
    /// Leases of this process that last `life`. `name` is for people; the holder is told from others by a number that
    /// is drawn here, so that a process that starts again is another holder.
    pub fn new(control: Control, name: &str, life: Duration) -> Self {
        let number: u64 = rand::random();
        Self {
            control,
            holder: format!("{name}/{number:016x}").into(),
            life: life.max(LIFE_MIN),
        }
    }

    /// How long a lease lasts without a renewal.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// Takes what is free or ours already, and renews it. What is missing in the answer is held by others.
    ///
    /// # Cancel safety
    ///
    /// A lease may have been taken that nobody knows of; asking again gives it, or it lapses.
    ///
    /// # Errors
    /// When the database is away; then what is held lasts until [`Held::until`].
    pub async fn take(&self, names: &[Arc<str>]) -> Result<Vec<Held>, ControlError> {
        let mut sorted: Vec<&Arc<str>> = names.iter().collect();
        // In one order everywhere, so that two collectors never wait for each other's rows.
        sorted.sort();
        sorted.dedup();
        let mut held = Vec::with_capacity(sorted.len());
        for batch in sorted.chunks(BATCH) {
            held.extend(self.take_batch(batch).await?);
        }
        Ok(held)
    }

    async fn take_batch(&self, names: &[&Arc<str>]) -> Result<Vec<Held>, ControlError> {
        let now = now_of(self.control.engine());
        let rows: Vec<String> = (3..names.len() + 3)
            .map(|mark| format!("(${mark}, $1, 1, {now} + CAST($2 AS BIGINT))"))
            .collect();
        let text = format!(
            "INSERT INTO control_leases (name, holder, token, expires_at) VALUES {}
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
                 token = control_leases.token + CASE
                     WHEN control_leases.holder = excluded.holder AND control_leases.expires_at > {now} THEN 0
                     ELSE 1 END
             WHERE control_leases.holder = excluded.holder OR control_leases.expires_at <= {now}
             RETURNING name, token",
            rows.join(", ")
        );
        let life = i64::try_from(self.life.as_micros()).unwrap_or(i64::MAX);
        let mut statement = composed(text).bind(&*self.holder).bind(life);
        for name in names {
            statement = statement.bind(&***name);
        }
        let begun = Instant::now();
        let rows = statement.fetch_all(&self.control).await?;
        let until = begun + (self.life - self.life / MARGIN);
        let held = rows.iter().map(|row| {
            Ok(Held {
                name: row.try_get::<&str>(0)?.into(),
                token: FencingToken(row.try_get(1)?),
                holder: self.holder.clone(),
                until,
            })
        });
        held.collect()
    }

    /// Gives leases up: another collector may have them at once.
    ///
    /// # Errors
    /// When the database is away; then they lapse by themselves.
    pub async fn give_up(&self, held: &[Held]) -> Result<(), ControlError> {
        for lease in held {
            query("UPDATE control_leases SET expires_at = 0 WHERE name = $1 AND holder = $2 AND token = $3")
                .bind(&*lease.name)
                .bind(&*self.holder)
                .bind(lease.token.0)
                .execute(&self.control)
                .await?;
        }
        Ok(())
    }

    /// Holds one lease for as long as it can be had, as a task of `tasks`: the receiver shows it while it is held, and
    /// nothing from before it lapses. It is given up when the tasks end.
    pub fn hold(&self, name: &str, tasks: &Tasks) -> Tenure {
        let (sender, shown) = watch::channel(None);
        let tenure = Tenure { shown };
        let (leases, token) = (self.clone(), tasks.token());
        let name: Arc<str> = name.into();
        tasks.spawn("control-lease", TaskKind::BestEffort, async move {
            token.run_until_cancelled(leases.keep(&name, &sender)).await;
            let last: Option<Held> = sender.send_replace(None);
            if let Some(held) = last {
                metrics::lease_given_up();
                if let Err(error) = leases.give_up(&[held]).await {
                    tracing::debug!(
                        error = error.chain(),
                        "a lease was not given up; it lapses by itself"
                    );
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        tenure
    }

    async fn keep(&self, name: &Arc<str>, shown: &watch::Sender<Option<Held>>) {
        let every = self.life / RENEWALS;
        loop {
            let begun = Instant::now();
            let until = shown.borrow().as_ref().map(Held::until);
            let take = self.take(std::slice::from_ref(name));
            let taken = match until {
                // Past this moment it has lapsed, whatever the answer will be.
                Some(until) => tokio::time::timeout_at(until, take).await.ok(),
                None => Some(take.await),
            };
            match taken {
                Some(Ok(held)) => show(shown, held.into_iter().next(), name),
                Some(Err(error)) => {
                    tracing::debug!(
                        lease = &**name,
                        error = error.chain(),
                        "a lease could not be renewed yet"
                    );
                    if until.is_some_and(|until| until <= Instant::now()) {
                        show(shown, None, name);
                    }
                }
                None => show(shown, None, name),
            }
            let next = begun + every;
            let until = shown.borrow().as_ref().map(Held::until);
            tokio::time::sleep_until(until.map_or(next, |until| until.min(next))).await;
        }
    }
}

fn show(shown: &watch::Sender<Option<Held>>, held: Option<Held>, name: &str) {
    let before = shown.borrow().as_ref().map(|held| held.token);
    let after = held.as_ref().map(|held| held.token);
    match (before, after) {
        (None, Some(_)) => metrics::lease_taken(),
        (Some(_), None) => metrics::lease_lost(),
        _ => {}
    }
    if before != after {
        tracing::info!(lease = name, held = after.is_some(), "lease");
    }
    shown.send_replace(held);
}

/// A lease that a task holds when it can be had. Clones show the same.
#[derive(Debug, Clone)]
pub struct Tenure {
    shown: watch::Receiver<Option<Held>>,
}

impl Tenure {
    /// The lease, if it is held now.
    pub fn held(&self) -> Option<Held> {
        self.shown.borrow().clone().filter(Held::holds)
    }

    /// Waits until it is held.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn wait(&mut self) -> Option<Held> {
        let held = self
            .shown
            .wait_for(|held| held.as_ref().is_some_and(Held::holds))
            .await;
        held.ok().and_then(|held| held.clone())
    }

    /// Waits until `lease`, which this showed, is not held any more, also when it was lost and taken again since.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn lost(&mut self, lease: &Held) {
        loop {
            let held = self.shown.borrow_and_update().clone();
            let Some(until) = held
                .filter(|held| held.token == lease.token && held.holds())
                .map(|held| held.until)
            else {
                return;
            };
            tokio::select! {
                changed = self.shown.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// Many leases of one kind, renewed together: one for each host, for instance.
#[derive(Debug)]
pub struct LeaseSet {
    leases: Leases,
    held: Mutex<BTreeMap<Arc<str>, Held>>,
    /// Names it may hold.
    names_max: usize,
}

impl LeaseSet {
    /// An empty set of at most `names_max`.
    pub fn new(leases: Leases, names_max: usize) -> Self {
        Self {
            leases,
            held: Mutex::default(),
            names_max,
        }
    }

    /// The lease of a name, taken now when it is not held yet. `None` when another has it, or the set is full.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn get(&self, name: &str) -> Result<Option<Held>, ControlError> {
        let known = self.held.lock().get(name).cloned();
        if let Some(held) = known.filter(Held::holds) {
            return Ok(Some(held));
        }
        {
            let held = self.held.lock();
            if held.len() >= self.names_max && !held.contains_key(name) {
                return Ok(None);
            }
        }
        let taken = self.leases.take(&[name.into()]).await?.into_iter().next();
        let mut held = self.held.lock();
        match &taken {
            Some(lease) => held.insert(lease.name.clone(), lease.clone()),
            None => held.remove(name),
        };
        Ok(taken)
    }

    /// Renews all in statements of [`BATCH`] names, and says which went to others.
    ///
    /// # Errors
    /// When the database is away; what is held lasts until it lapses.
    pub async fn renew(&self) -> Result<Vec<Arc<str>>, ControlError> {
        let names: Vec<Arc<str>> = self.held.lock().keys().cloned().collect();
        let renewed = self.leases.take(&names).await?;
        let renewed: BTreeMap<Arc<str>, Held> = renewed
            .into_iter()
            .map(|held| (held.name.clone(), held))
            .collect();
        let mut held = self.held.lock();
        let lost: Vec<Arc<str>> = names
            .into_iter()
            .filter(|name| !renewed.contains_key(name))
            .collect();
        for name in &lost {
            held.remove(name);
        }
        // Forgotten ones that were given up meanwhile stay forgotten.
        for (name, lease) in renewed {
            if let Some(kept) = held.get_mut(&name) {
                *kept = lease;
            }
        }
        Ok(lost)
    }

    /// Gives one up.
    ///
    /// # Errors
    /// When the database is away; then it lapses by itself.
    pub async fn give_up(&self, name: &str) -> Result<(), ControlError> {
        let held = self.held.lock().remove(name);
        match held {
            Some(held) => self.leases.give_up(&[held]).await,
            None => Ok(()),
        }
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.held.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
