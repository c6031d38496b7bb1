//! What lies in the bucket, and how to open it without CBFS.

use super::stage::shell_word;
use cbfs_core::bucket::BucketUrl;
use cbfs_core::format::keys;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::Handle;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::quantities;

/// Longest list of files in a command.
const NAMED_TARBALLS: usize = 3;

/// The folders and objects of a bucket.
#[derive(Default)]
struct Folder {
    folders: BTreeMap<String, Folder>,
    objects: BTreeMap<String, u64>,
}

/// Objects (key and size) as a tree, with what each is.
pub(super) fn tree(objects: &[(String, u64)]) -> Vec<String> {
    let mut top = Folder::default();
    for (key, size) in objects {
        let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut folder = &mut top;
        for part in folders.split('/').filter(|p| !p.is_empty()) {
            folder = folder.folders.entry(part.to_owned()).or_default();
        }
        folder.objects.insert(name.to_owned(), *size);
    }
    let mut lines = Vec::new();
    draw(&top, "", &mut lines);
    let width = lines
        .iter()
        .map(|(left, _)| left.chars().count())
        .max()
        .unwrap_or(0);
    lines
        .into_iter()
        .map(|(left, right)| {
            let padding = " ".repeat(width - left.chars().count());
            format!("{left}{padding}  {right}").trim_end().to_owned()
        })
        .collect()
}

fn draw(folder: &Folder, indent: &str, lines: &mut Vec<(String, String)>) {
    let last = folder.objects.len() + folder.folders.len();
    let branch = |n: usize| {
        if n == last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        }
    };
    let mut n = 0;
    for (name, size) in &folder.objects {
        n += 1;
        let left = format!("{indent}{}{name}", branch(n).0);
        lines.push((
            left,
            format!("{:>9}  {}", quantities::bytes(*size), what_it_is(name)),
        ));
    }
    for (name, inner) in &folder.folders {
        n += 1;
        let (tick, bar) = branch(n);
        lines.push((format!("{indent}{tick}{name}/"), String::new()));
        draw(inner, &format!("{indent}{bar}"), lines);
    }
}

/// An object in a few words, by its name.
fn what_it_is(name: &str) -> &'static str {
    match name {
        keys::TOC => "which section of which tarball holds what (SQLite)",
        keys::LAYER => "the index of what changed (SQLite)",
        keys::LOG => "the change log",
        keys::STATUS => "how this snapshot came about",
        "0000.tar.zst" => "what changed, row by row, and attributes",
        _ if name.ends_with(".tar.zst") => "files",
        _ if name.ends_with(".config") => "the file system itself",
        _ if name.ends_with(".base.json") => "from which snapshot an epoch starts",
        _ if name.contains("-e") && name.ends_with(".json") => "a manifest: the snapshot exists",
        _ if name.len() == "00001.json".len() && name.ends_with(".json") => "who is master",
        _ => "",
    }
}

/// What the commands are about.
pub(super) struct Opening<'a> {
    /// The file system.
    pub(super) fs: &'a Handle,
    /// Its bucket.
    pub(super) bucket: &'a BucketUrl,
    /// The snapshots, from the first.
    pub(super) manifests: &'a [Manifest],
    /// Keys of all objects.
    pub(super) keys: &'a [String],
    /// Where the commands may write.
    pub(super) scratch: &'a Path,
    /// The recovery script, where it was found.
    pub(super) recover: Option<&'a Path>,
}

