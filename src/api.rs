//! The HTTP surfaces: `/v3` as Huawei's clients speak it, and `/api/v1`, our own.
//!
//! [`app`] is a plain function from what it needs to a router, so tests call it without a socket.
//!
//! **Invariant:** work that blocks or burns CPU runs on blocking threads, a bounded number at a
//! time; what waits for a place waits a bounded time.

pub mod backend;
mod envelope;
mod error;
mod filter;
mod health;
mod ingest;
mod native;
mod params;
pub mod server;
pub(crate) mod split;
mod trace_json;
mod v3;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::config::Http;
use crate::metrics::Metrics;

pub(crate) use params::parse_time;

use backend::Backend;
use error::{ApiError, ApiResult};

/// Greatest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 12 << 20;

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// Times that a query is made again because partitions came or went meanwhile.
const COVERAGE_TRIES: u32 = 3;

/// What the handlers share.
pub struct Shared {
    backend: Arc<dyn Backend>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Queries that may run at one time.
    queries: Arc<Semaphore>,
    /// KiB of bodies that may be taken in at one time.
    ingest: Arc<Semaphore>,
    /// Bodies whose traces may be checked at one time.
    checks: Arc<Semaphore>,
    request_timeout: Duration,
    /// PEM text; empty where there are none.
    public_keys: String,
}

impl Shared {
    /// What the handlers share, within these bounds; `ingest_bytes_max` is for all bodies together.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        clock: Clock,
        metrics: Arc<Metrics>,
        http: &Http,
        ingest_bytes_max: u64,
    ) -> Self {
        let ingest_kib = usize::try_from(ingest_bytes_max / 1024).unwrap_or(usize::MAX);
        Self {
            backend,
            clock,
            metrics,
            queries: Arc::new(Semaphore::new(http.queries_max)),
            ingest: Arc::new(Semaphore::new(
                ingest_kib
                    .clamp(BODY_BYTES_MAX / 1024, Semaphore::MAX_PERMITS.min(u32::MAX as usize)),
            )),
            checks: Arc::new(Semaphore::new(crate::config::cores().max(2))),
            request_timeout: http.request_timeout,
            public_keys: String::new(),
        }
    }

    /// Publishes these keys, as PEM text.
    #[must_use]
    pub fn with_public_keys(self, pem: String) -> Self {
        Self { public_keys: pem, ..self }
    }

    /// Runs a blocking query when there is room for one, and measures it.
    async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        kind: &'static str,
        ask: impl FnOnce(&dyn Backend) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.queries).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(ApiError::busy("too many queries are running: try again"));
        };
        let shared = Arc::clone(self);
        let start = std::time::Instant::now();
        let answer = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            ask(shared.backend.as_ref())
        })
        .await;
        let seconds = start.elapsed().as_secs_f64();
        let labels = [("kind", kind)];
        self.metrics.histogram(crate::metrics::QUERY_SECONDS, &labels).record(seconds);
        answer.unwrap_or_else(|_| Err(ApiError::internal("the query failed; see the log")))
    }
}

/// Whether an answer may lack the traces of partitions that are elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Partial {
    /// The surface has no way to say so.
    Never,
    /// The caller did not ask for it.
    Refused,
    /// The caller asked for it.
    Taken,
}

impl Shared {
    /// As [`Shared::query`], over the traces of every partition: an answer that would lack some is
    /// refused, or comes with their numbers.
    async fn query_all<T: Send + 'static>(
        self: &Arc<Self>,
        kind: &'static str,
        partial: Partial,
        ask: impl Fn(&dyn Backend) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<(T, Vec<u32>)> {
        self.query(kind, move |backend| {
            for _ in 0..COVERAGE_TRIES {
                let before = backend.coverage();
                if !before.missing.is_empty() && partial != Partial::Taken {
                    return Err(ApiError::incomplete(&before.missing, partial != Partial::Never));
                }
                let answer = ask(backend)?;
                if backend.coverage().changes == before.changes {
                    return Ok((answer, before.missing));
                }
            }
            Err(ApiError::busy("partitions are moving between instances: try again"))
        })
        .await
    }
}

/// The router of everything that is served.
pub fn app(shared: Shared) -> Router {
    let shared = Arc::new(shared);
    Router::new()
        .route("/v3/{project_id}/traces", get(v3::list_traces))
        .route("/api/v1/traces", get(native::traces).merge(post(ingest::post_traces)))
        .route("/api/v1/facets", get(native::facets))
        .route("/api/v1/histogram", get(native::histogram))
        .route("/api/v1/topics/{topic}/{partition}", get(native::topic_records))
        .route("/api/v1/accounts", get(native::accounts))
        .route("/.well-known/trailproof/keys", get(health::keys))
        .route("/.well-known/trailproof/checkpoint", get(health::checkpoint))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::render_metrics))
        .fallback(|| async { ApiError::not_found("there is no such path") })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), envelope::wrap))
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
}
