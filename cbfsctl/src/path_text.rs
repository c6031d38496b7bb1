//! Paths of a file system as text: one line each, whatever bytes they have.

use std::fmt::Write;

/// A path relative to the root as people read it: `/` before it, and in C's way within double
/// quotes (`"/a\nb\377"`, as git does) when it has control characters, bytes that are no UTF-8,
/// quotes or backslashes. So no path can look like another one, or like two lines.
pub(crate) fn path_text(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let plain = |c: char| !c.is_control() && c.escape_debug().len() == 1;
    if std::str::from_utf8(path).is_ok() && text.chars().all(plain) {
        return format!("/{text}");
    }
    let mut out = String::from("\"/");
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                c if plain(c) || c == '\'' => out.push(c),
                c => octal(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out.push('"');
    out
}

fn octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\{byte:03o}"); // writing to a String cannot fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_paths_look_alike_and_none_leaves_its_line() {
        let shown = [
            &b""[..],
            b"a/b c",
            "gr\u{fc}n/\u{4e2d}".as_bytes(),
            b"new\nline",
            b"new\\nline",
            b"\xff\xfe\x1b[2J",
            b"say \"x\"",
            "right\u{202e}to left".as_bytes(),
        ]
        .map(path_text);
        insta::assert_snapshot!(shown.join(" | "), @r#"/ | /a/b c | /grün/中 | "/new\nline" | "/new\\nline" | "/\377\376\033[2J" | "/say \"x\"" | "/right\342\200\256to left""#);
    }
}
