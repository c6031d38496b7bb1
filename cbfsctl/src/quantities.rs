//! Numbers as people read them.

use std::time::Duration;

/// Bytes with a binary unit: `17 B`, `1.5 KiB`, `23 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS[unit];
    if value < 9.95 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.0} {name}")
    }
}

/// Bytes as people write them: `512M`, `10G`, `10GiB`, `1048576`; units are powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let unit = unit
        .strip_suffix("IB")
        .or(unit.strip_suffix('B'))
        .unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err("a size is a number with K, M, G, T or P, as in 10G".to_owned()),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|n: u64| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a size is a whole number, as in 512M or 10G".to_owned())
}

/// A count with thousands separated: `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`: a count and its noun.
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A duration: `0.012 s`, `3.21 s`, `4:05`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    if seconds < 0.1 {
        format!("{seconds:.3} s")
    } else if seconds < 60.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{}:{:02}", d.as_secs() / 60, d.as_secs() % 60)
    }
}

/// So many per second, as a whole number; 0 for no time at all.
pub(crate) fn per_second(n: u64, d: Duration) -> u64 {
    let seconds = d.as_secs_f64();
    if seconds > 0.0 {
        (n as f64 / seconds) as u64
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_at_most() {
        let shown: Vec<String> = [
            0,
            1023,
            1024,
            1536,
            10 << 10,
            (1 << 20) - 1,
            1 << 20,
            u64::MAX,
        ]
        .map(bytes)
        .to_vec();
        insta::assert_snapshot!(shown.join(", "), @"0 B, 1023 B, 1.0 KiB, 1.5 KiB, 10 KiB, 1.0 MiB, 1.0 MiB, 16 EiB");
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let read = |text| parse_bytes(text).ok();
        assert_eq!(read("1048576"), Some(1 << 20));
        assert_eq!(read("512M"), Some(512 << 20));
        assert_eq!(
            [read("10g"), read("10GiB"), read("10GB")],
            [Some(10 << 30); 3]
        );
        for wrong in ["", "G", "1.5G", "-1G", "10X", "99999999P", "1é"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn counts_have_separators() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(plural(1, "file", "files"), "1 file");
    }

    #[test]
    fn durations_fit_their_size() {
        let shown = [12, 1_500, 59_990, 245_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0.012 s", "1.50 s", "59.99 s", "4:05"]);
    }
}
