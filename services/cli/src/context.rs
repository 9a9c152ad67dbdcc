//! Which mesh a command speaks to, and as whom: a named context of the configuration file, the environment, or flags.
//!
//! Flags win over the environment, the environment over the current context. A token belongs to the place that named the
//! address: a context's token is not sent to an address that came from a flag or the environment, so that a slip of the
//! hand does not hand production's token to somebody else's server. The file never holds a token, only where one is.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

pub const ENV_URL: &str = "OMNIRELAY_URL";
pub const ENV_TOKEN: &str = "OMNIRELAY_TOKEN";
pub const ENV_NATS: &str = "OMNIRELAY_NATS_URL";
pub const ENV_CONFIG: &str = "OMNIRELAY_CONFIG";

/// `config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that is used when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub url: String,
    /// Where to watch by subscription to the bus; without it the API's event stream is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A shell command that prints a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_command: Option<String>,
}

/// What flags and environment say, gathered once so that the choice among them is pure.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub flag_url: Option<String>,
    pub flag_context: Option<String>,
    pub env_url: Option<String>,
    pub env_token: Option<Token>,
    pub env_nats: Option<String>,
}

/// Where a command goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The context's name, or the host where the address came from a flag or the environment. Shown in prompts.
    pub name: String,
    pub url: String,
    pub nats: Option<String>,
    pub token: TokenSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    None,
    Environment(Token),
    File(PathBuf),
    Command(String),
}

/// A bearer token. It prints as dots, whatever it is printed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` for blank text.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The token itself, for the one header it goes into.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{} is not a configuration: {source}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the configuration cannot be written as TOML: {0}")]
    Render(#[from] toml::ser::Error),
    #[error("there is no context {name:?}; known: {known}")]
    Unknown { name: String, known: String },
    #[error("no mesh is named: neither a flag, nor {ENV_URL}, nor a current context")]
    Nowhere,
    #[error("no place for the configuration: neither {ENV_CONFIG} nor HOME is set")]
    NoHome,
    #[error("{text:?} is not an address like https://omnirelay.example.com")]
    Address { text: String },
    #[error("the token file {} cannot be read: {source}", path.display())]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("the context's token_command {why}")]
    TokenCommand { why: String },
    #[error("{place} holds no token")]
    NoToken { place: String },
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        let failure = Failure::error(error.to_string());
        match error {
            ContextError::Nowhere => failure
                .hint("omnirelay context set NAME --url URL --token-file FILE, then omnirelay context use NAME")
                .hint(format!("or set {ENV_URL} and {ENV_TOKEN}, or start one: omnirelay dev")),
            ContextError::Unknown { .. } => failure.hint("omnirelay context list"),
            ContextError::TokenFile { .. } | ContextError::TokenCommand { .. } | ContextError::NoToken { .. } => {
                failure.hint("omnirelay context set NAME --token-file FILE, or --token-command CMD")
            }
            _ => failure,
        }
    }
}

/// Chooses among what was said and what the file has. Pure.
pub fn choose(config: &Config, said: &Said) -> Result<Target, ContextError> {
    let env_token = || said.env_token.clone().map_or(TokenSource::None, TokenSource::Environment);
    if let Some(name) = &said.flag_context {
        let mut target = named(config, name)?;
        if let Some(url) = &said.flag_url {
            target.url = address(url)?;
        }
        // Somebody who names a context that has no token of its own means the one in the environment.
        if target.token == TokenSource::None {
            target.token = env_token();
        }
        return Ok(target);
    }
    if let Some(url) = said.flag_url.as_ref().or(said.env_url.as_ref()) {
        let url = address(url)?;
        // The bus in the environment belongs to the address in the environment.
        let same = said.env_url.as_ref().is_none_or(|env| env.trim_end_matches('/') == url);
        let nats = said.env_nats.clone().filter(|_| same);
        return Ok(Target { name: host(&url).to_owned(), url, nats, token: env_token() });
    }
    let mut target = named(config, config.current.as_deref().ok_or(ContextError::Nowhere)?)?;
    if let Some(token) = &said.env_token {
        target.token = TokenSource::Environment(token.clone());
    }
    if let Some(nats) = &said.env_nats {
        target.nats = Some(nats.clone());
    }
    Ok(target)
}

