//! `/metrics` for Prometheus, `/healthz` for whoever restarts things.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Mutex;

use super::collector::Collector;

type Shared = Arc<Mutex<Collector>>;

/// The two pages.
pub fn routes(collector: Shared) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(collector)
}

async fn metrics(State(collector): State<Shared>) -> Response {
    match collector.lock().await.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Healthy is an appliance whose control core answers; whether boards are alive is theirs to say.
async fn healthz(State(collector): State<Shared>) -> Response {
    match collector.lock().await.snapshot().await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
