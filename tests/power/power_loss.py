#!/usr/bin/env python3
"""Power loss, for real: the state directory lies on a journalled file system on a loop device, which is shut down
(FS_IOC_SHUTDOWN without flushing its log, ioctl_fs_shutdown) at a random moment while a writer works on the mount.
Then the daemon is killed, the file system mounted again, the daemon started, and what is there is compared with a
ledger of what was acknowledged and fsynced.

    power_loss.py --cbfsctl target/release/cbfsctl --rounds 12 [--fs ext4|xfs] [--seed N]

The operations of a round follow from its seed, so the ledger is how many were acknowledged, and up to where an
fsync was. Checked (docs/durability.md):
  - the names, kinds and sizes are those after some prefix of the operations, never a mix;
  - the prefix is not shorter than the last acknowledged fsync;
  - a file that was fsynced and not touched since has its bytes; one touched since has old, new or zero bytes;
  - a snapshot that was complete before is complete, and exact.
Needs root, e2fsprogs or xfsprogs, util-linux. Prints a line a round and exits 1 at the first difference.
"""
import argparse
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32); 2: do not flush the log
INLINE_MAX = 16 << 10


def run(*argv, **kwargs):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, **kwargs).stdout


def content(tag, length):
    """Bytes that tell which write they are of."""
    unit = struct.pack("<Q", tag * 2654435761 % (1 << 64) | 1)
    return (unit * (length // 8 + 1))[:length]


def plan(seed, count):
    """The operations of a round: deterministic, each valid after those before it."""
    rng = random.Random(seed)
    dirs, files, ops = ["."], {}, []
    for n in range(count):
        kind = rng.choices(["create", "append", "overwrite", "truncate", "rename", "unlink", "mkdir", "fsync"],
                           [30, 18, 12, 4, 12, 8, 4, 12])[0]
        if kind == "mkdir":
            path = f"{rng.choice(dirs)}/d{n}"
            dirs.append(path)
            ops.append(("mkdir", path))
        elif kind == "create" or not files:
            path = f"{rng.choice(dirs)}/f{n}"
            size = rng.choice([0, 100, 4096, 16384, 16385, 40000, 300000, 1500000])
            files[path] = size
            ops.append(("create", path, size, n))
        else:
            path = rng.choice(sorted(files))
            if kind == "append":
                size = rng.choice([1, 500, 4096, 20000])
                ops.append(("write", path, files[path], size, n))
                files[path] += size
            elif kind == "overwrite" and files[path]:
                offset = rng.randrange(files[path])
                size = min(rng.choice([1, 4096, 100000]), files[path] - offset)
                ops.append(("write", path, offset, size, n))
            elif kind == "truncate":
                files[path] = rng.choice([0, files[path] // 2, files[path] + 5000])
                ops.append(("truncate", path, files[path]))
            elif kind == "rename":
                to = rng.choice([f"{rng.choice(dirs)}/r{n}", rng.choice(sorted(files))])
                if to != path:
                    files[to] = files.pop(path)
                    ops.append(("rename", path, to))
            elif kind == "unlink":
                del files[path]
                ops.append(("unlink", path))
            else:
                ops.append(("fsync", path))
    return ops


def write_at(fd, offset, size, tag):
    data = content(tag, size)
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def perform(op):
    kind, path = op[0], op[1]
    if kind == "mkdir":
        os.mkdir(path)
    elif kind == "create":
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        if op[2]:
            write_at(fd, 0, op[2], op[3])
        os.close(fd)
    elif kind == "write":
        fd = os.open(path, os.O_WRONLY)
        write_at(fd, op[2], op[3], op[4])
        os.close(fd)
    elif kind == "truncate":
        os.truncate(path, op[2])
    elif kind == "rename":
        os.rename(path, op[2])
    elif kind == "unlink":
        os.unlink(path)
    else:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def writer(ops, root, ledger):
    """Child process: a byte in the ledger for each operation that returned."""
    out = os.open(ledger, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.chdir(root)
    try:
        for op in ops:
            perform(op)
            os.write(out, b".")
    except OSError:
        os._exit(3)  # the lights went out
    os._exit(0)


class Model:
    """The tree after a prefix of the operations. A file keeps its identity (the operation that made it) under renames."""

    def __init__(self):
        self.dirs, self.names, self.data = {"."}, {}, {}
        self.history, self.synced = {}, set()

    def apply(self, number, op, certain):
        kind, path = op[0], op[1]
        if kind == "mkdir":
            self.dirs.add(path)
        elif kind == "create":
            self.names[path] = number
            self.touch(number, content(op[3], op[2]))
        elif kind == "write":
            file, data, offset = self.names[path], content(op[4], op[3]), op[2]
            whole = self.data[file].ljust(offset, b"\0")
            self.touch(file, whole[:offset] + data + whole[offset + len(data):])
        elif kind == "truncate":
            file = self.names[path]
            self.touch(file, self.data[file][:op[2]].ljust(op[2], b"\0"))
        elif kind == "rename":
            self.names[op[2]] = self.names.pop(path)
        elif kind == "unlink":
            del self.names[path]
        elif certain:
            self.synced.add(self.names[path])

    def touch(self, file, data):
        self.data[file] = data
        self.history.setdefault(file, []).append(data)
        self.synced.discard(file)

    def shape(self):
        shape = {path: None for path in self.dirs}
        shape.update({path: len(self.data[file]) for path, file in self.names.items()})
        return shape


def actual_shape(root):
    shape = {}
    for top, dirs, files in os.walk(root):
        base = os.path.relpath(top, root)
        base = "." if base == "." else f"./{base}"
        shape[base] = None
        for name in files:
            shape[f"{base}/{name}"] = os.lstat(os.path.join(top, name)).st_size
    return shape


def fits(shape, following, found):
    """Whether the tree is as after a prefix, the following operation perhaps half done: a creation is several system
    calls, a large write several requests."""
    if shape == found:
        return True
    if not following or following[0] not in ("create", "write"):
        return False
    path = following[1]
    before = shape.get(path, 0)
    end = following[2] if following[0] == "create" else following[2] + following[3]
    return path in found and before <= found[path] <= max(before, end) and {**shape, path: found[path]} == found


def check(ops, acknowledged, certain, root):
    """Answers how many operations are there and up to where an fsync was; raises AssertionError. `certain` of the
    `acknowledged` operations had returned before the power went."""
    prefix, fsynced, model, names, expected = the_namespace_is_a_prefix_and_holds_all_that_was_fsynced(
        ops, acknowledged, certain, root)
    files_have_their_fsynced_bytes_or_else_old_new_or_zero_ones(model, names, expected, root)
    return prefix, fsynced


def the_namespace_is_a_prefix_and_holds_all_that_was_fsynced(ops, acknowledged, certain, root):
    fsynced = max((i + 1 for i in range(certain) if ops[i][0] == "fsync"), default=0)
    found = actual_shape(root)
    model, there = Model(), None
    # The operation that was under way may have happened or not.
    for n in range(min(acknowledged + 1, len(ops)) + 1):
        if n:
            model.apply(n - 1, ops[n - 1], n <= certain)
        if n >= fsynced and fits(model.shape(), ops[n] if n < len(ops) else None, found):
            there = n, dict(model.names), dict(model.data)
    if there is None:
        want = model.shape()
        different = sorted(p for p in set(want) | set(found) if want.get(p, "-") != found.get(p, "-"))
        raise AssertionError(f"no prefix of {fsynced}..{acknowledged} fits; against all of it: "
                             + ", ".join(f"{p} is {found.get(p, '-')} not {want.get(p, '-')}" for p in different[:5]))
    prefix, names, expected = there
    return prefix, fsynced, model, names, expected


def files_have_their_fsynced_bytes_or_else_old_new_or_zero_ones(model, names, expected, root):
    for path, file in names.items():
        with open(os.path.join(root, path), "rb") as f:
            data = f.read()
        history = model.history[file]
        if file in model.synced:
            assert data == expected[file], f"{path} was fsynced, not touched since, and has other bytes"
        elif all(len(h) <= INLINE_MAX for h in history):
            # Inline: the bytes are in the journal. Several prefixes may have this shape.
            assert data in history, f"{path} (inline) has the bytes of no moment"
        else:
            allowed = [h.ljust(len(data), b"\0") for h in history]
            for i in range(0, len(data), 512):
                piece = data[i:i + 512]
                if not any(piece) or any(piece == h[i:i + 512] for h in allowed):
                    continue
                for j, byte in enumerate(piece):
                    assert byte == 0 or any(byte == h[i + j] for h in allowed), \
                        f"{path} at {i + j}: neither old nor new nor zero"


class Bench:
    def __init__(self, options):
        self.options = options
        self.top = tempfile.mkdtemp(prefix="cbfs-power-")
        self.disk, self.mnt = f"{self.top}/disk", f"{self.top}/mnt"
        self.bucket = f"{self.top}/bucket"
        for path in (self.disk, self.mnt, self.bucket):
            os.mkdir(path)
        self.image = f"{self.top}/image"
        with open(self.image, "wb") as f:
            f.truncate(options.size << 20)
        run(f"mkfs.{options.fs}", "-q", self.image)
        self.env = {**os.environ, "CBFS_CONFIG": "/dev/null", "CBFS_STATE_DIR": f"{self.disk}/state", "CBFS_SOCKET": f"{self.top}/sock",
                    "CBFS_BUCKET": f"file://{self.bucket}"}
        self.daemon = None
        self.log = open(f"{self.top}/daemon.log", "ab")

    def cbfsctl(self, *argv):
        return run(os.path.abspath(self.options.cbfsctl), *argv, env=self.env, stderr=subprocess.STDOUT)

    def power_on(self):
        run("mount", "-o", "loop", self.image, self.disk)
        self.daemon = subprocess.Popen([os.path.abspath(self.options.cbfsctl), "util", "cbfsd"], env=self.env,
                                       stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.cbfsctl("status")
            except subprocess.CalledProcessError:
                if self.daemon.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError("the daemon did not come back; see " + self.log.name) from None
                time.sleep(0.02)

    def power_off(self):
        fd = os.open(self.disk, os.O_RDONLY)
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", 2))
        os.close(fd)
        self.kill()

    def kill(self):
        if self.daemon:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
            self.daemon = None
        subprocess.run(["umount", "-l", self.mnt], stderr=subprocess.DEVNULL)

    def unplug(self):
        for _ in range(200):
            if subprocess.run(["umount", self.disk], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("the disk stays busy")

    def clean_up(self, keep):
        self.kill()
        subprocess.run(["umount", "-l", self.disk], stderr=subprocess.DEVNULL)
        if keep:
            print(f"kept: {self.top}", file=sys.stderr)
        else:
            shutil.rmtree(self.top, ignore_errors=True)

    def take_a_snapshot(self):
        os.mkdir(f"{self.mnt}/kept")
        self.kept = {f"file{n}": random.Random(n).randbytes(n * 7000) for n in range(8)}
        for name, data in self.kept.items():
            with open(f"{self.mnt}/kept/{name}", "wb") as f:
                f.write(data)
        self.cbfsctl("snapshot", "create", "power", "--wait", "--timeout", "60")
        shutil.rmtree(f"{self.mnt}/kept")

    def a_complete_snapshot_is_there_and_exact(self):
        then = f"{self.top}/then"
        os.makedirs(then, exist_ok=True)
        self.cbfsctl("mount", "power@1", then, "--slave")
        try:
            found = {}
            for name in os.listdir(f"{then}/kept"):
                with open(f"{then}/kept/{name}", "rb") as f:
                    found[name] = f.read()
            assert found == self.kept, "the snapshot is not what it was"
        finally:
            self.cbfsctl("umount", then)

    def round(self, number, seed):
        ops = plan(seed, 20000)
        root, ledger = f"{self.mnt}/round{number}", f"{self.top}/ledger{number}"
        os.mkdir(root)
        fd = os.open(root, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        child = os.fork()
        if not child:
            writer(ops, root, ledger)
        time.sleep(random.Random(seed).uniform(0.05, self.options.longest))
        # An fsync that is in flight at the shutdown may return 0 although it failed: plain ext4 does that in one
        # of seven shutdowns here. What counts is what had returned before.
        certain = os.path.getsize(ledger) if os.path.exists(ledger) else 0
        self.power_off()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = os.path.getsize(ledger) if os.path.exists(ledger) else 0
        self.unplug()
        self.power_on()
        prefix, fsynced = check(ops, acknowledged, certain, root)
        self.a_complete_snapshot_is_there_and_exact()
        print(f"round {number}: seed {seed}: {acknowledged} acknowledged, {fsynced} fsynced, {prefix} there",
              flush=True)
        shutil.rmtree(root)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cbfsctl", required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fs", default="ext4", choices=["ext4", "xfs"])
    parser.add_argument("--size", type=int, default=1024, help="MiB of the disk")
    parser.add_argument("--longest", type=float, default=4.0, help="seconds until the power goes, at most")
    parser.add_argument("--keep", action="store_true", help="keep the disk when a round fails")
    options = parser.parse_args()
    bench, failed = Bench(options), True
    try:
        bench.power_on()
        bench.cbfsctl("fs", "create", "power")
        bench.cbfsctl("mount", "power", bench.mnt)
        bench.take_a_snapshot()
        for number in range(options.rounds):
            bench.round(number, options.seed + number)
        failed = False
        print(f"{options.rounds} passed, 0 failed")
    except AssertionError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        print(f"{number} passed, 1 failed")
    finally:
        bench.clean_up(options.keep and failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
