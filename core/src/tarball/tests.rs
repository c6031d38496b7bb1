//! Against GNU tar and zstd of this machine: what is encoded here comes out of them exactly.

use super::*;
use crate::ids::{Ino, Xid};
use crate::inode::Timestamp;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TIME: Timestamp = Timestamp(1_234_567_890_123_456_789);

fn member<'a>(path: &'a [u8], kind: MemberKind<'a>) -> Member<'a> {
    Member {
        path,
        kind,
        mode: 0o640,
        uid: 0,
        gid: 0,
        mtime: TIME,
        atime: TIME,
        ctime: TIME,
        ino: Ino(7),
        xid: Some(Xid(9)),
        blk: Some(0),
        xattrs: &[],
    }
}

fn add(out: &mut Vec<u8>, member: &Member<'_>, data: &[u8]) {
    member.encode(out);
    assert!(out.len().is_multiple_of(RECORD));
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(RECORD), 0);
}

fn tar(arguments: &[&str], dir: &Path, archive: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar")
        .args(arguments)
        .args([
            "--warning=no-unknown-keyword",
            "--warning=no-timestamp",
            "-C",
        ])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = archive.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = input.write_all(&bytes);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    output.stdout
}

fn extract(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tar(
        &["-xp", "--xattrs", "--xattrs-include=*"],
        dir.path(),
        archive,
    );
    dir
}

fn at(dir: &tempfile::TempDir, name: &[u8]) -> PathBuf {
    dir.path().join(OsStr::from_bytes(name))
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 4096];
    let n = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(n);
    value
}

#[test]
fn names_of_any_bytes_and_lengths_come_out_of_gnu_tar() {
    let long = [
        b"d/".as_slice(),
        &[b'x'; 98],
        b"/",
        &[b'y'; 255],
        b"/",
        &[b'z'; 200],
    ]
    .concat();
    let names: Vec<Vec<u8>> = vec![
        b"plain".to_vec(),
        b"new\nline".to_vec(),
        b"not utf-8 \xff\xfe".to_vec(),
        "gr\u{fc}n".into(),
        b" blank = % ".to_vec(),
        vec![b'a'; 100],
        vec![b'b'; 101],
        long,
    ];
    let mut archive = Vec::new();
    for name in &names {
        add(
            &mut archive,
            &member(name, MemberKind::File { size: 5 }),
            b"hello",
        );
    }
    archive.extend_from_slice(&END_OF_ARCHIVE);
    let dir = extract(&archive);
    for name in &names {
        assert_eq!(
            fs::read(at(&dir, name)).unwrap(),
            b"hello",
            "{}",
            name.escape_ascii()
        );
    }
    let mut reader = MemberReader::new(archive.as_slice());
    for name in &names {
        assert_eq!(&reader.next_member().unwrap().unwrap().path, name);
    }
    assert!(reader.next_member().unwrap().is_none());
}

#[test]
fn attributes_times_and_owners_come_out_of_gnu_tar() {
    let attributes = [
        (b"user.binary".to_vec(), b"\0\xff\n=%".to_vec()),
        (b"user.a=b%c".to_vec(), b"x".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
    ];
    let before_1970 = Timestamp(-1_200_000_001);
    let mut first = member(b"file", MemberKind::File { size: 0 });
    first.xattrs = &attributes;
    first.mode = 0o6751;
    first.uid = 4_000_000_000;
    first.gid = 3_000_000;
    let mut second = member(b"dir/", MemberKind::Directory);
    second.mtime = before_1970;
    second.mode = 0o1700;
    let mut archive = Vec::new();
    add(&mut archive, &first, b"");
    add(&mut archive, &second, b"");
    archive.extend_from_slice(&END_OF_ARCHIVE);
    let dir = extract(&archive);
    let file = at(&dir, b"file");
    let stat = fs::metadata(&file).unwrap();
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec()),
        (TIME.secs(), i64::from(TIME.nanos()))
    );
    assert_eq!(xattr(&file, "user.binary"), b"\0\xff\n=%");
    assert_eq!(xattr(&file, "user.a=b%c"), b"x");
    assert_eq!(xattr(&file, "user.empty"), b"");
    if rustix::process::geteuid().is_root() {
        assert_eq!((stat.uid(), stat.gid()), (4_000_000_000, 3_000_000));
        assert_eq!(stat.mode() & 0o7777, 0o6751);
    }
    let stat = fs::metadata(at(&dir, b"dir")).unwrap();
    assert_eq!(
        Timestamp::from_parts(stat.mtime(), stat.mtime_nsec() as u32),
        before_1970
    );
    assert_eq!(stat.mode() & 0o7777, 0o1700);

    let mut reader = MemberReader::new(archive.as_slice());
    let read = reader.next_member().unwrap().unwrap();
    assert_eq!(
        (read.uid, read.gid, read.mode),
        (4_000_000_000, 3_000_000, 0o6751)
    );
    assert_eq!(read.number(b"SCHILY.ino"), Some(7));
    assert_eq!(read.number(b"CBFS.xid"), Some(9));
    assert_eq!(read.time(b"mtime"), Some(TIME));
    let back: Vec<_> = read.xattrs().map(|(n, v)| (n, v.to_vec())).collect();
    assert_eq!(back, attributes);
    let read = reader.next_member().unwrap().unwrap();
    assert_eq!(read.time(b"mtime"), Some(before_1970));
}

