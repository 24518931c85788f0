//! A stored trace as Huawei's SDKs demand it.
//!
//! `code`, `request`, `response`, `message` and the other texts are strings, times are integers,
//! `read_only` is a boolean, `user` is an object whose `principal_is_root_user` is a string, and
//! `trace_rating` is there also where the producer wrote `trace_status`. What else the trace holds
//! goes out as it came: numbers too great for any type keep their digits.
//!
//! Source: CTS API v3, ListTraces; `docs/formats.md`, "Traces over HTTP".

use std::borrow::Cow;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Members that are strings; a value of another type becomes its compact JSON text.
const TEXTS: [&str; 26] = [
    "api_version",
    "code",
    "domain_id",
    "endpoint",
    "enterprise_project_id",
    "event_type",
    "location_info",
    "message",
    "operation_id",
    "project_id",
    "request",
    "request_id",
    "resource_account_id",
    "resource_id",
    "resource_name",
    "resource_type",
    "resource_url",
    "response",
    "service_type",
    "source_ip",
    "trace_id",
    "trace_name",
    "trace_rating",
    "trace_status",
    "trace_type",
    "tracker_name",
];

/// Members of the user that are strings.
const USER_TEXTS: [&str; 9] = [
    "access_key_id",
    "account_id",
    "id",
    "name",
    "principal_id",
    "principal_is_root_user",
    "principal_urn",
    "type",
    "user_name",
];

/// The members of a JSON object, in order, values as they stand.
struct Members<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Members<'de>;
            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = vec![];
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Visit)
    }
}

fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    serde_json::from_str::<Members<'_>>(text).ok().map(|members| members.0)
}

/// Writes a stored trace into `out` as the SDKs want it, and returns its `trace_id`. A stored trace
/// always is an object; anything else is written as `null`.
pub(super) fn write(trace: &[u8], out: &mut String) -> Option<String> {
    let Some(members) = std::str::from_utf8(trace).ok().and_then(members) else {
        out.push_str("null");
        return None;
    };
    let mut object = Object::new(out);
    let (mut trace_id, mut rating, mut status) = (None, false, None);
    for (name, raw) in members {
        if name == "trace_rating" && raw == "null" {
            continue;
        }
        object.name(&name);
        match name.as_ref() {
            "time" | "record_time" => integer(raw, object.out),
            "read_only" => boolean(raw, object.out),
            "user" => user(raw, object.out),
            known if TEXTS.contains(&known) => text(raw, object.out),
            _ => object.out.push_str(raw),
        }
        match name.as_ref() {
            "trace_id" => trace_id = serde_json::from_str(raw).ok(),
            "trace_rating" => rating = true,
            "trace_status" => status = Some(raw),
            _ => {}
        }
    }
    if let (false, Some(raw)) = (rating, status) {
        object.name("trace_rating");
        text(raw, object.out);
    }
    object.end();
    trace_id
}

/// An object being written.
struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    fn new(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        quote(name, self.out);
        self.out.push(':');
    }

    fn end(self) {
        self.out.push('}');
    }
}

/// Writes a JSON string.
fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a string always serialises"));
}

/// A string or null as it is; any other value as a string that holds its compact JSON text.
fn text(raw: &str, out: &mut String) {
    if raw.starts_with('"') || raw == "null" {
        out.push_str(raw);
    } else {
        quote(&compact(raw), out);
    }
}

/// The JSON text without white space outside of strings; every digit stays.
fn compact(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let (mut in_string, mut escaped) = (false, false);
    for letter in raw.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            _ => {}
        }
        out.push(letter);
    }
    out
}

/// An integer as it is; the digits of one in a string, or a whole number written with an exponent,
/// as an integer; else null.
fn integer(raw: &str, out: &mut String) {
    let bare = raw.trim_matches('"');
    if bare.parse::<i64>().is_ok() && !bare.starts_with('+') {
        out.push_str(bare);
        return;
    }
    match bare.parse::<f64>() {
        // Integers are exact in a double up to 2^53, and the parser takes no others.
        Ok(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
            out.push_str(&(value as i64).to_string());
        }
        _ => out.push_str("null"),
    }
}

