//! The acts. Each does something that would worry an operator, and measures what came of it.

mod failover;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use omnirelay_contract::agent::CommandVerb;
use omnirelay_contract::audit::{AuditRecord, Verification};
use omnirelay_contract::rest::{Operation, Page, Peer, Workload};
use omnirelay_runtime::auth::Scope;
use omnirelay_workflow::operation::State;
use omnirelay_workflow::resource::PeerState;
use tokio::sync::watch;

use super::api::Api;
use super::cli::{Operator, Ran};
use super::evidence::{accepted, each_once, is_gap_free, told};
use super::http;
use super::load::{Count, Counters, Load};
use super::proxy::{Backends, Proxy, Route};
use super::report::{Claim, Screen, grouped};
use super::snapshot::Snapshot;
use super::stage::{PEERS, Stage, all_are_ready, until};

/// How long anything may take that an act waits for. Far more than it does: what takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// No service has more.
const CLIENTS: u64 = 16;

pub struct Play<'a> {
    stage: &'a mut Stage,
    screen: Arc<Screen>,
    proxy: SocketAddr,
    checkout: Arc<Counters>,
    ledger: Arc<Counters>,
    naive: Arc<Counters>,
    api: Api,
    ana: Operator,
    bob: Operator,
    claims: Vec<Claim>,
}

/// From the beginning of something to its end.
struct Span {
    before: Count,
    began: Instant,
}

impl<'a> Play<'a> {
    pub fn new(
        stage: &'a mut Stage,
        screen: Arc<Screen>,
        proxy: SocketAddr,
        [checkout, ledger]: [Arc<Counters>; 2],
        naive: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let api = stage.api("demo", Scope::Observe)?;
        let [ana, bob] = ["ana", "bob"].map(|subject| stage.operator(subject, Scope::Operate, &screen));
        let (ana, bob) = (ana?, bob?);
        Ok(Self { stage, screen, proxy, checkout, ledger, naive, api, ana, bob, claims: Vec::new() })
    }

    pub async fn all(&mut self) -> anyhow::Result<()> {
        self.naive_restart().await.context("the naive way")?;
        self.drain().await.context("the drain")?;
        self.worker_killed().await.context("the drain with the worker killed")?;
        self.cancelled().await.context("the cancelled drain")?;
        self.failover().await.context("the failover")?;
        self.audit().await.context("the audit")?;
        let Count { requests, failed, retried } = self.screen.total();
        let doubled = self.stage.ledger_was_doubled();
        self.claim(
            "no request failed, from beginning to end",
            format!("{failed} of {} ({retried} asked again)", grouped(requests)),
            failed == 0 && requests > 0,
        );
        self.claim("two ledgers never ran at once", if doubled { "they did" } else { "locked, never met" }, !doubled);
        Ok(())
    }

    pub fn claims(self) -> Vec<Claim> {
        self.claims
    }

    /// Without OmniRelay: the same server, proxy and load; stopped in order, started again.
    async fn naive_restart(&mut self) -> anyhow::Result<()> {
        self.screen.heading("For contrast, the naive way: stop a server, start it again");
        let reserved = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = reserved.local_addr()?;
        drop(reserved);
        let port = address.port().to_string();
        let start = |stage: &Stage| {
            let args = ["demo-server", "--name", "naive", "--port", port.as_str()];
            stage.spawn("naive", args.map(Into::into).to_vec())
        };
        let mut server = start(self.stage)?;
        answers(address).await?;
        let (_known, backends) = watch::channel(Backends::from([("naive".to_owned(), vec![address])]));
        let naive = self.naive.clone();
        let route = Route { service: "naive", patience: Duration::ZERO, counters: naive.clone() };
        let proxy = Proxy::start(vec![route], backends).await?;
        let load = Load::start(proxy.address, "naive", 16, &naive);
        let after = async |more: u64| {
            let enough = naive.count().requests + more;
            until("the naive load goes on", PATIENCE, async || Ok((naive.count().requests >= enough).then_some(())))
                .await
        };
        after(200).await?;
        let began = Instant::now();
        server.stop().await?;
        server = start(self.stage)?;
        answers(address).await?;
        let gap = began.elapsed();
        after(200).await?;
        load.stop().await;
        proxy.stop().await;
        server.stop().await?;
        let Count { requests, failed, .. } = naive.count();
        self.screen.line(&format!("{failed} of {requests} requests failed in {} ms", gap.as_millis()));
        self.claim("the naive restart fails requests", format!("{failed} of {requests}"), failed > 0);
        self.screen.act_ends();
        Ok(())
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Drain web-1");
        let span = self.span();
        let ran = self.ana.run(&drain_line("web-1", "kernel CVE", "2")).await?;
        let peer: Peer = self.api.get("/control/peers/web-1").await?;
        let left: Page<Workload> = self.api.get("/control/peers/web-1/workloads").await?;
        let emptied = peer.state == PeerState::Drained && left.items.is_empty();
        let measured = format!("exit {}, {} with {} workloads", code(&ran), peer.state, left.items.len());
        self.claim("a drain empties its peer", measured, ran.exit == Some(0) && emptied);
        self.no_failure(&span, "no request failed during the drain").await?;
        self.ready_again("web-1").await
    }

