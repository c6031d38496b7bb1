//! Trees with everything in them that is hard to keep.

use crate::contents::{Dice, noise, text};
use crate::tools;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, fallocate,
    makedev, mknodat, utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes about which contents are kept in another way.
pub const SIZES: [usize; 10] = [
    0,
    1,
    16_383,
    16_384,
    16_385,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (2 << 20) + 4_096,
    5 << 20,
];

/// Build a hostile tree in an empty directory: strange names, all kinds of files, links, holes,
/// attributes, owners, times. What the machine does not allow (devices, foreign owners) is left
/// out.
pub fn build(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(root).unwrap();

    fs::create_dir(at("sizes")).unwrap();
    for (n, size) in SIZES.into_iter().enumerate() {
        fs::write(at(&format!("sizes/noise-{size}")), noise(n as u64, size)).unwrap();
        fs::write(at(&format!("sizes/text-{size}")), text(n as u64, size)).unwrap();
    }
    names(&at("names"));
    many(&at("many"), 300);
    links(&at("links"));
    holes(&at("holes"));
    special(&at("special"));
    attributes(&at("attributes"));
    fs::create_dir(at("empty")).unwrap();
    let mut deep = at("deep");
    for n in 0..40 {
        deep.push(format!("{n:02}-{}", "x".repeat(57)));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "far down").unwrap();
    // Last: everything above changes the times of directories.
    times(root);
}

fn names(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let longest = vec![b'n'; 255];
    let strange: [&[u8]; 14] = [
        b"a newline\nin it",
        b"\xff\xfe not UTF-8",
        b"cut short \xc3",
        b" blanks at the ends ",
        b"-n",
        b"--help",
        b"back\\slash",
        b"quote'\"`$(reboot)",
        b"\x01\x1b[31m\x7f",
        b"tab\tand *?[glob]",
        b"...",
        "gr\u{fc}n \u{1f600}".as_bytes(),
        b"%2F@=;:,",
        &longest,
    ];
    for (n, name) in strange.iter().enumerate() {
        let path = dir.join(OsStr::from_bytes(name));
        fs::write(&path, format!("file {n}")).unwrap();
    }
    let sub = dir.join(OsStr::from_bytes(b"a directory\n\xff"));
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join(OsStr::from_bytes(b"\n")), "in it").unwrap();
}

fn many(dir: &Path, count: usize) {
    fs::create_dir(dir).unwrap();
    for n in 0..count {
        fs::write(dir.join(format!("{n:05}")), text(n as u64, n * 7 % 900)).unwrap();
    }
}

fn links(dir: &Path) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    let at = |name: &str| dir.join(name);
    fs::write(at("small"), "three names").unwrap();
    fs::hard_link(at("small"), at("sub/small")).unwrap();
    fs::hard_link(at("small"), at("another")).unwrap();
    fs::write(at("large"), noise(77, 1_500_000)).unwrap();
    fs::hard_link(at("large"), at("sub/large")).unwrap();
    symlink("small", at("to-small")).unwrap();
    symlink("does/not/exist", at("dangling")).unwrap();
    symlink("sub", at("to-directory")).unwrap();
    symlink("../..", at("up")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n strange"), at("strange")).unwrap();
    symlink("l".repeat(4_000), at("long")).unwrap();
    fs::hard_link(at("dangling"), at("sub/dangling")).unwrap();
}

