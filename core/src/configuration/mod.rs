//! `cbfsd.toml`: settings of the daemon and of the command line on this node, and per bucket how to get there.
//!
//! The file is `CBFS_CONFIG`; else for root `/etc/cbfs/cbfsd.toml`, else `$XDG_CONFIG_HOME/cbfs/cbfsd.toml` or
//! `~/.config/cbfs/cbfsd.toml`. Only one that `CBFS_CONFIG` names must exist. A `CBFS_*` variable goes before the
//! key of the same meaning. All keys are described in `docs/configuration.md` and `share/cbfsd.toml`.
//!
//! A program reads the file once when it starts ([`load`]) and, the daemon, again when it is asked to ([`reload`]).
//! Everything else asks [`current`]. A file that cannot be understood changes nothing.
//!
//! Secrets are [`Secret`]s: no `Debug`, no error message and no JSON shows them.

mod bucket_section;
mod secret;
mod size;

pub use bucket_section::{BucketSection, Prices};
pub use secret::Secret;
pub use size::ByteSize;

use crate::bucket::BucketUrl;
use crate::environment::non_empty;
use crate::error::{Context, Error, ErrorKind, Result};
use parking_lot::RwLock;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// A longer file is none of ours.
const LONGEST: u64 = 1 << 20;

static CURRENT: LazyLock<RwLock<Arc<Configuration>>> = LazyLock::new(RwLock::default);
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The settings of `cbfsd.toml`. `None` is "not said there".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// API socket.
    pub socket: Option<PathBuf>,
    /// Default of `--bucket`.
    pub bucket: Option<String>,
    /// The daemon's log.
    pub log: LogSettings,
    /// Bytes that a running snapshot may have in the proxy cache.
    pub proxy_limit: Option<u64>,
    /// Microseconds of polling for the next FUSE request.
    pub fuse_poll: Option<u64>,
    /// Changed rows in memory that start a write-out.
    pub flush_rows: Option<u64>,
    /// Bound on unchanged rows in memory, in bytes.
    pub cache_bytes: Option<u64>,
    /// Per bucket: how to get there.
    buckets: Vec<(BucketUrl, BucketSection)>,
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// As `CBFS_LOG`: `info`, `debug`, `cbfsd=trace`.
    pub filter: Option<String>,
    /// Lines for people, or JSON.
    pub format: Option<LogFormat>,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text.
    Text,
    /// JSON lines.
    Json,
    /// systemd's journal, each field of an event as one of its own. By itself when stderr is connected to it.
    Journald,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    default_bucket: Option<String>,
    #[serde(default)]
    log: LogSettings,
    proxy_limit: Option<ByteSize>,
    fuse_poll: Option<u64>,
    flush_rows: Option<u64>,
    cache_bytes: Option<ByteSize>,
    #[serde(default)]
    bucket: BTreeMap<toml::Spanned<String>, BucketSection>,
}

impl Configuration {
    /// Read a file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] with the line, when it cannot be understood or holds an unknown key;
    /// [`ErrorKind::Credentials`] when it holds a secret and others may read or write it.
    pub fn read(path: &Path) -> Result<Configuration> {
        let describe = || format!("{} could not be read", path.display());
        let mut file = File::open(path).context(describe).map_err(|e| {
            e.hint("CBFS_CONFIG names it, or it is the default: see docs/configuration.md")
        })?;
        let mode = file.metadata().context(describe)?.permissions().mode();
        let mut text = String::new();
        let read = file.by_ref().take(LONGEST + 1).read_to_string(&mut text);
        if read.context(describe)? as u64 > LONGEST {
            return Err(unusable(
                path,
                None,
                "it is longer than any configuration of CBFS",
            ));
        }
        let configuration = Configuration::parse(path, &text)?;
        let secret = configuration.buckets.iter().any(|(_, b)| b.holds_secret());
        if secret && mode & 0o006 != 0 && path.is_file() {
            let text = format!(
                "{} holds a secret, and everybody may {} it",
                path.display(),
                if mode & 0o002 != 0 { "change" } else { "read" }
            );
            return Err(Error::new(ErrorKind::Credentials, text)
                .hint(format!("chmod 600 {}", path.display())));
        }
        Ok(configuration)
    }

    fn parse(path: &Path, text: &str) -> Result<Configuration> {
        let written: Written = toml::from_str(text).map_err(|e| {
            // The parser's own words quote the line, which may hold a secret.
            unusable(path, line_of(text, e.span()), e.message())
        })?;
        let mut buckets = Vec::new();
        for (key, section) in written.bucket {
            let line = line_of(text, Some(key.span()));
            let refused = |why: String| unusable(path, line, &why);
            let url: BucketUrl = key
                .get_ref()
                .parse()
                .map_err(|e: crate::bucket::BucketError| refused(e.to_string()))?;
            if matches!(url, BucketUrl::File { .. }) {
                let why = "a bucket in a directory has no settings: [bucket.\"…\"] is for s3://";
                return Err(refused(why.to_owned()));
            }
            section.check().map_err(refused)?;
            buckets.push((url, section));
        }
        let absolute = |name: &str, path_given: &Option<PathBuf>| match path_given {
            Some(p) if !p.is_absolute() => {
                let why = format!("{name} must be an absolute path, not {}", p.display());
                Err(unusable(path, None, &why))
            }
            _ => Ok(()),
        };
        absolute("state_dir", &written.state_dir)?;
        absolute("socket", &written.socket)?;
        Ok(Configuration {
            file: Some(path.to_owned()),
            state_dir: written.state_dir,
            socket: written.socket,
            bucket: written.default_bucket,
            log: written.log,
            proxy_limit: written.proxy_limit.map(|s| s.0),
            fuse_poll: written.fuse_poll,
            flush_rows: written.flush_rows,
            cache_bytes: written.cache_bytes.map(|s| s.0),
            buckets,
        })
    }

