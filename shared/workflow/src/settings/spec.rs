//! The one list of what can be set. Values are checked and completed by it, and the JSON Schema is written from it.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Amount, InvalidSetting};
use crate::drain::OnDeadline;
use crate::gate::GateAt;
use crate::operation::Verb;
use crate::selector::Selector;

/// Where the schema is published.
const SCHEMA_ID: &str = "/control/config/schema";
/// Of humantime, without fractions.
const UNITS: &str = "nanos|nsec|ns|usec|us|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|min|mins|m|\
                     hours|hour|hr|hrs|h|days|day|d|weeks|week|wk|wks|w|months|month|M|years|year|yr|yrs|y";
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a value may be.
enum Kind {
    Object(Vec<Field>),
    List {
        of: Box<Kind>,
        least: usize,
        most: usize,
    },
    /// Free keys of 1 to 200 characters.
    Map {
        of: Box<Kind>,
        most: usize,
    },
    Whole {
        least: u64,
        most: u64,
    },
    Duration {
        least: Duration,
        most: Duration,
    },
    Word(Vec<&'static str>),
    Text {
        longest: usize,
    },
    Selector,
    Flag,
    Amount,
    /// That, or this word.
    Or(Box<Kind>, &'static str),
    /// That, or null.
    Maybe(Box<Kind>),
}

struct Field {
    name: &'static str,
    about: &'static str,
    kind: Kind,
    /// None: it has to be given.
    default: Option<Value>,
}

fn field(name: &'static str, kind: Kind, default: Value, about: &'static str) -> Field {
    Field { name, about, kind, default: Some(default) }
}

fn required(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, about, kind, default: None }
}

/// An object whose members all have defaults.
fn group(name: &'static str, about: &'static str, fields: Vec<Field>) -> Field {
    field(name, Kind::Object(fields), json!({}), about)
}

static SETTINGS: LazyLock<Kind> = LazyLock::new(|| {
    Kind::Object(vec![
        group(
            "drain",
            "What a drain does where its request does not say.",
            vec![
                field(
                    "deadline",
                    maybe(Kind::Duration { least: Duration::from_secs(1), most: YEAR }),
                    Value::Null,
                    "Time from the start of a drain until onDeadline happens; null: it waits for ever.",
                ),
                field(
                    "onDeadline",
                    Kind::Word(OnDeadline::ALL.iter().map(|word| word.as_str()).collect()),
                    json!("hold"),
                    "hold: stop, stay cordoned, end failed. cancel: put everything back. force: take the rest from an unreachable peer.",
                ),
                field(
                    "maxConcurrent",
                    Kind::Whole { least: 1, most: 1000 },
                    json!(4),
                    "Moves in flight at once, of one drain.",
                ),
            ],
        ),
        group(
            "promote",
            "What a promotion demands.",
            vec![
                field(
                    "minHealthyPercent",
                    Kind::Whole { least: 0, most: 100 },
                    json!(50),
                    "Percent of the cluster's peers that must be healthy.",
                ),
                field(
                    "maxReplicationLagMs",
                    Kind::Or(Box::new(Kind::Whole { least: 0, most: 86_400_000 }), "unlimited"),
                    json!(500),
                    "The cluster's replication lag, in milliseconds, up to which it may be promoted.",
                ),
                field(
                    "fenceTimeout",
                    Kind::Duration { least: Duration::from_secs(1), most: HOUR },
                    json!("30s"),
                    "How long agents have to acknowledge the fencing before they are listed as unfenced.",
                ),
            ],
        ),
        group(
            "approvals",
            "Who has to agree to what. Changes of the rules need approval under the old rules.",
            vec![field(
                "rules",
                Kind::List { of: Box::new(Kind::Object(rule())), least: 0, most: 100 },
                json!([]),
                "All rules that match an operation apply, the stricter of each demand.",
            )],
        ),
        group(
            "disruption",
            "How much may be out of service at once; drains wait for it.",
            vec![
                field(
                    "maxUnavailable",
                    maybe(Kind::Amount),
                    Value::Null,
                    "Peers of a cluster that does not say so itself; null: no budget.",
                ),
                field(
                    "services",
                    Kind::Map { of: Box::new(Kind::Amount), most: 10_000 },
                    json!({}),
                    "Workloads of a service, by the service's name.",
                ),
            ],
        ),
        group(
            "heartbeat",
            "How peers are judged.",
            vec![field(
                "timeout",
                Kind::Duration { least: Duration::from_secs(1), most: HOUR },
                json!("10s"),
                "Silence after which a peer is unreachable.",
            )],
        ),
    ])
});

fn rule() -> Vec<Field> {
    let verbs = Kind::Word(Verb::ALL.iter().map(|verb| verb.as_str()).collect());
    let mut fields = vec![
        required("name", Kind::Text { longest: 100 }, "Unique; shown wherever the rule asks for something."),
        required("verbs", Kind::List { of: Box::new(verbs), least: 1, most: 50 }, "The operations that it is about."),
        field(
            "selector",
            maybe(Kind::Selector),
            Value::Null,
            "Of the target: label terms a=b, a!=b, a, !a, separated by commas; null: every target.",
        ),
    ];
    fields.extend(demands(Some(json!("start"))));
    fields
}

/// What a rule, or a request of its own, demands. `gate`: where it stands if that is not said.
fn demands(gate: Option<Value>) -> Vec<Field> {
    vec![
        Field {
            name: "gate",
            about: "start: before anything. rest: of a bulk drain, after the canary. cutover: of a promotion, before the fencing.",
            kind: Kind::Word(GateAt::ALL.iter().map(|word| word.as_str()).collect()),
            default: gate,
        },
        field(
            "required",
            Kind::Whole { least: 1, most: 20 },
            json!(1),
            "Distinct approvers; the requester is never one.",
        ),
        field(
            "approverScope",
            Kind::Word(vec!["mesh.approve", "mesh.admin"]),
            json!("mesh.approve"),
            "The scope that an approver needs.",
        ),
        field(
            "expiresIn",
            Kind::Duration { least: Duration::from_secs(1), most: 30 * 24 * HOUR },
            json!("30m"),
            "How long the gate stays open; then the operation is rejected.",
        ),
        field("requireTicket", Kind::Flag, json!(false), "Whether the request has to name a change ticket."),
    ]
}

fn maybe(kind: Kind) -> Kind {
    Kind::Maybe(Box::new(kind))
}

/// The settings with the defaults of everything that is not there.
pub(super) fn complete(value: &Value) -> Result<Value, InvalidSetting> {
    SETTINGS.complete("", value)
}

/// The same of a gate that a request asks for.
pub(super) fn gate_request(value: &Value) -> Result<Value, InvalidSetting> {
    static GATE: LazyLock<Kind> = LazyLock::new(|| Kind::Object(demands(None)));
    if !value.is_object() {
        let rule = format!("{}, or one of start, rest, cutover", GATE.rule());
        return Err(InvalidSetting::Value { key: "gate".to_owned(), rule, found: shown(value) });
    }
    GATE.complete("gate", value)
}

/// Whether all keys of a merge patch exist. Their values are looked at after the merge.
pub(super) fn known(patch: &Value) -> Result<(), InvalidSetting> {
    if !patch.is_object() {
        return Err(wrong("", &SETTINGS, patch));
    }
    SETTINGS.known("", patch)
}

impl Kind {
    fn complete(&self, key: &str, value: &Value) -> Result<Value, InvalidSetting> {
        let refused = || wrong(key, self, value);
        let good = match (self, value) {
            (Kind::Object(fields), Value::Object(given)) => return object(fields, key, given),
            (Kind::List { of, least, most }, Value::Array(items)) => {
                let items: Result<Vec<Value>, _> =
                    items.iter().enumerate().map(|(n, item)| of.complete(&format!("{key}[{n}]"), item)).collect();
                let items = items?;
                return if (*least..=*most).contains(&items.len()) { Ok(items.into()) } else { Err(refused()) };
            }
            (Kind::Map { of, most }, Value::Object(members)) => {
                for (name, member) in members {
                    let key = path(key, name);
                    if !(1..=200).contains(&name.chars().count()) {
                        let rule = "known by a name of 1 to 200 characters".to_owned();
                        return Err(InvalidSetting::Value { key, rule, found: shown(&json!(name)) });
                    }
                    of.complete(&key, member)?;
                }
                members.len() <= *most
            }
            (Kind::Whole { least, most }, Value::Number(number)) => {
                number.as_u64().is_some_and(|n| (*least..=*most).contains(&n))
            }
            (Kind::Duration { least, most }, Value::String(text)) => {
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
                let length = if plain { humantime::parse_duration(text).ok() } else { None };
                length.is_some_and(|length| (*least..=*most).contains(&length))
            }
            (Kind::Word(words), Value::String(text)) => words.contains(&text.as_str()),
            (Kind::Text { longest }, Value::String(text)) => (1..=*longest).contains(&text.chars().count()),
            (Kind::Selector, Value::String(text)) => Selector::parse(text).is_ok(),
            (Kind::Flag, Value::Bool(_)) => true,
            (Kind::Amount, value) => Amount::try_from(value.clone()).is_ok(),
            (Kind::Or(_, word), Value::String(text)) if text == word => true,
            (Kind::Or(kind, _), value) => kind.complete(key, value).map_err(|_| refused()).map(|_| true)?,
            (Kind::Maybe(_), Value::Null) => true,
            (Kind::Maybe(kind), value) => return kind.complete(key, value),
            _ => false,
        };
        if good { Ok(value.clone()) } else { Err(refused()) }
    }

