//! The role of the peer's cluster, told to every child whose template has a `role_url`.
//!
//! A role is carried out when each of them has answered with a 2xx: a fence that is acknowledged is one that they keep. One that
//! answers 503, or does not answer, is asked again. Children that start later have the role in OMNIRELAY_ROLE from the beginning.

use futures_util::future::join_all;
use omnirelay_contract::agent::ClusterRole;
use omnirelay_workflow::WorkloadId;
use omnirelay_workflow::resource::Role;

use super::{ProcessDriver, ProcessOptions};
use crate::driver::Answer;
use crate::driver::probe::Told;
use crate::state_file::{self, StateFileError};

const FILE: &str = "role.json";

/// The role that was told last, none where there never was a promotion.
pub(super) fn remembered(options: &ProcessOptions) -> Result<Option<Role>, StateFileError> {
    state_file::read(&options.folder.join(FILE))
}

impl ProcessDriver {
    pub(super) async fn tell_role(&self, told: Option<&ClusterRole>) -> Answer {
        let Some(ClusterRole { role, .. }) = told else { return Answer::failed("which role?") };
        if let Err(error) = state_file::write(&self.options.folder.join(FILE), role) {
            return Answer::failed(error.to_string());
        }
        let children = self.children_of_role(*role);
        let answers = join_all(children.iter().map(|(_, url)| self.http.tell(url))).await;
        let mut busy = Vec::new();
        for ((id, _), answer) in children.iter().zip(answers) {
            match answer {
                Ok(Told::Done) => {}
                // Who does not answer may be starting, or still be at it.
                Ok(Told::Busy(why)) | Err(why) => busy.push(format!("{id}: {why}")),
                Ok(Told::Failed(why)) => return Answer::failed(format!("{id}: {why}")),
            }
        }
        if busy.is_empty() { Answer::done(Vec::new()) } else { Answer::busy(Vec::new(), busy.join(", ")) }
    }

    /// Who runs now and wants to be told, and where. From here on children start with the new role.
    fn children_of_role(&self, role: Role) -> Vec<(WorkloadId, String)> {
        let mut inside = self.lock();
        inside.role = Some(role);
        let known: Vec<(WorkloadId, String, u16)> =
            inside.endpoints.iter().map(|(id, e)| (id.clone(), e.service.clone(), e.port)).collect();
        let mut children = Vec::new();
        for (id, service, port) in known {
            let url = self.template(&service).ok().and_then(|t| t.role_url(&id, &service, &self.options.peer, port));
            if let Some(url) = url.filter(|_| inside.alive(&id)) {
                children.push((id, url.replace("{role}", role.as_str())));
            }
        }
        children
    }
}
