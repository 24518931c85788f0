//! The settings of the object store: a folder, or an S3 bucket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::Reader;
use super::raw::{RawObjects, Scalar};
use super::units;
use crate::object::s3::{Encryption, Environment, Settings, host_of};

/// Where trace files and digests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A local folder.
    Folder(PathBuf),
    /// A bucket of an S3-compatible store.
    S3(Settings),
}

impl std::fmt::Display for Objects {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(to, "{}", path.display()),
            Self::S3(settings) => write!(to, "{settings}"),
        }
    }
}

/// Reads table `objects`; `data` holds the folder where nothing else is said.
pub(super) fn build(
    reader: &mut Reader,
    raw: &RawObjects,
    data: &Path,
    env: &[(String, String)],
) -> Objects {
    let url = raw.url.text();
    let s3 = url.strip_prefix("s3://").map(|place| settings(reader, raw, place, env));
    match s3 {
        Some(settings) => Objects::S3(settings),
        None if url.is_empty() => Objects::Folder(data.join("objects")),
        None => Objects::Folder(folder(reader, &url)),
    }
}

fn folder(reader: &mut Reader, url: &str) -> PathBuf {
    match url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
        Some(path) => units::percent_decode(path).map_or_else(
            || {
                reader.problem("objects.url", "its %xx escapes are no UTF-8 path");
                PathBuf::new()
            },
            PathBuf::from,
        ),
        None => {
            let masked = units::mask_url(url);
            let text = format!(
                "{masked:?} is no place for objects: write file:///folder or s3://bucket/prefix"
            );
            reader.problem("objects.url", text);
            PathBuf::new()
        }
    }
}

fn settings(
    reader: &mut Reader,
    raw: &RawObjects,
    place: &str,
    env: &[(String, String)],
) -> Settings {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let fits = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
        let masked = units::mask_url(&format!("s3://{place}"));
        let text = format!(
            "{masked:?} names no bucket: write s3://bucket/prefix; keys come from the environment"
        );
        reader.problem("objects.url", text);
    }
    let prefix = prefix.trim_end_matches('/');
    let odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
    if !prefix.is_empty() && prefix.split('/').any(odd) {
        reader.problem("objects.url", format!("{prefix:?} is no prefix: write a/b, without //"));
    }
    let endpoint = endpoint(reader, &raw.endpoint);
    let path_style = match raw.path_style.text().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        // A store of one's own rarely has a name for each bucket in the DNS; AWS has.
        "auto" => endpoint.is_some().then_some(true),
        other => {
            let text = format!("{other:?} is none of auto, true and false");
            reader.problem("objects.path_style", text);
            None
        }
    };
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
    Settings {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        region: Some(raw.region.text()).filter(|region| !region.is_empty()),
        path_style,
        encryption: encryption(reader, raw),
        timeout: reader.duration("objects.timeout", &raw.timeout, second, hour),
        environment: Environment::of(env.iter().cloned()),
    }
}

fn endpoint(reader: &mut Reader, raw: &Scalar) -> Option<String> {
    let text = raw.text();
    if text.is_empty() {
        return None;
    }
    if host_of(&text).is_none_or(|host| host.contains('/')) {
        let masked = units::mask_url(&text);
        let text = format!(
            "{masked:?} is no endpoint: write https://host:port; keys come from the environment"
        );
        reader.problem("objects.endpoint", text);
    }
    Some(text.trim_end_matches('/').to_owned())
}

fn encryption(reader: &mut Reader, raw: &RawObjects) -> Option<Encryption> {
    let key = Some(raw.sse_kms_key.text()).filter(|key| !key.is_empty());
    if key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
        reader.problem("objects.sse_kms_key", "is no id, ARN or alias of a key");
    }
    match (raw.sse.text().as_str(), key) {
        ("", None) => None,
        ("" | "aws:kms", key) => Some(Encryption::Kms(key)),
        ("AES256", None) => Some(Encryption::Store),
        ("AES256", Some(_)) => {
            let text = "names a key, which objects.sse = \"AES256\" has no use for";
            reader.problem("objects.sse_kms_key", text);
            None
        }
        (other, _) => {
            let text = format!("{other:?} is none of \"\", \"aws:kms\" and \"AES256\"");
            reader.problem("objects.sse", text);
            None
        }
    }
}