    fn known(&self, key: &str, patch: &Value) -> Result<(), InvalidSetting> {
        let (Kind::Object(fields), Value::Object(members)) = (self, patch) else { return Ok(()) };
        for (name, member) in members {
            let field = fields.iter().find(|field| field.name == name).ok_or_else(|| unknown(fields, key, name))?;
            field.kind.known(&path(key, name), member)?;
        }
        Ok(())
    }

    /// In words, after "must be".
    fn rule(&self) -> String {
        let shown = humantime::format_duration;
        match self {
            Kind::Object(_) => "an object".to_owned(),
            Kind::List { least: 0, most, .. } => format!("a list of at most {most}"),
            Kind::List { least, most, .. } => format!("a list of {least} to {most}"),
            Kind::Map { most, .. } => format!("an object of at most {most} members"),
            Kind::Whole { least, most } => format!("a whole number of at least {least}, at most {most}"),
            Kind::Duration { least, most } => {
                format!("a duration like \"30s\" or \"1h 30m\", from {} to {}", shown(*least), shown(*most))
            }
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Text { longest } => format!("a text of 1 to {longest} characters"),
            Kind::Selector => "a selector: terms a=b, a!=b, a, !a, separated by commas".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Amount => "a whole number or a percent text like \"25%\"".to_owned(),
            Kind::Or(kind, word) => format!("{}, or \"{word}\"", kind.rule()),
            Kind::Maybe(kind) => kind.rule(),
        }
    }

