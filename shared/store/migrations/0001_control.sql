-- The record of the control plane. What agents observe is kept apart from what somebody decided, so that a heartbeat
-- never contends with a mutation and never changes a revision.

create table clusters (
    id text primary key,
    region text not null default '',
    priority integer not null default 0,
    state text not null,
    failover_version bigint not null default 1,
    replication_lag_ms bigint,
    max_unavailable text,
    labels jsonb not null default '{}',
    revision bigint not null default 1
);

create table peers (
    id text primary key,
    name text not null unique,
    cluster text not null references clusters (id),
    role text not null default '',
    address text not null default '',
    labels jsonb not null default '{}',
    metadata jsonb not null default '{}',
    capacity integer not null default 0,
    -- Holds are few and always read with their peer: an array of them saves a table and a join on the hottest path.
    holds json not null default '[]',
    schedulable boolean generated always as (holds::text = '[]') stored,
    drain_mark text not null default 'none',
    revision bigint not null default 1
) with (fillfactor = 70);
create index peers_by_cluster on peers (cluster, id);

-- One row a peer, rewritten by heartbeats (coalesced).
create table peer_observed (
    peer text primary key references peers (id) on delete cascade,
    incarnation uuid not null,
    seq bigint not null,
    health text not null,
    version text not null,
    lag_ms bigint,
    holds json not null default '[]',
    -- Of what the heartbeat said, so that any worker sees whether there is anything new in the next one.
    digest bigint not null default 0,
    last_seen timestamptz not null
) with (fillfactor = 50);

create table workloads (
    id text primary key,
    service text not null,
    -- The owner. A workload in the record always has one.
    peer text not null references peers (id),
    load integer not null default 1,
    labels jsonb not null default '{}',
    handover text not null,
    restorable boolean not null default true,
    ready boolean not null default true,
    remaining bigint,
    unit text,
    epoch bigint not null default 0,
    state text not null default 'running',
    -- While it moves: by which operation, and which peer it is promised to.
    operation uuid,
    target text
) with (fillfactor = 70);
create index workloads_by_peer on workloads (peer);
create index workloads_inbound on workloads (target) where target is not null;

create table operations (
    id uuid primary key,
    verb text not null,
    target text not null,
    state text not null,
    phase text,
    progress text not null default '{"done":0,"total":0,"inFlight":0,"failed":0,"unit":""}',
    blockers text not null default '[]',
    -- The actor with scopes, token id and address, as the audit records it.
    actor text not null,
    actor_json text not null,
    reason text,
    change_ticket text,
    params text not null default '{}',
    digest text not null,
    idempotency_key text not null,
    request_digest text not null,
    -- The ingress instance that may be waiting for the end of it.
    ingress text,
    traceparent text,
    cancel text,
    -- The workflow's own state, as the pure crate serialises it.
    run text,
    changed boolean not null default false,
    result text,
    error text,
    resource text,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    deadline_at timestamptz,
    -- When the worker should look at it again. Null: never of itself.
    wake_at timestamptz,
    -- When it last made a step, for the reconciler.
    stepped_at timestamptz,
    -- When its progress was last told.
    progress_at timestamptz,
    event_seq bigint not null default 0,
    revision bigint not null default 1
) with (fillfactor = 60);
create unique index operations_by_key on operations (actor, idempotency_key);
create index operations_due on operations (wake_at) where wake_at is not null;
create index operations_waiting on operations (target, id) where started_at is null and finished_at is null;
create index operations_by_target on operations (target, id);
create index operations_live on operations (state, id)
    where state in ('submitted', 'awaitingApproval', 'queued', 'running', 'unwinding', 'stuck');

create table operation_locks (
    resource text primary key,
    operation uuid not null
);
create index operation_locks_of on operation_locks (operation);

-- Commands to agents, written by the step that wants them, sent by the dispatcher.
create table effects (
    id text primary key,
    operation uuid not null,
    peer text not null,
    verb text not null,
    payload text not null,
    -- Part of an unwinding: goes out although a cancel was asked for.
    undo boolean not null,
    -- pending → accepted → (gone with its report), or → answered, an outcome that the next step takes.
    state text not null default 'pending',
    outcome text,
    attempts integer not null default 0,
    next_at timestamptz not null,
    lease_until timestamptz,
    expires_at timestamptz not null,
    created_at timestamptz not null default clock_timestamp()
) with (fillfactor = 60);
create index effects_due on effects (next_at) where state <> 'answered';
create index effects_expiring on effects (expires_at) where state <> 'answered';
create index effects_of on effects (operation);
create index effects_answered on effects (operation) where state = 'answered';

-- The outbox and the event log in one: a row gets its position from the relay, once, in id order.
create table events (
    id bigint generated always as identity primary key,
    position bigint,
    event_id uuid not null,
    resource text not null,
    nats_subject text not null,
    operation uuid,
    payload text not null,
    created_at timestamptz not null default clock_timestamp()
);
create index events_unpositioned on events (id) where position is null;
create unique index events_by_position on events (position) where position is not null;
create index events_of_operation on events (operation, id) where operation is not null;

-- `positioned` and `published` are the relay's; `audited` the audit's: the highest position done.
create table watermarks (
    name text primary key,
    position bigint not null
);
insert into watermarks (name, position) values ('positioned', 0), ('published', 0), ('audited', 0);

-- A lease is taken by growing its fence, so that a late holder is found out.
create table leases (
    name text primary key,
    holder text not null,
    fence bigint not null,
    expires_at timestamptz not null
);

create table dead_letters (
    id bigint generated always as identity primary key,
    operation uuid,
    input text not null,
    error text not null,
    at timestamptz not null default clock_timestamp()
);

-- Keys that every replica must share and nobody outside may know: the confirmation tokens' HMAC key.
create table control_keys (
    name text primary key,
    key bytea not null
);
