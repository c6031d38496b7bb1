//! Headers of answers, as stores write them: text from outside, so what cannot be read counts as not there.

use crate::inode::Timestamp;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use std::time::Duration;

/// How long `Retry-After` asks to wait: seconds, or a date. A date is told by the store's clock, so what counts is its
/// distance from the answer's own `Date`; from `now` when there is none. A date that is over asks for nothing.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let asked = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(asked)?;
    let sent = text(DATE).and_then(http_date).unwrap_or(now);
    let wait = until.0.saturating_sub(sent.0);
    Some(Duration::from_nanos(wait.try_into().unwrap_or(0)))
}

pub(super) fn header_number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes 0-9/20`: first, last, and the size as it stands there.
pub(super) fn parse_content_range(text: &str) -> Option<(u64, u64, String)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((
        first.trim().parse().ok()?,
        last.trim().parse().ok()?,
        total.trim().to_owned(),
    ))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim().strip_suffix("GMT")?;
    let with_offset = format!("{text}+0000");
    let format = &time::format_description::well_known::Rfc2822;
    let time = time::OffsetDateTime::parse(&with_offset, format).ok()?;
    i64::try_from(time.unix_timestamp_nanos())
        .ok()
        .map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn headers_are_read_as_stores_write_them() {
        assert_eq!(
            parse_content_range("bytes 0-9/20"),
            Some((0, 9, "20".to_owned()))
        );
        assert_eq!(
            parse_content_range("bytes 5-5/*"),
            Some((5, 5, "*".to_owned()))
        );
        assert_eq!(parse_content_range("bytes */20"), None);
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date, Timestamp(784_111_777_000_000_000));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn retry_after_is_heeded_as_seconds_and_as_a_date_of_the_stores_clock() {
        const NOW: Timestamp = Timestamp(784_111_770_000_000_000); // 08:49:30
        let wait = |asked: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(asked).unwrap());
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_str(date).unwrap());
            }
            retry_after(&headers, NOW)
        };
        let seconds = |n| Some(Duration::from_secs(n));
        let at = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait(" 7 ", None), seconds(7));
        assert_eq!(wait(at, None), seconds(7));
        // A store whose clock is years away from ours.
        let there = "Fri, 06 Nov 2037 00:00:00 GMT";
        assert_eq!(
            wait("Fri, 06 Nov 2037 00:00:03 GMT", Some(there)),
            seconds(3)
        );
        assert_eq!(wait(at, Some(there)), seconds(0));
        assert_eq!(wait(at, Some("garbage")), seconds(7));
        for garbage in ["soon", "-1", "", "7.5"] {
            assert_eq!(wait(garbage, None), None, "{garbage:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), NOW), None);
    }
}
