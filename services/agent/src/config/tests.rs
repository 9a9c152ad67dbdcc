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
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = load(&GOOD.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains(named), "{to}: {error}");
    }
    assert!(load("nats = \"x\"\nstate_dir = \"s\"").unwrap_err().to_string().starts_with("peer:"));
}