    async fn worker_killed(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Drain web-2, and kill -9 the worker in the middle of it");
        let workloads = self.workloads_of("web-2").await?;
        let span = self.span();
        let line = drain_line("web-2", "kernel CVE", "1");
        let ana = self.ana.clone();
        let drain = ana.run(&line);
        let (api, screen, stage) = (self.api.clone(), self.screen.clone(), &mut *self.stage);
        let kill = async {
            let operation = half_way(&api, "web-2").await?;
            let worker = stage.process("worker")?;
            let pid = worker.pid();
            worker.kill().await?;
            let now = operation_now(&api, &operation.id.to_string()).await?;
            screen.line(&format!("kill -9 {pid}   # the worker, {}/{} moved", now.progress.done, now.progress.total));
            let middle = now.state == State::Running && now.progress.done < now.progress.total;
            let pid = stage.restart("worker")?;
            screen.line(&format!("its supervisor starts another, process {pid}"));
            anyhow::Ok((operation.id.to_string(), middle, now.progress))
        };
        let (ran, killed) = tokio::join!(drain, kill);
        let (ran, (operation, middle, at)) = (ran?, killed?);
        let ended = operation_now(&self.api, &operation).await?;
        self.claim(
            "a drain survives kill -9 of its worker",
            format!(
                "killed at {}/{}; exit {}, {} after {:.1} s",
                at.done,
                at.total,
                code(&ran),
                ended.state,
                span.began.elapsed().as_secs_f64()
            ),
            middle && ran.exit == Some(0) && ended.state == State::Succeeded,
        );
        self.no_failure(&span, "no request failed with the worker killed").await?;

        let events = self.api.events_of(&operation).await?;
        let agent = self.stage.dir().join("agent");
        let acquired = accepted(&agent, &PEERS, &operation, CommandVerb::Acquire)?;
        let released = accepted(&agent, &PEERS, &operation, CommandVerb::Release)?;
        let once = [&told(&events, "moved"), &acquired, &released].into_iter().all(|t| each_once(t, &workloads));
        self.screen.line(&format!(
            "{} events, numbered 1 to {}; agents' journals: {} acquired, {} released",
            events.len(),
            events.last().and_then(|event| event.data.operation_seq).unwrap_or_default(),
            acquired.values().sum::<u32>(),
            released.values().sum::<u32>(),
        ));
        let gap_free = is_gap_free(&events);
        let measured = format!(
            "{} workloads, each {}; events {}",
            workloads.len(),
            if once { "once" } else { "NOT once" },
            if gap_free { "without a gap" } else { "with a GAP" }
        );
        self.claim("nothing is lost or done twice", measured, once && gap_free);
        self.ready_again("web-2").await
    }

