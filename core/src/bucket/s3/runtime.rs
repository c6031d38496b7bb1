//! The threads that serve the network: one small tokio runtime for all S3 buckets of the process,
//! started by the first request. Callers block on a plain channel, so that it makes no difference
//! whether they are threads of another runtime.

use crate::bucket::cancellation::abandoned;
use crate::bucket::{BucketError, BucketResult, Cancellation};
use parking_lot::Mutex;
use std::io;
use std::sync::mpsc::sync_channel;
use tokio::runtime::{Builder, Handle, Runtime};

/// Enough for the network: files are read by tokio's blocking threads.
const WORKERS: usize = 2;

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

fn handle() -> io::Result<Handle> {
    let mut runtime = RUNTIME.lock();
    if let Some(runtime) = &*runtime {
        return Ok(runtime.handle().clone());
    }
    let started = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("cbfs-s3")
        .enable_all()
        .build()?;
    Ok(runtime.insert(started).handle().clone())
}

/// Do `work` on the runtime and wait for its answer. Cancelled, it is dropped where it stands.
pub(super) fn wait<T, F>(work: F) -> BucketResult<T>
where
    T: Send + 'static,
    F: Future<Output = BucketResult<T>> + Send + 'static,
{
    let failed = |source| BucketError::Io {
        what: "a request could not be carried out".to_owned(),
        source,
    };
    let (answer, answered) = sync_channel(1);
    let cancellation = Cancellation::current();
    handle().map_err(failed)?.spawn(async move {
        // It cannot fail while the caller waits below.
        let _ = answer.send(match cancellation {
            None => work.await,
            Some(cancellation) => tokio::select! {
                answer = work => answer,
                () = cancellation.cancelled() => Err(abandoned()),
            },
        });
    });
    answered
        .recv()
        .unwrap_or_else(|_| Err(failed(io::Error::other("the request was abandoned"))))
}
