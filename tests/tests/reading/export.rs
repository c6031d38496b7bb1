use super::super::{Outsider, key_of, object};
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools};
use cbfs_tests::{tools, tree};
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// Answers whether tar met records that it does not know.
fn extract(tar: &Path, dir: &Path) -> bool {
    fs::create_dir_all(dir).unwrap();
    let output = tools::output_of(
        Command::new("tar")
            .args(["-xp", "--xattrs", "--xattrs-include=*"])
            .args(["--numeric-owner", "-f"])
            .arg(tar)
            .current_dir(dir),
    );
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    told.contains("nknown")
}

#[test]
fn an_export_equals_the_mounted_snapshot_by_tar_and_by_directory() {
    needs_fuse!();
    needs_tools!("tar");
    let m = Master::new();
    tree::build(&m.dir("tree"));
    m.snapshot();
    tree::change(&m.at("tree"));
    drop(UnixListener::bind(m.at("tree/a-socket")).unwrap());
    m.snapshot();
    let outsider = Outsider::of(&m);
    for number in [1, 2] {
        let snapshot = format!("home@{number}");
        let slave = m.slave(number);
        // Reading moves access times only.
        let exactness = Exactness::CopyWithHoles;
        let is_socket = |root: &Path, path: &Path| {
            let kind = root.join(path).symlink_metadata().unwrap().file_type();
            kind.is_socket()
        };
        let wanted = Fingerprint::take(&slave.mnt, exactness);

        let tar = m.stage.path(format!("{number}.tar"));
        let mut command = outsider.node.command();
        command.args(["snapshot", "export", &snapshot, "--bucket", m.bucket.url()]);
        let status = command
            .stdout(File::create(&tar).unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "{snapshot}: {status}");
        let dir = m.stage.path(format!("by-tar-{number}"));
        let unknown = extract(&tar, &dir);
        assert!(!unknown, "tar warns of records that it does not know");
        let without = wanted
            .clone()
            .without(|path, _| is_socket(&slave.mnt, path));
        let found = Fingerprint::take(&dir, exactness);
        assert_same(&format!("the tar of {snapshot}"), &without, &found);

        let file = m.stage.path(format!("{number}-again.tar"));
        let file_text = file.to_str().unwrap();
        let (told, code) = outsider.json(&["snapshot", "export", &snapshot, "-o", file_text]);
        assert_eq!(code, Some(0));
        assert_eq!(told["names"], wanted.entries.len());
        assert!(fs::read(&tar).unwrap() == fs::read(&file).unwrap());

        let dir = m.stage.path(format!("by-directory-{number}"));
        let dir_text = dir.to_str().unwrap();
        outsider
            .ctl(&["snapshot", "export", &snapshot, "--to", dir_text])
            .ok();
        let found = Fingerprint::take(&dir, exactness);
        assert_same(&format!("the directory of {snapshot}"), &wanted, &found);
    }
}

#[test]
fn an_export_overwrites_nothing_and_leaves_no_half_file() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), noise(1, 3_000_000)).unwrap();
    m.snapshot();
    let outsider = Outsider::of(&m);
    let out = m.stage.dir("out");
    let file = out.join("there");
    fs::write(&file, "precious").unwrap();
    for args in [
        ["-o", file.to_str().unwrap()],
        ["--to", out.to_str().unwrap()],
    ] {
        let args = [&["snapshot", "export", "home@1"], &args[..]].concat();
        let ran = outsider.ctl(&args);
        assert_eq!(ran.code, Some(11), "{ran:?}");
        assert!(ran.stderr.contains("hint:"), "{ran:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let tarball = key_of(&m, 1, "meta_tarball").replace("0000.tar", "0001.tar");
    let path = object(&m, &tarball);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let new = out.join("new");
    let ran = outsider.ctl(&["snapshot", "export", "home@1", "-o", new.to_str().unwrap()]);
    assert_eq!(ran.code, Some(14), "{ran:?}");
    assert!(
        ran.stderr.contains(&tarball) && ran.stderr.contains("/file"),
        "{ran:?}"
    );
    let names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["there"]);
}

#[test]
fn a_tar_is_not_written_to_a_terminal() {
    needs_fuse!();
    needs_tools!("script");
    let m = Master::new();
    m.snapshot();
    let program = cbfs_tests::cbfsctl().display();
    let line = format!(
        "{program} snapshot export home@1 --bucket '{}'",
        m.bucket.url()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    command.env("CBFS_SOCKET", m.stage.path("none"));
    let output = tools::output_of(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--to DIR"), "{text}");
}