    /// What is said of a bucket: by the section of the longest URL that `url` lies in. A section without options
    /// is for any endpoint; options in its URL must be those of `url`.
    pub fn bucket(&self, url: &BucketUrl) -> Option<&BucketSection> {
        let fitting = self.buckets.iter().filter_map(|(of, section)| {
            let specific = covers(of, url)?;
            Some((specific, section))
        });
        fitting
            .max_by_key(|(specific, _)| *specific)
            .map(|(_, s)| s)
    }

    /// What differs from `before`, by the names of the keys: what takes effect at once, and what only a
    /// restart brings.
    pub fn changes(&self, before: &Configuration) -> Changes {
        let mut changes = Changes::default();
        let mut note = |differs: bool, name: &str, at_once: bool| {
            if differs {
                let list = if at_once {
                    &mut changes.applied
                } else {
                    &mut changes.needs_restart
                };
                list.push(name.to_owned());
            }
        };
        note(self.state_dir != before.state_dir, "state_dir", false);
        note(self.socket != before.socket, "socket", false);
        note(self.log.format != before.log.format, "log.format", false);
        note(self.log.filter != before.log.filter, "log.filter", true);
        note(self.bucket != before.bucket, "default_bucket", true);
        note(self.proxy_limit != before.proxy_limit, "proxy_limit", false);
        note(self.fuse_poll != before.fuse_poll, "fuse_poll", false);
        note(self.flush_rows != before.flush_rows, "flush_rows", false);
        note(self.cache_bytes != before.cache_bytes, "cache_bytes", false);
        let of = |c: &Configuration, url| c.buckets.iter().find(|(u, _)| u == url).cloned();
        let all = self.buckets.iter().chain(&before.buckets);
        let mut urls: Vec<&BucketUrl> = all.map(|(url, _)| url).collect();
        urls.sort_by_key(|url| url.to_string());
        urls.dedup();
        for url in urls {
            note(
                of(self, url) != of(before, url),
                &format!("bucket.{:?}", url.to_string()),
                true,
            );
        }
        changes
    }
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose new values hold from now on.
    pub applied: Vec<String>,
    /// Keys whose new values hold after a restart of the daemon.
    pub needs_restart: Vec<String>,
}

/// How specific the section of `of` is for `url`; `None` when it is not for it.
fn covers(of: &BucketUrl, url: &BucketUrl) -> Option<(usize, usize)> {
    let (
        BucketUrl::S3 {
            bucket,
            prefix,
            endpoint,
            region,
            profile,
        },
        BucketUrl::S3 {
            bucket: its_bucket,
            prefix: its_prefix,
            endpoint: its_endpoint,
            region: its_region,
            profile: its_profile,
        },
    ) = (of, url)
    else {
        return None;
    };
    let below = prefix.is_empty()
        || its_prefix
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let options = [
        (endpoint, its_endpoint),
        (region, its_region),
        (profile, its_profile),
    ];
    let same = options.iter().all(|(own, its)| own.is_none() || own == its);
    let said = options.iter().filter(|(own, _)| own.is_some()).count();
    (bucket == its_bucket && below && same).then_some((prefix.len(), said))
}

/// The number of the line where a span begins.
fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> Option<usize> {
    let before = text.get(..span?.start)?;
    Some(before.matches('\n').count() + 1)
}

fn unusable(path: &Path, line: Option<usize>, why: &str) -> Error {
    let place = line.map(|n| format!(", line {n}")).unwrap_or_default();
    let text = format!("{}{place}: {}", path.display(), why.trim_end());
    Error::new(ErrorKind::Usage, text)
        .hint("its keys are described in docs/configuration.md (cbfsd.toml)")
}

/// The file that counts on this node, and whether it must exist.
pub fn path() -> (Option<PathBuf>, bool) {
    if let Some(path) = non_empty("CBFS_CONFIG") {
        return (Some(path), true);
    }
    if rustix::process::geteuid().is_root() {
        return (Some(PathBuf::from("/etc/cbfs/cbfsd.toml")), false);
    }
    let dir = non_empty("XDG_CONFIG_HOME").or_else(|| Some(non_empty("HOME")?.join(".config")));
    (dir.map(|dir| dir.join("cbfs/cbfsd.toml")), false)
}

fn read_current() -> Result<Configuration> {
    let (Some(path), must_exist) = path() else {
        return Ok(Configuration::default());
    };
    if !must_exist
        && matches!(std::fs::metadata(&path), Err(e) if e.kind() == io::ErrorKind::NotFound)
    {
        return Ok(Configuration::default());
    }
    Configuration::read(&path)
}

/// Read the file of this node; what it says holds for this process from now on.
///
/// # Errors
/// As [`Configuration::read`]; nothing changes then.
pub fn load() -> Result<Arc<Configuration>> {
    reload(|_| Ok(())).map(|_| current())
}

/// Read the file anew, and tell what changed. `accept` may refuse what it says.
///
/// # Errors
/// As [`Configuration::read`], and those of `accept`; nothing changes then.
pub fn reload(accept: impl FnOnce(&Configuration) -> Result<()>) -> Result<Changes> {
    let next = Arc::new(read_current()?);
    accept(&next)?;
    let mut current = CURRENT.write();
    let changes = next.changes(&current);
    *current = next;
    // Under the lock: who sees the new number sees the new settings.
    GENERATION.fetch_add(1, Ordering::SeqCst);
    Ok(changes)
}

/// The settings that hold now; none before [`load`].
pub fn current() -> Arc<Configuration> {
    Arc::clone(&CURRENT.read())
}

/// Grows with every [`load`] and [`reload`]: what was derived from the settings under another number may be old.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests;
