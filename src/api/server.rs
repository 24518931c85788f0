//! The socket: connections in bounds, and a graceful end.
//!
//! **Invariant:** at most `connections_max` connections are open; a client that sends its request's
//! head too slowly is cut off; after the shutdown no new request is begun.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::Http;
use crate::metrics::{self, Metrics};
use crate::shutdown::Shutdown;

/// How long open requests may take to finish after the shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Pause after the system refuses to accept: it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Greatest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Serves until told to stop, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    http: Http,
    metrics: Arc<Metrics>,
    mut shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(http.connections_max));
    let open = metrics.gauge(metrics::HTTP_CONNECTIONS, &[]);
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shutdown.wait() => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole, so waiting to fill a packet only delays them.
        let _without_it_only_slower = stream.set_nodelay(true);
        let (app, open, shutdown) = (app.clone(), open.clone(), shutdown.clone());
        tokio::spawn(async move {
            open.increment(1.0);
            connection(stream, app, http.request_timeout, shutdown).await;
            open.decrement(1.0);
            drop(place);
        });
    }
    drop(listener);
    let all = u32::try_from(http.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN, places.acquire_many(all)).await.is_err() {
        tracing::warn!("requests were cut off by the shutdown");
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    app: Router,
    request_timeout: Duration,
    mut shutdown: Shutdown,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(request_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(connection);
    tokio::select! {
        // A connection that breaks off is the client's affair.
        _ = connection.as_mut() => return,
        () = shutdown.wait() => connection.as_mut().graceful_shutdown(),
    }
    let _broken_off = connection.await;
}
