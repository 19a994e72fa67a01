//! The routes, one file per subject. A handler says its own path, and is mounted and described by it.

mod actions;
mod admin;
mod alerts;
mod certificates;
mod extract;
mod findings;
mod gaps;
mod host_list;
mod hosts;
mod live;
mod live_stream;
mod operations;
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
    }
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
        .routes(routes!(live::stream))
        .routes(routes!(live::ticket))
        .routes(routes!(admin::create_token, admin::tokens))
        .routes(routes!(admin::revoke_token))
        .routes(routes!(admin::revoke_host))
        .routes(routes!(admin::remove_host))
        .routes(routes!(admin::audit))
        .routes(routes!(admin::users, admin::create_user))
        .routes(routes!(admin::remove_user))
        .routes(routes!(operations::openapi));
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", v1)
        .split_for_parts()
}

/// What stands beside `/api/v1`.
pub(crate) fn beside() -> Router<Shared> {
    use axum::routing::get;
    Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
}
