use super::*;

const GOOD: &str = r#"
nats = "nats://127.0.0.1:4222"
state_dir = "state"
heartbeat = "500ms"

[[peer]]
id = "web-07"
cluster = "fra1"
driver = "process"
start = ["checkout-1:checkout"]
[peer.labels]
zone = "a"
[peer.process.checkout]
command = ["checkout", "--port", "{port}"]
ready = "http://127.0.0.1:{port}/ready"
stop_signal = "INT"
stop_grace = "3s"
[[peer.service]]
name = "checkout"
handover = "stop-first"
restorable = false

[[peer]]
id = "web-08"
cluster = "fra1"
start = ["w1"]
[peer.commands]
acquire = "run 'this here'"
release = "stop"

[[peer]]
id = "lb-1"
cluster = "fra1"
driver = "haproxy"
[peer.haproxy]
sockets = ["unix:/run/haproxy/admin.sock", "tcp:127.0.0.1:9999"]
servers = ["checkout/lb-1", "mail=mail/lb.1"]
when_empty = "maint"
[[peer.service]]
name = "checkout"
load = 2

[[peer]]
id = "worker-3"
cluster = "fra1"
driver = "kubernetes"
lag = "http://127.0.0.1:9187/lag"
[peer.kubernetes]
server = "https://10.0.0.1:6443"
[[peer.service]]
name = "shop/web"
"#;

fn load(text: &str) -> Result<AgentConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    AgentConfig::load(&path)
}

#[test]
fn a_whole_file_is_read() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.heartbeat, Duration::from_millis(500));
    let web = &config.peers[0];
    assert_eq!(web.description().name, "web-07");
    assert_eq!(web.profiles()["checkout"].handover, Handover::StopFirst);
    assert!(!web.profiles()["checkout"].restorable);
    assert_eq!(web.process["checkout"].stop_grace, Duration::from_secs(3));
    let workload = |id| WorkloadId::parse(id).unwrap();
    assert_eq!(web.started().unwrap(), [(workload("checkout-1"), "checkout".to_owned())]);
    let lb = &config.peers[2];
    let checkout = lb.profiles()["checkout"].clone();
    assert_eq!((checkout.handover, checkout.restorable, checkout.load), (Handover::ReleaseOnly, true, 2));
    assert_eq!(lb.profile().handover, Handover::ReleaseOnly);
    let pods = config.peers[3].profiles()["shop/web"].clone();
    assert_eq!((pods.handover, pods.restorable), (Handover::ReleaseOnly, false));
    assert_eq!(config.peers[1].started().unwrap(), [(workload("w1"), "w1".to_owned())]);
}

#[test]
fn every_error_names_its_key() {
    for (from, to, named) in [
        ("nats = \"nats://127.0.0.1:4222\"", "", "nats"),
        ("state_dir", "state_folder", "state_folder"),
        ("heartbeat = \"500ms\"", "heartbeat = \"soon\"", "heartbeat"),
        ("heartbeat = \"500ms\"", "heartbeat = \"1ms\"", "heartbeat"),
        ("id = \"web-08\"", "id = \"web-07\"", "peer[1].id"),
        ("id = \"web-08\"", "id = \"web.08\"", "id ="),
        ("driver = \"process\"", "", "peer[0].driver"),
        ("driver = \"process\"", "driver = \"./mine\"", "peer[0].driver"),
        ("driver = \"process\"", "driver = \"systemd\"", "peer[0].process"),
        ("[\"checkout-1:checkout\"]", "[\"checkout-1:shop\"]", "peer[0].start[0]"),
        ("[\"checkout-1:checkout\"]", "[\"a.b\"]", "peer[0].start[0]"),
        ("command = [\"checkout\", \"--port\", \"{port}\"]", "command = []", "peer[0].process.checkout.command"),
        ("stop_signal = \"INT\"", "stop_signal = \"NO\"", "stop_signal"),
        ("handover = \"stop-first\"", "handover = \"never\"", "handover"),
        ("release = \"stop\"", "release = \"'stop\"", "peer[1].commands.release"),
        ("release = \"stop\"", "release = \"\"", "peer[1].commands.release"),
        ("release = \"stop\"", "release = \"stop\"\nrole = \"'\"", "peer[1].commands.role"),
        ("[peer.haproxy]", "[peer.kubernetes]\n[peer.haproxy]", "peer[2].kubernetes"),
        ("driver = \"haproxy\"", "driver = \"systemd\"", "peer[2].haproxy"),
        ("unix:/run/haproxy/admin.sock", "/run/haproxy/admin.sock", "neither unix:/path nor tcp:host:port"),
        (
            "sockets = [\"unix:/run/haproxy/admin.sock\", \"tcp:127.0.0.1:9999\"]",
            "sockets = []",
            "peer[2].haproxy.sockets",
        ),
        ("\"checkout/lb-1\", \"mail=mail/lb.1\"", "", "peer[2].haproxy.servers"),
        ("mail=mail/lb.1", "checkout--lb-1=mail/lb", "peer[2].haproxy.servers"),
        ("checkout/lb-1", "checkout", "is not backend/server"),
        ("when_empty = \"maint\"", "when_empty = \"gone\"", "when_empty"),
        ("load = 2", "handover = \"start-first\"", "peer[2].service[0].handover"),
        ("https://10.0.0.1", "http://10.0.0.1", "peer[3].kubernetes.server"),
        ("server = \"https", "node = \"../pods\"\nserver = \"https", "peer[3].kubernetes.node"),
        ("name = \"shop/web\"", "name = \"shop/web\"\nrestorable = true", "peer[3].service[0].restorable"),
        ("lag = \"http://127.0.0.1:9187/lag\"", "lag = \"\"", "peer[3].lag"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = load(&GOOD.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains(named), "{to}: {error}");
    }
    assert!(load("nats = \"x\"\nstate_dir = \"s\"").unwrap_err().to_string().starts_with("peer:"));
}

/// Each block of the guide is a peer's, or the rest of one.
#[test]
fn the_guides_examples_are_read() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/drivers.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks: Vec<&str> = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "{}", blocks.len());
    for block in blocks {
        let head = if block.contains("[[peer]]") { "" } else { "[[peer]]\nid = \"p1\"\ncluster = \"c1\"\n" };
        if let Err(error) = load(&format!("nats = \"nats://127.0.0.1:4222\"\nstate_dir = \"s\"\n{head}{block}")) {
            panic!("{error}\n{block}");
        }
    }
}
