//! Commands to agents: written by the step that wants them, leased while they are sent, answered when nobody will do them.

use std::collections::HashMap;
use std::time::Duration;

use omnirelay_workflow::{OperationId, Timestamp};
use sqlx::{PgConnection, PgPool, Row};

use crate::statement::statements;
use crate::{StoreError, ToSqlx};

statements! {
    // Leased by whoever writes them: it sends them as soon as the transaction is committed.
    INSERT = "
        insert into effects (id, operation, peer, verb, payload, undo, next_at, lease_until, expires_at)
        select id, operation, peer, verb, payload, undo, clock_timestamp(), clock_timestamp() + interval '5 seconds',
               expires_at
        from unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::timestamptz[])
            as u (id, operation, peer, verb, payload, undo, expires_at)
        on conflict (id) do nothing";
    VOID = "delete from effects where operation = any($1) and not undo";
    DELETE = "delete from effects where id = any($1)";
    DELETE_OF = "delete from effects where operation = any($1)";

    // A lease that ran out is of a sender that died: nobody knows whether the agent got it, so it counts as if it had.
    LEASE = "
        update effects e set lease_until = clock_timestamp() + interval '5 seconds', attempts = attempts + 1,
               state = case when lease_until is null then state else 'accepted' end
        from (
            select id from effects
            where state <> 'answered' and next_at <= now() and expires_at > now()
              and (lease_until is null or lease_until <= now())
            order by next_at limit $1
            for update skip locked
        ) due
        where e.id = due.id
        returning e.id, e.operation, e.peer, e.verb, e.payload, e.undo, e.attempts, e.expires_at";

    // A command whose row is gone was voided, by a cancel, a deadline or an end, and is not sent any more.
    STANDING = "
        select e.id, o.traceparent from effects e join operations o on o.id = e.operation
          left join operations p on p.id = o.parent
        where e.id = any($1) and e.state <> 'answered'
          and (e.undo or (o.cancel is null and p.cancel is null))";

    // The agent has it, or may have it: only the reply was missed. It is told again after a while, in case its report got lost: a repeated command repeats its report.
    ACCEPTED = "
        update effects set state = 'accepted', lease_until = null, next_at = clock_timestamp() + interval '5 seconds'
        where id = any($1) and state <> 'answered'";
    LATER = "
        update effects e set lease_until = null, next_at = clock_timestamp() + make_interval(secs => u.secs)
        from unnest($1::text[], $2::float8[]) as u (id, secs)
        where e.id = u.id and e.state <> 'answered'";
    ANSWER = "
        update effects e set state = 'answered', outcome = u.outcome
        from unnest($1::text[], $2::text[]) as u (id, outcome)
        where e.id = u.id and e.state <> 'answered'";
    // An agent says itself when time is over; only one that is not heard of is given up here, a little later.
    EXPIRE = "
        update effects set state = 'answered',
               outcome = case when state = 'accepted' or lease_until is not null then '{\"accepted\":true}' else '{\"accepted\":false}' end
        where id = any(array(
            select id from effects
            where state <> 'answered' and expires_at <= now() - interval '2 seconds'
            order by expires_at limit $1 for update skip locked))
        returning operation";
    // Answers that a crash kept from being taken.
    UNTAKEN = "select distinct operation from effects where state = 'answered' limit $1";
    ANSWERS = "
        select id, operation, outcome from effects
        where operation = any($1) and state = 'answered' order by id";
}

/// A command to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEffect {
    /// The command's id.
    pub id: String,
    pub operation: OperationId,
    pub peer: String,
    pub verb: String,
    /// JSON of the command.
    pub payload: String,
    pub undo: bool,
    pub expires_at: Timestamp,
}

/// A command that is to be sent now.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    pub effect: NewEffect,
    /// Attempts so far, this one included.
    pub attempts: i32,
}

/// What ended a command without a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub id: String,
    pub operation: OperationId,
    /// JSON: `{"refused": message}` or `{"accepted": bool}`, an expiry.
    pub outcome: String,
}

