//! The client of one bucket, from settings, the environment and a profile.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, HeaderValue, RetryConfig};

use super::keys::Keys;
use super::profile::{Location, Profile, ProfileError, is_key, is_secret};
use super::{Encryption, Settings};

/// Bound of connecting, within the bound of a request.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Connections that stay open when idle.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// Settings that cannot be.
    #[error(transparent)]
    Client(#[from] object_store::Error),
    /// No keys where there should be some.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A variable that cannot be sent.
    #[error("{0} is no key: one line of ASCII")]
    Variable(String),
    /// A region that cannot be.
    #[error("{0:?} is no region: mend objects.region, AWS_REGION or the profile")]
    Region(String),
    /// An endpoint that cannot be; it may have a password in it.
    #[error(
        "the endpoint is none: write https://host:port as objects.endpoint, AWS_ENDPOINT_URL or \
         endpoint_url of the profile, without a password"
    )]
    Endpoint,
}

/// Makes the client. Credentials, and region and endpoint where the settings name none, come from
/// `AWS_…` in the environment, a profile, web identity, or the metadata of container or instance.
///
/// # Errors
/// As the variants of [`BuildError`].
pub(super) fn build(settings: &Settings) -> Result<AmazonS3, BuildError> {
    let mut builder = AmazonS3Builder::new();
    let filled = settings.environment.0.iter().filter(|(_, value)| !value.is_empty());
    for (name, value) in filled {
        // What is no option of the client is not for it.
        let Ok(key) = name.to_ascii_lowercase().parse() else { continue };
        let fits = match key {
            AmazonS3ConfigKey::AccessKeyId | AmazonS3ConfigKey::Token => is_key(value),
            AmazonS3ConfigKey::SecretAccessKey => is_secret(value),
            _ => true,
        };
        if !fits {
            return Err(BuildError::Variable(name.clone()));
        }
        builder = builder.with_config(key, value);
    }
    let from_env = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    let location = Location::of(&settings.environment);
    let profile = match location.read() {
        Ok(profile) => profile,
        Err(error) if location.is_needed() => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the profile of AWS is passed over");
            Profile::default()
        }
    };
    let endpoint = settings.endpoint.clone().or(from_env).or(profile.endpoint);
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());
    if let Some(endpoint) = endpoint {
        host_of(&endpoint).ok_or(BuildError::Endpoint)?;
        let full = if path_style { endpoint } else { hosted(&endpoint, &settings.bucket) };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, full);
    }
    let from_env = builder.get_config_value(&AmazonS3ConfigKey::Region);
    if let Some(region) = settings.region.clone().or(from_env).or(profile.region) {
        // It stands in a header of each request, as the keys do.
        if !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(BuildError::Region(region));
        }
        builder = builder.with_region(region);
    }
    if let Some(keys) = profile.keys {
        builder = builder.with_credentials(Arc::new(Keys::new(location, keys)));
    }
    for (name, value) in encryption(settings.encryption.as_ref()) {
        builder = builder.with_config(name.parse::<AmazonS3ConfigKey>()?, value);
    }
    let agent = concat!("trailproof/", env!("CARGO_PKG_VERSION"));
    let options = ClientOptions::new()
        .with_allow_http(plain)
        .with_user_agent(HeaderValue::from_static(agent))
        .with_timeout(settings.timeout)
        .with_connect_timeout(settings.timeout.min(CONNECT_MAX))
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    // The tries are `retry`'s, where each is counted.
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: settings.timeout,
    };
    let builder = builder
        .with_bucket_name(&settings.bucket)
        .with_virtual_hosted_style_request(!path_style)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(options)
        .with_retry(retry);
    Ok(builder.build()?)
}

/// The host of an endpoint, its port, and a path where there is one; `None` where the text is no
/// `http://…` or `https://…`, or has a user, a query or what no URL has.
pub(crate) fn host_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"))?;
    let host = host.trim_end_matches('/');
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"@?#".contains(&byte);
    (!host.is_empty() && !host.bytes().any(odd)).then_some(host)
}

/// Names and values of the client's options for encryption at rest.
fn encryption(wanted: Option<&Encryption>) -> Vec<(&'static str, String)> {
    const KIND: &str = "aws_server_side_encryption";
    match wanted {
        None => vec![],
        Some(Encryption::Store) => vec![(KIND, "AES256".to_owned())],
        Some(Encryption::Kms(key)) => {
            let key = key.iter().map(|key| ("aws_sse_kms_key_id", key.clone()));
            std::iter::once((KIND, "aws:kms".to_owned())).chain(key).collect()
        }
    }
}

/// The endpoint with the bucket in the host's name, as the client wants it.
fn hosted(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::hosted;

    #[test]
    fn the_bucket_goes_in_front_of_the_host() {
        assert_eq!(hosted("https://s3.local:9000", "audit"), "https://audit.s3.local:9000");
    }
}