    fn schema(&self) -> Value {
        match self {
            Kind::Object(fields) => {
                let properties: Map<String, Value> = fields.iter().map(|f| (f.name.to_owned(), f.schema())).collect();
                let required: Vec<&str> = fields.iter().filter(|f| f.default.is_none()).map(|f| f.name).collect();
                let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
                if !required.is_empty() {
                    schema["required"] = json!(required);
                }
                schema
            }
            Kind::List { of, least, most } => {
                json!({"type": "array", "items": of.schema(), "minItems": least, "maxItems": most})
            }
            Kind::Map { of, most } => json!({
                "type": "object",
                "propertyNames": {"minLength": 1, "maxLength": 200},
                "additionalProperties": of.schema(),
                "maxProperties": most,
            }),
            Kind::Whole { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
            Kind::Duration { .. } => json!({
                "type": "string",
                "pattern": format!("^ *([0-9]+ *({UNITS}) *)+$"),
                "description": self.rule(),
            }),
            Kind::Word(words) => json!({"type": "string", "enum": words}),
            Kind::Text { longest } => json!({"type": "string", "minLength": 1, "maxLength": longest}),
            Kind::Selector => json!({"type": "string", "minLength": 1, "description": self.rule()}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Amount => json!({"oneOf": [
                {"type": "integer", "minimum": 0, "maximum": u32::MAX},
                {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"},
            ]}),
            Kind::Or(kind, word) => json!({"oneOf": [kind.schema(), {"const": word}]}),
            Kind::Maybe(kind) => json!({"oneOf": [kind.schema(), {"type": "null"}]}),
        }
    }
}

impl Field {
    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        let about = match schema["description"].as_str() {
            Some(rule) => format!("{} {}.", self.about, capital(rule)),
            None => self.about.to_owned(),
        };
        schema["description"] = about.into();
        if let Some(default) = &self.default {
            let whole = self.kind.complete(self.name, default);
            schema["default"] = whole.unwrap_or_else(|wrong| unreachable!("defaults are valid: {wrong}"));
        }
        schema
    }
}

pub(super) fn schema() -> Value {
    let mut schema = SETTINGS.schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["$id"] = SCHEMA_ID.into();
    schema["title"] = "Settings of an OmniRelay mesh".into();
    schema
}

fn object(fields: &[Field], key: &str, given: &Map<String, Value>) -> Result<Value, InvalidSetting> {
    if let Some(name) = given.keys().find(|name| !fields.iter().any(|field| field.name == *name)) {
        return Err(unknown(fields, key, name));
    }
    let mut whole = Map::new();
    for field in fields {
        let key = path(key, field.name);
        let value = match (given.get(field.name), &field.default) {
            (Some(value), _) => value,
            (None, Some(default)) => default,
            (None, None) => return Err(InvalidSetting::Missing { key, rule: field.kind.rule() }),
        };
        whole.insert(field.name.to_owned(), field.kind.complete(&key, value)?);
    }
    Ok(whole.into())
}

fn path(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

fn unknown(fields: &[Field], key: &str, name: &str) -> InvalidSetting {
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    let name: String = name.chars().take(80).collect();
    InvalidSetting::Unknown { key: path(key, &name), rule: format!("known here: {}", names.join(", ")) }
}

fn wrong(key: &str, kind: &Kind, found: &Value) -> InvalidSetting {
    let key = if key.is_empty() { "settings" } else { key };
    InvalidSetting::Value { key: key.to_owned(), rule: kind.rule(), found: shown(found) }
}

/// What was found, briefly.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(members) => format!("an object of {} members", members.len()),
        other => other.to_string().chars().take(80).collect(),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