impl Said {
    /// Flags, and the environment of this process. Empty variables count as unset.
    pub fn gather(flag_url: Option<&str>, flag_context: Option<&str>) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            flag_url: flag_url.map(str::to_owned),
            flag_context: flag_context.map(str::to_owned),
            env_url: var(ENV_URL),
            env_token: var(ENV_TOKEN).as_deref().and_then(Token::new),
            env_nats: var(ENV_NATS),
        }
    }
}

impl TokenSource {
    /// Fetches the token. A command inherits stdin and stderr, as it may ask for a passphrase.
    pub async fn fetch(&self) -> Result<Option<Token>, ContextError> {
        match self {
            TokenSource::None => Ok(None),
            TokenSource::Environment(token) => Ok(Some(token.clone())),
            TokenSource::File(path) => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| ContextError::TokenFile { path: path.clone(), source })?;
                let place = || ContextError::NoToken { place: path.display().to_string() };
                Token::new(&text).ok_or_else(place).map(Some)
            }
            TokenSource::Command(command) => {
                let output = tokio::process::Command::new("sh")
                    .args(["-c", command])
                    .stdin(std::process::Stdio::inherit())
                    .stderr(std::process::Stdio::inherit())
                    .output()
                    .await
                    .map_err(|error| ContextError::TokenCommand { why: format!("cannot be run: {error}") })?;
                if !output.status.success() {
                    return Err(ContextError::TokenCommand { why: format!("ended with {}", output.status) });
                }
                let place = || ContextError::NoToken { place: "what the token_command printed".to_owned() };
                Token::new(&String::from_utf8_lossy(&output.stdout)).ok_or_else(place).map(Some)
            }
        }
    }

    /// For people: where the token comes from, never the token.
    pub fn describe(&self) -> String {
        match self {
            TokenSource::None => "none".to_owned(),
            TokenSource::Environment(_) => ENV_TOKEN.to_owned(),
            TokenSource::File(path) => format!("file {}", path.display()),
            TokenSource::Command(command) => format!("command {command}"),
        }
    }
}

impl Config {
    /// `$OMNIRELAY_CONFIG`, else `~/.config/omnirelay/config.toml`.
    pub fn path() -> Result<PathBuf, ContextError> {
        if let Some(path) = std::env::var_os(ENV_CONFIG).filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(ContextError::NoHome)?;
        Ok(PathBuf::from(home).join(".config/omnirelay/config.toml"))
    }

    /// A file that is not there is an empty configuration.
    pub fn read(path: &Path) -> Result<Self, ContextError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ContextError::Parse { path: path.to_owned(), source: Box::new(source) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ContextError::Read { path: path.to_owned(), source }),
        }
    }

    /// Replaces the file as a whole, readable by its owner only.
    pub fn write(&self, path: &Path) -> Result<(), ContextError> {
        let text = toml::to_string_pretty(self)?;
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)?;
            }
            let beside = path.with_extension(format!("tmp{}", std::process::id()));
            let mut file = private(&beside, std::fs::OpenOptions::new().create(true).truncate(true).write(true))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|source| ContextError::Write { path: path.to_owned(), source })
    }
}

/// Opens a file that only its owner can read.
pub fn private(path: &Path, options: &mut std::fs::OpenOptions) -> std::io::Result<std::fs::File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

/// An URL without a password in it, for people.
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        _ => url.to_owned(),
    }
}

fn named(config: &Config, name: &str) -> Result<Target, ContextError> {
    let context = config.contexts.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        ContextError::Unknown { name: name.to_owned(), known }
    })?;
    let token = match (&context.token_file, &context.token_command) {
        (Some(path), _) => TokenSource::File(path.clone()),
        (None, Some(command)) => TokenSource::Command(command.clone()),
        (None, None) => TokenSource::None,
    };
    Ok(Target { name: name.to_owned(), url: address(&context.url)?, nats: context.nats.clone(), token })
}

/// An http address without a trailing slash.
pub fn address(text: &str) -> Result<String, ContextError> {
    let bad = || ContextError::Address { text: without_password(text) };
    let url = reqwest::Url::parse(text.trim()).map_err(|_| bad())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        Ok(url.as_str().trim_end_matches('/').to_owned())
    } else {
        Err(bad())
    }
}

fn host(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or(url)
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
