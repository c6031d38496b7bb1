//! What all buckets of this process cost and deliver: counters by bucket URL, shared by all who open that bucket.

use super::counters::{CountedRequests, Counters};
use super::{BucketUrl, Wire};
use crate::configuration::{self, Prices};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// AWS S3 Standard in us-east-1, in US dollars: <https://aws.amazon.com/s3/pricing/> (as of 2025: PUT, COPY, POST and
/// LIST 0.005 per 1000, GET and all others 0.0004 per 1000, the first 10 TB out to the internet 0.09 per GB).
pub const AWS_PRICES: Prices = Prices {
    per_1000_writes: 0.005,
    per_1000_reads: 0.0004,
    per_gib_out: 0.09,
};

/// By the URL's text.
type Registry = BTreeMap<String, (BucketUrl, Arc<Counters>)>;

static ALL: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// The counters of a bucket in this process.
pub fn counters_of(url: &BucketUrl) -> Arc<Counters> {
    let mut all = ALL.lock();
    let (_, counters) = all
        .entry(url.to_string())
        .or_insert_with(|| (url.clone(), Arc::default()));
    Arc::clone(counters)
}

/// What is asked of one bucket since the process started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketTraffic {
    /// Its URL.
    pub bucket: String,
    /// By kind of request; kinds that were never asked for are left out.
    pub requests: Vec<CountedRequests>,
    /// Requests that were tried again.
    pub retries: u64,
    /// Requests on the wire, by what stores charge; none for a directory.
    pub wire: Wire,
    /// What the requests of the last hour cost, in the currency of the prices (US dollars unless `cbfsd.toml` has
    /// prices): an estimate. `None` for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_last_hour: Option<f64>,
}

/// The traffic of all buckets this process has asked something of.
pub fn traffic() -> Vec<BucketTraffic> {
    let all: Vec<(BucketUrl, Arc<Counters>)> = ALL.lock().values().cloned().collect();
    let configured = configuration::current();
    let told = all.iter().filter_map(|(url, counters)| {
        let section = configured.bucket(url);
        let prices = section.and_then(|s| s.prices).unwrap_or(AWS_PRICES);
        let traffic = traffic_of(url, counters, prices);
        (!traffic.requests.is_empty()).then_some(traffic)
    });
    told.collect()
}

/// The traffic that certain counters tell, at certain prices.
pub fn traffic_of(url: &BucketUrl, counters: &Counters, prices: Prices) -> BucketTraffic {
    let asked = counters.counts().into_iter().filter(|c| c.requests > 0);
    let charged = matches!(url, BucketUrl::S3 { .. });
    BucketTraffic {
        bucket: url.to_string(),
        requests: asked.collect(),
        retries: counters.retries(),
        wire: counters.wire(),
        cost_last_hour: charged.then(|| cost(counters.wire_last_hour(), prices)),
    }
}

fn cost(wire: Wire, prices: Prices) -> f64 {
    wire.writes as f64 / 1000.0 * prices.per_1000_writes
        + wire.reads as f64 / 1000.0 * prices.per_1000_reads
        + wire.bytes_in as f64 / f64::from(1 << 30) * prices.per_gib_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_the_sum_of_what_is_charged() {
        let wire = Wire {
            writes: 2000,
            reads: 10_000,
            bytes_in: 1 << 30,
            bytes_out: 1 << 40,
        };
        assert!((cost(wire, AWS_PRICES) - (0.01 + 0.004 + 0.09)).abs() < 1e-9);
    }

    #[test]
    fn all_who_open_a_bucket_share_its_counters() {
        let url: BucketUrl = "s3://traffic-test/p".parse().unwrap();
        assert!(Arc::ptr_eq(&counters_of(&url), &counters_of(&url)));
        assert!(traffic().iter().all(|t| t.bucket != url.to_string()));
        counters_of(&url).sent(7);
        let told = traffic_of(&url, &counters_of(&url), AWS_PRICES);
        assert_eq!((told.wire.writes, told.wire.bytes_out), (1, 7));
        assert!(told.cost_last_hour.unwrap() > 0.0);
        let directory: BucketUrl = "file:///d".parse().unwrap();
        assert_eq!(
            traffic_of(&directory, &Counters::default(), AWS_PRICES).cost_last_hour,
            None
        );
    }
}
