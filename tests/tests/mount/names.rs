//! Names: unlink, rename, links, limits.

use super::{code, errno};
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    needs_fuse!();
    let m = Master::new();
    for size in [100, 100_000] {
        let path = m.at("gone");
        fs::write(&path, noise(1, size)).unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(fs::metadata(&path)), code(Errno::NOENT));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&noise(2, 50_000)).unwrap();
        file.set_len(size as u64 + 40_000).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .unwrap();
        let mut bytes = vec![0; size + 40_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..size] == noise(1, size) && bytes[size..] == noise(2, 50_000)[..40_000]);
        // The name is free, for another file.
        fs::write(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(file.metadata().unwrap().len(), size as u64 + 40_000);
        drop(file);
        fs::remove_file(&path).unwrap();
    }
    // A directory likewise.
    fs::create_dir(m.at("d")).unwrap();
    let dir = File::open(m.at("d")).unwrap();
    fs::remove_dir(m.at("d")).unwrap();
    let made = rustix::fs::openat(&dir, "x", OFlags::CREATE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(made.err(), Some(Errno::NOENT));
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    needs_fuse!();
    let m = Master::new();
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, m.at(from), CWD, m.at(to), flags);
    let read = |name: &str| fs::read_to_string(m.at(name)).unwrap();
    fs::write(m.at("a"), "a").unwrap();
    fs::write(m.at("b"), "b").unwrap();
    let old = File::open(m.at("b")).unwrap();
    fs::rename(m.at("a"), m.at("b")).unwrap();
    assert_eq!(read("b"), "a");
    assert!(!m.at("a").exists());
    // Whoever has the replaced file open keeps it.
    let mut text = String::new();
    (&old).read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");

    fs::write(m.at("c"), "c").unwrap();
    assert_eq!(rename("c", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("c", "free", RenameFlags::NOREPLACE).unwrap();
    rename("free", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("free"), read("b")), ("a".into(), "c".into()));
    assert_eq!(
        rename("free", "nothing", RenameFlags::EXCHANGE),
        Err(Errno::NOENT)
    );

    // A file and a directory that is not empty change places; `..` and link counts follow.
    fs::create_dir_all(m.at("dir/sub")).unwrap();
    fs::create_dir(m.at("other")).unwrap();
    fs::write(m.at("other/file"), "f").unwrap();
    rename("dir/sub", "other/file", RenameFlags::EXCHANGE).unwrap();
    assert!(m.at("other/file").is_dir());
    assert_eq!(read("dir/sub"), "f");
    assert_eq!(fs::metadata(m.at("dir")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(m.at("other")).unwrap().nlink(), 3);
    let up = fs::metadata(m.at("other/file/..")).unwrap().ino();
    assert_eq!(up, fs::metadata(m.at("other")).unwrap().ino());

    let refused = |from: &str, to: &str| errno(fs::rename(m.at(from), m.at(to)));
    assert_eq!(refused("b", "dir"), code(Errno::ISDIR));
    assert_eq!(refused("dir", "b"), code(Errno::NOTDIR));
    assert_eq!(refused("dir", "other"), code(Errno::NOTEMPTY));
    assert_eq!(refused("other", "other/file/below"), code(Errno::INVAL));
    fs::create_dir(m.at("empty")).unwrap();
    fs::rename(m.at("dir"), m.at("empty")).unwrap();
    assert_eq!(read("empty/sub"), "f");
    // Two names of one inode: POSIX says that nothing happens.
    fs::hard_link(m.at("b"), m.at("b2")).unwrap();
    fs::rename(m.at("b"), m.at("b2")).unwrap();
    assert!(m.at("b").exists() && m.at("b2").exists());
}

#[test]
fn a_name_may_have_255_bytes_and_no_more() {
    needs_fuse!();
    let m = Master::new();
    let (longest, too_long) = (m.at("x".repeat(255)), m.at("x".repeat(256)));
    fs::write(&longest, "fits").unwrap();
    fs::rename(&longest, m.at("y".repeat(255))).unwrap();
    fs::rename(m.at("y".repeat(255)), &longest).unwrap();
    let refused = [
        errno(File::create(&too_long)),
        errno(fs::metadata(&too_long)),
        errno(fs::create_dir(&too_long)),
        errno(fs::rename(&longest, &too_long)),
        errno(fs::hard_link(&longest, &too_long)),
        errno(symlink("x", &too_long)),
        errno(fs::remove_file(&too_long)),
    ];
    assert_eq!(refused, [code(Errno::NAMETOOLONG); 7]);
    assert_eq!(
        errno(symlink("x".repeat(4_096), m.at("link"))),
        code(Errno::NAMETOOLONG)
    );
    symlink("x".repeat(4_095), m.at("link")).unwrap();
    assert_eq!(
        fs::read_link(m.at("link")).unwrap().as_os_str().len(),
        4_095
    );
}

#[test]
fn the_name_that_is_reserved_for_cbfs_is_refused_in_the_root_only() {
    needs_fuse!();
    let m = Master::new();
    assert_eq!(errno(fs::create_dir(m.at(".cbfs"))), code(Errno::EXIST));
    assert_eq!(errno(File::create(m.at(".cbfs"))), code(Errno::ISDIR));
    assert_eq!(errno(fs::remove_dir(m.at(".cbfs"))), code(Errno::PERM));
    fs::create_dir_all(m.at("below/.cbfs")).unwrap();
    assert_eq!(
        errno(fs::rename(m.at("below/.cbfs"), m.at(".cbfs"))),
        code(Errno::PERM)
    );
}
