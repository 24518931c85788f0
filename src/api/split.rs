//! Splits a body into elements without parsing them: a JSON array, lines, or one object.
//!
//! An element that is no good JSON is still an element, as long as its brackets and quotes balance:
//! the record stage keeps it as a dead letter, with the evidence.

use memchr::{memchr, memchr2};

/// Greatest number of elements in one body.
pub(super) const ELEMENTS_MAX: usize = 100_000;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One element a line, empty lines skipped.
    Lines,
    /// Told by the first byte: `[` begins an array; anything else is lines, or a single object
    /// over several lines.
    Guess,
}

/// Splits `body`.
///
/// # Errors
/// What is wrong with a body that has no elements, too many, or no certain ends of them.
pub(super) fn split(body: &[u8], form: Form) -> Result<Vec<&[u8]>, String> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    match (form, first) {
        (_, None) => Err("the body is empty: send a JSON array or one trace a line".to_owned()),
        (Form::Guess, Some(b'[')) => array(body, ELEMENTS_MAX),
        (Form::Guess, Some(b'{')) if is_single_object(body) => Ok(vec![body.trim_ascii()]),
        _ => lines(body),
    }
}

/// Whether a body over several lines is one JSON object, as a pretty-printer writes it.
fn is_single_object(body: &[u8]) -> bool {
    let first_line = body.trim_ascii_start();
    let end = memchr(b'\n', first_line).unwrap_or(first_line.len());
    // A line that closes its object is a whole trace, so the body is lines.
    first_line[..end].trim_ascii_end().last() != Some(&b'}')
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn lines(body: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut elements = Vec::with_capacity(body.len() / 512 + 1);
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
        if !line.is_empty() {
            push(&mut elements, line, ELEMENTS_MAX)?;
        }
    }
    Ok(elements)
}

fn push<'a>(elements: &mut Vec<&'a [u8]>, element: &'a [u8], max: usize) -> Result<(), String> {
    if elements.len() == max {
        return Err(format!("the body has more than {max} traces: send fewer at once"));
    }
    elements.push(element);
    Ok(())
}

/// The elements of an array, at most `elements_max`: commas at depth one, outside of strings, part
/// them.
///
/// # Errors
/// As [`split`].
pub(crate) fn array(body: &[u8], elements_max: usize) -> Result<Vec<&[u8]>, String> {
    let body = body.trim_ascii();
    let mut elements = Vec::with_capacity(body.len() / 512 + 1);
    let (mut depth, mut start, mut at) = (0usize, 1, 0);
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => {
                at = after_string(body, at + 1)
                    .ok_or_else(|| format!("bad JSON array: the string at byte {at} has no end"))?;
                continue;
            }
            b'[' | b'{' => depth += 1,
            b'}' if depth == 1 => return Err(format!("bad JSON array: stray }} at byte {at}")),
            b']' | b'}' => depth -= 1,
            b',' if depth == 1 => {
                element(body, &mut elements, start..at, elements_max)?;
                start = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        at += 1;
    }
    if depth > 0 {
        return Err("bad JSON array: it does not end with ]".to_owned());
    }
    if at + 1 < body.len() {
        return Err(format!("bad JSON array: there is more after its end at byte {at}"));
    }
    let blank = body[start..at].trim_ascii().is_empty();
    if !(blank && elements.is_empty()) {
        element(body, &mut elements, start..at, elements_max)?;
    }
    Ok(elements)
}

fn element<'a>(
    body: &'a [u8],
    elements: &mut Vec<&'a [u8]>,
    range: std::ops::Range<usize>,
    elements_max: usize,
) -> Result<(), String> {
    let element = body[range.clone()].trim_ascii();
    if element.is_empty() {
        return Err(format!("bad JSON array: nothing stands before byte {}", range.end));
    }
    push(elements, element, elements_max)
}

/// The position after the string whose content begins at `at`.
fn after_string(body: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', body.get(at..)?)?;
        if body[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, form: Form, expect: Result<&[&str], &str>) {
        let split = split(body.as_bytes(), form);
        let split = split.map(|elements| {
            elements
                .into_iter()
                .map(|bytes| std::str::from_utf8(bytes).unwrap().to_owned())
                .collect::<Vec<_>>()
        });
        let expect = expect
            .map(|texts| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
            .map_err(ToOwned::to_owned);
        assert_eq!(split, expect, "{body:?}");
    }

    #[test]
    fn arrays_split_at_their_own_commas() {
        check("[]", Form::Guess, Ok(&[]));
        check(
            " [ {\"a\":[1,2]} ,\n7, \"x,]\\\"\" ] \n",
            Form::Guess,
            Ok(&["{\"a\":[1,2]}", "7", "\"x,]\\\"\""]),
        );
        // An element that no parser takes is kept for the dead letters.
        check("[{\"a\":},{[}]]", Form::Guess, Ok(&["{\"a\":}", "{[}]"]));
    }

    #[test]
    fn arrays_without_certain_ends_are_refused() {
        for (body, text) in [
            ("[1", "bad JSON array: it does not end with ]"),
            ("[1,,2]", "bad JSON array: nothing stands before byte 3"),
            ("[1,]", "bad JSON array: nothing stands before byte 3"),
            ("[1] 2", "bad JSON array: there is more after its end at byte 2"),
            ("[}", "bad JSON array: stray } at byte 1"),
            ("[\"a]", "bad JSON array: the string at byte 1 has no end"),
        ] {
            check(body, Form::Guess, Err(text));
        }
        let empty = "the body is empty: send a JSON array or one trace a line";
        check("", Form::Guess, Err(empty));
        check(" \r\n", Form::Lines, Err(empty));
    }

    #[test]
    fn lines_keep_their_bytes() {
        check("{}\r\n\n {\"a\":1} \n[1]", Form::Lines, Ok(&["{}", " {\"a\":1} ", "[1]"]));
        check("{\"a\":1}\n{\"a\":2}\n", Form::Guess, Ok(&["{\"a\":1}", "{\"a\":2}"]));
        check("{\n\"a\": 1\n}\n", Form::Guess, Ok(&["{\n\"a\": 1\n}"]));
        check("hello\nworld", Form::Guess, Ok(&["hello", "world"]));
    }
}