fn holes(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let sparse = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = File::create(dir.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (n, (offset, length)) in data.iter().enumerate() {
            file.write_all_at(&noise(900 + n as u64, *length), *offset)
                .unwrap();
        }
    };
    sparse("at-the-start", 3 << 20, &[(2 << 20, 1 << 20)]);
    sparse("in-the-middle", 4 << 20, &[(0, 8_192), (3_500_032, 4_096)]);
    sparse("at-the-end", 5 << 20, &[(0, 100_000)]);
    sparse("nothing-else", 7 << 20, &[]);
    sparse("one-byte-at-the-end", (2 << 20) + 1, &[(2 << 20, 1)]);
    sparse("small", 12_000, &[(8_192, 100)]);
    sparse(
        "comb",
        1 << 20,
        &(0..64).map(|n| (n * 16_384, 4_096)).collect::<Vec<_>>(),
    );
    sparse(
        "wide",
        1 << 25,
        &[(0, 10), (1 << 24, 4_096), ((1 << 25) - 10, 10)],
    );
    let punched = dir.join("punched");
    fs::write(&punched, noise(950, 3 << 20)).unwrap();
    let file = File::options().write(true).open(&punched).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(&file, flags, 1_000_000, 1_200_000) {
        // Not every file system that a test copies from can.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(e) => panic!("punching a hole: {e}"),
    }
}

fn special(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let make = |name: &str, kind: FileType, mode: u32, device: u64| match mknodat(
        CWD,
        dir.join(name),
        kind,
        Mode::from_raw_mode(mode),
        device,
    ) {
        Ok(()) => {}
        Err(Errno::PERM) if device != 0 => {}
        Err(e) => panic!("{name}: {e}"),
    };
    make("fifo", FileType::Fifo, 0o620, 0);
    make("socket", FileType::Socket, 0o755, 0);
    if tools::is_root() {
        make("null", FileType::CharacterDevice, 0o666, makedev(1, 3));
        make("block", FileType::BlockDevice, 0o640, makedev(7, 200));
        make(
            "large-numbers",
            FileType::CharacterDevice,
            0o600,
            makedev(4_000, 1_000_000),
        );
    }
}

fn attributes(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let file = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    for mode in [
        0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1777, 0o7777,
    ] {
        // Every file must be readable for whoever compares.
        if mode & 0o400 == 0 && !tools::is_root() {
            continue;
        }
        let path = file(&format!("mode-{mode:04o}"));
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let sub = dir.join(format!("directory-{mode:04o}"));
        // Not for root only: what is in them must be readable.
        if mode & 0o500 == 0o500 {
            fs::create_dir(&sub).unwrap();
            fs::write(sub.join("in"), "it").unwrap();
            fs::set_permissions(sub, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    if tools::is_root() {
        for (n, (uid, gid)) in [(1, 1), (1000, 2000), (4_000_000_000, 3_000_000_000)]
            .iter()
            .enumerate()
        {
            chown(file(&format!("owner-{n}")), Some(*uid), Some(*gid)).unwrap();
        }
        let link = dir.join("owned-symlink");
        symlink("nowhere", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(7), Some(8)).unwrap();
    }
    let path = file("xattrs");
    set_xattr(&path, "user.plain", b"value");
    set_xattr(&path, "user.empty", b"");
    set_xattr(&path, "user.binary", b"\0\xff\n=%");
    set_xattr(&path, "user.name = with % strange\tcharacters", b"x");
    set_xattr(&path, "user.larger", &noise(5, 2_000));
    set_xattr(&dir.join("directory-0755"), "user.of-a-directory", b"d");
    if tools::is_root() {
        set_xattr(&path, "trusted.secret", b"for root");
        set_xattr(&dir.join("owned-symlink"), "trusted.of-a-symlink", b"s");
    }
    if tools::is_here("setfacl") && takes_acl(&file("acl")) {
        tools::run(
            Command::new("setfacl")
                .args(["-m", "d:u:1:rwx,d:g:2:r-x,u:3:r--"])
                .arg(dir.join("directory-0777")),
        );
        fs::write(dir.join("directory-0777/inherited"), "an ACL").unwrap();
        fs::create_dir(dir.join("directory-0777/inherits")).unwrap();
    }
}

fn takes_acl(path: &Path) -> bool {
    let mut command = Command::new("setfacl");
    command.args(["-m", "u:1:rw,g:2:r,m::rw"]).arg(path);
    let output = tools::output_of(&mut command);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || why.contains("not supported"),
        "{command:?}: {why}"
    );
    output.status.success()
}

/// Set an extended attribute; a file system that has none (some have no `user.` ones) is left
/// without.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => {}
        Err(e) => panic!("{name} of {}: {e}", path.display()),
    }
}

