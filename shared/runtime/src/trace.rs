//! The W3C trace context (<https://www.w3.org/TR/trace-context/>) as it travels in HTTP and NATS headers and in rows.

use std::fmt;
use std::str::FromStr;

/// A `traceparent`, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// A new trace, sampled by the ratio that is configured; all of them where none is.
    pub fn random() -> Self {
        let trace = rand::random::<u128>().max(1);
        Self { trace, span: rand::random::<u64>().max(1), flags: u8::from(crate::spans::samples(trace)) }
    }

    /// A span of the same trace, with an id of its own.
    #[must_use]
    pub fn beneath(self) -> Self {
        Self { span: rand::random::<u64>().max(1), ..self }
    }

    /// The caller's trace with a span of our own, or a new one.
    pub fn continued(header: Option<&str>) -> Self {
        match header.and_then(|text| text.parse::<Self>().ok()) {
            Some(parent) => parent.beneath(),
            None => Self::random(),
        }
    }

    /// Whether the trace's beginner records it.
    pub const fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    pub const fn trace(self) -> u128 {
        self.trace
    }

    pub const fn span(self) -> u64 {
        self.span
    }

    /// 32 lower-case hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let lower_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut parts = text.split('-');
        let (Some(version), Some(trace), Some(span), Some(flags)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidTraceParent);
        };
        let known = version == "00" && parts.next().is_none();
        let later = version != "00" && version != "ff" && lower_hex(version, 2);
        if !(known || later) || !lower_hex(trace, 32) || !lower_hex(span, 16) || !lower_hex(flags, 2) {
            return Err(InvalidTraceParent);
        }
        let parsed = Self {
            trace: u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceParent)?,
            span: u64::from_str_radix(span, 16).map_err(|_| InvalidTraceParent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceParent)?,
        };
        if parsed.trace == 0 || parsed.span == 0 { Err(InvalidTraceParent) } else { Ok(parsed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_specification_allows_is_parsed() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(good.parse::<TraceParent>().map(|parsed| parsed.to_string()), Ok(good.to_owned()));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent), "{bad}");
        }
        let continued = TraceParent::continued(Some(good));
        assert_eq!(continued.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(continued.to_string(), good);
    }
}
