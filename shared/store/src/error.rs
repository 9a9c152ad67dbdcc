//! What can go wrong with the database, sorted by what a caller can do about it.

/// An error of PostgreSQL or of the connection to it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the schema: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("the record holds {what} that cannot be read: {source}")]
    Corrupt {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that everybody goes by, and that another version may have written: no single operation is at fault.
    #[error("{what} cannot be read by this version: {source}")]
    Unreadable {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub fn corrupt(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        StoreError::Corrupt { what, source: Box::new(source) }
    }

    /// The data is at fault (SQLSTATE class 22 or 23, or a row that cannot be read): trying again gives the same.
    /// Everything else is the weather: time-outs, deadlocks, lost connections.
    pub fn is_data(&self) -> bool {
        match self {
            StoreError::Sql(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            StoreError::Corrupt { .. } => true,
            StoreError::Sql(_) | StoreError::Migrate(_) | StoreError::Unreadable { .. } => false,
        }
    }

    /// A statement that failed itself because somebody else took half of what it wanted (SQLSTATE 22012, which nothing else
    /// of ours raises): what it decided on is no longer so.
    pub fn is_lost_race(&self) -> bool {
        match self {
            StoreError::Sql(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == "22012"),
            StoreError::Sql(_)
            | StoreError::Migrate(_)
            | StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. } => false,
        }
    }
}
