//! Profiles: access keys, region and endpoint in the files that the tools of AWS share.
//!
//! | file | profile `name` is in | another file |
//! | --- | --- | --- |
//! | `~/.aws/credentials` | `[name]` | `AWS_SHARED_CREDENTIALS_FILE` |
//! | `~/.aws/config` | `[profile name]`, or `[default]` | `AWS_CONFIG_FILE` |
//!
//! The name is that of `AWS_PROFILE`, or `default`; where both files say something, `credentials`
//! counts.
//!
//! Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use configparser::ini::{Ini, IniDefault};
use object_store::aws::AwsCredential;

use super::Environment;

/// The profile that is meant where none is named.
const DEFAULT: &str = "default";

/// Settings of a profile that get keys from elsewhere. With a role, its own keys are not what it
/// is for.
const ROLE: &str = "role_arn";
const ELSEWHERE: [&str; 5] =
    [ROLE, "credential_process", "sso_session", "sso_start_url", "login_session"];

/// Why a profile gives no keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ProfileError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong: the system's text, or line and column.
        reason: String,
    },
    /// A file may not be read.
    #[error("cannot read {}: permission denied", .0.display())]
    Denied(PathBuf),
    /// There is no such profile.
    #[error("AWS_PROFILE names {name:?}, which is not in {}", places(files))]
    Unknown {
        /// The profile.
        name: String,
        /// The files that were looked into.
        files: Vec<PathBuf>,
    },
    /// One of the keys without the other.
    #[error("profile {name:?} lacks {lacks}: set it beside the other key in {}", path.display())]
    Half {
        /// The profile.
        name: String,
        /// The setting that is not there.
        lacks: &'static str,
        /// The file that has the other one.
        path: PathBuf,
    },
    /// A key that is none.
    #[error("profile {name:?}: {setting} in {} is no key: one line of ASCII", path.display())]
    Odd {
        /// The profile.
        name: String,
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Keys that are not in a file.
    #[error(
        "profile {name:?} has no keys of its own{}: give it aws_access_key_id, \
         aws_secret_access_key and, where they are temporary, aws_session_token (`aws configure \
         export-credentials` prints those of any profile)",
        elsewhere(*setting)
    )]
    NoKeys {
        /// The profile.
        name: String,
        /// Where it has them from instead.
        setting: Option<&'static str>,
    },
}

fn places(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    match names.is_empty() {
        true => "any file: HOME is not set".to_owned(),
        false => names.join(" or "),
    }
}

fn elsewhere(setting: Option<&str>) -> String {
    setting.map_or_else(String::new, |name| format!(", and {name} is not supported"))
}

/// What a profile says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Access keys; `None`: it has none, or they are not wanted.
    pub(super) keys: Option<AwsCredential>,
    /// Where the bucket is.
    pub(super) region: Option<String>,
    /// `https://host:port` of the store.
    pub(super) endpoint: Option<String>,
}

