//! Which server a workload is, and how HAProxy sees its servers.

use std::collections::HashMap;
use std::fmt;

use omnirelay_workflow::WorkloadId;
use serde::Deserialize;

/// A server of a backend, and the workload that it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Member {
    pub id: WorkloadId,
    pub backend: String,
    pub server: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

impl TryFrom<String> for Member {
    type Error = String;

    /// `backend/server` or `id=backend/server`. Without an id it is `backend--server`, with `_` for what ids may not have.
    fn try_from(text: String) -> Result<Self, String> {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (Some(id), path),
            None => (None, text.as_str()),
        };
        let (backend, server) = path.split_once('/').ok_or_else(|| format!("{text:?} is not backend/server"))?;
        for name in [backend, server] {
            // HAProxy's own rule for names; it also keeps a name from ending a command of the socket.
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c)) {
                return Err(format!(
                    "{name:?} of {text:?} is no name of HAProxy's: letters, digits, '-', '_', '.' and ':'"
                ));
            }
        }
        let derived = || {
            let safe = |c: char| if c == '.' || c == ':' { '_' } else { c };
            format!("{backend}--{server}").chars().map(safe).collect::<String>()
        };
        let id = id.map_or_else(derived, str::to_owned);
        let id = WorkloadId::parse(&id).map_err(|error| format!("{text:?}: {error}; name an id: id={path}"))?;
        Ok(Self { id, backend: backend.to_owned(), server: server.to_owned() })
    }
}

/// A server as HAProxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `UP`, `DOWN`, `DRAIN`, `MAINT`, `no check`, also `UP 1/3`.
    status: String,
    /// `L4OK`, `L7STS`…; empty where nothing is checked.
    check: String,
    /// The check in words.
    words: String,
    /// On it and queued for it.
    pub sessions: u64,
    /// The bits of `srv_admin_state`.
    admin: u32,
}

/// Maintenance (forced, inherited, by the configuration) and drain (forced, inherited). A name that does not resolve is
/// maintenance to HAProxy too (0x20), but nobody has released it.
const OUT: u32 = 0x01 | 0x02 | 0x04 | 0x08 | 0x10;

impl Server {
    /// No new work is sent to it, because somebody said so.
    pub fn out(&self) -> bool {
        self.admin & OUT != 0
    }

    /// Why nothing may be sent to it. A server that left maintenance is up at once for HAProxy; here its check has to pass first.
    pub fn amiss(&self) -> Option<String> {
        let serving = self.status == "no check" || self.status.starts_with("UP");
        let passing = self.check.is_empty() || self.check.ends_with("OK") || self.check.ends_with("OKC");
        if serving && passing {
            return None;
        }
        let check = if self.check == "INI" { "not checked yet" } else { self.words.as_str() };
        Some(if check.is_empty() || passing { self.status.clone() } else { format!("{}: {check}", self.status) })
    }
}

/// What `show stat -1 4 -1;show servers state` answers.
#[derive(Debug, Default)]
pub struct Servers(HashMap<(String, String), Server>);

impl Servers {
    /// Both tables begin with a line of column names; other versions of HAProxy have other columns, and more of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut servers = HashMap::<(String, String), Server>::new();
        let (mut columns, mut stat): (Vec<String>, bool) = (Vec::new(), false);
        let mut tables = 0;
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("# ") {
                stat = header.starts_with("pxname,");
                columns = if stat { csv(header) } else { header.split(' ').map(str::to_owned).collect() };
                tables += 1;
                continue;
            }
            let fields = if stat { csv(line) } else { line.split(' ').map(str::to_owned).collect() };
            let field = |name: &str| {
                let at = columns.iter().position(|column| column == name);
                at.and_then(|at| fields.get(at)).map(String::as_str).unwrap_or_default()
            };
            let (backend, server) = if stat { ("pxname", "svname") } else { ("be_name", "srv_name") };
            let key = (field(backend).to_owned(), field(server).to_owned());
            if key.1.is_empty() {
                continue;
            }
            let number = |name: &str| {
                let text = field(name);
                text.parse::<u64>().map_err(|_| format!("{name} of {}/{} is {text:?}", key.0, key.1))
            };
            if stat {
                let check = field("check_status").trim_start_matches("* ").to_owned();
                let words = [field("check_desc"), field("last_chk")].into_iter().filter(|words| !words.is_empty());
                let known = Server {
                    status: field("status").to_owned(),
                    check,
                    words: words.collect::<Vec<_>>().join(", "),
                    sessions: number("scur")? + number("qcur")?,
                    admin: 0,
                };
                servers.insert(key, known);
            } else {
                let admin = number("srv_admin_state")? as u32;
                servers.entry(key).or_default().admin = admin;
            }
        }
        if tables < 2 {
            let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            return Err(format!("the socket answers {first:?}"));
        }
        Ok(Self(servers))
    }

    pub fn get(&self, member: &Member) -> Option<&Server> {
        self.0.get(&(member.backend.clone(), member.server.clone()))
    }
}