#[test]
fn links_and_special_files_come_out_of_gnu_tar() {
    let target = [b"nowhere/\xff".as_slice(), &[b't'; 150]].concat();
    let far = [b"far/".as_slice(), &[b'f'; 120]].concat();
    let mut archive = Vec::new();
    add(
        &mut archive,
        &member(&far, MemberKind::File { size: 3 }),
        b"abc",
    );
    add(
        &mut archive,
        &member(b"near", MemberKind::HardLink(&far)),
        b"",
    );
    add(
        &mut archive,
        &member(b"link", MemberKind::Symlink(&target)),
        b"",
    );
    add(&mut archive, &member(b"fifo", MemberKind::Fifo), b"");
    let root = rustix::process::geteuid().is_root();
    let rdev = (7 << 8) | 0x34 | (0x12 << 20); // major 7, minor 0x1234
    if root {
        add(
            &mut archive,
            &member(b"char", MemberKind::CharDevice(0x103)),
            b"",
        );
        add(
            &mut archive,
            &member(b"block", MemberKind::BlockDevice(rdev)),
            b"",
        );
    }
    archive.extend_from_slice(&END_OF_ARCHIVE);
    let dir = extract(&archive);
    let (a, b) = (
        fs::metadata(at(&dir, &far)).unwrap(),
        fs::metadata(at(&dir, b"near")).unwrap(),
    );
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(
        fs::read_link(at(&dir, b"link"))
            .unwrap()
            .as_os_str()
            .as_bytes(),
        target
    );
    assert_eq!(
        fs::symlink_metadata(at(&dir, b"link")).unwrap().mtime(),
        TIME.secs()
    );
    assert!(
        fs::metadata(at(&dir, b"fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    if root {
        let char = fs::metadata(at(&dir, b"char")).unwrap();
        assert!(char.file_type().is_char_device());
        assert_eq!(char.rdev(), 0x103);
        let block = fs::metadata(at(&dir, b"block")).unwrap();
        assert!(block.file_type().is_block_device());
        assert_eq!(block.rdev(), u64::from(rdev));
        let mut reader = MemberReader::new(archive.as_slice());
        let mut read = reader.next_member().unwrap().unwrap();
        while read.path != b"block" {
            read = reader.next_member().unwrap().unwrap();
        }
        assert_eq!(read.rdev, rdev);
    }
}

#[test]
fn sparse_files_come_out_of_gnu_tar_with_their_holes() {
    let size = (10 << 20) + 5;
    let cases: [&[(u64, u64)]; 4] = [
        &[(0, 4096), (1 << 20, (1 << 20) + 8192)],
        &[(size - 5, size)],
        &[(4096, size)],
        &[],
    ];
    let mut archive = Vec::new();
    let mut wanted = Vec::new();
    for (number, regions) in cases.iter().enumerate() {
        let mut map = SparseMap::new(size);
        let mut contents = vec![0u8; size as usize];
        let mut data = Vec::new();
        for (from, to) in *regions {
            map.add_data(*from, *to);
            contents[*from as usize..*to as usize].fill(b'0' + number as u8);
            data.extend_from_slice(&contents[*from as usize..*to as usize]);
        }
        let name = format!("s\u{fc}b/{number}");
        let sparse = member(name.as_bytes(), MemberKind::Sparse(&map));
        assert_eq!(
            sparse.archived_size(),
            (map.encode().len() + data.len()) as u64
        );
        add(&mut archive, &sparse, &data);
        wanted.push((name, contents, map, data));
    }
    archive.extend_from_slice(&END_OF_ARCHIVE);
    let dir = extract(&archive);
    let mut reader = MemberReader::new(archive.as_slice());
    for (name, contents, map, data) in wanted {
        let path = at(&dir, name.as_bytes());
        assert!(fs::read(&path).unwrap() == contents, "{name}");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < map.stored() + 65536);
        let read = reader.next_member().unwrap().unwrap();
        assert_eq!((read.path.as_slice(), read.size), (name.as_bytes(), size));
        assert_eq!(read.sparse, Some(map));
        assert!(reader.read_all().unwrap() == data);
    }
}

#[test]
fn files_above_8_gib_are_listed_with_their_size() {
    let mut archive = Vec::new();
    member(b"huge", MemberKind::File { size: 9 << 30 }).encode(&mut archive);
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("tar")
        .args(["-tv", "--warning=no-unknown-keyword", "-C"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    let listed = child.wait_with_output().unwrap().stdout; // it misses the contents: only listed
    assert!(String::from_utf8(listed).unwrap().contains(" 9663676416 "));
    let read = MemberReader::new(archive.as_slice())
        .next_member()
        .unwrap()
        .unwrap();
    assert_eq!(read.stored, 9 << 30);
}

#[test]
fn sections_are_frames_that_zstd_and_the_reader_agree_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0001.tar.zst");
    let pool = CompressionPool::new(Some(3), DEFAULT_LEVEL).unwrap();
    let mut writer = SectionWriter::create(&path, &pool).unwrap();
    let mut raw = Vec::new();
    let mut sections = Vec::new();
    for number in 0..40u32 {
        let mut section = writer.buffer();
        assert!(section.is_empty());
        section.extend((0..number * 1000).map(|i| (i * number / 7) as u8));
        raw.push(section.clone());
        writer.push(section).unwrap();
        sections.extend(writer.take_written());
    }
    let sealed = writer.seal().unwrap();
    sealed.sync().unwrap();
    sections.extend(sealed.sections.iter().copied());
    let stored = fs::read(&path).unwrap();
    assert_eq!(sealed.size, stored.len() as u64);
    assert_eq!(sealed.blake3, blake3::hash(&stored));
    assert_eq!(sections.len(), raw.len());
    let frames = FrameReader::new(File::open(&path).unwrap()).map(|f| f.unwrap());
    for ((section, frame), raw) in sections.iter().zip(frames).zip(&raw) {
        assert_eq!(
            (section.offset, section.length),
            (frame.offset, frame.length)
        );
        assert_eq!(&frame.raw, raw);
        assert_eq!(section.raw_length, raw.len() as u64);
        let bytes = &stored[section.offset as usize..][..section.length as usize];
        assert_eq!(blake3::hash(bytes), section.blake3);
        let told = zstd::zstd_safe::get_frame_content_size(bytes).unwrap();
        assert_eq!(told, Some(section.raw_length));
    }
    let mut child = Command::new("zstd")
        .arg("-dc")
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(all == raw.concat());
}

#[test]
fn a_damaged_tarball_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let pool = CompressionPool::new(Some(1), DEFAULT_LEVEL).unwrap();
    let mut writer = SectionWriter::create(&path, &pool).unwrap();
    writer
        .push((0..100_000u32).flat_map(u32::to_le_bytes).collect())
        .unwrap();
    writer.seal().unwrap();
    let mut stored = fs::read(&path).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    let damage = FrameReader::new(stored.as_slice())
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(damage.kind(), crate::ErrorKind::Damage);

    let mut archive = Vec::new();
    add(
        &mut archive,
        &member(b"file", MemberKind::File { size: 3 }),
        b"abc",
    );
    archive[700] ^= 1;
    archive[1030] ^= 1;
    let damage = MemberReader::new(archive.as_slice())
        .next_member()
        .unwrap_err();
    assert_eq!(damage.kind(), crate::ErrorKind::Damage);
}