    async fn cancelled(&mut self) -> anyhow::Result<()> {
        self.screen.heading("Drain web-3, which bob holds already, and cancel half-way");
        let ran = self.bob.run(&["mesh", "peers", "cordon", "web-3", "--reason", "flaky disk"]).await?;
        if ran.exit != Some(0) {
            bail!("the cordon ended with exit {}", code(&ran));
        }
        self.settled().await?;
        let before = Snapshot::take(&self.api, &PEERS).await?;
        let span = self.span();
        let line = drain_line("web-3", "wrong rack", "1");
        let ana = self.ana.clone();
        let cancel = async {
            half_way(&self.api, "web-3").await?;
            ana.run(&["ops", "cancel", "web-3", "--reason", "wrong rack"]).await
        };
        let (drained, ran) = tokio::join!(ana.ask(&line), cancel);
        let (drained, ran) = (drained?, ran?);
        self.settled().await?;
        let after = Snapshot::take(&self.api, &PEERS).await?;
        let differences = before.differences(&after);
        for difference in &differences {
            self.screen.line(&format!("difference: {difference}"));
        }
        let exits = format!("exit {}, and {} for who followed", code(&ran), code(&drained));
        self.claim("a cancel ends cancelled", exits, ran.exit == Some(11) && drained.exit == Some(11));
        let found = match differences.len() {
            0 => "none".to_owned(),
            n => n.to_string(),
        };
        self.screen.line(&format!(
            "difference to before: {found}   ({} members: owners, states, labels, bob's hold; epochs and ports are new)",
            before.members()
        ));
        let measured = format!("difference: {found} in {} members", before.members());
        self.claim("a cancel restores everything", measured, differences.is_empty());
        self.no_failure(&span, "no request failed during the cancel").await?;
        self.screen.act_ends();
        Ok(())
    }

    async fn audit(&mut self) -> anyhow::Result<()> {
        self.screen.heading("The audit log, before and after an edit by SQL");
        let records = self.audited().await?;
        let ran = self.ana.run(&["audit", "verify"]).await?;
        let sound = self.verification().await?;
        let measured = format!("exit {}, {} records", code(&ran), sound.records);
        self.claim("the audit verifies", measured, ran.exit == Some(0) && sound.ok && sound.records >= records);

        let page: Page<AuditRecord> =
            self.api.get("/control/audit?target=peers/web-1&verb=peers.drain&orderBy=seq&pageSize=1").await?;
        let victim = page.items.first().context("the drain of web-1 is not in the audit")?.seq;
        let edit = format!("update audit_log set reason = 'routine' where seq = {victim}");
        self.screen.line(&format!("SQL, as the database's owner: {edit}"));
        let rows = self.edit_audit(&edit).await?;
        let ran = self.ana.run(&["audit", "verify"]).await?;
        let found = self.verification().await?.first_bad.map(|bad| bad.seq);
        let measured = match found {
            Some(seq) => format!("exit {}, names #{seq}; edited was #{victim}", code(&ran)),
            None => format!("exit {}, names nothing; edited was #{victim}", code(&ran)),
        };
        let held = rows == 1 && ran.exit == Some(1) && found == Some(victim);
        self.claim("an edited row is found and named", measured, held);
        self.screen.act_ends();
        Ok(())
    }

    /// Waits until the audit has recorded everything that was told so far; returns how many records that makes at least.
    async fn audited(&self) -> anyhow::Result<u64> {
        let last: Page<Operation> = self.api.get("/control/operations?orderBy=createdAt%20desc&pageSize=1").await?;
        let last = last.items.first().context("there is no operation")?;
        let path = format!("/control/audit?operation={}&outcome={}", last.id, last.state);
        until("the audit has the last operation's end", PATIENCE, async || {
            let page: Page<AuditRecord> = self.api.get(&path).await?;
            Ok(page.items.first().map(|record| record.seq))
        })
        .await
    }

    async fn verification(&self) -> anyhow::Result<Verification> {
        let ran = self.ana.ask(&["audit", "verify", "-o", "json"]).await?;
        serde_json::from_str(&ran.stdout).context("the output of `audit verify -o json` cannot be read")
    }

