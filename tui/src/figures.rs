//! Numbers, times and texts as the panes show them: short, and always of the same width where they stand in a
//! column.

use cbfs_core::inode::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Milliseconds of the Unix epoch: the one notion of time of the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// Of an RFC 3339 time; `None` when it is none.
    pub fn parse(rfc3339: &str) -> Option<Moment> {
        let time = Timestamp::parse_rfc3339(rfc3339)?;
        Some(Moment(
            time.secs() * 1000 + i64::from(time.nanos() / 1_000_000),
        ))
    }

    /// Milliseconds from `earlier` to this; 0 when it is later.
    pub fn since(self, earlier: Moment) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Moment {
        Moment(time.secs() * 1000 + i64::from(time.nanos() / 1_000_000))
    }
}

/// Bytes in at most five characters: `0`, `999`, `1.4K`, `86M`, `412G`. Powers of 1024.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        n.to_string()
    } else if value < 9.95 {
        format!("{value:.1}{}", UNITS[unit])
    } else {
        format!("{value:.0}{}", UNITS[unit])
    }
}

/// Bytes a second.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// A count in at most six characters: `1204`, `20.5k`, `3.1M`.
pub fn count(n: u64) -> String {
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_949 => format!("{:.1}k", n as f64 / 1e3),
        999_950..=999_949_999 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}G", n as f64 / 1e9),
    }
}

/// A count with its noun.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A span of time in at most five characters: `0.2s`, `41s`, `4m`, `3h`, `12d`.
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=9 => format!("{}.{}s", s, ms % 1000 / 100),
        10..=99 => format!("{s}s"),
        100..=5_999 => format!("{}m", s / 60),
        6_000..=172_799 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// A span as a clock shows it: `0:41`, `12:07`, `3:00:00`.
pub fn clock(ms: u64) -> String {
    let s = ms / 1000;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 {
        format!("{h}:{m:02}:{s:02}")
    } else {
        format!("{m}:{s:02}")
    }
}

/// The time of day of an RFC 3339 time (UTC), or its date when it is not of today.
pub fn time_or_date(rfc3339: &str, now: Moment) -> String {
    let today = Timestamp::from_parts(now.0.div_euclid(1000), 0).to_rfc3339();
    if rfc3339.get(..10) == today.get(..10) {
        time_of_day(rfc3339)
    } else {
        rfc3339.get(..10).unwrap_or(rfc3339).to_owned()
    }
}

/// As [`time_or_date`], in at most eight columns: the date without its year.
pub fn short_time_or_date(rfc3339: &str, now: Moment) -> String {
    let long = time_or_date(rfc3339, now);
    if long.len() > 8 {
        long.get(5..).unwrap_or_default().to_owned()
    } else {
        long
    }
}

/// The time of day of an RFC 3339 time (UTC).
pub fn time_of_day(rfc3339: &str) -> String {
    rfc3339.get(11..19).unwrap_or(rfc3339).to_owned()
}

/// Date and time of an RFC 3339 time, to the second.
pub fn date_and_time(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time}"),
        _ => rfc3339.to_owned(),
    }
}

/// Text from outside without what would move the cursor or change colours.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text in exactly `columns` columns: cut (with `ellipsis` at the cut) or filled up with blanks.
pub fn fit(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = cut(text, columns, ellipsis);
    let fill = columns.saturating_sub(text.width());
    text + &" ".repeat(fill)
}

/// As [`fit`], at the right end.
pub fn fit_right(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = cut(text, columns, ellipsis);
    " ".repeat(columns.saturating_sub(text.width())) + &text
}

/// The text in at most `columns` columns.
pub fn cut(text: &str, columns: usize, ellipsis: &str) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(ellipsis.width());
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > room {
            break;
        }
        out.push(c);
        used += w;
    }
    if columns >= ellipsis.width() {
        out.push_str(ellipsis);
    }
    out
}

/// The text in lines of at most `columns` columns, broken at blanks where there are any.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && line.width() + 1 + word.width() > columns {
            lines.push(std::mem::take(&mut line));
        }
        while word.width() > columns {
            let head = cut(&word, columns, "");
            if head.is_empty() {
                break; // one wide character in one column
            }
            word.drain(..head.len());
            lines.push(head);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_at_most_five_columns() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1434, "1.4K"),
            (90_177_536, "86M"),
            (10_179, "9.9K"),
            (10_200, "10K"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(bytes(n), text, "{n}");
        }
        for shift in 0..64 {
            for n in [
                (1_u64 << shift) - 1,
                1 << shift,
                (1 << shift) + (1 << shift >> 1),
            ] {
                assert!(bytes(n).len() <= 5, "{n}: {}", bytes(n));
                assert!(count(n).len() <= 14, "{n}");
            }
        }
    }

    #[test]
    fn spans_and_clocks_are_short() {
        for (ms, short, long) in [
            (240, "0.2s", "0:00"),
            (41_000, "41s", "0:41"),
            (247_000, "4m", "4:07"),
            (10_800_000, "3h", "3:00:00"),
            (1_036_800_000, "12d", "288:00:00"),
        ] {
            assert_eq!((span(ms), clock(ms)), (short.to_owned(), long.to_owned()));
        }
    }

    #[test]
    fn texts_fit_whatever_their_characters_take() {
        assert_eq!(fit("home", 6, "…"), "home  ");
        assert_eq!(fit("a-long-name", 6, "…"), "a-lon…");
        assert_eq!(fit("日本語", 4, "…"), "日… ");
        assert_eq!(fit_right("7", 3, "…"), "  7");
        assert_eq!(cut("abc", 0, "…"), "");
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
    }

    #[test]
    fn long_texts_are_wrapped_at_blanks_and_long_words_broken() {
        assert_eq!(wrap("the bucket is away", 10), ["the bucket", "is away"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn times_of_another_day_show_the_day() {
        let now = Moment::parse("2026-01-05T12:00:00Z").unwrap();
        assert_eq!(time_or_date("2026-01-05T11:59:59.5Z", now), "11:59:59");
        assert_eq!(time_or_date("2026-01-04T11:59:59Z", now), "2026-01-04");
        assert_eq!(time_or_date("bogus", now), "bogus");
        assert_eq!(short_time_or_date("2026-01-04T11:59:59Z", now), "01-04");
        assert_eq!(short_time_or_date("2026-01-05T11:59:59Z", now), "11:59:59");
    }
}
