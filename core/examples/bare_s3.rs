//! A bare loop of PUTs or GETs with the client libraries of `S3Bucket` (rust-s3 signs, reqwest sends), without anything of ours:
//! what `tests/bench/bucket` measures CBFS against.
//!
//! `bare_s3 put|get ENDPOINT BUCKET PREFIX COUNT BYTES PARALLEL [RANGE]`: credentials from the environment; prints bytes and
//! seconds. With RANGE each object is fetched by ranges of so many bytes, one after the other: PARALLEL objects at a time.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic
)] // a tool of a benchmark: whatever goes wrong ends it, and the benchmark with it
#![allow(clippy::disallowed_methods)] // it measures time

use futures_util::stream::{self, StreamExt};
use s3::creds::Credentials;
use s3::{Bucket, Region};
use std::time::Instant;

/// Seconds that a signed URL is good for.
const VALID_FOR: u32 = 900;

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [
        what,
        endpoint,
        bucket,
        prefix,
        count,
        size,
        parallel,
        more @ ..,
    ] = args.as_slice()
    else {
        panic!("bare_s3 put|get ENDPOINT BUCKET PREFIX COUNT BYTES PARALLEL [RANGE]");
    };
    let (count, size): (usize, usize) = (
        count.parse().expect("a number"),
        size.parse().expect("a number"),
    );
    let parallel: usize = parallel.parse().expect("a number");
    let range: usize = more
        .first()
        .map_or(size, |range| range.parse().expect("a number"));
    let region = Region::Custom {
        region: "us-east-1".into(),
        endpoint: endpoint.clone(),
    };
    let credentials = Credentials::from_env().expect("credentials");
    let bucket = Bucket::new(bucket, region, credentials)
        .expect("a bucket")
        .with_path_style();
    let client = reqwest::Client::new();
    // Never copied.
    let body: &'static [u8] = noise(size).leak();
    let (bucket, client) = (&*bucket, &client);
    let begun = Instant::now();
    let moved: usize = match what.as_str() {
        "put" => {
            let puts = (0..count).map(|n| async move {
                let url = bucket.presign_put(format!("/{prefix}/{n}"), VALID_FOR, None, None);
                let url = url.await.expect("a URL");
                let answer = client.put(url).body(body).send().await;
                answer
                    .expect("an answer")
                    .error_for_status()
                    .expect("success");
                size
            });
            stream::iter(puts)
                .buffer_unordered(parallel)
                .fold(0, |a, b| async move { a + b })
                .await
        }
        "get" => {
            let gets = (0..count).map(|n| async move {
                let mut got = 0;
                for from in (0..size).step_by(range) {
                    let url = bucket.presign_get(format!("/{prefix}/{n}"), VALID_FOR, None);
                    let url = url.await.expect("a URL");
                    let last = (from + range).min(size) - 1;
                    let get = client
                        .get(url)
                        .header("range", format!("bytes={from}-{last}"));
                    let mut answer = get
                        .send()
                        .await
                        .expect("an answer")
                        .error_for_status()
                        .expect("success");
                    while let Some(piece) = answer.chunk().await.expect("a body") {
                        got += piece.len();
                    }
                }
                got
            });
            stream::iter(gets)
                .buffer_unordered(parallel)
                .fold(0, |a, b| async move { a + b })
                .await
        }
        other => panic!("{other}?"),
    };
    println!("{moved} {:.4}", begun.elapsed().as_secs_f64());
}
