-- The audit log: a hash chain with one record an event, which can be added to and read, and nothing else.

create table audit_log (
    seq bigint primary key,
    position bigint not null unique,
    event_id uuid not null unique,
    at timestamptz not null,
    -- The actor's subject; what else is known of the actor beside it. A fact is in one column only, so that none of them can
    -- be changed without the hash telling.
    actor text not null,
    actor_scopes text not null,
    actor_token_id text,
    actor_address text,
    verb text not null,
    target text not null,
    operation uuid,
    reason text,
    change_ticket text,
    outcome text not null,
    latency_ms bigint,
    revision_before bigint,
    revision_after bigint,
    trace_id text,
    detail text not null,
    prev_hash text not null,
    hash text not null
);
create index audit_log_of_operation on audit_log (operation, seq) where operation is not null;
create index audit_log_of_target on audit_log (target, seq);
create index audit_log_of_actor on audit_log (actor, seq);
create index audit_log_by_time on audit_log (at);

-- The end of the chain. Whoever appends locks it first, so several writers are one after the other.
create table audit_head (
    one_row boolean primary key default true check (one_row),
    seq bigint not null,
    hash text not null,
    position bigint not null
) with (fillfactor = 10);
insert into audit_head (seq, hash, position) values (0, repeat('0', 64), 0);

create table audit_checkpoints (
    seq bigint primary key,
    hash text not null,
    at timestamptz not null,
    key_id text not null,
    signature text not null
);

create function audit_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'Nothing in the audit log is ever changed. omnirelay audit verify finds out what was.';
end
$$;

create trigger audit_log_append_only before update or delete or truncate on audit_log
    for each statement execute function audit_refuse_change();
create trigger audit_checkpoints_append_only before update or delete or truncate on audit_checkpoints
    for each statement execute function audit_refuse_change();
-- Also for sessions that replay a replication stream, or pretend to.
alter table audit_log enable always trigger audit_log_append_only;
alter table audit_checkpoints enable always trigger audit_checkpoints_append_only;

revoke all on audit_log, audit_head, audit_checkpoints from public;

-- What the audit service needs, as a role for its login to be a member of. Roles are the cluster's, not the database's: it may
-- be there already, be created by somebody else at this moment, or not be ours to create. A product that runs with one
-- login for everything does without it.
do $$
begin
    if not exists (select from pg_roles where rolname = 'omnirelay_audit') then
        create role omnirelay_audit nologin;
    end if;
exception
    when duplicate_object or unique_violation or insufficient_privilege then null;
end
$$;
do $$
begin
    grant select, insert on audit_log, audit_checkpoints to omnirelay_audit;
    grant select, update on audit_head, watermarks to omnirelay_audit;
    grant select on events to omnirelay_audit;
exception
    when undefined_object or insufficient_privilege then null;
end
$$;
