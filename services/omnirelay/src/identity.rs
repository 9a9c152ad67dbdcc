//! Keys and tokens of a development stack, kept in its state directory.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use omnirelay_contract::chain::SigningKey;
use omnirelay_runtime::auth::{self, Algorithm, Authenticator, Claims, Key, Scope};

pub const ISSUER: &str = "omnirelay-dev";
pub const AUDIENCE: &str = "omnirelay";
pub const KID: &str = "dev";
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Who may do what in a development stack.
pub struct Identity {
    private_pem: String,
    pub public_pem: String,
    pub public_file: PathBuf,
    pub audit_key_file: PathBuf,
    pub audit_key: SigningKey,
}

impl Identity {
    /// The identity of this state directory, made at the first start.
    pub fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let private_file = state_dir.join("auth.key.pem");
        let public_file = state_dir.join("auth.pub.pem");
        let audit_key_file = state_dir.join("audit.key.pem");
        if !private_file.exists() || !public_file.exists() {
            let pair = auth::generate_key_pair()?;
            write_private(&public_file, &pair.public_pem)?;
            write_private(&private_file, &pair.private_pem)?;
        }
        if !audit_key_file.exists() {
            write_private(&audit_key_file, &auth::generate_key_pair()?.private_pem)?;
        }
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Self {
            private_pem: read(&private_file)?,
            public_pem: read(&public_file)?,
            audit_key: read_signing_key(&audit_key_file)?,
            public_file,
            audit_key_file,
        })
    }

    pub fn authenticator(&self) -> anyhow::Result<Authenticator> {
        let key = Key { kid: KID.to_owned(), alg: Algorithm::EdDsa, material: self.public_pem.clone().into_bytes() };
        Ok(Authenticator::with_keys(ISSUER, AUDIENCE, &[key])?)
    }

    pub fn token(&self, subject: &str, scope: Scope) -> anyhow::Result<String> {
        let claims = Claims {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            subject: subject.to_owned(),
            scopes: vec![scope],
            valid_for: MONTH,
            kid: KID.to_owned(),
        };
        Ok(auth::mint(&self.private_pem, &claims)?)
    }
}

/// An Ed25519 private key, PKCS#8 PEM.
pub fn read_signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    use ed25519_dalek::pkcs8::DecodePrivateKey;
    let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|error| anyhow::anyhow!("{} is not an Ed25519 private key in PKCS#8 PEM: {error}", path.display()))
}

pub fn new_signing_key() -> SigningKey {
    SigningKey::from_bytes(&rand::random::<[u8; 32]>())
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
