//! How many of a total: a number, or a share of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A number, or a percent text such as `"25%"`. It is written as it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Amount {
    Count(u32),
    /// 0 to 100.
    Percent(u8),
}

/// Why something is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a whole number or a percent text like \"25%\"")]
pub struct NotAnAmount;

impl Amount {
    /// How many that is. A share is rounded down, since a budget must not be exceeded, but a share above 0% is never less than 1:
    /// otherwise `10%` of a small cluster would forbid every drain for ever.
    pub fn of(self, total: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(0) => 0,
            Amount::Percent(percent) => ((u64::from(total) * u64::from(percent) / 100) as u32).max(1),
        }
    }
}

impl TryFrom<Value> for Amount {
    type Error = NotAnAmount;

    fn try_from(value: Value) -> Result<Self, NotAnAmount> {
        match value {
            Value::Number(number) => {
                number.as_u64().and_then(|n| u32::try_from(n).ok()).map(Amount::Count).ok_or(NotAnAmount)
            }
            Value::String(text) if text.ends_with('%') => text.parse(),
            _ => Err(NotAnAmount),
        }
    }
}

/// A percent text; of a number, its digits. As a form or a command line has it.
impl std::str::FromStr for Amount {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Self, NotAnAmount> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let plain = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        if !plain {
            return Err(NotAnAmount);
        }
        if digits.len() == text.len() {
            return digits.parse().map(Amount::Count).map_err(|_| NotAnAmount);
        }
        digits.parse().ok().filter(|percent| *percent <= 100).map(Amount::Percent).ok_or(NotAnAmount)
    }
}

impl From<Amount> for Value {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => count.into(),
            Amount::Percent(_) => amount.to_string().into(),
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Amount::Count(count) => write!(f, "{count}"),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}