fn times(root: &Path) {
    let dir = root.join("times");
    fs::create_dir(&dir).unwrap();
    let moments = [
        (0, 0),
        (0, 1),
        (-1, 999_999_999),
        (-86_400 * 365 * 30, 123_456_789),
        (-2_000_000_000, 0),
        (1_234_567_890, 987_654_321),
        (1 << 31, 5),
        (4_102_444_800, 100),
    ];
    for (n, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let path = dir.join(format!("time-{n}"));
        fs::write(&path, "then").unwrap();
        set_mtime(&path, seconds, nanoseconds);
        let link = dir.join(format!("symlink-{n}"));
        symlink("then", &link).unwrap();
        set_mtime(&link, seconds, nanoseconds);
    }
    set_mtime(&dir, 1_000_000_000, 1);
    set_mtime(&root.join("empty"), -5, 500_000_000);
    set_mtime(&root.join("names"), 86_400, 0);
    set_mtime(root, 1_500_000_000, 42);
}

/// Set the modification time of anything; the access time becomes the same.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|e| panic!("the time of {}: {e}", path.display()));
}

/// Change a tree that [`build`] made, in every way that a snapshot can get wrong.
pub fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    let patch = |name: &str, offset: u64, bytes: &[u8]| {
        let file = File::options().write(true).open(at(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    };
    let punch = |name: &str, offset: u64, length: u64| {
        let file = File::options().write(true).open(at(name)).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, flags, offset, length).unwrap();
    };
    let cut = |name: &str, size: u64| {
        File::options()
            .write(true)
            .open(at(name))
            .unwrap()
            .set_len(size)
            .unwrap();
    };

    // Renames: of a file, a directory, a directory and what is in it, into each other's place.
    fs::rename(at("sizes/text-1"), at("sizes/renamed")).unwrap();
    fs::rename(at("many/00001"), at("moved-up")).unwrap();
    fs::rename(at("links/sub"), at("links-moved")).unwrap();
    fs::rename(at("links"), at("many/links")).unwrap();
    fs::rename(at("many"), at("most")).unwrap();
    fs::rename(at("most/00002"), at("swap")).unwrap();
    fs::rename(at("most/00003"), at("most/00002")).unwrap();
    fs::rename(at("swap"), at("most/00003")).unwrap();
    fs::rename(at("sizes/text-1048576"), at("sizes/noise-1")).unwrap();
    let deep = at("deep")
        .read_dir()
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::rename(deep, at("less-deep")).unwrap();
    fs::remove_dir(at("deep")).unwrap();

    // Removals, and other things under the same name.
    fs::remove_file(at("sizes/noise-16384")).unwrap();
    fs::remove_dir_all(at("names/").join(OsStr::from_bytes(b"a directory\n\xff"))).unwrap();
    fs::remove_file(at("names/-n")).unwrap();
    fs::create_dir(at("names/-n")).unwrap();
    fs::write(at("names/-n/inside"), "was a file").unwrap();
    fs::remove_dir(at("empty")).unwrap();
    symlink("was-a-directory", at("empty")).unwrap();
    fs::remove_file(at("most/00010")).unwrap();
    fs::write(at("most/00010"), "another file, not the old one changed").unwrap();
    for n in 100..150 {
        fs::remove_file(at(&format!("most/{n:05}"))).unwrap();
    }
    fs::remove_file(at("special/fifo")).unwrap();

    // Contents: patches in large files, beyond their ends, across the sizes that matter.
    patch("sizes/noise-5242880", 2_500_000, &noise(31, 10));
    patch("sizes/noise-5242880", (4 << 20) - 5, &noise(32, 10));
    patch("sizes/text-5242880", 5 << 20, &noise(33, 700_000));
    patch("sizes/noise-1048577", 3 << 20, b"beyond a hole");
    patch("sizes/noise-16383", 16_383, b"now large");
    patch("sizes/text-16384", 100, b"small change");
    patch("sizes/noise-16385", 0, b"!");
    patch("sizes/noise-0", 0, b"no longer empty");
    cut("sizes/text-16385", 16_384);
    cut("sizes/text-1048577", 1_000_000);
    cut("sizes/text-1048577", 1_040_000);
    cut("sizes/noise-1048575", 0);
    cut("sizes/text-16383", 6 << 20);
    cut("sizes/noise-2101248", 100);
    patch("sizes/noise-2101248", 3 << 20, b"cut down and grown again");
    fs::write(at("sizes/text-1048575"), noise(40, 2_000_000)).unwrap();

    // Holes: new, filled, grown.
    punch("sizes/noise-1048576", 100_000, 500_000);
    punch("sizes/text-2101248", 0, 2 << 20);
    punch("holes/punched", 0, 3 << 20);
    patch("holes/nothing-else", 3 << 20, &noise(50, 8_192));
    patch("holes/in-the-middle", 1 << 20, &noise(51, 1 << 20));
    cut("holes/at-the-end", 9 << 20);
    cut("holes/wide", (1 << 24) + 100);

    // Hard links: more names, fewer names, contents through another name.
    fs::hard_link(at("most/links/small"), at("fourth-name")).unwrap();
    fs::remove_file(at("links-moved/large")).unwrap();
    fs::remove_file(at("most/links/another")).unwrap();
    patch("links-moved/small", 0, b"THREE");
    fs::hard_link(at("sizes/renamed"), at("second-name")).unwrap();

    // Nothing but attributes.
    let mode = |name: &str, mode| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("attributes/mode-0644", 0o4711);
    mode("attributes/directory-0755", 0o700);
    set_mtime(&at("times/time-3"), -77, 77);
    set_mtime(&at("times/symlink-2"), 99, 99);
    if tools::is_root() {
        chown(at("attributes/owner-0"), Some(55), Some(66)).unwrap();
    }
    set_xattr(&at("attributes/xattrs"), "user.plain", b"another value");
    set_xattr(&at("attributes/mode-0755"), "user.new", b"new");
    rustix::fs::lremovexattr(at("attributes/xattrs"), "user.empty").unwrap();
    if tools::is_here("setfacl") {
        tools::run(Command::new("setfacl").arg("-b").arg(at("attributes/acl")));
        tools::run(
            Command::new("setfacl")
                .args(["-m", "u:9:r"])
                .arg(at("most/00020")),
        );
    }

    // Much of the same.
    let mut dice = Dice::new(9);
    for n in 150..300 {
        match dice.below(4) {
            0 => fs::write(at(&format!("most/{n:05}")), noise(n, 500)).unwrap(),
            1 => fs::rename(
                at(&format!("most/{n:05}")),
                at(&format!("most/renamed-{n}")),
            )
            .unwrap(),
            2 => mode(&format!("most/{n:05}"), 0o600 + dice.below(0o100) as u32),
            _ => {}
        }
    }
}

/// A tree of `count` small files in directories of a hundred; answers their bytes.
pub fn small_files(root: &Path, count: u64) -> u64 {
    let mut bytes = 0;
    let mut dir = PathBuf::new();
    for n in 0..count {
        if n % 100 == 0 {
            dir = root.join(format!("{:03}/{:02}", n / 10_000, n / 100 % 100));
            fs::create_dir_all(&dir).unwrap();
        }
        let contents = text(n, (n * 37 % 4_000) as usize);
        bytes += contents.len() as u64;
        fs::write(dir.join(format!("file-{n}")), contents).unwrap();
    }
    bytes
}
