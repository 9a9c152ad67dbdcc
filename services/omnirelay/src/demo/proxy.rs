//! A load balancer as small as can be. It knows its backends from the registry, as any load balancer beside OmniRelay would.
//!
//! What it does for a request, so that nobody need guess what `failed 0` rests on: it asks the backends of the service in turn.
//! One that gives not a single byte of an answer (the connection is refused, or reset by a process that just ended) was
//! never used, so the next one is asked, each at most once; HAProxy, nginx and Envoy do the same for a GET. An answer that breaks
//! off is a failure, and so is everything but a 200. Where a service says that it may wait (`ledger`, of which there must never
//! be two), a request without a backend is held until there is one, or the patience ends with a 503.
//!
//! Backends are those of clusters that serve: active ones, and one that is being demoted until the cutover.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use omnirelay_bus::Bus;
use omnirelay_contract::rest::{Cluster, Page, Workload};
use omnirelay_contract::subject;
use omnirelay_workflow::resource::ClusterState;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::Api;
use super::http::{self, Answer, Head, NoAnswer};
use super::load::Counters;

/// The registry is read after every event of a workload, and at least this often: readiness is observed, not decided, so no
/// event tells of it.
const READ_EVERY: Duration = Duration::from_millis(100);
/// A backend that gave no answer is asked last for this long.
const SHUN: Duration = Duration::from_secs(1);
/// How often a request that waits looks again.
const LOOK: Duration = Duration::from_millis(10);

/// How a service is served.
pub struct Route {
    pub service: &'static str,
    /// How long a request may wait for a backend.
    pub patience: Duration,
    pub counters: Arc<Counters>,
}

/// Addresses by service.
pub type Backends = BTreeMap<String, Vec<SocketAddr>>;

pub struct Proxy {
    pub address: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Proxy {
    /// Listens on a free port.
    pub async fn start(routes: Vec<Route>, backends: watch::Receiver<Backends>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let balancer = Arc::new(Balancer { routes, backends, shunned: Mutex::default(), turn: AtomicUsize::new(0) });
        tasks.spawn({
            let (tasks, stop) = (tasks.clone(), stop.clone());
            async move {
                while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                    let Ok((stream, _)) = accepted else { continue };
                    let (balancer, stop) = (balancer.clone(), stop.clone());
                    tasks.spawn(async move { stop.run_until_cancelled(balancer.converse(stream)).await });
                }
            }
        });
        tasks.close();
        Ok(Self { address, tasks, stop })
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Keeps `backends` as the registry has them, until `stop`. While the API does not answer, the last known ones stay.
pub async fn follow_registry(
    api: &Api,
    bus: &Bus,
    clusters: &[(&str, &[&str])],
    backends: &watch::Sender<Backends>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let moved = bus.client().subscribe(subject::event("workloads", "*", "*")).await?;
    let promoted = bus.client().subscribe(subject::event("clusters", "*", "*")).await?;
    let mut events = futures_util::stream::select(moved, promoted);
    while !stop.is_cancelled() {
        if let Ok(found) = read_registry(api, clusters).await {
            backends.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = events.next() => {}
            () = tokio::time::sleep(READ_EVERY) => {}
        }
    }
    Ok(())
}

async fn read_registry(api: &Api, clusters: &[(&str, &[&str])]) -> anyhow::Result<Backends> {
    let known: Page<Cluster> = api.get("/control/clusters").await?;
    let serves = |id: &str| {
        let state = known.items.iter().find(|cluster| cluster.id.as_str() == id).map(|cluster| cluster.state);
        matches!(state, Some(ClusterState::Active | ClusterState::Demoting))
    };
    let mut backends = Backends::new();
    for peer in clusters.iter().filter(|(id, _)| serves(id)).flat_map(|(_, peers)| *peers) {
        let page: Page<Workload> = api.get(&format!("/control/peers/{peer}/workloads")).await?;
        for workload in page.items.iter().filter(|workload| workload.ready) {
            if let Some(address) = workload.unit.as_deref().and_then(address) {
                backends.entry(workload.service.clone()).or_default().push(address);
            }
        }
    }
    Ok(backends)
}

/// The driver `process` calls its units `<workload>@<address>`.
fn address(unit: &str) -> Option<SocketAddr> {
    unit.rsplit_once('@')?.1.parse().ok()
}

struct Balancer {
    routes: Vec<Route>,
    backends: watch::Receiver<Backends>,
    /// Who gave no answer, and when.
    shunned: Mutex<HashMap<SocketAddr, Instant>>,
    turn: AtomicUsize,
}

impl Balancer {
    async fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some(head) = Head::read(&mut stream).await? {
            let answer = self.answer(head.path()).await;
            http::answer(stream.get_mut(), &answer, head.is_last()).await?;
            if head.is_last() {
                break;
            }
        }
        Ok(())
    }

    async fn answer(&self, path: &str) -> Answer {
        let service = path.trim_start_matches('/');
        let Some(route) = self.routes.iter().find(|route| route.service == service) else {
            return Answer::new(404, "there is no such service");
        };
        let until = Instant::now() + route.patience;
        let mut asked = 0;
        loop {
            for backend in self.in_turn(service) {
                asked += 1;
                if asked == 2 {
                    route.counters.retried();
                }
                match http::get(backend, "/").await {
                    Ok(answer) => return answer,
                    Err(NoAnswer::None(_)) => self.shun(backend),
                    Err(NoAnswer::Broken(error)) => return Answer::new(502, format!("{backend} broke off: {error}")),
                }
            }
            if Instant::now() >= until {
                return Answer::new(503, format!("no backend of {service} answers"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The backends, another one first each time, and last those that gave no answer a moment ago.
    fn in_turn(&self, service: &str) -> Vec<SocketAddr> {
        let mut backends = self.backends.borrow().get(service).cloned().unwrap_or_default();
        if backends.is_empty() {
            return backends;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % backends.len();
        backends.rotate_left(turn);
        let shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        backends.sort_by_key(|backend| shunned.get(backend).is_some_and(|at| at.elapsed() < SHUN));
        backends
    }

    fn shun(&self, backend: SocketAddr) {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner).insert(backend, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_says_where_it_is() {
        assert_eq!(address("checkout-1@127.0.0.1:4000"), Some(SocketAddr::from(([127, 0, 0, 1], 4000))));
        assert_eq!(address("checkout@5"), None);
        assert_eq!(address("checkout-1"), None);
    }

    #[tokio::test]
    async fn whoever_gave_no_answer_comes_last() {
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (_keep, backends) = watch::channel(Backends::from([("s".to_owned(), vec![one, two])]));
        let balancer = Balancer { routes: Vec::new(), backends, shunned: Mutex::default(), turn: AtomicUsize::new(0) };
        assert_ne!(balancer.in_turn("s"), balancer.in_turn("s"));
        balancer.shun(one);
        assert_eq!(balancer.in_turn("s"), [two, one]);
        assert_eq!(balancer.in_turn("s"), [two, one]);
        assert!(balancer.in_turn("other").is_empty());
    }
}