/// `true` or `false`, also where it stands as a string; else null.
fn boolean(raw: &str, out: &mut String) {
    out.push_str(match raw.trim_matches('"').to_ascii_lowercase().as_str() {
        "true" => "true",
        "false" => "false",
        _ => "null",
    });
}

/// The user as an object: also where it came as the JSON text of one, or as a bare name.
fn user(raw: &str, out: &mut String) {
    if raw == "null" {
        out.push_str(raw);
        return;
    }
    let unquoted: Cow<'_, str> = match serde_json::from_str::<String>(raw) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(raw),
    };
    let Some(members) = members(&unquoted) else {
        let mut object = Object::new(out);
        object.name("name");
        text(raw, object.out);
        return object.end();
    };
    let mut object = Object::new(out);
    for (name, raw) in members {
        object.name(&name);
        match name.as_ref() {
            "session_context" => session(raw, object.out),
            known if USER_TEXTS.contains(&known) => text(raw, object.out),
            _ => object.out.push_str(raw),
        }
    }
    object.end();
}

/// The session: its attributes are strings.
fn session(raw: &str, out: &mut String) {
    let Some(outer) = members(raw) else { return out.push_str(raw) };
    let mut object = Object::new(out);
    for (name, raw) in outer {
        object.name(&name);
        match members(raw).filter(|_| name == "attributes") {
            None => object.out.push_str(raw),
            Some(attributes) => {
                let mut inner = Object::new(object.out);
                for (name, raw) in attributes {
                    inner.name(&name);
                    text(raw, inner.out);
                }
                inner.end();
            }
        }
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: &str, expect: &str) {
        let mut out = String::new();
        write(stored.as_bytes(), &mut out);
        assert_eq!(out, expect);
    }

    #[test]
    fn texts_are_strings_whatever_they_were() {
        check(
            r#"{"code": 200, "request": {"a" : [1.50, "x y"]}, "response":null,"message":"m"}"#,
            r#"{"code":"200","request":"{\"a\":[1.50,\"x y\"]}","response":null,"message":"m"}"#,
        );
    }

    #[test]
    fn times_are_integers_and_flags_are_booleans() {
        check(r#"{"time":"1700000000000"}"#, r#"{"time":1700000000000}"#);
        check(r#"{"time":1.7e12,"record_time":-1}"#, r#"{"time":1700000000000,"record_time":-1}"#);
        check(r#"{"record_time":1e999}"#, r#"{"record_time":null}"#);
        check(r#"{"read_only":"false"}"#, r#"{"read_only":false}"#);
        check(r#"{"read_only":true}"#, r#"{"read_only":true}"#);
    }

    #[test]
    fn the_user_is_an_object() {
        check(
            r#"{"user":{"name":"a","principal_is_root_user":true,"invoked_by":["x"],
                "session_context":{"attributes":{"mfa_authenticated":false,"created_at":17}}}}"#,
            concat!(
                r#"{"user":{"name":"a","principal_is_root_user":"true","invoked_by":["x"],"#,
                r#""session_context":{"attributes":{"mfa_authenticated":"false","#,
                r#""created_at":"17"}}}}"#
            ),
        );
        check(r#"{"user":"{\"name\":\"a\"}"}"#, r#"{"user":{"name":"a"}}"#);
        check(r#"{"user":"root"}"#, r#"{"user":{"name":"root"}}"#);
        check(r#"{"user":null}"#, r#"{"user":null}"#);
    }

    #[test]
    fn the_old_name_of_the_rating_gives_the_new_one() {
        check(
            r#"{"trace_status":"normal"}"#,
            r#"{"trace_status":"normal","trace_rating":"normal"}"#,
        );
        check(
            r#"{"trace_status":"normal","trace_rating":"warning"}"#,
            r#"{"trace_status":"normal","trace_rating":"warning"}"#,
        );
    }

    #[test]
    fn other_members_go_out_as_they_came() {
        let odd = r#"{"x":123456789012345678901234567890.000,"y":{"z":[1e400, null]},"a\u0000":1}"#;
        check(odd, odd);
    }
}
