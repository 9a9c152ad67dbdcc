use uuid::Uuid;

use super::*;

fn payload(kind: &str, subject: &str, operation: Option<u128>) -> String {
    serde_json::json!({
        "type": kind, "subject": subject, "data": {"operation": operation.map(Uuid::from_u128)},
    })
    .to_string()
}

fn hub(events: &[(u64, &str, &str, Option<u128>)]) -> Hub {
    let mut ring = Ring::default();
    for (position, kind, subject, operation) in events {
        ring.push(Framed::new(*position, &payload(kind, subject, *operation)));
    }
    let (_, head) = watch::channel(ring.head);
    Hub { ring: Arc::new(RwLock::new(ring)), head }
}

fn ids(tail: &Tail) -> Vec<u64> {
    let Tail::Frames(frames, _) = tail else { panic!("behind") };
    let text = std::str::from_utf8(frames).expect("UTF-8");
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().expect("a number")).collect()
}

#[test]
fn a_frame_is_as_the_format_wants_it() {
    assert_eq!(frame(Some(7), "a.b", "{}").as_ref(), b"id: 7\nevent: a.b\ndata: {}\n\n");
    assert_eq!(frame(None, "error", "x\r\ny").as_ref(), b"event: error\ndata: x\ndata: y\n\n");
}

#[test]
fn a_cursor_sees_what_is_behind_it_once() {
    let hub = hub(&[(5, "k", "peers/a", None), (6, "k", "peers/b", None), (7, "k", "operations/x", Some(1))]);
    let all = Filter::default();
    assert_eq!(ids(&hub.behind(4, &all)), [5, 6, 7]);
    assert_eq!(ids(&hub.behind(4, &all)), [5, 6, 7], "joined once, the same again");
    assert_eq!(ids(&hub.behind(6, &all)), [7]);
    assert_eq!(ids(&hub.behind(7, &all)), Vec::<u64>::new());
    assert_eq!(hub.behind(3, &all), Tail::Behind);
    assert_eq!(hub.head(), 7);
}

#[test]
fn filters_choose_by_operation_resource_and_kind() {
    let hub = hub(&[(1, "k", "peers/a", Some(1)), (2, "k", "peers/b", Some(2)), (3, "k", "workloads/a", Some(1))]);
    let check = |filter: Filter, expect: &[u64]| assert_eq!(ids(&hub.behind(0, &filter)), expect, "{filter:?}");
    let base = Filter::default;
    check(Filter { operation: Some(Uuid::from_u128(1)), ..base() }, &[1, 3]);
    check(Filter { resource: Some("peers/a".to_owned()), ..base() }, &[1]);
    check(Filter { resource: Some("a".to_owned()), ..base() }, &[1, 3]);
    check(Filter { kind: Some("peers".to_owned()), ..base() }, &[1, 2]);
    check(Filter { kind: Some("clusters".to_owned()), ..base() }, &[]);
    // The position goes on although nothing passed.
    let nothing = Filter { kind: Some("clusters".to_owned()), ..base() };
    assert_eq!(hub.behind(0, &nothing), Tail::Frames(Bytes::new(), 3));
}

#[test]
fn the_ring_forgets_the_oldest() {
    let mut ring = Ring::default();
    for position in 1..=(RING as u64 + 10) {
        ring.push(Framed::new(position, &payload("k", "peers/a", None)));
    }
    assert!(ring.behind(9).is_none());
    assert_eq!(ring.behind(10).map(Iterator::count), Some(RING));
}

#[test]
fn an_event_that_cannot_be_read_keeps_its_place() {
    let framed = Framed::new(3, "no json");
    assert!(framed.frame.is_empty() && framed.position == 3);
}
