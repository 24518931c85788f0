//! An S3 server in this process, behind a layer that breaks requests as it is told.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use tokio::sync::watch;

use trailproof::object::s3::{Environment, S3Store, Settings};

use crate::store::{BUCKET, Conditions, Handler, Memory};

/// Credentials of the server.
pub(crate) const ACCESS: (&str, &str) = ("trailproof-test", "a secret for tests");

/// One way to break a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers a status and an S3 code, and does nothing.
    Status(u16, &'static str),
    /// Does nothing and says nothing for longer than anybody waits.
    Hang,
    /// Does it, after a while.
    Slow(Duration),
    /// Closes the connection, and does nothing.
    Reset,
    /// Does it, and closes the connection instead of answering.
    LostAnswer,
    /// Answers with half of the body, then closes the connection.
    CutBody,
}

/// Faults in the order in which they strike, by method.
#[derive(Default)]
struct Plan {
    faults: VecDeque<(Method, Fault)>,
    /// Strikes every request.
    always: Option<Fault>,
    requests: u64,
    struck: u64,
}

/// The server; it ends with this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) memory: Arc<Memory>,
    plan: Arc<Mutex<Plan>>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(conditions: Conditions) -> Self {
        Self::with_pages(conditions, 1_000)
    }

    pub(crate) fn with_pages(conditions: Conditions, page: usize) -> Self {
        let memory = Arc::new(Memory::new(conditions, page));
        let plan = Arc::new(Mutex::new(Plan::default()));
        let mut builder = S3ServiceBuilder::new(Handler(Arc::clone(&memory)));
        builder.set_auth(SimpleAuth::from_single(ACCESS.0, ACCESS.1));
        let layer = Layer { service: builder.build(), plan: Arc::clone(&plan) };
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(layer, stopped, &tell));
        let address = told.recv().unwrap();
        Self { address, memory, plan, stop, thread: Some(thread) }
    }

    /// Breaks the next requests with this method, one after the other.
    pub(crate) fn plan(&self, method: &Method, faults: impl IntoIterator<Item = Fault>) {
        let mut plan = self.plan.lock().unwrap();
        plan.faults.extend(faults.into_iter().map(|fault| (method.clone(), fault)));
    }

    /// Breaks every request from now on, or none any more.
    pub(crate) fn always(&self, fault: Option<Fault>) {
        self.plan.lock().unwrap().always = fault;
    }

    /// Requests so far, and those that were broken.
    pub(crate) fn requests(&self) -> (u64, u64) {
        let plan = self.plan.lock().unwrap();
        (plan.requests, plan.struck)
    }

    /// Planned faults that have not struck.
    pub(crate) fn left(&self) -> usize {
        self.plan.lock().unwrap().faults.len()
    }

    /// Settings that lead here.
    pub(crate) fn settings(&self, prefix: &str, timeout: Duration) -> Settings {
        Settings {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            region: Some("eu-test-1".to_owned()),
            path_style: Some(true),
            encryption: None,
            timeout,
            environment: Environment::of([
                ("AWS_ACCESS_KEY_ID", ACCESS.0),
                ("AWS_SECRET_ACCESS_KEY", ACCESS.1),
            ]),
        }
    }

    /// The adapter on this server.
    pub(crate) fn open(&self, timeout: Duration) -> S3Store {
        S3Store::open(&self.settings("in/here", timeout), None).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(layer: Layer, mut stopped: watch::Receiver<bool>, tell: &mpsc::Sender<SocketAddr>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let socket = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                _ = stopped.changed() => return,
            };
            let layer = layer.clone();
            tokio::spawn(async move {
                let serve = hyper::service::service_fn(move |request| layer.clone().call(request));
                let mut http = hyper::server::conn::http1::Builder::new();
                // What ends with an error ended as planned.
                let _ = http
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), serve)
                    .await;
            });
        }
    });
}

#[derive(Clone)]
struct Layer {
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
}

impl Layer {
    async fn call(self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let fault = self.next(request.method());
        match fault {
            Some(Fault::Status(code, name)) => return Ok(status(code, name)),
            Some(Fault::Hang) => tokio::time::sleep(Duration::from_secs(3_600)).await,
            Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Reset) => return Err(broken()),
            Some(Fault::LostAnswer | Fault::CutBody) | None => {}
        }
        let answer = hyper::service::Service::call(&self.service, request).await?;
        match fault {
            Some(Fault::LostAnswer) => Err(broken()),
            Some(Fault::CutBody) => Ok(answer.map(|body| Body::http_body_unsync(Cut::of(body)))),
            _ => Ok(answer),
        }
    }

    fn next(&self, method: &Method) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        plan.requests += 1;
        let at = plan.faults.iter().position(|(own, _)| own == method);
        let planned = at.and_then(|at| plan.faults.remove(at)).map(|(_, fault)| fault);
        let fault = planned.or_else(|| plan.always.clone());
        plan.struck += u64::from(fault.is_some());
        fault
    }
}

fn broken() -> HttpError {
    HttpError::new(Box::new(io::Error::other("broken as planned")))
}

fn status(code: u16, name: &str) -> Response<Body> {
    let text = format!("<Error><Code>{name}</Code><Message>as planned</Message></Error>");
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

/// A body that promises all its bytes, gives half of them, and fails.
struct Cut {
    inner: Pin<Box<Body>>,
    length: u64,
    given: u64,
}

impl Cut {
    fn of(body: Body) -> Self {
        let length = HttpBody::size_hint(&body).exact().unwrap_or_default();
        Self { inner: Box::pin(body), length, given: 0 }
    }
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let left = (self.length / 2).saturating_sub(self.given) as usize;
        if left == 0 {
            return Poll::Ready(Some(Err(io::Error::other("cut as planned"))));
        }
        let frame = match self.inner.as_mut().poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(_) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let Ok(bytes) = frame.into_data() else { return Poll::Ready(None) };
        let part = bytes.slice(..bytes.len().min(left));
        self.given += part.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
