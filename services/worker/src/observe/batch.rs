//! A batch of heartbeats: decided from what is known, written in one transaction, told after the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use omnirelay_contract::agent::ClusterRole;
use omnirelay_runtime::retry::Backoff;
use omnirelay_store::events::NewEvent;
use omnirelay_store::observed::{KnownPeer, NewObservation, NewPeer, Written};
use omnirelay_store::registry::{self, WorkloadRecord};
use omnirelay_store::{PgConnection, StoreError, events, observed, operations};
use omnirelay_workflow::resource::Health;
use omnirelay_workflow::{ClusterId, OperationId, PeerId, Timestamp, WorkloadId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::diff::{self, Diff, Records, Sight, Suspicions, diff};
use super::due::{Due, digest, due, health};
use super::inbox::{BATCH, Beat, Inbox};
use super::judge::Steady;
use super::memory::{FORGET, Memory, PeerMemory, forget};
use super::{ObserverOptions, asking, holds, news, roles, wake};

/// How often silent peers are forgotten.
const TIDY: Duration = Duration::from_secs(60);

/// Takes heartbeats.
pub struct Observer {
    options: ObserverOptions,
    steady: Arc<Steady>,
    memory: Memory,
    /// The role commands that peers were last sent. Not in the memory of a peer, which begins with its first look: they go
    /// out before that.
    roles: HashMap<PeerId, roles::Asked>,
    tidied: Instant,
}

/// A heartbeat with what is to be done about it.
struct Item<'a> {
    beat: &'a Beat,
    digest: i64,
    due: Due,
    known: Option<&'a KnownPeer>,
}

/// What a transaction did, for after its commit.
#[derive(Default)]
struct Done {
    /// The looks that were taken, with what they left open.
    looked: BTreeMap<PeerId, Suspicions>,
    drift: Vec<diff::Drift>,
    concerned: Vec<OperationId>,
    published: bool,
}

impl Observer {
    pub fn new(options: ObserverOptions, steady: Arc<Steady>) -> Self {
        Self { options, steady, memory: Memory::new(), roles: HashMap::new(), tidied: Instant::now() }
    }

    /// Takes from `inbox` until `shutdown`.
    pub async fn run(mut self, inbox: &Inbox, shutdown: &CancellationToken) {
        while let Some(beats) = inbox.take(shutdown).await {
            for batch in beats.chunks(BATCH) {
                if shutdown.run_until_cancelled(self.take(batch, shutdown)).await.is_none() {
                    return;
                }
            }
            if self.tidied.elapsed() >= TIDY {
                self.tidied = Instant::now();
                forget(&mut self.memory, self.tidied);
                self.roles.retain(|_, asked| self.tidied < asked.at() + FORGET);
            }
        }
    }

