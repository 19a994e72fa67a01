//! What every handler has at hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_shutdown::CancellationToken;

use crate::assets::Assets;
use crate::audit::Audit;
use crate::auth::Caller;
use crate::backend::{Alerts, Enrolments, HostsLive, LiveFacts, Operations, QueryLimits, SqlQuery};
use crate::certificate::Certificate;
use crate::exports::Exports;
use crate::groups::Groups;
use crate::limit::RateLimits;
use crate::promql::Promql;
use crate::sessions::Sessions;
use crate::throttle::LoginThrottle;
use crate::tickets::Tickets;
use crate::users::Accounts;

pub(crate) type Shared = Arc<ApiState>;

pub(crate) struct ApiState {
    pub(crate) sql: Arc<dyn SqlQuery>,
    pub(crate) live: Arc<dyn LiveFacts>,
    pub(crate) promql: Arc<dyn Promql>,
    pub(crate) hosts: Arc<dyn HostsLive>,
    pub(crate) enrolments: Arc<dyn Enrolments>,
    pub(crate) alerts: Arc<dyn Alerts>,
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) assets: Arc<dyn Assets>,
    pub(crate) accounts: Accounts,
    pub(crate) sessions: Sessions,
    pub(crate) groups: Groups,
    pub(crate) audit: Audit,
    pub(crate) limits: RateLimits,
    pub(crate) throttle: LoginThrottle,
    pub(crate) basic: crate::basic::Known,
    pub(crate) tickets: Tickets,
    /// Live streams that may still be opened.
    pub(crate) live_slots: Arc<tokio::sync::Semaphore>,
    /// The listener's own.
    pub(crate) certificate: Certificate,
    pub(crate) openapi: String,
    pub(crate) query_timeout: Duration,
    /// Cancelled when the process drains: live streams end then.
    pub(crate) draining: CancellationToken,
}

/// Where a request came from; absent only in tests that have no connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

impl ApiState {
    pub(crate) fn query_limits(&self, caller: &Caller, rows_max: usize) -> QueryLimits {
        QueryLimits {
            rows_max,
            timeout: self.query_timeout,
            hosts: caller.scope.clone(),
            asker: Arc::from(caller.user.as_str()),
        }
    }
}
