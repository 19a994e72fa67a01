//! The dashboard's files.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::problem::{Code, Problem};
use crate::state::Shared;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// Where the dashboard's files come from.
pub trait Assets: Send + Sync + 'static {
    /// The file of this path, without a slash in front.
    fn asset(&self, path: &str) -> Option<Asset>;
}

/// The files that were there when this was compiled.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbeddedAssets;

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/assets.rs"));

    pub(super) fn files() -> &'static [(&'static str, &'static [u8])] {
        FILES
    }
}

impl Assets for EmbeddedAssets {
    fn asset(&self, path: &str) -> Option<Asset> {
        embedded::files()
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, bytes)| Asset { bytes })
    }
}

const PLACEHOLDER: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Fleetmend</title></head>
<body><h1>Fleetmend</h1><p>The collector runs; this build of it has no dashboard.</p>
<p>Build it with <code>npm ci &amp;&amp; npm run build</code> in <code>collector/web</code>, then build the collector
again, or run <code>cargo xtask up</code>, which does both. The API is under <code>/api/v1</code>
(<a href=\"/api/v1/openapi.json\">openapi.json</a>), and the command line is <code>fleetmend</code>.</p></body></html>";

/// Everything that is no route: a file of the dashboard, or its first page for a path within it.
pub(crate) async fn serve(State(state): State<Shared>, request: Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") {
        return Problem::new(Code::NotFound, format!("there is no route {path}")).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::new(Code::MethodNotAllowed, "files of the dashboard are only read").into_response();
    }
    let name = path.trim_start_matches('/');
    if let Some(asset) = state.assets.asset(name).filter(|_| !name.is_empty()) {
        return file(name, asset);
    }
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains('.') {
        return Problem::new(Code::NotFound, format!("there is no file {path}")).into_response();
    }
    match state.assets.asset("index.html") {
        Some(asset) => file("index.html", asset),
        None => answer(
            StatusCode::OK,
            "text/html; charset=utf-8",
            "no-store",
            PLACEHOLDER.as_bytes(),
        ),
    }
}

fn file(name: &str, asset: Asset) -> Response {
    // Vite puts a hash of the content into the names below assets/.
    let cache = if name.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    answer(StatusCode::OK, content_type(name), cache, asset.bytes)
}

fn answer(
    status: StatusCode,
    content_type: &'static str,
    cache: &'static str,
    bytes: &'static [u8],
) -> Response {
    let mut response = (status, Body::from(bytes)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "webmanifest" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
