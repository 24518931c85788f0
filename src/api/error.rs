//! Errors over HTTP: one body for both surfaces.
//!
//! `error_code` and `error_msg` are what Huawei's SDKs read. `/api` adds the members of RFC 9457.
//! Codes from CTS.9000 on are our own: no source of CTS has them.
//!
//! The body is written by the envelope, which knows the request's id.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::backend;

/// An error answer before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    /// Status.
    pub(super) status: StatusCode,
    /// CTS error code.
    pub(super) code: &'static str,
    /// What is wrong, with which thing, and what to do.
    pub(super) message: String,
    /// Seconds after which to try again.
    pub(super) retry_after: Option<u32>,
}

/// Why a request was not answered, as a result.
pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// 400 CTS.0003: the body is empty or not valid.
    pub(super) fn bad_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "CTS.0003", message)
    }

    /// 400 CTS.0300: a query parameter is not valid.
    pub(super) fn bad_query(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "CTS.0300", message)
    }

    /// 403 CTS.0012: no such project.
    pub(super) fn wrong_project() -> Self {
        let message = "the project id in the path is wrong: no account has this project";
        Self::new(StatusCode::FORBIDDEN, "CTS.0012", message)
    }

    /// 403 CTS.0002: not from here.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "CTS.0002", message)
    }

    /// 404 CTS.9404: no such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "CTS.9404", message)
    }

    /// 405 CTS.9405: the path has no such method.
    pub(super) fn method() -> Self {
        let message = "this path does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "CTS.9405", message)
    }

    /// 408 CTS.9408: the request came too slowly.
    pub(super) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "CTS.9408", "the request took too long to arrive")
    }

    /// 413 CTS.9413: the body is over its limit.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is over {limit} bytes: send it in smaller parts");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "CTS.9413", message)
    }

    /// 413 CTS.9413: an element is over what the log takes; nothing was taken in.
    pub(super) fn element_too_large(index: usize, bytes: usize, limit: usize) -> Self {
        let message = format!(
            "element {index} has {bytes} bytes, and the log takes {limit}; nothing was taken in: \
             leave it out, or raise max.message.bytes of the topic on Kafka"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "CTS.9413", message)
    }

    /// 503 CTS.9503: come again.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "CTS.9503", message);
        Self { retry_after: Some(1), ..error }
    }

    /// 503 CTS.9503: the answer would lack the traces of these partitions.
    pub(super) fn incomplete(missing: &[u32], may_be_partial: bool) -> Self {
        let list: Vec<String> = missing.iter().map(u32::to_string).collect();
        let remedy = if may_be_partial { ", or take what is here with partial=true" } else { "" };
        Self::busy(format!(
            "the traces of partitions {} are not on this instance, or are being restored: ask the \
             instance that has them, try again{remedy}",
            list.join(", ")
        ))
    }

    /// 500 CTS.0005: reading failed for good.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "CTS.0005", message)
    }
}

impl From<backend::Error> for ApiError {
    fn from(error: backend::Error) -> Self {
        let message = error.to_string();
        match error {
            backend::Error::Unavailable(_) => Self::busy(message),
            backend::Error::DiskFull(_) => {
                let error = Self::new(StatusCode::INSUFFICIENT_STORAGE, "CTS.0004", message);
                Self { retry_after: Some(5), ..error }
            }
            backend::Error::BadQuery(_) => Self::bad_query(message),
            backend::Error::Damaged(_) => Self::internal(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    error_code: &'a str,
    error_msg: &'a str,
    request_id: &'a str,
}

impl ApiError {
    /// The content type and body, for a request of `path`.
    pub(super) fn body(&self, path: &str, request_id: &str) -> (&'static str, Vec<u8>) {
        let problem = !path.starts_with("/v3/");
        let body = Problem {
            r#type: problem.then_some("about:blank"),
            title: problem.then(|| self.status.canonical_reason().unwrap_or("Error")),
            status: problem.then_some(self.status.as_u16()),
            detail: problem.then_some(&self.message),
            instance: problem.then_some(path),
            error_code: self.code,
            error_msg: &self.message,
            request_id,
        };
        let content_type = if problem { "application/problem+json" } else { "application/json" };
        let text = serde_json::to_vec(&body).expect("text members always serialise");
        (content_type, text)
    }
}
