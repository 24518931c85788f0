//! `trailproof keys`: makes, shows and exports the signing keys.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::Failure;
use crate::keys::{self, Passphrase, public::KeysFile};

/// Arguments of `trailproof keys`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Make the keys of an installation: RSA-3072 and Ed25519, encrypted with a passphrase
    Generate(Generate),
    /// Show ids and fingerprints of the public keys
    Show(Folder),
    /// Print the public keys: keys.json, PEM, or a C2SP verifier key
    Export(Export),
}

#[derive(Args, Clone, Debug)]
struct Folder {
    /// Folder of the keys
    #[arg(long, value_name = "DIR", default_value = "trailproof-data/keys")]
    dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
struct Generate {
    #[command(flatten)]
    folder: Folder,
    /// Name of the installation, as in the configuration: the name of the checkpoint key
    #[arg(long, value_name = "NAME", default_value = "trailproof")]
    installation: String,
    #[command(flatten)]
    passphrase: Source,
}

/// Where the passphrase is read from.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct Source {
    /// File with the passphrase, mode 0600
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// systemd credential with the passphrase
    #[arg(long, value_name = "NAME")]
    passphrase_credential: Option<String>,
    /// Open file descriptor with the passphrase
    #[arg(long, value_name = "NUMBER")]
    passphrase_fd: Option<u32>,
}

#[derive(Args, Clone, Debug)]
struct Export {
    #[command(flatten)]
    folder: Folder,
    /// What to print
    #[arg(long, value_enum, default_value_t = Form::Json)]
    form: Form,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// keys.json
    Json,
    /// PEM PUBLIC KEY blocks
    Pem,
    /// C2SP verifier key of the checkpoints
    Vkey,
}

impl Source {
    fn passphrase(self) -> Option<Passphrase> {
        self.passphrase_file
            .map(Passphrase::File)
            .or(self.passphrase_credential.map(Passphrase::Credential))
            .or(self.passphrase_fd.map(Passphrase::Descriptor))
    }
}

/// Runs `trailproof keys`.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let refused = |error: keys::Error| Failure::because("keys", &error);
    let mut out = std::io::stdout().lock();
    match arguments.action {
        Action::Generate(Generate { folder, installation, passphrase }) => {
            let passphrase = passphrase
                .passphrase()
                .ok_or_else(|| Failure::new(2, "keys: say where the passphrase is"))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
            let file =
                keys::generate(&folder.dir, &installation, &passphrase, now_ms).map_err(refused)?;
            show(&file, &mut out)?;
            eprintln!("keep a copy of {} and the passphrase elsewhere", folder.dir.display());
        }
        Action::Show(folder) => show(&keys::published(&folder.dir).map_err(refused)?, &mut out)?,
        Action::Export(Export { folder, form }) => {
            let file = keys::published(&folder.dir).map_err(refused)?;
            match form {
                Form::Json => {
                    serde_json::to_writer_pretty(&mut out, &file).map_err(std::io::Error::from)?;
                    writeln!(out)?;
                }
                Form::Pem => {
                    for key in &file.keys {
                        write!(out, "{}", key.public_key)?;
                    }
                }
                Form::Vkey => {
                    for vkey in file.keys.iter().filter_map(|key| key.verifier_key.as_ref()) {
                        writeln!(out, "{vkey}")?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn show(file: &KeysFile, out: &mut impl std::io::Write) -> std::io::Result<()> {
    for key in &file.keys {
        writeln!(out, "{}  {:8}  signs {}", key.id, key.algorithm, key.signs)?;
        if let Some(vkey) = &key.verifier_key {
            writeln!(out, "{:34}{vkey}", "")?;
        }
    }
    Ok(())
}
