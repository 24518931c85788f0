//! Where a reader stands in the text of a trace, and the smallest steps forward.
//!
//! **Invariant:** a step that answers `None` took something that is no JSON, or that only the
//! general parser reads; where the cursor stands then is of no use.

/// A place in a text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    /// What follows.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// What was passed since `start`.
    pub(super) fn since(&self, start: usize) -> Option<&'a str> {
        self.text.get(start..self.at)
    }

    /// Whether nothing follows.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// An integer without sign, of at most 18 digits, that stands as it would be written.
    pub(super) fn integer(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.digits()?;
        let digits = self.since(start)?;
        let exact = digits.len() <= 18 && (digits.len() == 1 || !digits.starts_with('0'));
        let ends = !matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        (exact && ends).then_some(digits)
    }

    /// Passes over the rest of a string, escapes and all.
    pub(super) fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += plain_len(&self.bytes[self.at..]);
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let code = self.bytes.get(self.at..self.at + 4)?;
                            code.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
    }

    /// Passes over any number.
    pub(super) fn skip_number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// The rest of a string up to its quote, or to what may not stand in a plain one.
    #[inline(always)]
    pub(super) fn plain(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.at += plain_len(&self.bytes[start..]);
        self.since(start)
    }

    /// A word that has to follow.
    pub(super) fn literal(&mut self, word: &str) -> Option<()> {
        let end = self.at + word.len();
        (self.bytes.get(self.at..end)? == word.as_bytes()).then_some(())?;
        self.at = end;
        Some(())
    }

    /// A byte that has to follow.
    pub(super) fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then_some(())?;
        self.at += 1;
        Some(())
    }

    /// The byte that follows.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes over white space.
    pub(super) fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }
}

/// Bytes up to the first that ends a plain string, or may not stand in one: a quote, a backslash, a
/// control character.
fn plain_len(bytes: &[u8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = EACH << 7;
    // The top bit of each byte that is zero; exact up to the first one.
    let zero = |word: u64| word.wrapping_sub(EACH) & !word & TOP;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let control = word.wrapping_sub(EACH * 0x20) & !word & TOP;
        let quote = zero(word ^ (EACH * u64::from(b'"')));
        let found = control | quote | zero(word ^ (EACH * u64::from(b'\\')));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let ends = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    bytes[at..].iter().position(ends).map_or(bytes.len(), |rest| at + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_plain_string_is_found_wherever_it_stands() {
        for length in 0..40 {
            for special in 0..=255u8 {
                let mut bytes = vec![b'x'; length];
                bytes.push(special);
                bytes.extend_from_slice(b"yy\"");
                let ends = special < 0x20 || special == b'"' || special == b'\\';
                let expected = if ends { length } else { length + 3 };
                assert_eq!(plain_len(&bytes), expected, "{length} {special}");
            }
        }
    }
}
