//! Enrolment, as the API orders it and as alerting asks who left.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use collector_alert::{QueryError, RemovedHosts};
use collector_api::{
    AuditRow, BackendError, EnrolledHost, EnrolmentTokenView, Enrolments, NewEnrolmentToken, OwnCertificate,
};
use collector_ingest::enrol::{EnrolError, Enroller, KeyEnd, KeyKind};
use fleetmend_event::{HostId, TimeMicros};

/// Asks the enroller.
pub(crate) struct EnrolmentAdapter {
    enroller: Enroller,
}

impl EnrolmentAdapter {
    /// An adapter over `enroller`.
    pub(crate) fn new(enroller: Enroller) -> Self {
        Self { enroller }
    }
}

/// Who left the fleet, as alerting asks it.
pub(crate) struct RemovedAdapter(pub(crate) Enroller);

#[async_trait]
impl RemovedHosts for RemovedAdapter {
    async fn removed(&self) -> Result<BTreeSet<HostId>, QueryError> {
        let removed = self.0.removed_hosts().await;
        removed.map_err(|error| QueryError::Unavailable(error.to_string()))
    }
}

fn failed(error: EnrolError) -> BackendError {
    BackendError::Failed(error.to_string())
}

fn own_certificate(end: KeyEnd) -> OwnCertificate {
    let rotated = "by an operator: fleetmend-collector authority rotate-online";
    let (name, renewal) = match end.of {
        KeyKind::Listener => (
            "TLS of the carrier and the enrolment listener".to_owned(),
            "by the collector itself",
        ),
        KeyKind::Issuing => ("issuing certificate".to_owned(), rotated),
        KeyKind::Online => (format!("online key {}", end.key), rotated),
        KeyKind::Root => (
            format!("fleet root {}", end.key),
            "by an operator: fleetmend-collector authority rotate-root",
        ),
        KeyKind::Bundle => (
            format!("trust bundle {}", end.key),
            "with every stage of a rotation",
        ),
    };
    OwnCertificate {
        name,
        not_after: end.not_after,
        renewal,
    }
}

#[async_trait]
impl Enrolments for EnrolmentAdapter {
    async fn create_token(
        &self,
        by: &str,
        lifetime: Duration,
        uses: u32,
    ) -> Result<NewEnrolmentToken, BackendError> {
        let token = self
            .enroller
            .issue_token(by, lifetime, uses)
            .await
            .map_err(failed)?;
        let id = collector_ingest::enrol::token_id(&token);
        let micros = i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX);
        Ok(NewEnrolmentToken {
            id,
            token: token.expose().to_string(),
            expires_at: TimeMicros::now().plus_micros(micros),
            uses,
        })
    }

    async fn tokens(&self) -> Result<Vec<EnrolmentTokenView>, BackendError> {
        let tokens = self.enroller.tokens().await.map_err(failed)?;
        let view = |token: collector_ingest::enrol::TokenState| EnrolmentTokenView {
            id: token.id,
            created_at: token.created_at,
            created_by: token.created_by,
            expires_at: token.expires_at,
            uses: token.uses,
            uses_left: token.uses_left,
            revoked: token.revoked_at.is_some(),
        };
        Ok(tokens.into_iter().map(view).collect())
    }

    async fn revoke_token(&self, by: &str, id: &str) -> Result<(), BackendError> {
        let revoked = self.enroller.revoke_token(id).await.map_err(failed)?;
        tracing::info!(by, token = id, revoked, "enrolment token revoked");
        if revoked {
            Ok(())
        } else {
            Err(BackendError::NotFound("enrolment token"))
        }
    }

    async fn hosts(&self) -> Result<Vec<EnrolledHost>, BackendError> {
        let hosts = self.enroller.hosts().await.map_err(failed)?;
        let view = |host: collector_ingest::enrol::EnrolledHost| EnrolledHost {
            host_id: host.host,
            hostname: host.hostname,
            enrolled_at: host.enrolled_at,
            revoked: host.revoked_at.is_some(),
            removed_at: host.removed_at,
            certificate_not_after: host.not_after,
        };
        Ok(hosts.into_iter().map(view).collect())
    }

    async fn certificates(&self) -> Result<Vec<OwnCertificate>, BackendError> {
        let ends = self.enroller.ends();
        Ok(ends.into_iter().map(own_certificate).collect())
    }

    async fn revoke_host(&self, by: &str, host: HostId, reason: &str) -> Result<(), BackendError> {
        let revoked = self
            .enroller
            .revoke_host(host, &format!("by {by}: {reason}"))
            .await
            .map_err(failed)?;
        if revoked {
            Ok(())
        } else {
            Err(BackendError::NotFound("host"))
        }
    }

    async fn remove_host(&self, by: &str, host: HostId, reason: &str) -> Result<(), BackendError> {
        let removed = self
            .enroller
            .remove_host(host, &format!("by {by}: {reason}"))
            .await
            .map_err(failed)?;
        if removed {
            Ok(())
        } else {
            Err(BackendError::NotFound("host"))
        }
    }

    async fn audit(&self, before: TimeMicros, limit: usize) -> Result<Vec<AuditRow>, BackendError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let rows = self
            .enroller
            .audit()
            .before(before, limit)
            .await
            .map_err(failed)?;
        let view = |row: collector_ingest::enrol::AuditRow| AuditRow {
            id: format!("ingest-{}", row.id),
            time: row.at,
            actor: row
                .host
                .map_or_else(|| "unknown".to_owned(), |host| host.to_string()),
            action: row.kind,
            subject: row.host.map_or_else(String::new, |host| host.to_string()),
            outcome: if row.refused {
                "refused".to_owned()
            } else {
                "done".to_owned()
            },
            detail: row.detail,
            remote_address: row.source,
        };
        Ok(rows.into_iter().map(view).collect())
    }
}
