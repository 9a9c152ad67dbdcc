//! The words that schemas are written in.
#![expect(clippy::needless_pass_by_value, reason = "schemas are made where they are named")]

use serde_json::{Map, Value, json};

/// An object that has all of these members.
pub fn object(description: &str, members: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let object = json!({"type": "object", "required": required, "properties": properties});
    if description.is_empty() { object } else { doc(object, description) }
}

/// The object with some of its members left out at times.
pub fn optional(mut object: Value, names: &[&str]) -> Value {
    if let Some(required) = object.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name.as_str().is_none_or(|name| !names.contains(&name)));
    }
    object
}

pub fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub fn doc(mut schema: Value, description: &str) -> Value {
    if let Value::Object(members) = &mut schema {
        members.insert("description".to_owned(), description.into());
    }
    schema
}

pub fn text() -> Value {
    json!({"type": "string"})
}

pub fn id() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"})
}

pub fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

pub fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

pub fn duration() -> Value {
    json!({"type": "string", "examples": ["30m", "1h 15m"]})
}

pub fn flag() -> Value {
    json!({"type": "boolean"})
}

pub fn number() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub fn integer() -> Value {
    json!({"type": "integer"})
}

pub fn revision() -> Value {
    doc(number(), "Grows with each decided change; the ETag is this in quotes.")
}

pub fn amount() -> Value {
    doc(json!({"anyOf": [number(), {"type": "string", "pattern": "^[0-9]+%$"}]}), "A number, or a percentage.")
}

pub fn labels() -> Value {
    map(text())
}

pub fn map(of: Value) -> Value {
    json!({"type": "object", "additionalProperties": of})
}

pub fn array(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

pub fn nullable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

pub fn words<T: Copy>(all: &[T], word: impl Fn(T) -> &'static str) -> Value {
    json!({"type": "string", "enum": all.iter().map(|each| word(*each)).collect::<Vec<_>>()})
}
