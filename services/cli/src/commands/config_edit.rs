//! `mesh config edit`: the settings as YAML in somebody's editor; what they changed is shown and sent as a merge patch.

use std::io::Write as _;
use std::path::Path;

use omnirelay_contract::rest::Config;
use serde_json::Value;

use super::config::{ChangeArgs, changed};
use crate::diff;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::session::Session;

pub async fn run(session: &Session, how: &ChangeArgs) -> Result<Exit, Failure> {
    let editor = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| std::env::var(name).ok());
    let editor = editor.filter(|editor| !editor.trim().is_empty()).collect::<Vec<_>>().into_iter().next();
    let editor = editor.ok_or_else(|| {
        Failure::error("no editor is named").hint("set EDITOR, or change single settings: omnirelay mesh config set")
    })?;
    let config: Config = session.client.get("/control/config").await?;
    let file = write(&config, &session.target.name)?;
    edit(&editor, file.path()).await?;
    let text = std::fs::read_to_string(file.path())
        .map_err(|error| Failure::error(format!("what was edited cannot be read: {error}")))?;
    match edited(session, &config, &text, how).await {
        Ok(exit) => Ok(exit),
        // Nobody likes to type it twice.
        Err(failure) => match file.keep() {
            Ok((_, path)) => Err(failure.hint(format!("what you wrote is in {}", path.display()))),
            Err(_) => Err(failure),
        },
    }
}

async fn edited(session: &Session, config: &Config, text: &str, how: &ChangeArgs) -> Result<Exit, Failure> {
    let new: Value =
        serde_saphyr::from_str(text).map_err(|error| Failure::error(format!("that is no YAML: {error}")))?;
    if !new.is_object() {
        return Err(Failure::error("the settings must stay a mapping of keys to values"));
    }
    if new == config.settings {
        note("nothing to do: nothing was edited");
        return Ok(Exit::Succeeded);
    }
    for line in diff::lines(&config.settings, &new)? {
        note(&line);
    }
    changed(session, config, diff::merge_patch(&config.settings, &new), how).await
}

fn write(config: &Config, context: &str) -> Result<tempfile::NamedTempFile, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::error(format!("the settings cannot be written to a file: {error}"));
    let yaml = serde_saphyr::to_string(&config.settings).map_err(|error| failed(&error))?;
    let mut file = tempfile::Builder::new()
        .prefix("omnirelay-settings-")
        .suffix(".yaml")
        .tempfile()
        .map_err(|error| failed(&error))?;
    let head = format!(
        "# The settings of {context}, revision {}. Save and leave to change them; leave as they are to change nothing.\n\
         # A key that is taken away gets its default.\n",
        config.revision
    );
    file.write_all(head.as_bytes()).and_then(|()| file.write_all(yaml.as_bytes())).map_err(|error| failed(&error))?;
    Ok(file)
}

/// By the shell, as git and kubectl do, so that EDITOR may have arguments.
async fn edit(editor: &str, path: &Path) -> Result<(), Failure> {
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("editor").arg(path);
    let status = command
        .status()
        .await
        .map_err(|error| Failure::error(format!("the editor {editor:?} cannot be started: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::error(format!("the editor ended with {status}: nothing was changed")))
}
