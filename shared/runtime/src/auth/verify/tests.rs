use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::auth::{Claims, KeyPair, Scope, generate_key_pair, mint};

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "omnirelay";
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

fn pair() -> KeyPair {
    generate_key_pair().expect("a key pair")
}

fn authenticator(pair: &KeyPair) -> Authenticator {
    let keys = [
        Key { kid: "ed".to_owned(), alg: Algorithm::EdDsa, material: pair.public_pem.clone().into_bytes() },
        Key { kid: "hs".to_owned(), alg: Algorithm::Hs256, material: SECRET.to_vec() },
    ];
    Authenticator::with_keys(ISSUER, AUDIENCE, &keys).expect("usable keys")
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn good() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ana", "exp": now() + 600, "scope": "mesh.operate openid", "jti": "t-1"})
}

fn without(claim: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().expect("an object").remove(claim);
    claims
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = good();
    claims[claim] = value;
    claims
}

fn signed(kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(SECRET)).expect("a token")
}

#[test]
fn a_minted_token_is_verified_with_its_scopes() {
    let pair = pair();
    let claims = Claims {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: "ana".to_owned(),
        scopes: vec![Scope::Operate],
        valid_for: std::time::Duration::from_secs(60),
        kid: "ed".to_owned(),
    };
    let token = mint(&pair.private_pem, &claims).expect("a token");
    let principal = authenticator(&pair).authenticate(&token).expect("verified");
    assert_eq!(principal.subject, "ana");
    assert!(principal.scopes.allow(Scope::Observe) && !principal.scopes.allow(Scope::Admin));
    assert!(principal.token_id.is_some());
}

#[test]
fn what_is_not_let_in() {
    let authenticator = authenticator(&pair());
    let check = |token: &str, expect: &str| {
        let refused = authenticator.authenticate(token).expect_err(expect).to_string();
        assert!(refused.contains(expect), "{refused:?} should say {expect:?}");
        assert!(!refused.contains(token) || token.is_empty(), "an error must not hold the token");
    };
    check("", "not a JWT");
    check("a.b.c", "not a JWT");
    check(&"x".repeat(9000), "not a JWT");
    check(&signed(Some("other"), &good()), "no key");
    check(&signed(None, &good()), "no key");
    // A key is used with its own algorithm only: an HMAC over the public key is the classical forgery.
    check(&signed(Some("ed"), &good()), "algorithm");
    check(&signed(Some("hs"), &with("exp", json!(now() - 60))), "expired");
    check(&signed(Some("hs"), &with("nbf", json!(now() + 600))), "nbf");
    check(&signed(Some("hs"), &with("aud", json!("another"))), "aud");
    check(&signed(Some("hs"), &with("iss", json!("https://other.example"))), "iss");
    check(&signed(Some("hs"), &with("sub", json!(""))), "wrong form");
    check(&signed(Some("hs"), &with("sub", json!("a\u{0}b"))), "wrong form");
    for claim in ["exp", "iss", "aud", "sub"] {
        let refused = authenticator.authenticate(&signed(Some("hs"), &without(claim)));
        assert!(refused.is_err(), "a token without {claim}");
    }
    let mut tampered = signed(Some("hs"), &good());
    let end = tampered.pop().expect("a character");
    tampered.push(if end == 'A' { 'B' } else { 'A' });
    assert!(authenticator.authenticate(&tampered).is_err());
}

#[test]
fn a_token_that_claims_to_need_no_signature_is_refused() {
    let authenticator = authenticator(&pair());
    for alg in ["none", "None", "NONE"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT", "kid": "hs"}).to_string());
        let body = URL_SAFE_NO_PAD.encode(good().to_string());
        assert!(authenticator.authenticate(&format!("{header}.{body}.")).is_err(), "{alg}");
    }
}

#[test]
fn another_key_of_the_same_kind_does_not_do() {
    let (ours, theirs) = (pair(), pair());
    let claims = Claims {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: "ana".to_owned(),
        scopes: vec![Scope::Admin],
        valid_for: std::time::Duration::from_secs(60),
        kid: "ed".to_owned(),
    };
    let token = mint(&theirs.private_pem, &claims).expect("a token");
    assert!(matches!(authenticator(&ours).authenticate(&token), Err(AuthError::Signature)));
}

#[test]
fn a_remembered_token_still_expires() {
    let authenticator = authenticator(&pair());
    let token = signed(Some("hs"), &good());
    let first = authenticator.authenticate(&token).expect("verified");
    let second = authenticator.authenticate(&token).expect("remembered");
    assert!(Arc::ptr_eq(&first, &second));
    // Behind its expiry it is verified again; the library's own clock still takes it, the memory does not.
    let later = authenticator.authenticate_at(&token, now() + 601).expect("verified again");
    assert!(!Arc::ptr_eq(&first, &later));
}

#[test]
fn keys_that_protect_nothing_are_refused() {
    let key =
        |kid: &str, alg: Algorithm, material: &[u8]| Key { kid: kid.to_owned(), alg, material: material.to_vec() };
    let new = |keys: &[Key]| Authenticator::with_keys(ISSUER, AUDIENCE, keys);
    assert!(matches!(new(&[]), Err(AuthError::NoKeys)));
    assert!(matches!(new(&[key("a", Algorithm::Hs256, b"short")]), Err(AuthError::WeakSecret { .. })));
    assert!(matches!(new(&[key("a", Algorithm::EdDsa, b"no pem")]), Err(AuthError::Key { .. })));
    let twice = [key("a", Algorithm::Hs256, SECRET), key("a", Algorithm::Hs256, SECRET)];
    assert!(matches!(new(&twice), Err(AuthError::DuplicateKid(_))));
}
