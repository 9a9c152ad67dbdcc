//! Somebody of the crowd: a client whose every answer is written down.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use omnirelay_tests::{Answer, Api, Scope, Stack};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};

use crate::books::{Books, operation_of};

/// The longest that anything of the crowd is waited for.
pub const AT_MOST: Duration = Duration::from_secs(900);

pub struct Person {
    pub subject: String,
    pub api: Api,
    pub books: Arc<Books>,
    seed: u64,
    keys: AtomicU64,
}

/// A request of theirs.
#[derive(Debug, Clone)]
pub struct Wish {
    pub verb: &'static str,
    pub method: Method,
    pub path: String,
    pub body: Value,
    pub if_match: Option<u64>,
    pub key: String,
}

impl Person {
    pub fn new(stack: &Stack, books: &Arc<Books>, subject: &str, scope: Scope, seed: u64) -> Self {
        let mut hash = DefaultHasher::new();
        (seed, subject).hash(&mut hash);
        Self {
            subject: subject.to_owned(),
            api: stack.api_of(subject, scope),
            books: Arc::clone(books),
            seed: hash.finish(),
            keys: AtomicU64::new(1),
        }
    }

    /// Their whims, the same for the same seed.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// Everybody counts from 1, so everybody's keys are the same: they are each actor's own.
    pub fn wish(&self, verb: &'static str, method: Method, path: String, body: Value) -> Wish {
        let key = format!("key-{}", self.keys.fetch_add(1, Ordering::Relaxed));
        Wish { verb, method, path, body, if_match: None, key }
    }

    pub fn on_peer(&self, peer: &str, action: &str, body: Value) -> Wish {
        let verb = match action {
            "cordon" => "peers.cordon",
            "uncordon" => "peers.uncordon",
            _ => "peers.drain",
        };
        self.wish(verb, Method::POST, format!("/control/peers/{peer}:{action}"), body)
    }

    pub fn on_operation(&self, operation: &str, action: &'static str, body: Value) -> Wish {
        let verb = match action {
            "cancel" => "operations.cancel",
            "pause" => "operations.pause",
            "resume" => "operations.resume",
            "approve" => "operations.approve",
            _ => "operations.reject",
        };
        self.wish(verb, Method::POST, format!("/control/operations/{operation}:{action}"), body)
    }

    /// Sends it and writes the answer down. Every request is answered: nothing of the product ends here.
    pub async fn ask(&self, wish: &Wish) -> Answer {
        let begun = Instant::now();
        let mut ask = self.api.ask(wish.method.clone(), &wish.path).key(&wish.key);
        ask = ask.raw("application/json", wish.body.to_string());
        if let Some(revision) = wish.if_match {
            ask = ask.header("if-match", &format!("\"{revision}\""));
        }
        let answer = ask.send().await;
        assert!(answer.status < 500 && answer.status != 429, "{} {wish:?}: {answer:?}", self.subject);
        self.books.answered(&self.subject, wish.verb, &wish.key, &answer, begun.elapsed());
        answer
    }

    /// With the confirmation of its plan, where one is asked for.
    pub async fn confirmed(&self, wish: &Wish) -> Answer {
        let mut wish = wish.clone();
        // What somebody changed in between wants a look at the new plan.
        for _ in 0..20 {
            let answer = self.ask(&wish).await;
            if answer.code() != "confirmation-required" {
                return answer;
            }
            wish.body["confirmation"] = answer.body["plan"]["confirmation"]["token"].clone();
        }
        panic!("{} never got through: {wish:?}", self.subject)
    }

    /// How the operation of an answer ended; nothing where none was made.
    pub async fn end_of(&self, answer: &Answer) -> Option<Value> {
        let operation = operation_of(answer)?;
        Some(self.api.ended_within(&operation, AT_MOST).await)
    }

    /// Calls an operation off.
    pub async fn cancel(&self, operation: &str) -> Answer {
        let answer = self.ask(&self.on_operation(operation, "cancel", json!({"reason": "changed my mind"}))).await;
        let kept = answer.status == 202 || (answer.status == 200 && answer.body["changed"] == true);
        match (kept, answer.code()) {
            (true, _) => {
                self.books.open().cancelled.insert(operation.to_owned());
            }
            (false, "-" | "too-late") => {}
            (false, other) => panic!("a cancel of {operation}: {other} {}", answer.body),
        }
        answer
    }
}