/// The profile that the environment points to.
#[derive(Clone, Debug)]
pub(super) struct Location {
    name: String,
    /// Whether somebody named it.
    named: bool,
    /// Whether keys come from it. Not where the environment has some, nor, where nobody named the
    /// profile, from a web identity.
    wants_keys: bool,
    /// `credentials` and `config`, as far as their places are known.
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Location {
    /// Where the environment says that the profile is.
    pub(super) fn of(environment: &Environment) -> Self {
        let named = environment.get("AWS_PROFILE");
        let identity = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"];
        let identity = identity.iter().all(|name| environment.get(name).is_some());
        let home = environment.get("HOME").map(Path::new);
        let place = |variable, name| match environment.get(variable) {
            None => home.map(|home| home.join(".aws").join(name)),
            Some(path) => match (path.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(PathBuf::from(path)),
            },
        };
        Self {
            name: named.unwrap_or(DEFAULT).to_owned(),
            named: named.is_some(),
            wants_keys: environment.get("AWS_ACCESS_KEY_ID").is_none()
                && (named.is_some() || !identity),
            credentials: place("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: place("AWS_CONFIG_FILE", "config"),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether nothing else can take the place of the profile's keys.
    pub(super) fn is_needed(&self) -> bool {
        self.named && self.wants_keys
    }

    /// Reads the profile; one that nobody named may be missing, and then says nothing.
    ///
    /// # Errors
    /// A file that is there cannot be read; where keys are wanted, the profile has half of a pair,
    /// or gets them from elsewhere; one that was named is missing or has none.
    pub(super) fn read(&self) -> Result<Profile, ProfileError> {
        let plain = format!("profile {}", self.name);
        let quoted = format!("profile \"{}\"", self.name);
        let in_config = [plain.as_str(), if self.name == DEFAULT { DEFAULT } else { &quoted }];
        let own = [self.name.as_str()];
        let files = [(&self.credentials, own.as_slice()), (&self.config, &in_config)];
        let (mut profile, mut known, mut elsewhere) = (Profile::default(), false, None);
        let mut denied = None;
        for (path, names) in files {
            let Some(path) = path else { continue };
            let ini = match parse(path) {
                // A home that is not ours, as some services have it: the other file may do.
                Err(error @ ProfileError::Denied(_)) => {
                    denied = denied.or(Some(error));
                    continue;
                }
                parsed => parsed?,
            };
            let Some(ini) = ini else { continue };
            let found = names.iter().find_map(|name| ini.get_map_ref().get(*name));
            let Some(section) = found.map(Section) else { continue };
            known = true;
            if self.wants_keys && profile.keys.is_none() {
                profile.keys = self.keys(path, &section)?;
            }
            let text = |name| section.get(name).map(str::to_owned);
            profile.region = profile.region.or_else(|| text("region"));
            profile.endpoint = profile.endpoint.or_else(|| text("endpoint_url"));
            // A role counts most, whichever file has it.
            let says = |name: &&str| elsewhere == Some(*name) || section.get(name).is_some();
            elsewhere = ELSEWHERE.into_iter().find(says);
        }
        let name = || self.name.clone();
        let lacks = profile.keys.is_none() && (self.named || elsewhere.is_some());
        if self.is_needed() && !known {
            let files = [&self.credentials, &self.config].into_iter().flatten().cloned().collect();
            return Err(denied.unwrap_or(ProfileError::Unknown { name: name(), files }));
        }
        if self.wants_keys && (lacks || elsewhere == Some(ROLE)) {
            let none = ProfileError::NoKeys { name: name(), setting: elsewhere };
            return Err(denied.unwrap_or(none));
        }
        Ok(profile)
    }

    /// The keys in a section of a file.
    fn keys(
        &self,
        path: &Path,
        section: &Section<'_>,
    ) -> Result<Option<AwsCredential>, ProfileError> {
        const KEY: &str = "aws_access_key_id";
        const SECRET: &str = "aws_secret_access_key";
        let (name, path) = (|| self.name.clone(), || path.to_owned());
        let word = |setting, fits: fn(&str) -> bool| match section.get(setting) {
            Some(value) if !fits(value) => {
                Err(ProfileError::Odd { name: name(), setting, path: path() })
            }
            value => Ok(value.map(str::to_owned)),
        };
        let lacks = match (word(KEY, is_key)?, word(SECRET, is_secret)?) {
            (Some(key_id), Some(secret_key)) => {
                let token = word("aws_session_token", is_key)?;
                return Ok(Some(AwsCredential { key_id, secret_key, token }));
            }
            (None, None) => return Ok(None),
            (Some(_), None) => SECRET,
            (None, Some(_)) => KEY,
        };
        Err(ProfileError::Half { name: name(), lacks, path: path() })
    }
}

/// Whether a text can be a key or a token: the client puts them into headers, and panics where they
/// do not fit.
pub(super) fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Whether a text can be a secret: it is hashed, so any line will do.
pub(super) fn is_secret(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// The settings of a profile in one file.
struct Section<'a>(&'a HashMap<String, Option<String>>);

impl<'a> Section<'a> {
    /// What a setting says; its name may be in capitals. `None` where it is missing or empty.
    fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| value.as_deref()).filter(|value| !value.is_empty())
    }
}

/// Reads a file; `None` where there is none.
fn parse(path: &Path) -> Result<Option<Ini>, ProfileError> {
    let failed = |reason: String| ProfileError::File { path: path.to_owned(), reason };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // Of a service the home is often no folder at all.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(ProfileError::Denied(path.to_owned()));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut rules = IniDefault::default();
    // What stands before the first section is of no profile.
    rules.default_section = String::new();
    rules.delimiters = vec!['='];
    rules.case_sensitive = true;
    // A secret may have what would begin a comment.
    rules.enable_inline_comments = false;
    // Settings of one service stand, indented, below its name.
    rules.multiline = true;
    let mut ini = Ini::new_from_defaults(rules);
    // Of the error no more than where it is: its text might have a piece of a secret.
    let place =
        |error: String| error.split_once(": ").map_or(String::new(), |(at, _)| at.to_owned());
    ini.read(text).map_err(|error| failed(place(error)))?;
    Ok(Some(ini))
}

#[cfg(test)]
#[path = "profile_test.rs"]
mod tests;
