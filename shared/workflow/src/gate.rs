//! Approval gates: a stop of any workflow until enough people have said yes to exactly what is about to happen.
//!
//! ```text
//!                       enough approvals
//!   open ─────────────────────────────────▶ granted ──▶ the workflow looks again, then goes on
//!    │ │ ▲                                      │
//!    │ │ └── what it is about has changed: a new digest, given approvals are dropped ◀──┘
//!    │ └──── one rejection ─▶ rejected
//!    └────── its time is over ─▶ expired
//! ```
//!
//! An approval binds a digest: verb, target, parameters, gate, rule, the revisions of what it changes and, for a bulk drain,
//! the frozen list. The operation changes nothing of its target while the gate is open, so only somebody else can.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::resource::word_enum;
use crate::{PeerId, Timestamp};

word_enum!(
    /// Where in a workflow a gate stands.
    GateAt {
        /// Before anything.
        Start = "start",
        /// Of a bulk drain: after the canary, before the rest.
        Rest = "rest",
        /// Of a promotion: after its prechecks, before the fencing.
        Cutover = "cutover",
    }
);

/// What an operation's gate demands: a copy of the rules that matched when the operation was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatePolicy {
    pub gate: GateAt,
    /// Distinct approvers.
    pub required: u32,
    /// The scope an approver needs, `mesh.approve` or `mesh.admin`.
    pub approver_scope: String,
    pub expires_in_secs: u64,
    /// The rules' names; `request` where only the request asked for it.
    pub rule: String,
}

/// One yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    pub actor: String,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

word_enum!(
    Decision { Open = "open", Granted = "granted", Rejected = "rejected", Expired = "expired", Passed = "passed" }
);

/// A gate that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    pub gate: GateAt,
    pub required: u32,
    pub approvals: Vec<Given>,
    pub expires_at: Timestamp,
    pub rule: String,
    pub approver_scope: String,
    pub digest: String,
    pub status: Decision,
    /// Of what the operation is about, when the digest was made: `peers/edge-7` → 12.
    pub revisions: BTreeMap<String, u64>,
    /// The no, or what made a new digest necessary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_by: Option<String>,
}

/// What an approval is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub verb: &'a str,
    pub target: &'a str,
    /// JSON of the parameters, as the operation keeps it.
    pub params: &'a str,
    pub revisions: &'a BTreeMap<String, u64>,
    /// Of a bulk drain.
    pub peers: &'a [PeerId],
}

impl Subject<'_> {
    /// SHA-256 in hexadecimal. Every part has its length before it, so no two subjects are the same bytes.
    pub fn digest(&self, policy: &GatePolicy) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(self.verb);
        part(self.target);
        part(self.params);
        part(policy.gate.as_str());
        part(&policy.rule);
        part(&policy.required.to_string());
        part(&policy.approver_scope);
        part(&self.revisions.len().to_string());
        for (resource, revision) in self.revisions {
            part(resource);
            part(&revision.to_string());
        }
        part(&self.peers.len().to_string());
        for peer in self.peers {
            part(peer.as_str());
        }
        let mut text = String::with_capacity(64);
        for byte in hash.finalize() {
            let _written = write!(text, "{byte:02x}");
        }
        text
    }
}

/// Why a word at a gate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateRefusal {
    #[error("nobody approves their own change, admins included: ask somebody with scope {scope}")]
    SelfApproval { scope: String },
    #[error("this gate wants an approver with scope {scope}")]
    Scope { scope: String },
    #[error("no gate of this operation is open: {0}")]
    NotOpen(String),
    #[error("the digest is not the one that is asked for now, {current}: look at what changed and decide about that")]
    Digest { current: String },
}

/// Who speaks at a gate.
#[derive(Debug, Clone, Copy)]
pub struct Voice<'a> {
    pub actor: &'a str,
    /// Whether the actor has the scope that the gate wants.
    pub has_scope: bool,
    /// What they say they have seen.
    pub digest: &'a str,
    pub comment: Option<&'a str>,
}

/// What a look at a gate finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Waiting,
    Granted,
    Rejected,
    Expired,
    /// What it is about has changed: this is the gate now.
    Renewed(Box<Gate>),
}

/// Opens a gate.
pub fn open(policy: &GatePolicy, subject: Subject<'_>, now: Timestamp) -> Gate {
    let lasting = jiff::SignedDuration::from_secs(i64::try_from(policy.expires_in_secs).unwrap_or(i64::MAX));
    Gate {
        gate: policy.gate,
        required: policy.required.max(1),
        approvals: Vec::new(),
        expires_at: now.checked_add(lasting).unwrap_or(Timestamp::MAX),
        rule: policy.rule.clone(),
        approver_scope: policy.approver_scope.clone(),
        digest: subject.digest(policy),
        status: Decision::Open,
        revisions: subject.revisions.clone(),
        note: None,
        rejected_by: None,
    }
}

