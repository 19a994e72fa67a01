//! The routes, one file per subject. A handler says its own path, and is mounted and described by it.

mod actions;
mod admin;
mod alerts;
mod certificates;
mod export;
mod extract;
mod findings;
mod gaps;
mod groups;
mod host_list;
mod hosts;
mod live;
mod live_stream;
mod operations;
pub(crate) mod prometheus;
mod queries;
mod series;
mod session;
mod sites;
mod sql;

use axum::Router;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::Shared;

pub(crate) use live::LIVE_STREAMS_MAX;

/// Where Prometheus' API begins.
pub(crate) const PROMETHEUS: &str = "/prometheus/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(title = "Fleetmend", description = "The contract in words is docs/specs/api.md."),
    components(schemas(crate::problem::ProblemBody)),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).build();
        components.add_security_scheme("basic", SecurityScheme::Http(basic));
    }
}

/// Prometheus' API.
fn prometheus() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(prometheus::query, prometheus::query_posted))
        .routes(routes!(prometheus::query_range, prometheus::query_range_posted))
        .routes(routes!(prometheus::series, prometheus::series_posted))
        .routes(routes!(prometheus::labels, prometheus::labels_posted))
        .routes(routes!(prometheus::label_values))
        .routes(routes!(prometheus::metadata))
        .routes(routes!(prometheus::exemplars, prometheus::exemplars_posted))
        .routes(routes!(prometheus::format_query, prometheus::format_query_posted))
        .routes(routes!(prometheus::parse_query, prometheus::parse_query_posted))
        .routes(routes!(prometheus::build_info))
        .routes(routes!(prometheus::rules))
}

/// Whether a route, as it was mounted, is Prometheus'.
pub(crate) fn is_prometheus(route: &str) -> bool {
    const BESIDE: [&str; 11] = [
        "query",
        "query_range",
        "series",
        "labels",
        "label/{name}/values",
        "metadata",
        "query_exemplars",
        "format_query",
        "parse_query",
        "status/buildinfo",
        "rules",
    ];
    route.starts_with(PROMETHEUS)
        || route
            .strip_prefix("/api/v1/")
            .is_some_and(|own| BESIDE.contains(&own))
}

/// Everything below `/api/v1`, and its description.
pub(crate) fn api() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let v1 = OpenApiRouter::new()
        .routes(routes!(session::login))
        .routes(routes!(session::refresh))
        .routes(routes!(session::logout))
        .routes(routes!(session::me))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::one))
        .routes(routes!(hosts::probes))
        .routes(routes!(hosts::sensor))
        .routes(routes!(hosts::processes))
        .routes(routes!(hosts::units))
        .routes(routes!(hosts::models))
        .routes(routes!(series::names))
        .routes(routes!(series::range))
        .routes(routes!(findings::list))
        .routes(routes!(findings::one))
        .routes(routes!(actions::list))
        .routes(routes!(actions::one))
        .routes(routes!(alerts::list))
        .routes(routes!(certificates::list))
        .routes(routes!(sites::list))
        .routes(routes!(gaps::list))
        .routes(routes!(sql::run))
        .routes(routes!(queries::list))
        .routes(routes!(queries::cancel))
        .routes(routes!(export::targets))
        .routes(routes!(export::test))
        .routes(routes!(export::records))
        .routes(routes!(export::parquet))
        .routes(routes!(live::stream))
        .routes(routes!(live::ticket))
        .routes(routes!(admin::create_token, admin::tokens))
        .routes(routes!(admin::revoke_token))
        .routes(routes!(admin::revoke_host))
        .routes(routes!(admin::remove_host))
        .routes(routes!(admin::audit))
        .routes(routes!(admin::users, admin::create_user))
        .routes(routes!(admin::remove_user))
        .routes(routes!(groups::list))
        .routes(routes!(groups::set, groups::remove))
        .routes(routes!(groups::give))
        .routes(routes!(operations::openapi));
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", v1)
        .nest(PROMETHEUS, prometheus().routes(routes!(prometheus::alerts)))
        .split_for_parts()
}

/// What stands beside `/api/v1`.
pub(crate) fn beside() -> Router<Shared> {
    use axum::routing::get;
    // Some clients take no path in their base URL. `alerts` is ours there, so that they find only those below the other.
    let (without_prefix, _) = prometheus().split_for_parts();
    Router::new()
        .nest("/api/v1", without_prefix)
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_prometheus_is_known_as_such() {
        let (_, described) = OpenApiRouter::<Shared>::new()
            .nest("/api/v1", prometheus())
            .split_for_parts();
        assert!(described.paths.paths.len() > 8);
        for path in described.paths.paths.keys() {
            assert!(is_prometheus(path), "{path}");
        }
        for path in ["/api/v1/sql", "/api/v1/alerts", "/api/v1/me", "/healthz"] {
            assert!(!is_prometheus(path), "{path}");
        }
        assert!(is_prometheus("/prometheus/api/v1/alerts"));
    }
}
