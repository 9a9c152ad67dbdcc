//! Leases: who may do what only one may do. Taking one over grows its fence, so that a late holder is found out.

use sqlx::PgPool;

use crate::StoreError;
use crate::statement::statements;

statements! {
    TAKE = "
        insert into leases as l (name, holder, fence, expires_at)
        values ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
        on conflict (name) do update set
            fence = case when l.holder = excluded.holder then l.fence else l.fence + 1 end,
            holder = excluded.holder,
            expires_at = excluded.expires_at
        where l.holder = excluded.holder or l.expires_at < clock_timestamp()
        returning fence";
    RELEASE = "
        update leases set expires_at = clock_timestamp() - interval '1 second' where name = $1 and holder = $2";
}

/// Takes or renews a lease; the fencing number, or nothing while somebody else has it.
pub async fn take(pool: &PgPool, name: &str, holder: &str, secs: f64) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(TAKE).bind(name).bind(holder).bind(secs).fetch_optional(pool).await?)
}

/// Gives a lease back, so that nobody waits for its end.
pub async fn release(pool: &PgPool, name: &str, holder: &str) -> Result<(), StoreError> {
    sqlx::query(RELEASE).bind(name).bind(holder).execute(pool).await?;
    Ok(())
}
