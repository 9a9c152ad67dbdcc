use http::HeaderValue;
use omnirelay_contract::rest::DrainBody;

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

#[test]
fn if_match_is_strong_tags() {
    let check = |value: &'static str, expect: Option<IfMatch>| {
        assert_eq!(if_match(&headers(&[("if-match", value)])).ok().flatten(), expect, "{value}");
    };
    check("*", Some(IfMatch::Any));
    check("\"7\"", Some(IfMatch::Revisions(vec![7])));
    check("\"7\", \"8\"", Some(IfMatch::Revisions(vec![7, 8])));
    check("W/\"7\"", Some(IfMatch::Revisions(vec![])));
    check("\"other\"", Some(IfMatch::Revisions(vec![])));
    check("7", None);
    assert_eq!(if_match(&HeaderMap::new()).ok(), Some(None));
}

#[test]
fn prefer_says_how_long() {
    let check = |value: &'static str, expect: Option<u64>| {
        let got = wait(&headers(&[("prefer", value)]), Duration::from_secs(10)).ok().map(|wait| wait.as_secs());
        assert_eq!(got, expect, "{value}");
    };
    check("wait=3", Some(3));
    check("wait=3600", Some(60));
    check("respond-async", Some(0));
    check("respond-async, wait=5", Some(5));
    check("handling=lenient", Some(10));
    check("wait=soon", None);
    check("wait", None);
}

#[test]
fn unknown_parameters_are_named() {
    let parse = |text: &str| query(&text.parse().expect("a uri"), &["state", "cluster"]);
    assert_eq!(parse("/x?state=a%2Cb").ok(), Some(vec![("state".to_owned(), "a,b".to_owned())]));
    assert_eq!(parse("/x").ok(), Some(vec![]));
    for (bad, names) in [("/x?sate=a", "sate"), ("/x?state=a&state=b", "state"), ("/x?state=%00", "state")] {
        let refusal = parse(bad).expect_err(bad);
        assert!(refusal.problem.detail.contains(names), "{}", refusal.problem.detail);
    }
    assert_eq!(validate_only(&"/x?validateOnly=true".parse().expect("a uri")).ok(), Some(true));
    assert!(validate_only(&"/x?validateOnly=maybe".parse().expect("a uri")).is_err());
}

#[tokio::test]
async fn bodies_are_refused_by_what_is_wrong_with_them() {
    let json = headers(&[("content-type", "application/json; charset=utf-8")]);
    let read = async |headers: &HeaderMap, text: String| body::<DrainBody>(headers, Body::from(text)).await;
    let refused = async |headers: &HeaderMap, text: String, code: Code, names: &str| {
        let refusal = read(headers, text.clone()).await.expect_err(names);
        let detail = &refusal.problem.detail;
        assert!(refusal.code() == code && detail.contains(names), "{} {detail:?} should name {names}", refusal.code());
    };
    assert_eq!(read(&HeaderMap::new(), String::new()).await.ok(), Some(DrainBody::default()));
    assert!(read(&json, r#"{"deadline":"30m"}"#.to_owned()).await.is_ok());
    refused(&json, r#"{"colour":1}"#.to_owned(), Code::InvalidArgument, "colour").await;
    refused(&json, r#"{"maxConcurrent":"x"}"#.to_owned(), Code::InvalidArgument, "maxConcurrent").await;
    refused(&json, r#"{"deadline":"soon"}"#.to_owned(), Code::InvalidArgument, "deadline").await;
    refused(&json, "{".to_owned(), Code::InvalidArgument, "body").await;
    refused(&HeaderMap::new(), "{}".to_owned(), Code::UnsupportedMediaType, "application/json").await;
    let large = format!("\"{}\"", "x".repeat(MAX_BODY_BYTES));
    refused(&json, large, Code::PayloadTooLarge, "larger").await;
}

#[test]
fn etags_are_compared_weakly_for_reads() {
    let named = |value: &'static str| none_match(&headers(&[("if-none-match", value)]), "\"7\"");
    assert!(named("\"7\"") && named("W/\"7\"") && named("\"6\", \"7\"") && named("*"));
    assert!(!named("\"8\"") && !none_match(&HeaderMap::new(), "\"7\""));
}
