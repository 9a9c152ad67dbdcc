//! `mesh events tail`: one line per event, from now on or from a position.

use clap::{Args, Subcommand};
use omnirelay_contract::event::Event;
use omnirelay_contract::workflow::OperationId;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Feed, Filter, Update};
use crate::output::{self, Format, note};
use crate::resolve::{self, short};
use crate::session::{GlobalArgs, Session};

#[derive(Debug, Subcommand)]
pub enum Events {
    /// Print events as they happen, until Ctrl-C
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub struct TailArgs {
    /// Only this operation's: an id, the tail of one, or the target's name
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// Only this resource's, such as peers/edge-7
    #[arg(long, value_name = "KIND/ID")]
    resource: Option<String>,
    /// Only this kind of resource: peers, workloads, clusters, operations, access
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Begin after this position
    #[arg(long, value_name = "POSITION")]
    since_position: Option<u64>,
}

pub async fn run(command: Events, global: &GlobalArgs) -> Result<Exit, Failure> {
    let Events::Tail(args) = command;
    let session = Session::open(global).await?;
    let operation: Option<OperationId> = match &args.operation {
        Some(text) => Some(resolve::operation(&session.client, text).await?.id),
        None => None,
    };
    let filter = Filter { operation, resource: args.resource, kind: args.kind };
    tokio::select! {
        result = tail(&session, filter, args.since_position) => result,
        // The usual end of a tail.
        _ = tokio::signal::ctrl_c() => Ok(Exit::Succeeded),
    }
}

async fn tail(session: &Session, filter: Filter, since: Option<u64>) -> Result<Exit, Failure> {
    let nats = session.target.nats.as_deref();
    let mut feed = Feed::start(&session.client, nats, filter.clone(), since).await;
    let mut last = since;
    let mut ready = false;
    let mut told = false;
    while let Some(update) = feed.updates.recv().await {
        match update {
            Update::Event { position, event } => {
                if position.is_some() && position <= last {
                    continue;
                }
                last = last.max(position);
                match session.format {
                    Format::Table | Format::Wide => output::print(&line(position, &event))?,
                    format => output::streamed(format, &*event)?,
                }
            }
            Update::Other { position } => last = last.max(position),
            Update::Gap { position } if feed.by_bus => {
                note("too slow for the bus; going on by the API's event stream");
                last = last.max(position);
                feed = Feed::start(&session.client, None, filter.clone(), last).await;
            }
            Update::Gap { position } => {
                let at = position.map(|position| format!(" before {position}")).unwrap_or_default();
                note(&format!("some events{at} are no longer kept; see omnirelay audit list"));
                last = last.max(position);
            }
            Update::Lost { why } => {
                if !told {
                    note(&format!("connection lost, resuming: {why}"));
                }
                told = true;
                // The bus does not repeat what was missed meanwhile; the API does, from the position.
                if feed.by_bus && last.is_some() {
                    feed = Feed::start(&session.client, None, filter.clone(), last).await;
                }
            }
            Update::Ready => {
                if told {
                    note("connected again");
                } else if !ready {
                    note("watching");
                }
                (ready, told) = (true, false);
            }
            Update::Refused(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(Exit::Unavailable, "the source of events has gone"))
}

/// `#88164  12:01:02  peers/web-07 draining  by ana  op 9c41e07b  evicting 4/10`
fn line(position: Option<u64>, event: &Event) -> String {
    let (resource, id, what) = event.parts().unwrap_or((&event.subject, "", &event.kind));
    let position = position.map_or_else(|| "#-".to_owned(), |position| format!("#{position}"));
    let time = event.time.strftime("%H:%M:%S");
    let mut line = format!("{position}  {time}  {resource}/{id} {what}");
    let data = &event.data;
    if let Some(actor) = &data.actor {
        line.push_str(&format!("  by {actor}"));
    }
    if let Some(operation) = data.operation {
        line.push_str(&format!("  op {}", short(operation)));
    }
    if let Some(phase) = &data.phase {
        line.push_str(&format!("  {phase}"));
    }
    if let Some(progress) = data.progress.as_ref().filter(|progress| progress.total > 0) {
        line.push_str(&format!("  {}/{}", progress.done, progress.total));
    }
    let text = |name: &str| data.detail.get(name).and_then(|value| value.as_str());
    if let Some(from) = text("from") {
        line.push_str(&format!("  {from} -> {}", text("to").unwrap_or("nobody")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_in_a_line() {
        let check = |resource: &str, id: &str, what: &str, data: serde_json::Value, expected: &str| {
            let mut data = data;
            data["audit"] = json!({"verb": "v", "outcome": "o"});
            let time = "2026-11-23T12:01:02.345Z".parse().expect("time");
            let data = serde_json::from_value(data).expect("data");
            let event = Event::new(uuid::Uuid::nil(), resource, id, what, time, data);
            assert_eq!(line(Some(7), &event), expected);
        };
        check("peers", "web-07", "health", json!({}), "#7  12:01:02  peers/web-07 health");
        check(
            "operations",
            crate::testing::ID,
            "progressed",
            json!({"operation": crate::testing::ID, "actor": "ana", "phase": "evicting",
                "progress": {"done": 4, "total": 10, "inFlight": 2, "failed": 0, "unit": "workloads"}}),
            &format!("#7  12:01:02  operations/{} progressed  by ana  op 9c41e07b  evicting  4/10", crate::testing::ID),
        );
        check(
            "workloads",
            "w-1",
            "moving",
            json!({"from": "web-07", "to": "web-03"}),
            "#7  12:01:02  workloads/w-1 moving  web-07 -> web-03",
        );
        check(
            "workloads",
            "w-1",
            "moving",
            json!({"from": "a", "to": null}),
            "#7  12:01:02  workloads/w-1 moving  a -> nobody",
        );
    }
}
