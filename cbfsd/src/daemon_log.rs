//! The daemon's log: lines for people or JSON on stderr, or systemd's journal; through a filter that can be changed
//! while it runs.

use cbfs_core::configuration::{LogFormat, LogSettings};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::io;
use std::os::unix::fs::MetadataExt;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Without `CBFS_LOG` and `log.filter`.
const DEFAULT_FILTER: &str = "info";

/// The way to the filter of the log that was set up.
static FILTER: Mutex<Option<reload::Handle<EnvFilter, Registry>>> = Mutex::new(None);

/// The filter by `CBFS_LOG`, else by the settings.
fn filter(settings: &LogSettings) -> Result<EnvFilter> {
    if let Ok(filter) = EnvFilter::try_from_env("CBFS_LOG") {
        return Ok(filter);
    }
    let text = settings.filter.as_deref().unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(text).map_err(|e| {
        Error::new(
            ErrorKind::Usage,
            format!("log.filter = {text:?} is no filter"),
        )
        .because(e)
        .hint("for example info, debug, or info,cbfsd=trace")
    })
}

/// Set the log up: as the settings or `json` say, else to the journal when stderr is connected to it, else as
/// text. A filter that cannot be understood is told in the log, and the default holds.
pub(crate) fn start(json: bool, settings: &LogSettings) {
    let (filter, refused) = match filter(settings) {
        Ok(filter) => (filter, None),
        Err(e) => (EnvFilter::new(DEFAULT_FILTER), Some(e)),
    };
    let format = match (json, settings.format) {
        (true, _) => LogFormat::Json,
        (false, Some(format)) => format,
        (false, None) if goes_to_the_journal() => LogFormat::Journald,
        (false, None) => LogFormat::Text,
    };
    let (sink, unreachable) = match sink(format) {
        Ok(sink) => (sink, None),
        Err(e) => (text(), Some(e)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let log = tracing_subscriber::registry().with(filter).with(sink);
    // Fails only when a log is set up already (tests run several daemons in one process).
    if log.try_init().is_ok() {
        *FILTER.lock() = Some(handle);
    }
    if let Some(e) = unreachable {
        tracing::warn!("the journal cannot be reached, the log goes to stderr: {e}");
    }
    if let Some(e) = refused {
        tracing::error!(causes = ?e.causes(), hint = e.hint_text(), "{e}");
    }
}

/// A layer above the filter.
type Sink = Box<dyn Layer<Filtered> + Send + Sync>;
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn sink(format: LogFormat) -> io::Result<Sink> {
    Ok(match format {
        LogFormat::Text => text(),
        LogFormat::Json => fmt::layer()
            .json()
            .log_internal_errors(false)
            .with_writer(io::stderr)
            .boxed(),
        LogFormat::Journald => tracing_journald::layer()?
            .with_syslog_identifier("cbfsd".to_owned())
            .boxed(),
    })
}

fn text() -> Sink {
    fmt::layer()
        .with_ansi(false)
        // A log on a full disk loses lines; telling so on stderr as well would panic the thread.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .boxed()
}

/// Whether stderr is the journal's: `JOURNAL_STREAM` may also be inherited from a service that started us, while
/// stderr goes elsewhere.
fn goes_to_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| is_stderr(&stream))
}

/// Whether a `device:inode` is that of stderr.
fn is_stderr(stream: &str) -> bool {
    let Some((device, inode)) = stream.split_once(':') else {
        return false;
    };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino())
}

/// Let another filter hold from now on.
///
/// # Errors
/// [`ErrorKind::Usage`] when it cannot be understood: the old one stays.
pub(crate) fn refilter(settings: &LogSettings) -> Result<()> {
    let filter = filter(settings)?;
    match &*FILTER.lock() {
        Some(handle) => handle
            .reload(filter)
            .context(|| "the filter of the log could not be changed".into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_recognised_by_its_stream() {
        let stderr = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(is_stderr(&format!("{}:{}", stderr.dev(), stderr.ino())));
        assert!(!is_stderr(&format!(
            "{}:{}",
            stderr.dev(),
            stderr.ino() + 1
        )));
        assert!(!is_stderr("") && !is_stderr("x:y"));
    }
}