pub async fn insert(connection: &mut PgConnection, effects: &[NewEffect]) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(effects.iter().map(|e| e.id.as_str()).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.operation).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.peer.as_str()).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.verb.as_str()).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.undo).collect::<Vec<_>>())
        .bind(effects.iter().map(|e| e.expires_at.to_sqlx()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets the forward commands of these operations.
pub async fn void(connection: &mut PgConnection, operations: &[OperationId]) -> Result<(), StoreError> {
    sqlx::query(VOID).bind(operations).execute(connection).await?;
    Ok(())
}

/// Forgets these commands: their reports have been taken.
pub async fn delete(connection: &mut PgConnection, ids: &[String]) -> Result<(), StoreError> {
    sqlx::query(DELETE).bind(ids).execute(connection).await?;
    Ok(())
}

/// Forgets every command of these operations: they have ended.
pub async fn delete_of(connection: &mut PgConnection, operations: &[OperationId]) -> Result<(), StoreError> {
    sqlx::query(DELETE_OF).bind(operations).execute(connection).await?;
    Ok(())
}

/// Takes commands that are due and that nobody else is sending.
pub async fn lease(pool: &PgPool, limit: i64) -> Result<Vec<Leased>, StoreError> {
    let rows = sqlx::query(LEASE).bind(limit).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Leased {
                effect: NewEffect {
                    id: row.try_get(0)?,
                    operation: row.try_get(1)?,
                    peer: row.try_get(2)?,
                    verb: row.try_get(3)?,
                    payload: row.try_get(4)?,
                    undo: row.try_get(5)?,
                    expires_at: row.try_get::<jiff_sqlx::Timestamp, _>(7)?.to_jiff(),
                },
                attempts: row.try_get(6)?,
            })
        })
        .collect()
}

/// Which of these commands are still to be done, each with the trace that it belongs to.
pub async fn standing(pool: &PgPool, ids: &[&str]) -> Result<HashMap<String, Option<String>>, StoreError> {
    let standing: Vec<(String, Option<String>)> = sqlx::query_as(STANDING).bind(ids).fetch_all(pool).await?;
    Ok(standing.into_iter().collect())
}

pub async fn accepted(pool: &PgPool, ids: &[String]) -> Result<(), StoreError> {
    sqlx::query(ACCEPTED).bind(ids).execute(pool).await?;
    Ok(())
}

/// Sends these again after their pauses: surely none of them has reached its agent by this attempt.
pub async fn later(pool: &PgPool, ids: &[String], pauses: &[Duration]) -> Result<(), StoreError> {
    let secs: Vec<f64> = pauses.iter().map(Duration::as_secs_f64).collect();
    sqlx::query(LATER).bind(ids).bind(secs).execute(pool).await?;
    Ok(())
}

/// Keeps the outcomes of commands until a step takes them.
pub async fn answer(pool: &PgPool, ids: &[String], outcomes: &[String]) -> Result<(), StoreError> {
    sqlx::query(ANSWER).bind(ids).bind(outcomes).execute(pool).await?;
    Ok(())
}

/// Gives up commands whose time is over; returns the operations that wait for them.
pub async fn expire(pool: &PgPool, limit: i64) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(EXPIRE).bind(limit).fetch_all(pool).await?)
}

/// Operations with answers that no step has taken yet.
pub async fn untaken(pool: &PgPool, limit: i64) -> Result<Vec<OperationId>, StoreError> {
    Ok(sqlx::query_scalar(UNTAKEN).bind(limit).fetch_all(pool).await?)
}

/// The answers that wait for these operations.
pub async fn answers(connection: &mut PgConnection, operations: &[OperationId]) -> Result<Vec<Answer>, StoreError> {
    let rows = sqlx::query(ANSWERS).bind(operations).fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok(Answer { id: row.try_get(0)?, operation: row.try_get(1)?, outcome: row.try_get(2)? }))
        .collect()
}
