-- Gates, budgets, pauses, bulk operations; the mesh's settings and its failover version.

alter table operations
    add column parent uuid,
    -- JSON: how many children are in each state.
    add column children text,
    -- JSON: the gates that the rules demanded when it was submitted.
    add column gates text,
    -- JSON: the gate that is open, or the last one that was.
    add column approval text,
    add column paused text,
    add column resolve text,
    -- JSON: the revisions of its target that it may be applied to.
    add column if_match text,
    -- It counts against its cluster's budget until its terminal transaction.
    add column holds_slot boolean not null default false,
    -- The cluster whose budget it counts against or waits for.
    add column waits_for text;
create index operations_by_parent on operations (parent, id) where parent is not null;
create index operations_queued on operations (waits_for, id) where state = 'queued';
create index operations_slots on operations (waits_for, id) where holds_slot;

-- The highest failover version of the mesh. Whoever changes what clusters are locks it first.
create table mesh (
    one_row boolean primary key default true check (one_row),
    failover_version bigint not null
);
insert into mesh (failover_version) select coalesce(max(failover_version), 1) from clusters;

-- The settings, every revision of them; the newest is what holds.
create table config (
    revision bigint primary key,
    settings text not null,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    operation uuid,
    reason text,
    change_ticket text
);
