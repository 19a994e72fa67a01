//! A host: its identity on disk, its keeper, and a stream that it wants to keep open.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agent_stream::connector::ConnectError;
use agent_stream::enrol::{
    Collectors, EnrolError, Keeper, adopt, adopt_time, recover_request, renew_request,
};
use collector_ingest::listener::Caller;
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::tls::{self, TlsFault};
use fleetmend_identity::{HostIdentity, HostKey, LiveIdentity, PeerIdentity, RevokedSet, TrustedTime};
use fleetmend_proto::v1;
use rand::Rng as _;
use rand::rngs::StdRng;
use tonic::Status;

use crate::clocks::{Truth, folder};
use crate::collector::{ADDRESS, Collector};

/// What a host is there to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Is always connected at the end.
    Honest,
    /// Is revoked some day and goes on trying.
    Revoked,
    /// Sleeps longer than the grace lasts.
    Gone,
}

pub(crate) struct Host {
    pub(crate) fate: Fate,
    pub(crate) id: HostId,
    pub(crate) source: IpAddr,
    folder: tempfile::TempDir,
    offset: Arc<AtomicI64>,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    keeper: Keeper,
    jitter: f64,
    /// The certificate that an open stream was begun with.
    stream: Option<PeerIdentity>,
    /// Certificates that it got after the first.
    pub(crate) renewals: u32,
    /// When it is woken from its present sleep.
    pub(crate) wakes: Option<TimeMicros>,
}

impl Host {
    pub(crate) async fn enrol(collector: &Collector, number: u32, fate: Fate, random: &mut StdRng) -> Self {
        let source = IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + number));
        let folder = folder();
        let key = Arc::new(HostKey::load_or_create(folder.path()).unwrap());
        let identity = collector.enrol(source, key).await;
        let id = identity.host();
        identity.save(folder.path()).unwrap();
        let offset = Arc::new(AtomicI64::new(0));
        let time = Self::clock(&collector.truth, &offset, &folder);
        let jitter = random.random();
        let identity = LiveIdentity::new(identity, Some(folder.path().to_owned()));
        Self {
            fate,
            id,
            source,
            keeper: Keeper::new(identity.clone(), time.clone(), jitter),
            folder,
            offset,
            identity,
            time,
            jitter,
            stream: None,
            renewals: 0,
            wakes: None,
        }
    }

    fn clock(truth: &Truth, offset: &Arc<AtomicI64>, folder: &tempfile::TempDir) -> Arc<TrustedTime> {
        let file = folder.path().join("trusted-time");
        Arc::new(TrustedTime::open_with(file, Box::new(truth.machine(offset))).unwrap())
    }

    /// Boots again with a clock that is wrong by `offset`: everything it knows is on its disk.
    pub(crate) fn boot(&mut self, truth: &Truth, offset: i64) {
        self.offset.store(offset, Ordering::Relaxed);
        self.time = Self::clock(truth, &self.offset, &self.folder);
        let identity = HostIdentity::load(self.folder.path()).unwrap().unwrap();
        self.identity = LiveIdentity::new(identity, Some(self.folder.path().to_owned()));
        self.keeper = Keeper::new(self.identity.clone(), self.time.clone(), self.jitter);
        self.stream = None;
    }

    pub(crate) fn sleep_until(&mut self, wakes: TimeMicros) {
        self.wakes = Some(wakes);
        self.stream = None;
    }

    pub(crate) fn cut(&mut self) {
        self.stream = None;
    }

    /// Whether it has no stream.
    pub(crate) fn is_refused(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn is_in(&self, revoked: &RevokedSet) -> bool {
        revoked.contains(self.identity.current().peer())
    }

    pub(crate) fn bundle_version(&self) -> u64 {
        self.identity.current().bundle().version
    }

    pub(crate) fn describe(&self) -> String {
        let identity = self.identity.current();
        format!(
            "{:?} {:?} bundle {} trusts {:?} stream {}",
            self.fate,
            identity,
            identity.bundle().version,
            self.time,
            self.stream.is_some()
        )
    }

    /// What a running agent does until it has nothing to do: keep the certificate, keep the stream.
    pub(crate) async fn live(&mut self, collector: &Collector) {
        self.keep(collector).await;
        if let Some(peer) = &self.stream {
            // The collector closes a stream when its certificate ends, or its host is revoked.
            let over = collector.truth.now() >= peer.not_after;
            if over || collector.enroller.revocations().current().contains(peer) {
                self.stream = None;
            }
        }
        if self.stream.is_some() {
            return;
        }
        let Err(fault) = self.connect(collector).await else {
            return;
        };
        // As the stream's task does before it tries again.
        let calls = self.calls(collector);
        if fault == TlsFault::TheirsExpired && calls.ask_time().await.is_err() {
            return;
        }
        self.keep(collector).await;
        self.connect(collector).await.ok();
    }

    async fn keep(&mut self, collector: &Collector) {
        tokio::select! {
            biased;
            () = self.identity.doubted() => self.keeper.doubt(),
            () = std::future::ready(()) => {}
        }
        let before = self.identity.current().peer().serial.clone();
        let calls = self.calls(collector);
        self.keeper.turn(&calls).await;
        if self.keeper.wait().is_zero() {
            // It found out the time, and what is due by it.
            self.keeper.turn(&calls).await;
        }
        if self.identity.current().peer().serial != before {
            self.renewals += 1;
        }
    }

    /// Opens the stream.
    pub(crate) async fn connect(&mut self, collector: &Collector) -> Result<(), TlsFault> {
        let tls = tls::client_for_host(&self.identity, &self.time).unwrap();
        let peer = collector.carrier(tls, self.source).await?;
        assert_eq!(peer.host(), Some(self.id));
        self.stream = Some(peer);
        Ok(())
    }

    fn calls<'a>(&self, collector: &'a Collector) -> Calls<'a> {
        Calls {
            collector,
            identity: self.identity.clone(),
            time: self.time.clone(),
            source: self.source,
        }
    }
}