/// The fields of a line of CSV: a field with commas or quotes is in quotes, its quotes doubled.
fn csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, fields.last_mut()) {
            ('"', Some(field)) if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_path_and_perhaps_an_id() {
        let parse = |text: &str| Member::try_from(text.to_owned());
        let id = |text: &str| parse(text).unwrap().id.to_string();
        assert_eq!(id("checkout/web-07"), "checkout--web-07");
        assert_eq!(id("bk.tls/10.0.0.1:443"), "bk_tls--10_0_0_1_443");
        assert_eq!(id("w7=bk.tls/web"), "w7");
        assert_eq!(parse("w7=bk.tls/web").unwrap().to_string(), "bk.tls/web");
        for (bad, why) in [
            ("checkout", "is not backend/server"),
            ("checkout/", "is no name of HAProxy's"),
            ("a/b;disable server a/c", "is no name of HAProxy's"),
            ("a/b c", "is no name of HAProxy's"),
            ("a b=a/b", "name an id"),
            ("_x/b", "name an id"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(parse(&format!("{}/b", "a".repeat(70))).unwrap_err().contains("name an id: id="));
    }

    fn server(row: &str, admin: u32) -> Server {
        let text = format!(
            "# pxname,svname,qcur,scur,status,check_status,last_chk,check_desc,\nb,s,{row},\n\n1\n\
             # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n3 b 1 s - 2 {admin}\n\n"
        );
        let member = Member::try_from("b/s".to_owned()).unwrap();
        Servers::parse(&text).unwrap().get(&member).unwrap().clone()
    }

    #[test]
    fn what_haproxy_tells_is_judged() {
        for (row, admin, out, sessions, amiss) in [
            ("0,3,UP,L7OK,,", 0, false, 3, None),
            ("0,0,UP,* L4OK,,", 0, false, 0, None),
            ("0,0,no check,,,", 0, false, 0, None),
            ("2,15,DRAIN,L7OK,,", 8, true, 17, Some("DRAIN")),
            ("0,0,MAINT,,,", 1, true, 0, Some("MAINT")),
            ("0,0,MAINT (resolution),,,", 0x20, false, 0, Some("MAINT (resolution)")),
            ("0,0,UP 1/2,L7STS,,Layer7 wrong status", 0, false, 0, Some("UP 1/2: Layer7 wrong status")),
            ("0,0,UP,INI,,Initializing", 0, false, 0, Some("UP: not checked yet")),
            (
                r#"0,0,DOWN,L4CON,"Connection refused, ""again""",Layer4 connection problem"#,
                0,
                false,
                0,
                Some(r#"DOWN: Layer4 connection problem, Connection refused, "again""#),
            ),
        ] {
            let server = server(row, admin);
            let judged = (server.out(), server.sessions, server.amiss());
            assert_eq!(judged, (out, sessions, amiss.map(str::to_owned)), "{row}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_quoted() {
        assert_eq!(Servers::parse("Permission denied\n\n").unwrap_err(), "the socket answers \"Permission denied\"");
        assert_eq!(Servers::parse("").unwrap_err(), "the socket answers \"nothing\"");
    }
}
