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

#[test]
fn an_if_match_allows_what_it_names() {
    let check = |value: &'static str, revision: u64, expect: bool, kept: Option<&[u64]>| {
        let if_match = if_match(&headers(&[("if-match", value)])).ok().flatten().expect("a condition");
        assert_eq!((if_match.allows(revision), if_match.revisions()), (expect, kept), "{value} {revision}");
    };
    check("*", 7, true, None);
    check("\"7\"", 7, true, Some(&[7]));
    check("\"7\"", 8, false, Some(&[7]));
    check("\"6\", \"7\"", 7, true, Some(&[6, 7]));
    // Weakly the same is not the same (RFC 9110, 13.1.1).
    check("W/\"7\"", 7, false, Some(&[]));
    check("\"-7\"", 7, false, Some(&[]));
}

#[test]
fn only_a_star_creates_only() {
    let check = |value: &'static str, expect: Option<bool>| {
        assert_eq!(creates_only(&headers(&[("if-none-match", value)])).ok(), expect, "{value}");
    };
    check("*", Some(true));
    check(" * ", Some(true));
    check("\"7\"", None);
    check("", None);
    assert_eq!(creates_only(&HeaderMap::new()).ok(), Some(false));
}

#[tokio::test]
async fn a_patch_has_two_media_types_and_a_body_one() {
    use omnirelay_contract::rest::PatchPeerBody;
    for (media_type, is_patch, is_body) in [
        ("application/json", true, true),
        ("application/merge-patch+json", true, false),
        ("Application/Merge-Patch+JSON; charset=utf-8", true, false),
        ("application/json-patch+json", false, false),
        ("text/plain", false, false),
    ] {
        let headers = headers(&[("content-type", media_type)]);
        let text = || Body::from("{\"labels\":{\"a\":null}}");
        let patched = patch::<PatchPeerBody>(&headers, text()).await;
        assert_eq!(patched.is_ok(), is_patch, "{media_type}");
        assert_eq!(body::<PatchPeerBody>(&headers, text()).await.is_ok(), is_body, "{media_type}");
        if let Err(refusal) = patched {
            assert_eq!(refusal.code(), Code::UnsupportedMediaType, "{media_type}");
        }
    }
    let headers = headers(&[("content-type", "application/merge-patch+json")]);
    let cleared = patch::<PatchPeerBody>(&headers, Body::from("{\"labels\":null}")).await.expect("a patch");
    assert_eq!((cleared.labels, cleared.metadata), (Some(serde_json::Value::Null), None), "null is not nothing");
}