/// The calls of the agent, answered by the enroller.
struct Calls<'a> {
    collector: &'a Collector,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    source: IpAddr,
}

fn distrust(fault: TlsFault) -> EnrolError {
    EnrolError::Connect(ConnectError::Tls {
        address: ADDRESS.to_owned(),
        fault,
    })
}

fn refusal(status: Status) -> EnrolError {
    EnrolError::of_status(ADDRESS, &status)
}

impl Collectors for Calls<'_> {
    async fn renew(&self, _: &str) -> Result<(), EnrolError> {
        let tls = tls::client_for_host(&self.identity, &self.time)?;
        let peer = self.collector.carrier(tls, self.source).await.map_err(distrust)?;
        let caller = Caller {
            address: (self.source, 40_000).into(),
            peer: Some(Arc::new(peer)),
            calls: Default::default(),
        };
        let request = renew_request(&self.identity.current())?;
        let enroller = &self.collector.enroller;
        let answer = enroller.renew_call(&caller, request).await.map_err(refusal)?;
        adopt(&self.identity, &answer).await
    }

    async fn recover(&self) -> Result<(), EnrolError> {
        let current = self.identity.current();
        let tls = tls::client_for_enrolment(current.root(), &self.time)?;
        self.collector.enrolment(tls).map_err(distrust)?;
        let request = recover_request(&current)?;
        let enroller = &self.collector.enroller;
        let answer = enroller
            .recover_call(self.source, request)
            .await
            .map_err(refusal)?;
        adopt(&self.identity, &answer).await
    }

    async fn ask_time(&self) -> Result<TimeMicros, EnrolError> {
        let current = self.identity.current();
        let tls = tls::client_for_time(current.root(), &self.time)?;
        self.collector.enrolment(tls).map_err(distrust)?;
        let nonce: [u8; 16] = rand::rng().random();
        let request = v1::TimeRequest {
            nonce: nonce.to_vec().into(),
            bundle_version: current.bundle().version,
        };
        let answer = self.collector.enroller.time_call(&request).map_err(refusal)?;
        adopt_time(&current, &answer, &nonce, &self.time)
    }
}
