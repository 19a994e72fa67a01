//! Quoted strings, by Go's rules.

/// A string literal. Escapes can make bytes that are no UTF-8: such a string is valid nowhere but as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    /// What it says, faulty bytes replaced.
    pub(crate) value: String,
    /// With escapes, as Go's `%q` prints it, where the bytes are no UTF-8.
    pub(crate) faulty: Option<String>,
}

/// Takes quotes and escapes off.
pub(crate) fn unquote(quoted: &str) -> Option<Literal> {
    let quote = quoted.chars().next()?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    if quote == '`' {
        return Some(Literal {
            value: inner.to_owned(),
            faulty: None,
        });
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' {
            escape(&mut letters, quote, &mut bytes)?;
        } else {
            bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(match String::from_utf8(bytes) {
        Ok(value) => Literal { value, faulty: None },
        Err(error) => Literal {
            value: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            faulty: Some(print(error.as_bytes())),
        },
    })
}

fn escape(letters: &mut std::str::Chars<'_>, quote: char, bytes: &mut Vec<u8>) -> Option<()> {
    let kind = letters.next()?;
    let single = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '\'' | '"' if kind == quote => u8::try_from(quote).ok()?,
        'x' => u8::try_from(digits(letters, 2, 16, 0)?).ok()?,
        '0'..='7' => u8::try_from(digits(letters, 2, 8, kind.to_digit(8)?)?).ok()?,
        'u' | 'U' => {
            let code = digits(letters, if kind == 'u' { 4 } else { 8 }, 16, 0)?;
            bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(());
        }
        _ => return None,
    };
    bytes.push(single);
    Some(())
}

fn digits(letters: &mut std::str::Chars<'_>, count: usize, radix: u32, begun: u32) -> Option<u32> {
    (0..count).try_fold(begun, |sum, _| {
        let digit = letters.next()?.to_digit(radix)?;
        sum.checked_mul(radix)?.checked_add(digit)
    })
}

fn print(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        out.extend(chunk.valid().escape_debug());
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}
