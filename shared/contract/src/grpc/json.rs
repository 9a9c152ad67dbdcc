//! Free JSON in messages: `google.protobuf.Value` that reads and writes itself as the JSON it means.
//!
//! On the wire these are the well-known types. We have our own because a whole number must come out as one: `2` of a body
//! travels as the double 2.0, and `2.0` is no number of peers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Always 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(ListValue),
}

/// Whole numbers up to here are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let kind = match value {
            Json::Null => Kind::Null(0),
            Json::Bool(value) => Kind::Bool(value),
            Json::Number(number) => Kind::Number(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Kind::String(text),
            Json::Array(items) => Kind::List(ListValue { values: items.into_iter().map(Value::from).collect() }),
            Json::Object(members) => {
                let fields = members.into_iter().map(|(name, value)| (name, value.into())).collect();
                Kind::Struct(Struct { fields })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            None | Some(Kind::Null(_)) => serializer.serialize_unit(),
            Some(Kind::Bool(value)) => serializer.serialize_bool(*value),
            Some(Kind::String(text)) => serializer.serialize_str(text),
            Some(Kind::Number(number)) => match whole(*number) {
                Some(whole) => whole.serialize(serializer),
                None if number.is_finite() => serializer.serialize_f64(*number),
                None => Err(serde::ser::Error::custom("a number that is not finite has no JSON")),
            },
            Some(Kind::List(list)) => serializer.collect_seq(&list.values),
            Some(Kind::Struct(members)) => serializer.collect_map(&members.fields),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(Value::from)
    }
}

fn whole(number: f64) -> Option<Number> {
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    Some(if number < 0.0 { Number::from(number as i64) } else { Number::from(number as u64) })
}

/// A member that JSON may also leave out or say `null` for.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a member is what leaving it out means.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