/// Commands that open the bucket's objects, each after what it does. Made for a shell on this
/// machine with tar, zstd, jq and sqlite3.
pub(super) fn commands(opening: &Opening<'_>) -> Vec<(String, String)> {
    let Opening {
        fs,
        bucket,
        manifests,
        keys,
        scratch,
        recover,
    } = opening;
    let bucket_dir = match bucket {
        BucketUrl::File { path } => path,
        BucketUrl::S3 { .. } => {
            let copy = sync_command(bucket, scratch);
            return vec![("copy the objects to this machine first".to_owned(), copy)];
        }
    };
    let root = bucket_dir.join(fs.to_string());
    let mut out = Vec::new();
    if let Some(first) = manifests.first() {
        let folder = keys::attempt_prefix(first.number, first.epoch, &first.attempt);
        let tarballs: Vec<PathBuf> = keys
            .iter()
            .filter_map(|key| key.strip_prefix(&format!("{fs}/{folder}")))
            .filter(|name| name.ends_with(".tar.zst") && *name != "0000.tar.zst")
            .map(|name| root.join(&folder).join(name))
            .collect();
        let target = scratch.join("unpacked");
        let files = match tarballs.len() {
            0 => None,
            1..=NAMED_TARBALLS => Some(
                tarballs
                    .iter()
                    .map(|t| shell_word(t))
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            _ => Some(format!(
                "$(ls {}*.tar.zst | tail -n +2)",
                shell_word(&root.join(&folder))
            )),
        };
        if let Some(files) = files {
            let target = shell_word(&target);
            out.push((
                "snapshot 1 unpacks with tar and zstd alone".to_owned(),
                format!("mkdir -p {target} && cat {files} | zstd -dc | tar -xpi -C {target}"),
            ));
        }
    }
    let Some(last) = manifests.last() else {
        return out;
    };
    let folder = root.join(keys::attempt_prefix(last.number, last.epoch, &last.attempt));
    if last.meta_tarball.is_some() {
        let tarball = shell_word(&folder.join(keys::tarball(0)));
        out.push((
            format!("what changed in snapshot {}, row by row", last.number),
            format!("zstd -dc {tarball} | tar -xO .cbfs/changes.jsonl | jq -c . | head"),
        ));
        let (layer, copy) = (
            shell_word(&folder.join(keys::LAYER)),
            scratch.join("layer.sqlite"),
        );
        let copy = shell_word(&copy);
        out.push((
            "the index is a SQLite database".to_owned(),
            format!(
                "mkdir -p {} && zstd -dqf {layer} -o {copy} && sqlite3 {copy} \
                 'SELECT kind, count(*), sum(size) FROM inode WHERE NOT gone GROUP BY kind'",
                shell_word(scratch)
            ),
        ));
    }
    if let Some(script) = recover {
        out.push((
            format!(
                "snapshot {} is rebuilt by a shell script, without CBFS",
                last.number
            ),
            format!(
                "sh {} {} {fs}@{} {}",
                shell_word(script),
                shell_word(bucket_dir),
                last.number,
                shell_word(&scratch.join("recovered"))
            ),
        ));
    }
    out
}

/// The AWS command line's words for fetching all objects of a bucket. It takes as options what our
/// URLs have as parameters.
fn sync_command(bucket: &BucketUrl, into: &Path) -> String {
    let BucketUrl::S3 {
        bucket,
        prefix,
        endpoint,
        region,
        profile,
    } = bucket
    else {
        return String::new();
    };
    let mut command = format!(
        "aws s3 sync {}",
        shell_text(&format!("s3://{bucket}/{prefix}"))
    );
    let options = [
        ("endpoint-url", endpoint),
        ("region", region),
        ("profile", profile),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            command += &format!(" --{name} {}", shell_text(value));
        }
    }
    format!("{command} {}", shell_word(into))
}

fn shell_text(text: &str) -> String {
    shell_word(Path::new(text))
}

/// The recovery script: of the sources around the current directory, else of the installation.
pub(super) fn recovery_script() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let of_sources = here
        .iter()
        .flat_map(|dir| dir.ancestors())
        .map(|dir| dir.join("share/recover.sh"));
    let installed = [
        "/usr/local/share/cbfs/recover.sh",
        "/usr/share/cbfs/recover.sh",
    ];
    of_sources
        .chain(installed.map(PathBuf::from))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FS: &str = "demo-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";

    fn objects() -> Vec<(String, u64)> {
        [
            (".config", 312),
            ("/epochs/00001.json", 400),
            ("/m/0000000001-e1.json", 1900),
            ("/s/0000000001-e1-0123456789ab/0000.tar.zst", 300_000),
            ("/s/0000000001-e1-0123456789ab/0001.tar.zst", 9_000_000),
            ("/s/0000000001-e1-0123456789ab/layer.sqlite.zst", 500_000),
            ("/s/0000000001-e1-0123456789ab/toc.sqlite.zst", 90_000),
        ]
        .map(|(key, size)| (format!("{FS}{key}"), size))
        .to_vec()
    }

    #[test]
    fn the_bucket_is_drawn_as_a_tree() {
        insta::assert_snapshot!(tree(&objects()).join("\n"));
    }

    #[test]
    fn objects_in_a_store_are_fetched_with_the_options_of_its_url() {
        let url = "s3://b/p?endpoint=http://127.0.0.1:8333&region=eu-1"
            .parse()
            .unwrap();
        assert_eq!(
            sync_command(&url, Path::new("/tmp/x")),
            "aws s3 sync s3://b/p --endpoint-url http://127.0.0.1:8333 --region eu-1 /tmp/x"
        );
    }

    #[test]
    fn the_commands_name_real_paths() {
        let manifest: Manifest = serde_json::from_value(json!({
            "format": 1, "features": {}, "fs": FS, "number": 1, "epoch": 1,
            "attempt": "0123456789ab", "kind": "user", "xid": {"from": 1, "to": 9},
            "parent": null, "created_at": "2025-01-01T00:00:02.5Z", "node": "a", "layers": [],
            "meta_tarball": {"key": "k", "size": 1, "blake3": "00"},
            "totals": {"changed_inodes": 1, "removed_inodes": 0, "data_bytes": 5, "tarballs": 1,
                "stored_bytes": 6, "sections": 1, "inodes": 2, "logical_bytes": 9},
            "writer": "cbfs",
        }))
        .unwrap();
        let keys: Vec<String> = objects().into_iter().map(|(key, _)| key).collect();
        let opening = Opening {
            fs: &FS.parse().unwrap(),
            bucket: &BucketUrl::File {
                path: "/tmp/demo/bucket".into(),
            },
            manifests: &[manifest],
            keys: &keys,
            scratch: Path::new("/tmp/look"),
            recover: Some(Path::new("/src/share/recover.sh")),
        };
        let text: Vec<String> = commands(&opening)
            .into_iter()
            .map(|(what, command)| format!("# {what}\n{command}"))
            .collect();
        insta::assert_snapshot!(text.join("\n"));
    }
}