    /// Takes a batch, at most one heartbeat a peer. Weather is waited for; a batch with bad data is taken apart.
    pub async fn take(&mut self, batch: &[Beat], shutdown: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match self.attempt(part).await {
                Ok(concerned) => wake(&self.options, &concerned, shutdown).await,
                Err(error) if error.is_data() && part.len() > 1 => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                }
                Err(error) if error.is_data() => {
                    metrics::counter!("omnirelay_heartbeats_refused_total").increment(1);
                    let peer = part.first().map(|beat| beat.heartbeat.peer.as_str());
                    tracing::warn!(peer, %error, "a heartbeat cannot be taken and is dropped");
                }
                Err(error) => {
                    // What could not be written must not count as silence.
                    self.steady.interrupted();
                    let pause = backoff.pause();
                    tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "heartbeats cannot be written yet");
                    tokio::time::sleep(pause).await;
                    parts.push(part);
                }
            }
        }
    }

    async fn attempt(&mut self, batch: &[Beat]) -> Result<Vec<OperationId>, StoreError> {
        let ids: Vec<&str> = batch.iter().map(|beat| beat.heartbeat.peer.as_str()).collect();
        let known = observed::peers(&self.options.pool, &ids).await?;
        let known: HashMap<&str, &KnownPeer> = known.iter().map(|peer| (peer.id.as_str(), peer)).collect();
        let now = Instant::now();
        let timeout = self.options.settings.seen().settings.heartbeat.timeout;
        let mut items: Vec<Item<'_>> = batch
            .iter()
            .map(|beat| {
                let heartbeat = &beat.heartbeat;
                let (known, digest) = (known.get(heartbeat.peer.as_str()).copied(), digest(heartbeat));
                let memory = self.memory.get(&heartbeat.peer);
                Item { beat, digest, due: due(heartbeat, digest, known, memory, timeout, now), known }
            })
            .filter(|item| item.due != Due::Stale)
            .collect();
        items.sort_by(|a, b| a.beat.heartbeat.peer.cmp(&b.beat.heartbeat.peer));

        self.tell_roles(&items, now).await;
        let done = if items.iter().any(|item| item.due != Due::Nothing) {
            self.transact(&items, now).await?
        } else {
            Done::default()
        };
        if done.published {
            self.options.published.notify_one();
        }
        self.remember(&items, done.looked, &done.drift, now);
        self.tell_holds(&items, now).await;
        Ok(done.concerned)
    }

    async fn transact(&self, items: &[Item<'_>], now: Instant) -> Result<Done, StoreError> {
        let mut transaction = self.options.pool.begin().await?;
        let (adopted, mut news) = adopt(&mut transaction, items).await?;
        let writing: Vec<&Item<'_>> = items
            .iter()
            .filter(|item| item.due != Due::Nothing)
            .filter(|item| item.known.is_some() || adopted.contains(&item.beat.heartbeat.peer))
            .collect();
        let written = write(&mut transaction, &writing).await?;

        let mut reporting: Vec<&str> = Vec::new();
        let mut moved = Moved::default();
        let mut looking = Vec::new();
        let empty = Suspicions::new();
        for item in writing {
            let heartbeat = &item.beat.heartbeat;
            let Some(write) = written.get(&heartbeat.peer) else { continue };
            let (is, was) = (health(heartbeat.health), write.was.unwrap_or(Health::Unreachable));
            let changed = is != was && !adopted.contains(&heartbeat.peer);
            moved.note(item, is, was);
            if changed {
                news.push(news::health(&heartbeat.peer, is, was, write.last_seen)?);
            }
            let Due::Look { fresh, news: said_more } = item.due else { continue };
            if changed || said_more {
                reporting.push(heartbeat.peer.as_str());
            }
            let memory = self.memory.get(&heartbeat.peer).filter(|memory| memory.incarnation == heartbeat.incarnation);
            let suspicions = memory.map_or(&empty, |memory| &memory.suspicions);
            looking.push(Sight { heartbeat, received: item.beat.received, fresh, suspicions });
        }

        let diff = look(&mut transaction, &looking, now).await?;
        let told = |drift: &&diff::Drift| {
            let memory = self.memory.get(&drift.peer);
            !memory.is_some_and(|memory| memory.told.contains(&(drift.workload.clone(), drift.epoch)))
        };
        for drift in diff.drift.iter().filter(told) {
            news.push(news::drift(drift)?);
        }
        if !news.is_empty() {
            events::insert(&mut transaction, &news).await?;
        }
        let concerned = concerned(&mut transaction, &reporting, &moved).await?;
        transaction.commit().await?;
        Ok(Done { looked: diff.suspicions, drift: diff.drift, concerned, published: !news.is_empty() })
    }

    fn remember(
        &mut self,
        items: &[Item<'_>],
        mut looked: BTreeMap<PeerId, Suspicions>,
        drift: &[diff::Drift],
        now: Instant,
    ) {
        for item in items {
            let heartbeat = &item.beat.heartbeat;
            let open = looked.remove(&heartbeat.peer);
            let known = self.memory.get_mut(&heartbeat.peer);
            match (known, open) {
                (Some(memory), open) if memory.incarnation == heartbeat.incarnation => {
                    memory.seq = heartbeat.seq;
                    memory.heard = now;
                    if let Some(open) = open {
                        memory.told.retain(|(id, _)| open.contains_key(id));
                        memory.suspicions = open;
                        memory.looked = now;
                    }
                }
                (Some(_) | None, Some(open)) => {
                    let memory = PeerMemory::new(heartbeat.incarnation, heartbeat.seq, now, open);
                    self.memory.insert(heartbeat.peer.clone(), memory);
                }
                // Not adopted, or overtaken: the next heartbeat is looked at.
                (Some(_) | None, None) => {}
            }
        }
        for drift in drift {
            let Some(memory) = self.memory.get_mut(&drift.peer) else { continue };
            if memory.told.insert((drift.workload.clone(), drift.epoch)) {
                tracing::warn!(
                    workload = %drift.workload, peer = %drift.peer, owner = %drift.owner, epoch = drift.epoch,
                    why = drift.why.as_str(), "a peer runs what is not its to run"
                );
            }
        }
    }

    /// Comes before what the heartbeats change: nobody commands a peer that is back before it knows its role.
    async fn tell_roles(&mut self, items: &[Item<'_>], now: Instant) {
        let clock = Timestamp::now();
        let mut commands = Vec::new();
        for item in items {
            let heartbeat = &item.beat.heartbeat;
            let Some(known) = item.known else { continue };
            let before = self.roles.get(&heartbeat.peer);
            if let Some(asked) = roles::ask(heartbeat, &known.cluster, before, now, clock) {
                commands.push(roles::command(&heartbeat.peer, &asked));
                self.roles.insert(heartbeat.peer.clone(), asked);
            }
        }
        for command in &commands {
            asking::send(&self.options.bus, command).await;
        }
    }

    async fn tell_holds(&mut self, items: &[Item<'_>], now: Instant) {
        let clock = Timestamp::now();
        let mut commands = Vec::new();
        for item in items {
            let heartbeat = &item.beat.heartbeat;
            let (Some(known), Some(memory)) = (item.known, self.memory.get_mut(&heartbeat.peer)) else { continue };
            if let Some(asked) = holds::ask(heartbeat, &known.holds, memory.asked.as_ref(), now, clock) {
                commands.push(holds::command(&heartbeat.peer, &asked));
                memory.asked = Some(asked);
            }
        }
        for command in &commands {
            asking::send(&self.options.bus, command).await;
        }
    }
}

/// What became of clusters by the health of their peers, and what their agents say of their roles.
#[derive(Debug, Default)]
struct Moved<'a> {
    /// The health of a peer has changed.
    changed: BTreeSet<&'a str>,
    /// They have a healthy peer more.
    gained: BTreeSet<&'a str>,
    /// Peers that show the role that their cluster has.
    shown: Vec<(&'a PeerId, ClusterRole)>,
}

impl<'a> Moved<'a> {
    fn note(&mut self, item: &'a Item<'_>, is: Health, was: Health) {
        let heartbeat = &item.beat.heartbeat;
        let cluster = item.known.map_or(&heartbeat.describe.cluster, |known| &known.cluster.id);
        if is != was {
            self.changed.insert(cluster.as_str());
            if is == Health::Healthy {
                self.gained.insert(cluster.as_str());
            }
        }
        if !matches!(item.due, Due::Look { news: true, .. }) {
            return;
        }
        let wanted = item.known.and_then(|known| roles::wanted(&known.cluster));
        if let Some(role) = wanted.filter(|wanted| heartbeat.cluster.as_ref() == Some(wanted)) {
            self.shown.push((&heartbeat.peer, role));
        }
    }
}

/// Who may go on by what these heartbeats tell. The last of a transaction: it locks operations and their commands, past those
/// that somebody else has locked, so that it never waits for whom it holds up.
async fn concerned(
    connection: &mut PgConnection,
    reporting: &[&str],
    moved: &Moved<'_>,
) -> Result<Vec<OperationId>, StoreError> {
    let changed: Vec<&str> = moved.changed.iter().copied().collect();
    let mut concerned = if reporting.is_empty() && changed.is_empty() {
        Vec::new()
    } else {
        observed::concerned(connection, reporting, &changed).await?
    };
    if !moved.shown.is_empty() {
        concerned.extend(observed::roles_shown(connection, &moved.shown).await?);
    }
    if !moved.gained.is_empty() {
        let gained: Vec<String> = moved.gained.iter().map(|id| (*id).to_owned()).collect();
        concerned.extend(observed::held_up(connection, &gained).await?);
        concerned.extend(operations::wake_queued(connection, &gained).await?);
    }
    concerned.sort_unstable();
    concerned.dedup();
    Ok(concerned)
}

/// Takes in the clusters and peers that the registry does not know; returns the peers, with the events about all.
async fn adopt(
    connection: &mut PgConnection,
    items: &[Item<'_>],
) -> Result<(BTreeSet<PeerId>, Vec<NewEvent>), StoreError> {
    let unknown: Vec<NewPeer<'_>> = items
        .iter()
        .filter(|item| item.known.is_none())
        .map(|item| NewPeer { id: &item.beat.heartbeat.peer, describe: &item.beat.heartbeat.describe })
        .collect();
    if unknown.is_empty() {
        return Ok((BTreeSet::new(), Vec::new()));
    }
    let mut news = Vec::new();
    // Whoever names a cluster first, by its id, has brought it.
    let mut clusters: BTreeMap<&str, (&ClusterId, &PeerId)> = BTreeMap::new();
    for peer in &unknown {
        clusters.entry(peer.describe.cluster.as_str()).or_insert((&peer.describe.cluster, peer.id));
    }
    let ids: Vec<&str> = clusters.keys().copied().collect();
    for (id, state) in observed::adopt_clusters(connection, &ids).await? {
        if let Some((cluster, by)) = clusters.get(id.as_str()) {
            news.push(news::cluster_adopted(cluster, &state, by)?);
        }
    }
    let adopted: BTreeSet<PeerId> = observed::adopt_peers(connection, &unknown).await?.into_iter().collect();
    for peer in unknown.iter().filter(|peer| adopted.contains(peer.id)) {
        news.push(news::peer_adopted(peer.id, &peer.describe.cluster)?);
    }
    Ok((adopted, news))
}

/// Writes these heartbeats; those that another worker has overtaken are not in the answer.
async fn write(connection: &mut PgConnection, items: &[&Item<'_>]) -> Result<BTreeMap<PeerId, Written>, StoreError> {
    let observations: Vec<NewObservation<'_>> = items
        .iter()
        .map(|item| {
            let heartbeat = &item.beat.heartbeat;
            NewObservation {
                peer: &heartbeat.peer,
                incarnation: heartbeat.incarnation,
                seq: heartbeat.seq,
                digest: item.digest,
                health: health(heartbeat.health).as_str(),
                version: &heartbeat.version,
                lag_ms: heartbeat.lag_ms,
                holds: &heartbeat.holds,
                age_secs: item.beat.received.elapsed().as_secs_f64(),
            }
        })
        .collect();
    let written = observed::write(connection, &observations).await?;
    Ok(written.into_iter().map(|written| (written.peer.clone(), written)).collect())
}

/// Compares with the record and writes what follows. Only rows that change are locked: they are read again under their
/// locks and compared once more.
async fn look(connection: &mut PgConnection, sights: &[Sight<'_>], now: Instant) -> Result<Diff, StoreError> {
    if sights.is_empty() {
        return Ok(Diff::default());
    }
    let peers: Vec<&str> = sights.iter().map(|sight| sight.heartbeat.peer.as_str()).collect();
    let listed = sights.iter().flat_map(|sight| sight.heartbeat.workloads.iter().map(|w| w.id.as_str()));
    let listed: Vec<&str> = listed.collect();
    let mut records = by_id(observed::workloads(connection, &peers, &listed).await?);
    let seen = diff(sights, &records, now);
    let ids: BTreeSet<&WorkloadId> = seen.ids().collect();
    if ids.is_empty() {
        return Ok(seen);
    }
    let owners: BTreeSet<&str> = seen.appeared.values().map(|record| record.workload.peer.as_str()).collect();
    if !owners.is_empty() {
        observed::share_peers(connection, &Vec::from_iter(owners)).await?;
    }
    let asked: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
    let locked = by_id(registry::lock_workloads(connection, &[], &asked).await?);
    records.retain(|id, _| !ids.contains(id));
    records.extend(locked);
    let diff = diff(sights, &records, now);
    if !diff.appeared.is_empty() {
        observed::adopt_workloads(connection, &Vec::from_iter(diff.appeared.values())).await?;
    }
    if !diff.changed.is_empty() {
        registry::save_workloads(connection, &Vec::from_iter(diff.changed.values())).await?;
    }
    if !diff.gone.is_empty() {
        registry::delete_workloads(connection, &Vec::from_iter(&diff.gone)).await?;
    }
    Ok(diff)
}

fn by_id(records: Vec<WorkloadRecord>) -> Records {
    records.into_iter().map(|record| (record.workload.id.clone(), record)).collect()
}