impl Gate {
    fn policy(&self) -> GatePolicy {
        GatePolicy {
            gate: self.gate,
            required: self.required,
            approver_scope: self.approver_scope.clone(),
            expires_in_secs: 0,
            rule: self.rule.clone(),
        }
    }

    /// A yes. False: this approver had said so before, of this very digest. `requester` is who submitted the operation.
    pub fn approve(&mut self, requester: &str, voice: Voice<'_>, now: Timestamp) -> Result<bool, GateRefusal> {
        if voice.actor == requester {
            return Err(GateRefusal::SelfApproval { scope: self.approver_scope.clone() });
        }
        self.heard(voice)?;
        let repeated = self.approvals.iter().any(|given| given.actor == voice.actor);
        if repeated && voice.digest == self.digest {
            return Ok(false);
        }
        self.listening(voice, now)?;
        self.approvals.push(Given {
            actor: voice.actor.to_owned(),
            at: now,
            comment: voice.comment.map(str::to_owned),
        });
        if self.approvals.len() as u64 >= u64::from(self.required) {
            self.status = Decision::Granted;
        }
        Ok(true)
    }

    /// A no, which is final. False: the same approver had said so before.
    pub fn reject(&mut self, voice: Voice<'_>, now: Timestamp) -> Result<bool, GateRefusal> {
        self.heard(voice)?;
        if self.status == Decision::Rejected && self.rejected_by.as_deref() == Some(voice.actor) {
            return Ok(false);
        }
        self.listening(voice, now)?;
        self.status = Decision::Rejected;
        self.rejected_by = Some(voice.actor.to_owned());
        self.note = voice.comment.map(str::to_owned);
        Ok(true)
    }

    fn heard(&self, voice: Voice<'_>) -> Result<(), GateRefusal> {
        if voice.has_scope { Ok(()) } else { Err(GateRefusal::Scope { scope: self.approver_scope.clone() }) }
    }

    fn listening(&self, voice: Voice<'_>, now: Timestamp) -> Result<(), GateRefusal> {
        if self.status != Decision::Open {
            return Err(GateRefusal::NotOpen(format!("the {} gate is {}", self.gate, self.status)));
        }
        if self.expires_at <= now {
            return Err(GateRefusal::NotOpen(format!("the {} gate expired at {}", self.gate, self.expires_at)));
        }
        if voice.digest != self.digest {
            return Err(GateRefusal::Digest { current: self.digest.clone() });
        }
        Ok(())
    }

    /// How the gate stands, given what its subject is now. A change by somebody else drops every approval, granted ones too, and
    /// leaves the time that was left.
    pub fn look(&self, subject: Subject<'_>, now: Timestamp) -> Look {
        match self.status {
            Decision::Rejected => return Look::Rejected,
            Decision::Expired => return Look::Expired,
            Decision::Passed => return Look::Granted,
            Decision::Open if self.expires_at <= now => return Look::Expired,
            Decision::Open | Decision::Granted => {}
        }
        let digest = subject.digest(&self.policy());
        if digest != self.digest {
            let note = changes(&self.revisions, subject.revisions);
            return Look::Renewed(Box::new(Gate {
                approvals: Vec::new(),
                digest,
                status: if self.expires_at <= now { Decision::Expired } else { Decision::Open },
                revisions: subject.revisions.clone(),
                note: Some(note),
                ..self.clone()
            }));
        }
        if self.status == Decision::Granted { Look::Granted } else { Look::Waiting }
    }
}

fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let changed: Vec<String> = after
        .iter()
        .filter(|(resource, revision)| before.get(*resource) != Some(revision))
        .map(|(resource, revision)| match before.get(resource) {
            Some(old) => format!("{resource} was changed from revision {old} to {revision}"),
            None => format!("{resource} is new"),
        })
        .collect();
    let gone =
        before.keys().filter(|resource| !after.contains_key(*resource)).map(|resource| format!("{resource} is gone"));
    let all: Vec<String> = changed.into_iter().chain(gone).collect();
    if all.is_empty() { "what is to be done has changed".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).expect("a time")
    }

    fn policy(required: u32) -> GatePolicy {
        GatePolicy {
            gate: GateAt::Start,
            required,
            approver_scope: "mesh.approve".to_owned(),
            expires_in_secs: 100,
            rule: "prod".to_owned(),
        }
    }

    fn revisions(revision: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("peers/a".to_owned(), revision)])
    }

    fn subject(revisions: &BTreeMap<String, u64>) -> Subject<'_> {
        Subject { verb: "peers.drain", target: "peers/a", params: "{}", revisions, peers: &[] }
    }

    fn gate(required: u32) -> Gate {
        open(&policy(required), subject(&revisions(1)), at(0))
    }

    fn voice<'a>(actor: &'a str, digest: &'a str) -> Voice<'a> {
        Voice { actor, has_scope: true, digest, comment: None }
    }

    #[test]
    fn enough_distinct_approvers_open_it() {
        let mut gate = gate(2);
        let digest = gate.digest.clone();
        assert_eq!(gate.approve("ana", voice("bo", &digest), at(1)), Ok(true));
        assert_eq!(gate.approve("ana", voice("bo", &digest), at(2)), Ok(false));
        assert_eq!(gate.look(subject(&revisions(1)), at(3)), Look::Waiting);
        assert_eq!(gate.approve("ana", voice("cy", &digest), at(4)), Ok(true));
        assert_eq!(gate.look(subject(&revisions(1)), at(5)), Look::Granted);
        assert_eq!(gate.approve("ana", voice("bo", &digest), at(6)), Ok(false), "a repeat of what was granted");
        assert!(matches!(gate.approve("ana", voice("di", &digest), at(7)), Err(GateRefusal::NotOpen(_))));
    }

    #[test]
    fn who_may_not_speak_is_told_why() {
        let check = |voice: Voice<'_>, now: i64, expect: &str| {
            let refused = gate(1).approve("ana", voice, at(now)).expect_err(expect);
            assert!(refused.to_string().contains(expect), "{refused}");
        };
        let digest = gate(1).digest;
        check(voice("ana", &digest), 1, "their own change");
        check(Voice { has_scope: false, ..voice("bo", &digest) }, 1, "scope mesh.approve");
        check(voice("bo", "other"), 1, "not the one that is asked for");
        check(voice("bo", &digest), 100, "expired");
    }

    #[test]
    fn a_no_is_final() {
        let mut gate = gate(1);
        let digest = gate.digest.clone();
        assert_eq!(gate.reject(Voice { comment: Some("freeze"), ..voice("bo", &digest) }, at(1)), Ok(true));
        assert_eq!(gate.reject(voice("bo", &digest), at(2)), Ok(false));
        assert!(gate.approve("ana", voice("cy", &digest), at(3)).is_err());
        assert_eq!(gate.look(subject(&revisions(1)), at(4)), Look::Rejected);
        assert_eq!(gate.note.as_deref(), Some("freeze"));
    }

    #[test]
    fn expiry_never_approves() {
        let mut gate = gate(2);
        let digest = gate.digest.clone();
        gate.approve("ana", voice("bo", &digest), at(1)).expect("in time");
        assert_eq!(gate.look(subject(&revisions(1)), at(100)), Look::Expired);
    }

    #[test]
    fn a_change_by_somebody_else_drops_what_was_given() {
        let mut gate = gate(1);
        let digest = gate.digest.clone();
        gate.approve("ana", voice("bo", &digest), at(1)).expect("in time");
        let Look::Renewed(renewed) = gate.look(subject(&revisions(2)), at(2)) else { panic!("it has changed") };
        assert!(renewed.approvals.is_empty() && renewed.digest != digest && renewed.expires_at == gate.expires_at);
        assert_eq!(renewed.note.as_deref(), Some("peers/a was changed from revision 1 to 2"));
        // The same people have to look again.
        let mut renewed = *renewed;
        let digest = renewed.digest.clone();
        assert_eq!(renewed.approve("ana", voice("bo", &digest), at(3)), Ok(true));
    }

    #[test]
    fn the_digest_binds_every_part() {
        let (one, two) = (revisions(1), revisions(2));
        let base = subject(&one);
        let peer = [PeerId::parse("b").expect("an id")];
        let others = [
            Subject { verb: "peers.cordon", ..base },
            Subject { target: "peers/b", ..base },
            Subject { params: "{\"a\":1}", ..base },
            Subject { revisions: &two, ..base },
            Subject { peers: &peer, ..base },
        ];
        let digest = base.digest(&policy(1));
        for other in others {
            assert_ne!(other.digest(&policy(1)), digest, "{other:?}");
        }
        assert_ne!(base.digest(&policy(2)), digest);
        assert_ne!(base.digest(&GatePolicy { gate: GateAt::Cutover, ..policy(1) }), digest);
    }
}
