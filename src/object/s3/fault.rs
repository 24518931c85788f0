//! What a failed request means.
//!
//! The client gives a status as text alone, so the text is matched here and nowhere else.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::super::Error;

/// Where the instance's metadata live: who asks there has found no credentials before.
const INSTANCE_METADATA: &str = "169.254.169.254";

/// A request that did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such object.
    Absent,
    /// The key is taken, and the request was to create.
    Exists,
    /// Passing trouble; the request may have been carried out.
    Again {
        /// One word for the metrics.
        reason: &'static str,
        /// What was said.
        text: String,
    },
    /// The store does not know the kind of request.
    Unknown(String),
    /// It will not be done, however often it is asked.
    Refused(String),
}

impl Fault {
    /// Tells what an error of the client is.
    pub(super) fn of(error: &object_store::Error) -> Self {
        use object_store::Error as Of;
        let text = chain(error);
        if let Some(text) = token(&text) {
            return Self::Again { reason: "credentials", text: text.to_owned() };
        }
        match error {
            Of::AlreadyExists { source, .. } => match source.downcast_ref::<Of>() {
                Some(Of::Precondition { .. } | Of::NotModified { .. }) => Self::Exists,
                // 409: somebody else is creating it at this moment.
                _ => Self::Again { reason: "conflict", text },
            },
            Of::Precondition { .. } | Of::NotModified { .. } => Self::Exists,
            Of::NotFound { .. } if has(&text, "NoSuchBucket") => {
                Self::Refused("there is no such bucket; make it, or name another".to_owned())
            }
            Of::NotFound { .. } => Self::Absent,
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => denied(&text),
            Of::InvalidPath { .. } => Self::Refused(text),
            _ => Self::of_text(error, text),
        }
    }

    fn of_text(error: &object_store::Error, text: String) -> Self {
        if text.contains(INSTANCE_METADATA) {
            let text = "no credentials were found: set AWS_ACCESS_KEY_ID and \
                        AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
                .to_owned();
            return Self::Again { reason: "credentials", text };
        }
        if let Some(transport) = transport(error) {
            let timeout = transport.kind() == HttpErrorKind::Timeout;
            return Self::Again { reason: if timeout { "timeout" } else { "connection" }, text };
        }
        let elsewhere = text.contains("redirect without LOCATION")
            || has(&text, "AuthorizationHeaderMalformed");
        match status(&text) {
            Some(501) => Self::Unknown(text),
            code if elsewhere || code == Some(301) => {
                let text = "the bucket is in another region or at another endpoint: set \
                            objects.region or objects.endpoint";
                Self::Refused(text.to_owned())
            }
            // What AWS says 400 to, and is passing all the same.
            Some(400) if has(&text, "RequestTimeout") || has(&text, "BadDigest") => {
                Self::Again { reason: "status", text }
            }
            Some(400) => Self::Unknown(text),
            Some(code) if (400..500).contains(&code) && ![408, 423, 425, 429].contains(&code) => {
                Self::Refused(text)
            }
            _ => Self::Again { reason: "status", text },
        }
    }

    /// The port's error.
    pub(super) fn into_error(self, store: &str) -> Error {
        match self {
            Self::Again { text, .. } => Error::Unavailable(format!("{store}: {text}")),
            Self::Refused(text) | Self::Unknown(text) => Error::Refused(format!("{store}: {text}")),
            Self::Absent => Error::Unavailable(format!("{store}: it lost what it had")),
            Self::Exists => Error::Unavailable(format!("{store}: 412 to no condition")),
        }
    }
}

/// The failure of the connection that an error comes from.
fn transport(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(own) = cause {
        if let Some(transport) = own.downcast_ref() {
            return Some(transport);
        }
        cause = own.source();
    }
    None
}

/// Whether a store's text gives this code.
fn has(text: &str, code: &str) -> bool {
    text.contains(&format!("<Code>{code}<"))
}

/// What is wrong with a session token. The store's own text has the token in it.
fn token(text: &str) -> Option<&'static str> {
    if has(text, "ExpiredToken") || has(text, "RequestExpired") {
        let expired = "the credentials have run out: those of a role are asked for anew, those of \
                       a profile or the environment must be renewed there";
        return Some(expired);
    }
    let other = "the session token is not that of the keys: renew all three where they come from";
    has(text, "InvalidToken").then_some(other)
}

fn denied(text: &str) -> Fault {
    let has = |code| has(text, code);
    let remedy = match () {
        () if has("RequestTimeTooSkewed") => "this machine's clock is wrong: set it (NTP)",
        () if has("InvalidAccessKeyId") => {
            "it does not know the access key: set AWS_ACCESS_KEY_ID, or mend the profile"
        }
        () if has("SignatureDoesNotMatch") => {
            "the secret key is wrong: set AWS_SECRET_ACCESS_KEY, or mend the profile; or the \
             region is: objects.region"
        }
        () => {
            "access is denied: allow s3:PutObject, s3:GetObject and s3:ListBucket there, and the \
             use of the key if there is one"
        }
    };
    Fault::Refused(remedy.to_owned())
}

/// The status code that the client's text names.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// An error and its causes, each said once, on one line, bounded.
pub(super) fn chain(error: &dyn StdError) -> String {
    const LETTERS_MAX: usize = 600;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(LETTERS_MAX).collect()
}