    /// What only the owner of the database can do: switch the trigger off, edit, switch it on. Returns the rows edited.
    async fn edit_audit(&self, edit: &str) -> anyhow::Result<u64> {
        let mut transaction = self.stage.pool.begin().await?;
        let mut rows = 0;
        for statement in [
            "alter table audit_log disable trigger audit_log_append_only",
            edit,
            "alter table audit_log enable always trigger audit_log_append_only",
        ] {
            let statement = sqlx::AssertSqlSafe(statement.to_owned());
            rows += sqlx::query(statement).execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(rows)
    }

    /// The peer takes workloads again.
    async fn ready_again(&mut self, peer: &str) -> anyhow::Result<()> {
        let ran = self.ana.ask(&["mesh", "peers", "uncordon", peer, "--reason", "patched"]).await?;
        if ran.exit != Some(0) {
            bail!("the uncordon of {peer} ended with exit {}", code(&ran));
        }
        self.screen.line(&format!("{peer} is uncordoned"));
        self.settled().await?;
        self.screen.act_ends();
        Ok(())
    }

    /// Waits until the registry has every workload as ready and none on its way.
    async fn settled(&self) -> anyhow::Result<()> {
        let api = &self.api;
        until("every workload is ready", PATIENCE, async || Ok(all_are_ready(api).await?.then_some(()))).await
    }

    async fn workloads_of(&self, peer: &str) -> anyhow::Result<Vec<String>> {
        let page: Page<Workload> = self.api.get(&format!("/control/peers/{peer}/workloads")).await?;
        Ok(page.items.iter().map(|workload| workload.id.to_string()).collect())
    }

    fn span(&self) -> Span {
        self.ledger.take_longest();
        self.checkout.take_longest();
        Span { before: self.screen.total(), began: Instant::now() }
    }

    /// To be called when everything is over, for the claim about its span.
    async fn no_failure(&mut self, span: &Span, claim: &'static str) -> anyhow::Result<()> {
        // Requests may still wait for what has moved. Once each service has answered more requests than it has clients, none
        // that began before is left out.
        for counters in [&self.checkout, &self.ledger] {
            let enough = counters.count().requests + CLIENTS;
            until("requests are answered", PATIENCE, async || Ok((counters.count().requests > enough).then_some(())))
                .await?;
        }
        let Count { requests, failed, retried } = self.screen.total().since(span.before);
        let (checkout, ledger) = (self.checkout.take_longest(), self.ledger.take_longest());
        self.screen.line(&format!(
            "{} requests, {failed} failed, {retried} asked again; slowest: checkout {} ms, ledger {} ms",
            grouped(requests),
            checkout.as_millis(),
            ledger.as_millis()
        ));
        let (service, longest) = if ledger > checkout { ("ledger", ledger) } else { ("checkout", checkout) };
        let measured =
            format!("{failed} of {}; the longest wait was {} ms, at {service}", grouped(requests), longest.as_millis());
        self.claim(claim, measured, failed == 0 && requests > 0);
        Ok(())
    }

    fn claim(&mut self, claim: &'static str, measured: impl Into<String>, held: bool) {
        self.claims.push(Claim { claim, measured: measured.into(), held });
    }
}

fn drain_line<'a>(peer: &'a str, reason: &'a str, max_concurrent: &'a str) -> [&'a str; 9] {
    ["drain", peer, "--yes", "--max-concurrent", max_concurrent, "--reason", reason, "--ticket", "CHG-4812"]
}

/// Waits until a drain of the peer has moved half of what it has to move.
async fn half_way(api: &Api, peer: &str) -> anyhow::Result<Operation> {
    until("the drain is half-way", PATIENCE, async || {
        let peer: Peer = api.get(&format!("/control/peers/{peer}")).await?;
        let Some(id) = peer.operation else { return Ok(None) };
        let operation = operation_now(api, &id.to_string()).await?;
        if operation.state.is_terminal() {
            bail!("it ended {} before it was half-way", operation.state);
        }
        let progress = &operation.progress;
        Ok((progress.done >= 1 && progress.done >= progress.total / 2).then_some(operation))
    })
    .await
}

async fn operation_now(api: &Api, id: &str) -> anyhow::Result<Operation> {
    api.get(&format!("/control/operations/{id}")).await
}

async fn answers(server: SocketAddr) -> anyhow::Result<()> {
    until("the server answers", PATIENCE, async || Ok(http::get(server, "/ready").await.ok())).await.map(|_| ())
}

fn code(ran: &Ran) -> String {
    ran.exit.map_or_else(|| "by a signal".to_owned(), |code| code.to_string())
}
