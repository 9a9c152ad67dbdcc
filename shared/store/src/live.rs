//! The settings of the mesh as a replica follows them: read again whenever the record has a newer revision.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{PgConnection, PgPool, StoreError, config};
use omnirelay_workflow::settings::Settings;
use serde_json::Value;

/// One revision of the settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// 0 before anybody has set anything.
    pub revision: u64,
    /// Whole, as they are shown and patched.
    pub value: Value,
    pub settings: Settings,
}

/// The newest revision that was seen. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    newest: Arc<RwLock<Arc<Snapshot>>>,
}

impl LiveSettings {
    pub async fn load(pool: &PgPool) -> Result<Self, StoreError> {
        let value = Settings::default_value();
        let settings = Settings::parse(&value).map_err(|error| StoreError::corrupt("the default settings", error))?;
        let live = Self { newest: Arc::new(RwLock::new(Arc::new(Snapshot { revision: 0, value, settings }))) };
        live.fresh(pool).await?;
        Ok(live)
    }

    /// What was seen last.
    pub fn seen(&self) -> Arc<Snapshot> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What holds now.
    pub async fn fresh(&self, pool: &PgPool) -> Result<Arc<Snapshot>, StoreError> {
        let mut connection = pool.acquire().await.map_err(StoreError::from)?;
        let revision = config::revision(&mut connection).await?;
        self.at_least(&mut connection, revision).await
    }

    /// What was seen last, read again where that is older than `revision`.
    pub async fn at_least(&self, connection: &mut PgConnection, revision: u64) -> Result<Arc<Snapshot>, StoreError> {
        let seen = self.seen();
        if seen.revision >= revision {
            return Ok(seen);
        }
        let Some(row) = config::current(connection).await? else { return Ok(seen) };
        let value: Value = serde_json::from_str(&row.settings).map_err(|e| StoreError::corrupt("the settings", e))?;
        // Settings of an earlier version lack what came later: that has its default. What a newer one has added is left out.
        let (value, settings) = Settings::stored(&value)
            .map_err(|error| StoreError::Unreadable { what: "the settings", source: Box::new(error) })?;
        let snapshot = Arc::new(Snapshot { revision: row.revision, value, settings });
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if newest.revision < snapshot.revision {
            newest.clone_from(&snapshot);
        }
        Ok(newest.clone())
    }
}
