//! The HTTP client of the commands: one server, no proxy, no redirects, retries in bounds.

use std::time::{Duration, Instant};

use reqwest::blocking::{Client as Http, RequestBuilder, Response};
use reqwest::{StatusCode, header};
use serde_json::Value;

use crate::command::Failure;
use crate::command::produce::Form;

/// Where a server listens unless told otherwise.
pub(crate) const SERVER: &str = "http://127.0.0.1:8473";

/// First pause before a retry; each one is twice as long, up to the greatest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A client of one server.
pub(crate) struct Client {
    http: Http,
    server: String,
    /// How long a call is tried again.
    patience: Duration,
}

impl Client {
    /// A client of `server`, an `http://` address with a port.
    pub(crate) fn new(server: &str, patience: Duration) -> Result<Self, Failure> {
        let server = server.trim_end_matches('/');
        if !server.starts_with("http://") && !server.starts_with("https://") {
            return Err(Failure::new(2, format!("{server:?} is no server: write {SERVER}")));
        }
        let http = Http::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| Failure::because("cannot make an HTTP client", &error))?;
        Ok(Self { http, server: server.to_owned(), patience })
    }

    /// Gets JSON.
    pub(crate) fn get(&self, path: &str, params: &[(String, String)]) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.server);
        let response = self.send(&|| self.http.get(&url).query(params))?;
        self.json(response)
    }

    /// Gets JSON as text.
    pub(crate) fn get_text(
        &self,
        path: &str,
        params: &[(String, String)],
    ) -> Result<String, Failure> {
        let url = format!("{}{path}", self.server);
        let response = self.send(&|| self.http.get(&url).query(params))?;
        response.text().map_err(|error| self.broken(&error))
    }

    /// Posts traces; what is sent again has the same bytes.
    pub(crate) fn post_traces(&self, body: &[u8], form: Form) -> Result<Value, Failure> {
        let url = format!("{}/api/v1/traces", self.server);
        let content_type = match form {
            Form::Lines => "application/x-ndjson",
            Form::Array => "application/json",
        };
        let response = self.send(&|| {
            self.http.post(&url).header(header::CONTENT_TYPE, content_type).body(body.to_vec())
        })?;
        self.json(response)
    }

    fn json(&self, response: Response) -> Result<Value, Failure> {
        response.json().map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &dyn std::error::Error) -> Failure {
        Failure::because(&format!("the answer of {} cannot be read", self.server), error)
    }

    /// Sends until there is an answer that is final, or patience ends.
    fn send(&self, request: &dyn Fn() -> RequestBuilder) -> Result<Response, Failure> {
        let start = Instant::now();
        let mut pause = PAUSE;
        loop {
            let (problem, wait) = match request().send() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if is_passing(response.status()) => {
                    let wait = retry_after(&response).unwrap_or(pause);
                    (self.refusal(response), wait)
                }
                Ok(response) => return Err(self.refusal(response)),
                Err(error) => {
                    let what = format!("cannot reach {}", self.server);
                    (Failure::because(&what, &error), pause)
                }
            };
            if start.elapsed() + wait > self.patience {
                return Err(problem);
            }
            eprintln!("{problem}; trying again");
            std::thread::sleep(wait.min(PAUSE_MAX));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let body: Value = response.json().unwrap_or_default();
        let message = body["error_msg"].as_str().unwrap_or("no reason given").to_owned();
        let code = body["error_code"].as_str().map_or_else(String::new, |code| format!(" {code}"));
        Failure::new(2, format!("{} answered {}{code}: {message}", self.server, status.as_u16()))
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::INSUFFICIENT_STORAGE
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}
