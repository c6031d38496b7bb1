//! The daemon's log: lines on stderr, through a filter that can be changed while it runs.

use cbfs_core::configuration::{LogFormat, LogSettings};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

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

/// Set the log up. A filter that cannot be understood is told in the log, and the default holds.
pub(crate) fn start(json: bool, settings: &LogSettings) {
    let (filter, refused) = match filter(settings) {
        Ok(filter) => (filter, None),
        Err(e) => (EnvFilter::new(DEFAULT_FILTER), Some(e)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        // A log on a full disk loses lines; telling so on stderr as well would panic the thread.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter);
    // Fails only when a log is set up already (tests run several daemons in one process).
    let started = if json || settings.format == Some(LogFormat::Json) {
        log.with(lines.json()).try_init()
    } else {
        log.with(lines.with_ansi(false)).try_init()
    };
    if started.is_ok() {
        *FILTER.lock() = Some(handle);
    }
    if let Some(e) = refused {
        tracing::error!(causes = ?e.causes(), hint = e.hint_text(), "{e}");
    }
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
