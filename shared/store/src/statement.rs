//! Statements by name. Each module declares its own with [`statements!`](crate::statement::statements); a test prepares all of
//! them against a migrated database, so a typo is found without running the product.

/// Declares `const NAME: &str = "…";` for each statement and the list of them for the test.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* const $name: &str = $sql;)+
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((concat!(module_path!(), "::", stringify!($name)), $name)),+];
    };
}
pub(crate) use statements;

/// Every statement of the crate, `(name, SQL)`.
pub fn all() -> Vec<(&'static str, &'static str)> {
    [
        crate::audit::STATEMENTS,
        crate::clusters::STATEMENTS,
        crate::config::STATEMENTS,
        crate::effects::STATEMENTS,
        crate::events::STATEMENTS,
        crate::intake::STATEMENTS,
        crate::intake::control::STATEMENTS,
        crate::leases::STATEMENTS,
        crate::observed::STATEMENTS,
        crate::operations::STATEMENTS,
        crate::reads::STATEMENTS,
        crate::reads::clusters::STATEMENTS,
        crate::reads::events::STATEMENTS,
        crate::reads::operations::STATEMENTS,
        crate::reads::peers::STATEMENTS,
        crate::reads::plan::STATEMENTS,
        crate::reads::status::STATEMENTS,
        crate::registry::STATEMENTS,
    ]
    .concat()
}
