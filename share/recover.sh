#!/bin/sh
# recover.sh - rebuild the tree of a CBFS snapshot from the objects of its bucket, without CBFS.
#
#   recover.sh [--keep-going] BUCKET_DIR FS[@SNAPSHOT] OUT_DIR
#
#   BUCKET_DIR   a local copy of the bucket (or the bucket itself, where it is a directory)
#   FS           handle TAG-UUID, TAG, or the beginning of the UUID
#   SNAPSHOT     number, name, NUMBER-eEPOCH (also a diverged one), or latest (the default)
#   OUT_DIR      must be empty or not exist; best on an empty disk with room for the whole tree
#   --keep-going leave out files whose contents are lost instead of refusing
#
# Exit codes: 0 done, 1 failed, 2 usage, 10 not found, 11 conflict (ambiguous, OUT_DIR not empty),
# 13 format too new, 14 damage found.
#
# Needs: a POSIX shell, awk, sed, xargs and find as any Debian has them, GNU coreutils, GNU tar,
# zstd, jq; setfattr (package attr) where extended attributes were removed or ACLs are inherited.
# Uses when there: b3sum and sqlite3 (to check every object before use), fallocate (real holes).
# docs/format.md describes what is read here, docs/recovery.md how to do it by hand.
#
# How it works:
#  1. Walk from the wanted snapshot over its parents to the first one, and check their objects.
#  2. Plan: jq turns each snapshot's changes.jsonl into plain lines, awk keeps all names in memory
#     (about 300 bytes a name) and writes a shell script with only what changed. Nothing is
#     written to OUT_DIR before the whole plan stands.
#  3. Run the plan. For each snapshot: removed names go, files that move are put aside into
#     OUT_DIR/.cbfs (deepest first), then into place (parents first), tar unpacks what is new,
#     then hard links, truncations, holes, changed blocks, and attributes.
#  4. At the very end: times of all directories that were disturbed.
# When it fails in step 3, OUT_DIR is incomplete and keeps OUT_DIR/.cbfs; start over.

set -eu
umask 077
LC_ALL=C
export LC_ALL
unset TAR_OPTIONS POSIXLY_CORRECT

say() { printf 'recover.sh: %s\n' "$*" >&2; }
die() { # CODE MESSAGE...
    code=$1
    shift
    say "$*"
    exit "$code"
}
usage() {
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# ---------------------------------------------------------------- the programs for jq and awk

# One line of tab-separated fields for each row. Strings get a first letter: u as they are (tab,
# newline and backslash escaped by @tsv), h hex, v base64. Numbers of 64 bits arrive as strings:
# jq 1.6 calculates with doubles, which are too short for nanoseconds.
rows_to_lines='
    def string($plain; $hex): if $plain != null then "u" + $plain else "h" + $hex end;
    if .row == "inode" then
        ["I", "i\(.ino)", .kind, .mode, .uid, .gid, .size, .min_size, .rdev, .atime, .mtime, .gone]
    elif .row == "dentry" then
        ["D", "i\(.parent)", (if .ino == null then "-" else "i\(.ino)" end), .kind,
         string(.name; .name_hex)]
    elif .row == "link" then ["L", "i\(.ino)", string(.target; .target_hex)]
    elif .row == "xattr" then
        ["X", "i\(.ino)", (if .value == null then "-" else "v" + .value end),
         string(.name; .name_hex)]
    elif .row == "hole" then ["H", "i\(.ino)", .from, .to]
    elif .row == "member" then
        ["M", "i\(.ino)", .form, .tarball, (.offset // "-"), (.size // "-"),
         string(.path; .path_hex)]
    else error("unknown row \(.row)")
    end | @tsv'
quote_numbers='s/"(ino|parent|size|min_size|atime|mtime|from|to|offset)": *(-?[0-9]+)/"\1":"\2"/g'

# Manifests: M the snapshot, O each object it names (`needed` if recovery reads it).
manifest_to_lines='
    ["M", .number, .epoch, .name // "", .parent.number // "", .parent.epoch // "", .format,
        ((.features.incompat // []) | join(",")), (.totals.tarballs // 0), .meta_tarball.key // ""],
    (.meta_tarball // empty | ["O", "needed", .key, .size, .blake3]),
    ((.toc, .log, .layers[]?) // empty | ["O", "other", .key, .size, .blake3])
    | [input_filename | split("/")[-1]] + . | @tsv'

# Choose the wanted snapshot and print its chain of parents, the first snapshot first:
# number, epoch, format, incompat, tarballs, key of the metadata tarball.
choose_chain='
    BEGIN { FS = "\t" }
    $1 == "B" { base[$2] = $3 == "" ? "none" : $3 "-e" $4; if ($2 + 0 > top) top = $2 + 0; next }
    $2 == "M" {
        id = $3 "-e" $4
        name[id] = $5; parent[id] = $6 == "" ? "" : $6 "-e" $7
        line[id] = $3 "\t" $4 "\t" $8 "\t" $9 "\t" $10 "\t" $11
        if ($4 + 0 > top) top = $4 + 0
        if (!($4 in newest) || $3 + 0 > newest[$4] + 0) newest[$4] = $3
    }
    function fail(code, text) { print "E\t" code "\t" text; failed = 1; exit }
    END {
        if (failed) exit
        # The lineage that counts: the latest epoch with a snapshot, or else the base it began on.
        for (e = top; e >= 0; e--) {
            if (e in newest) { latest = newest[e] "-e" e; break }
            if (e in base) { latest = base[e] == "none" ? "" : base[e]; break }
        }
        if (want ~ /^[0-9]+-e[0-9]+$/) {
            sub(/^0+/, "", want)
            if (!(want in line)) fail(10, "there is no snapshot " want)
            id = want
        } else {
            if (latest == "") fail(10, "the file system has no snapshot")
            if (want ~ /^[0-9]+$/) sub(/^0+/, "", want)
            id = latest
            while (want != "latest" && id != "" && (id in line)) {
                if (name[id] == want) break
                split(id, part, "-")
                if (part[1] == want) break
                id = parent[id]
            }
            if (id == "" || (want != "latest" && !(id in line))) {
                for (other in line) {
                    split(other, part, "-")
                    if (part[1] == want || name[other] == want) text = text " " other
                }
                if (text != "")
                    fail(10, "snapshot " want " is not in the lineage of the latest one;" \
                        " diverged or cut off are:" text)
                if (id != "") fail(14, "snapshot " want " was not found, and the chain of parents" \
                    " breaks: the manifest of snapshot " id " is missing or unreadable")
                fail(10, "there is no snapshot " want)
            }
        }
        for (n = 0; id != ""; id = parent[id]) {
            if (!(id in line)) fail(14, "the manifest of snapshot " id " is missing or unreadable")
            if (id in seen) fail(14, "snapshot " id " is its own ancestor")
            seen[id] = 1
            chain[++n] = line[id]
        }
        for (; n > 0; n--) print "C\t" chain[n]
    }'

# The planner. State over all snapshots; inode numbers have the letter i before them, so that awk
# never takes them for numbers. A key is parent/name, which no name can forge.
#   dent[key]      inode         names[inode]  its keys, joined by //
#   kind[inode]    of all that are not regular files      sizes[inode]  of regular files
#   times[inode]   of directories                         entries[inode] number of names in it
#   acl[inode]     default ACL of a directory (base64); stripped[inode]: not on disk at present
#   lost[inode,b]  block b lay in a missing tarball and was not written since; losses[inode] count
# State of one snapshot, cleared at its end: everything in finish().
plan_changes='
    BEGIN {
        FS = "\t"; root = "i1"; kind[root] = "directory"; quote = "\047"; disturbed[root] = 1
        default_acl = "system.posix_acl_default"; end_of_file = 9e15
        for (i = 1; i < 256; i++) byte[sprintf("%02x", i)] = sprintf("%c", i)
    }
    function bad(text) { print text > damage_file; broken = 1; exit }
    function decode(s,   type, out, i, c) {
        type = substr(s, 1, 1); s = substr(s, 2); out = ""
        if (type == "h") {
            for (i = 1; i < length(s); i += 2) out = out byte[substr(s, i, 2)]
            return out
        }
        while ((i = index(s, "\\")) > 0) {
            c = substr(s, i + 1, 1)
            out = out substr(s, 1, i - 1) (c == "t" ? "\t" : c == "n" ? "\n" : c == "r" ? "\r" : c)
            s = substr(s, i + 2)
        }
        return out s
    }
    function q(s,   n, part, i, out) {
        if (!index(s, quote)) return quote s quote
        n = split(s, part, quote); out = quote part[1]
        for (i = 2; i <= n; i++) out = out quote "\\" quote quote part[i]
        return out quote
    }
    # Commands that take any number of paths are collected into long lines.
    function batch(command, path) {
        if (command != batch_command || length(batch_line) > 60000) flush_batch()
        batch_command = command
        batch_line = batch_line " " q(path)
    }
    function flush_batch() {
        if (batch_line != "") print batch_command batch_line
        batch_line = ""
    }
    function emit(line) { if (batch_line != "") flush_batch(); print line }
    function parent_of(key) { return substr(key, 1, index(key, "/") - 1) }
    function name_of(key) { return substr(key, index(key, "/") + 1) }
    # Path of a directory, as of now. Climbs with a loop: trees may be deep.
    function dir_path(ino,   n, stack, path) {
        for (n = 0; ino != root && !(ino in path_cache); ino = parent_of(names[ino])) {
            if (!(ino in names)) bad("directory " substr(ino, 2) " has no name")
            if (n > 5000) bad("directory " substr(ino, 2) " is in a loop or too deep")
            stack[++n] = ino
        }
        path = ino == root ? "." : path_cache[ino]
        depth = ino == root ? 0 : depth_cache[ino]
        for (; n > 0; n--) {
            path = path "/" name_of(names[stack[n]])
            path_cache[stack[n]] = path
            depth_cache[stack[n]] = ++depth
        }
        return path
    }
    # Path of a key, as of now; also sets depth (1 for a name in the root).
    function path_of(key,   path) {
        path = dir_path(parent_of(key)) "/" name_of(key)
        depth++
        return path
    }
    function inode_path(ino,   key) {
        if (ino == root) return "."
        key = names[ino]
        if (index(key, "//")) key = substr(key, 1, index(key, "//") - 1)
        return path_of(key)
    }
    function forget_paths() { split("", path_cache); split("", depth_cache) }
    function kind_of(ino) { return (ino in kind) ? kind[ino] : "file" }
    function seconds(t,   sign) {
        sign = ""
        if (substr(t, 1, 1) == "-") { sign = "-"; t = substr(t, 2) }
        while (length(t) < 10) t = "0" t
        return sign substr(t, 1, length(t) - 9) "." substr(t, length(t) - 8)
    }
    function add_name(ino, key) {
        if (ino in names) names[ino] = names[ino] "//" key; else names[ino] = key
        dent[key] = ino
        entries[parent_of(key)]++
    }
    function drop_name(ino, key,   n, part, i, left) {
        n = split(names[ino], part, "//"); left = ""
        for (i = 1; i <= n; i++)
            if (part[i] != key) left = left (left == "" ? "" : "//") part[i]
        if (left == "") delete names[ino]; else names[ino] = left
        delete dent[key]
        entries[parent_of(key)]--
    }
    function forget_inode(ino) {
        if (ino == root) return # has no name, and stays
        delete kind[ino]; delete sizes[ino]; delete times[ino]; delete entries[ino]
        delete acl[ino]; delete stripped[ino]; delete disturbed[ino]; find_lost(ino, 0, end_of_file)
    }
    # Blocks from..to of a file are no longer lost.
    function find_lost(ino, from, to,   b) {
        if (!(ino in losses)) return
        if (to > last_block[ino]) to = last_block[ino]
        for (b = from; b <= to; b++)
            if ((ino, b) in lost) { delete lost[ino, b]; losses[ino]-- }
        if (losses[ino] == 0) delete losses[ino]
    }
    function lose(ino, from, to,   b) {
        for (b = from; b <= to; b++)
            if (!((ino, b) in lost)) { lost[ino, b] = 1; losses[ino]++ }
        if (to > last_block[ino] + 0) last_block[ino] = to
    }
    function ceiling(a, b) { return int((a + b - 1) / b) }
    function need_setfattr() { print "setfattr" > needs_file }

    $1 == "S" {
        finish()
        snapshot = $2; folder = $3; started = 1; steps++
        # Rows of a complete first snapshot need not be kept: tar alone unpacks it.
        fresh = steps == 1 && $4 + 0 == $5 + 0
        next
    }
    $1 == "T" { tarball[$2 + 0] = $3; next }
    $1 == "I" {
        ino = $2
        if ($12 == "true") { gone[ino] = 1; if (!fresh) order[++rows] = ino; next }
        if ($3 != "file") kind[ino] = $3
        if ($3 == "directory") times[ino] = seconds($11)
        if (fresh) { if ($3 == "file") sizes[ino] = $7; next }
        order[++rows] = ino
        if (ino in names || ino == root) existed[ino] = 1
        row[ino] = $4 FS $5 FS $6 FS $7 FS $8 FS $9 FS seconds($11)
        next
    }
    $1 == "D" {
        name = decode($5)
        if (name == "" || name == "." || name == ".." || index(name, "/") \
                || ($2 == root && name == ".cbfs"))
            bad("snapshot " snapshot " has a directory entry with an impossible name")
        key = $2 "/" name
        if (fresh) { if ($3 != "-") add_name($3, key); next }
        if (!(key in change)) changes[++change_count] = key
        change[key] = $3
        next
    }
    $1 == "L" { if (!fresh) target[$2] = decode($3); next }
    $1 == "X" {
        name = decode($4)
        if (name == default_acl && kind_of($2) == "directory") {
            if ($3 == "-") delete acl[$2]; else acl[$2] = substr($3, 2)
        }
        if (!fresh) { i = ++xattr_count[$2]; xattr_name[$2, i] = name; xattr_value[$2, i] = $3 }
        next
    }
    $1 == "H" {
        if (!fresh) { i = ++hole_count[$2]; hole_from[$2, i] = $3; hole_to[$2, i] = $4 }
        next
    }
    $1 == "M" {
        if (!($4 + 0 in tarball)) {
            if (fresh) bad("snapshot " snapshot " names a tarball that its manifest does not count")
            if ($3 == "file") lost_file[$2] = 1
            if ($3 != "patch" && $3 != "hardlink" && !($2 in existed)) first_path[$2] = "./" decode($7)
            if ($3 == "patch") { i = ++patch_count[$2]; patch_at[$2, i] = $5; patch_gone[$2, i] = 1 }
            next
        }
        if (!($4 + 0 in used)) { used[$4 + 0] = 1; if ($4 + 0 > last_used) last_used = $4 + 0 }
        members++
        if (fresh) next
        if ($3 == "patch") {
            i = ++patch_count[$2]; patch_at[$2, i] = $5; patch_size[$2, i] = $6
        } else if ($3 == "hardlink") linked["./" decode($7)] = $2
        else if ($3 == "directory" && ($2 in existed)) again[$2] = 1
        else { whole[$2] = 1; first_path[$2] = "./" decode($7) }
        next
    }
    END {
        if (broken) exit
        finish()
        finish_all()
        flush_batch()
    }

    function finish(   i, n, key, ino, old, new, part, j, path, d, first, rest, list, k, top, s) {
        if (!started || broken) return
        emit("step " snapshot)
        if (fresh) {
            n = 0
            for (key in dent) if (kind_of(dent[key]) != "socket") n++
            if (members < n) bad("snapshot " snapshot " has " n " names but " members + 0 " members")
            unpack(); clear(); return
        }

        # Directories that are gone: names in them need no tombstones of their own.
        for (i = 1; i <= change_count; i++) {
            key = changes[i]
            if (key in dent) left[parent_of(key)]++
        }
        rest = 0
        for (ino in gone) if (entries[ino] + 0 > left[ino] + 0) rest = 1
        split("", left)
        if (rest) for (key in dent) if ((parent_of(key) in gone) && !(key in change)) {
            changes[++change_count] = key
            change[key] = "-"
        }

        # A default ACL would be inherited by what is created now: take them off until the end.
        for (ino in acl_on_disk) if (ino in names || ino == root) {
            need_setfattr(); batch("drop_default_acls", inode_path(ino)); stripped[ino] = 1
        }
        split("", acl_on_disk)

        # What leaves which name, what takes which.
        for (i = 1; i <= change_count; i++) {
            key = changes[i]; new = change[key]; old = (key in dent) ? dent[key] : "-"
            if (old "" == new "") continue
            disturbed[parent_of(key)] = 1
            if (old != "-") {
                leaves[key] = 1
                leaving[old] = leaving[old] "//" key
                if (!(old in touched)) { touched[old] = 1; todo[++todo_count] = old }
            }
            if (new != "-") {
                coming[new] = coming[new] "//" key
                if (!(new in touched)) { touched[new] = 1; todo[++todo_count] = new }
            }
        }

        # Names that go. Paths are those of the tree before.
        top = 0
        for (i = 1; i <= todo_count; i++) {
            ino = todo[i]
            if (!(ino in names)) continue
            existed[ino] = 1
            if (!(ino in leaving) || kind_of(ino) == "socket") continue
            n = split(leaving[ino], part, "//") # part[1] is empty
            first = 2
            if (n - 1 == split(names[ino], list, "//") && !(ino in whole) \
                    && ((ino in coming) || kind_of(ino) == "directory")) {
                path = path_of(part[2])
                if (ino in coming) { aside[ino] = 1; k = "mv -fT -- " q(path) " .cbfs/stage/" ino }
                else k = "-" path
                moves[depth, ++move_count[depth]] = k
                if (depth > top) top = depth
                first = 3
            }
            for (j = first; j <= n; j++) batch("rm --", path_of(part[j]))
        }
        for (d = top; d > 0; d--) {
            for (i = 1; i <= move_count[d]; i++)
                if (substr(moves[d, i], 1, 1) != "-") emit(moves[d, i])
            for (i = 1; i <= move_count[d]; i++)
                if (substr(moves[d, i], 1, 1) == "-") batch("rmdir --", substr(moves[d, i], 2))
        }
        split("", moves); split("", move_count)

        # The state after.
        for (i = 1; i <= change_count; i++) {
            key = changes[i]
            if ((key in leaves)) drop_name(dent[key], key)
        }
        for (i = 1; i <= change_count; i++) {
            key = changes[i]
            if (change[key] != "-" && !(key in dent)) add_name(change[key], key)
        }
        forget_paths()

        # Names that come: directories and what was put aside, parents first.
        top = 0
        for (i = 1; i <= todo_count; i++) {
            ino = todo[i]
            if (!(ino in coming)) continue
            k = kind_of(ino)
            n = split(coming[ino], part, "//")
            path = path_of(part[2])
            if (ino in aside) s = "mv -fT -- .cbfs/stage/" ino " " q(path)
            else if (k == "directory" && !(ino in existed)) s = "-" path
            else continue
            moves[depth, ++move_count[depth]] = s
            if (depth > top) top = depth
        }
        for (d = 1; d <= top; d++) {
            for (i = 1; i <= move_count[d]; i++)
                if (substr(moves[d, i], 1, 1) == "-") batch("mkdir --", substr(moves[d, i], 2))
            for (i = 1; i <= move_count[d]; i++)
                if (substr(moves[d, i], 1, 1) != "-") emit(moves[d, i])
        }
        # New inodes without a member: their tarball was collected as garbage.
        for (i = 1; i <= rows; i++) {
            ino = order[i]
            if (!(ino in row) || (ino in existed) || (ino in whole) || !(ino in names)) continue
            k = kind_of(ino); split(row[ino], part, FS)
            path = (ino in first_path) ? first_path[ino] : inode_path(ino)
            first_path[ino] = path
            if (k == "file") {
                if (part[4] != "0" && !(ino in lost_file) && !(ino in patch_count) \
                        && !(ino in hole_count))
                    bad("snapshot " snapshot " does not tell where the contents of " path " are")
                emit("make_file " q(path)); sizes[ino] = 0
            } else if (k == "symlink") emit("ln -sT -- " q(target[ino]) " " q(path))
            else if (k == "fifo") emit("mknod -- " q(path) " p")
            else if (k == "chardevice" || k == "blockdevice") {
                s = part[6] # Linux: minor 8 bits, major 12 bits, minor 12 bits
                emit("mknod -- " q(path) " " (k == "chardevice" ? "c " : "b ") \
                    int(s / 256) % 4096 " " s % 256 + int(s / 1048576) * 256)
            }
        }

        # tar may link to any of these names.
        further_names(0)
        unpack()
        emit("attributes " q(folder "/0000.tar.zst"))

        further_names(1)

        # cp sets special mode bits but never takes them off: do that first, by mode.
        for (i = 1; i <= rows; i++) {
            ino = order[i]; k = kind_of(ino)
            if (!(ino in row) || (ino in whole) || (ino in again)) continue
            if (!(ino in names || ino == root)) continue
            if (k != "file" && k != "directory") continue
            split(row[ino], part, FS)
            n = ++mode_count[part[1]]; modes[part[1], n] = ino
        }
        for (k in mode_count) for (n = 1; n <= mode_count[k]; n++)
            batch("chmod " octal(k) " --", inode_path(modes[k, n]))
        split("", modes); split("", mode_count)

        # Contents and attributes.
        for (i = 1; i <= rows; i++) {
            ino = order[i]
            if (ino in row && (ino in names || ino == root)) update(ino)
        }
        for (ino in row) if ((ino in acl)) acl_on_disk[ino] = 1
        for (ino in gone) if (!(ino in names)) forget_inode(ino)
        for (i = 1; i <= todo_count; i++) if (!(todo[i] in names)) forget_inode(todo[i])
        clear()
    }
    # Hard links: before unpacking of what tar does not unpack, after it of what it does.
    function further_names(unpacked,   i, j, n, ino, part, first, path) {
        if (unpacked)
            for (ino in whole) if (!(ino in touched)) { touched[ino] = 1; todo[++todo_count] = ino }
        for (i = 1; i <= todo_count; i++) {
            ino = todo[i]
            if (unpacked ? !(ino in whole) : (ino in whole)) continue
            if (!(ino in names) || kind_of(ino) == "directory" || kind_of(ino) == "socket") continue
            n = split(names[ino], part, "//")
            if (ino in first_path) {
                first = ""
                for (j = 1; j <= n; j++) {
                    disturbed[parent_of(part[j])] = 1
                    if (path_of(part[j]) == first_path[ino]) first = first_path[ino]
                }
                if (first == "") bad("snapshot " snapshot " has a member " first_path[ino] \
                    " that is no name of inode " substr(ino, 2))
            } else {
                # The names that stayed come first in the list, then those that came, in order.
                first = path_of(part[1])
            }
            for (j = 1; j <= n; j++) {
                path = path_of(part[j])
                if (path == first || linked[path] == ino) continue
                if (!(ino in first_path) && !is_coming(ino, part[j])) continue
                emit("ln -fT -- " q(first) " " q(path))
            }
        }
    }
    function is_coming(ino, key) {
        return (ino in coming) && index(coming[ino] "//", "//" key "//") > 0
    }
    function unpack(   n, line) {
        line = ""
        for (n = 1; n <= last_used; n++) if (n in used) line = line " " q(folder "/" tarball[n])
        if (line != "") emit("unpack " members line)
        if (fresh) for (n in acl) acl_on_disk[n] = 1
    }
    function update(ino,   f, k, path, n, j, to, size, cut) {
        k = kind_of(ino)
        split(row[ino], f, FS) # mode uid gid size min_size rdev mtime
        if (k == "socket") return
        path = inode_path(ino)
        if (k == "file") {
            size = f[4]
            if (ino in whole) find_lost(ino, 0, end_of_file)
            else {
                if (ino in lost_file) {
                    find_lost(ino, 0, end_of_file)
                    if (size + 0 > 0) lose(ino, 0, ceiling(size, block_size) - 1)
                    f[5] = 0
                }
                cut = sizes[ino]
                if (f[5] + 0 < cut + 0) {
                    cut = f[5]
                    emit("truncate -c -s " cut " -- " q(path))
                    if (!(ino in lost_file)) find_lost(ino, ceiling(cut, block_size), end_of_file)
                }
                for (j = 1; j <= hole_count[ino] + 0; j++) {
                    to = hole_to[ino, j]
                    find_lost(ino, ceiling(hole_from[ino, j], block_size), \
                        to + 0 >= size + 0 ? end_of_file : int(to / block_size) - 1)
                    if (to + 0 > cut + 0) to = cut
                    if (to + 0 > hole_from[ino, j] + 0)
                        emit("zero " hole_from[ino, j] " " decimal(to - hole_from[ino, j]) " " q(path))
                }
                if (cut + 0 != size + 0) emit("truncate -c -s " size " -- " q(path))
            }
            for (j = 1; j <= patch_count[ino] + 0; j++) {
                n = int(patch_at[ino, j] / block_size)
                if ((ino, j) in patch_gone) { lose(ino, n, n); continue }
                emit("patch " substr(ino, 2) " " patch_at[ino, j] " " q(path))
                find_lost(ino, n, n + ceiling(patch_size[ino, j], block_size) - 1)
            }
            sizes[ino] = size
            if (size + 0 == 0) find_lost(ino, 0, end_of_file)
            else find_lost(ino, ceiling(size, block_size), end_of_file)
        }
        if (ino in whole) return
        if (k == "directory") disturbed[ino] = 1
        for (j = 1; j <= xattr_count[ino] + 0; j++) if (xattr_value[ino, j] == "-") {
            need_setfattr()
            emit("drop_xattr " q(xattr_name[ino, j]) " " q(path))
        }
        if (ino in again) return # tar has set the rest
        # The member in 0000.tar.zst has it all, but cp would follow a symlink and open a fifo.
        if (k == "file" || k == "directory") {
            emit("if has_attributes " substr(ino, 2) "; then copy_attributes " substr(ino, 2) \
                " " q(path) "; else")
        }
        emit("chown -h -- " f[2] ":" f[3] " " q(path))
        for (j = 1; j <= xattr_count[ino] + 0; j++) if (xattr_value[ino, j] != "-") {
            if (k != "file" && k != "directory") need_setfattr()
            emit("set_xattr " q(xattr_name[ino, j]) " " q(substr(xattr_value[ino, j], 2)) " " q(path))
        }
        if (k != "symlink") emit("chmod " octal(f[1]) " -- " q(path))
        emit("set_time " f[7] " " q(path))
        if (k == "file" || k == "directory") emit("fi")
    }
    # Five digits: chmod would otherwise keep the setgid bit of a directory.
    function octal(mode) { return sprintf("%05o", mode) }
    function decimal(n) { return sprintf("%.0f", n) }
    function clear() {
        split("", tarball); split("", used); last_used = 0; members = 0
        split("", gone); split("", order); rows = 0; split("", row)
        split("", change); split("", changes); change_count = 0
        split("", target); split("", xattr_count); split("", xattr_name); split("", xattr_value)
        split("", hole_count); split("", hole_from); split("", hole_to)
        split("", patch_count); split("", patch_at); split("", patch_size); split("", patch_gone)
        split("", lost_file); split("", linked); split("", whole); split("", again)
        split("", first_path)
        split("", leaves); split("", leaving); split("", coming)
        split("", touched); split("", todo); todo_count = 0; split("", existed); split("", aside)
        split("", moves); split("", move_count)
        forget_paths()
    }
    function finish_all(   ino, n, part, j) {
        if (broken) return
        emit("step_times")
        for (ino in losses) if (ino in names) {
            n = split(names[ino], part, "//")
            for (j = 1; j <= n; j++) {
                print path_of(part[j]) > lost_file_list
                batch("rm --", path_of(part[j]))
                disturbed[parent_of(part[j])] = 1
            }
        }
        for (ino in kind) if (kind[ino] == "socket" && (ino in names)) {
            n = split(names[ino], part, "//")
            for (j = 1; j <= n; j++) emit("skip_socket " q(path_of(part[j])))
        }
        for (ino in acl) if ((ino in stripped) && (ino in names || ino == root))
            emit("set_xattr " default_acl " " q(acl[ino]) " " q(inode_path(ino)))
        emit("clean_up")
        for (ino in disturbed) if ((ino in times) && (ino in names || ino == root)) {
            emit("set_time " times[ino] " " q(inode_path(ino)))
        }
    }'

# ---------------------------------------------------------------- commands of the plan

work= # set once there is something to clean up
created=
running=
findings=0

on_exit() {
    code=$?
    trap - EXIT
    if [ -n "$running" ]; then
        [ "$code" -eq 0 ] || say "failed; $out is INCOMPLETE: remove it and start over"
    elif [ -n "$work" ]; then
        rm -rf -- "$work"
        [ -z "$created" ] || rmdir -- "$out" 2>/dev/null || :
    fi
    exit "$code"
}
step() {
    rm -rf -- .cbfs/attributes .cbfs/patch
    say "snapshot $1 of $last_number"
}
step_times() {
    rm -rf -- .cbfs/attributes .cbfs/patch
    say "times of directories"
}
clean_up() {
    cp .cbfs/findings "$kept_findings"
    running=last
    cd /
    # The plan is being read from there: the open file stays readable.
    rm -rf -- "$out/.cbfs"
    cd -- "$out"
}
# Unpack tarballs into the current directory. $tar_arguments has further options.
untar() { # OBJECT...
    rm -f .cbfs/zstd.failed
    tar_code=0
    # shellcheck disable=SC2086 # options without blanks
    { (cd -- "$objects" && exec zstd -dcq -- "$@") || echo $? >.cbfs/zstd.failed; } |
        tar -xpivf - --xattrs --xattrs-include='*' --same-owner --numeric-owner \
            --delay-directory-restore --quoting-style=escape --warning=no-unknown-keyword --warning=no-timestamp \
            $tar_arguments >.cbfs/members 2>.cbfs/tar.messages || tar_code=$?
    [ ! -s .cbfs/tar.messages ] || cat .cbfs/tar.messages >&2
    # tar only warns when the disk refuses an extended attribute.
    if grep -q 'xattr' .cbfs/tar.messages; then echo attributes >>.cbfs/findings; fi
    if [ "$tar_code" -ne 0 ]; then
        grep -Eq 'Unexpected EOF|not look like a tar|Skipping to next|Malformed' \
            .cbfs/tar.messages && damaged "$@"
        [ -f .cbfs/zstd.failed ] && [ "$(cat .cbfs/zstd.failed)" -lt 128 ] && damaged "$@"
        die 1 "tar could not unpack $*"
    fi
    [ ! -f .cbfs/zstd.failed ] || damaged "$@"
}
# Stop, and name those of the objects that are damaged.
damaged() { # OBJECT...
    for object; do
        zstd -tq -- "$objects/$object" 2>/dev/null || die 14 "damaged: $object"
    done
    die 14 "damaged: one of $*"
}
unpack() { # MEMBERS OBJECT...
    expected=$1
    shift
    tar_arguments=
    untar "$@"
    got=$(wc -l <.cbfs/members)
    [ "$got" -ge "$expected" ] || die 14 "damaged: $got members instead of $expected in $*"
}
attributes() { # OBJECT
    tar_arguments='--exclude=.cbfs/snapshot.json --exclude=.cbfs/changes.jsonl'
    untar "$1"
}
has_attributes() { [ -e ".cbfs/attributes/$1" ]; }
copy_attributes() { # INO PATH
    cp -r --attributes-only --preserve=mode,ownership,timestamps,xattr -T -- \
        ".cbfs/attributes/$1" "$2"
}
make_file() { : >"$1"; }
set_time() { touch -h -c -m -d "@$1" -- "$2"; }
set_xattr() { # NAME BASE64 PATH
    if [ -n "$2" ]; then
        setfattr -h -n "$1" -v "0s$2" -- "$3"
    else
        setfattr -h -n "$1" -- "$3"
    fi
}
drop_xattr() { # NAME PATH
    message=$(setfattr -h -x "$1" -- "$2" 2>&1) && return
    case $message in
    *'No such attribute'* | *'No data available'*) ;;
    *) die 1 "$message" ;;
    esac
}
drop_default_acls() {
    for path; do drop_xattr system.posix_acl_default "$path"; done
}
zero() { # FROM LENGTH PATH
    fallocate -p -o "$1" -l "$2" -- "$3" 2>/dev/null && return
    dd if=/dev/zero of="$3" bs=1M seek="$1" count="$2" oflag=seek_bytes iflag=count_bytes \
        conv=notrunc status=none
}
patch() { # INO OFFSET PATH
    dd if=".cbfs/patch/$1/$2" of="$3" bs=1M seek="$2" oflag=seek_bytes conv=notrunc status=none
}
skip_socket() {
    say "left out: socket $1"
}

# ---------------------------------------------------------------- arguments

keep_going=
case ${1-} in
--keep-going)
    keep_going=1
    shift
    ;;
--) shift ;;
-*) usage ;;
esac
[ $# -eq 3 ] && [ -n "$1" ] && [ -n "$2" ] && [ -n "$3" ] || usage
case $2 in
*@*) fs=${2%%@*} want=${2#*@} ;;
*) fs=$2 want=latest ;;
esac
[ -n "$fs" ] && [ -n "$want" ] || usage
for tool in tar zstd jq awk sed xargs find; do
    command -v "$tool" >/dev/null 2>&1 || die 1 "$tool is needed; install it (apt-get install $tool)"
done
tar --version | grep -q 'GNU tar' || die 1 "GNU tar is needed"
[ "$(id -u)" -eq 0 ] || die 1 "run this as root: only root can restore owners, devices and attributes"
[ -d "$1" ] || die 10 "there is no directory $1"
bucket=$(cd -- "$1" && pwd -P)

# ---------------------------------------------------------------- the file system

candidates='' count=0 handle=''
for config in "$bucket"/*.config; do
    [ -f "$config" ] || continue
    name=${config##*/}
    name=${name%.config}
    uuid=$(expr "x$name" : 'x.*-\([0-9a-f]\{8\}-[0-9a-f]\{4\}-[0-9a-f]\{4\}-[0-9a-f]\{4\}-[0-9a-f]\{12\}\)$') ||
        uuid=$(expr "x$name" : 'x.*-\([0-9a-f]\{32\}\)$') || continue
    tag=${name%"-$uuid"}
    if [ "$name" = "$fs" ]; then
        handle=$name
        break
    fi
    case $uuid in
    "$fs"*) ;;
    *) [ "$tag" = "$fs" ] || continue ;;
    esac
    count=$((count + 1))
    candidates="$candidates
  $name"
done
if [ -z "$handle" ]; then
    [ "$count" -gt 0 ] || die 10 "no file system $fs in $bucket"
    [ "$count" -eq 1 ] || die 11 "$fs is ambiguous; it may be one of:$candidates"
    handle=${candidates##* }
fi
objects=$bucket/$handle
block_size=$(jq -er '.block_size' "$bucket/$handle.config") ||
    die 14 "damaged: $handle.config"
[ -d "$objects/m" ] || die 10 "file system $handle has no snapshot"

# ---------------------------------------------------------------- OUT_DIR and work files

if [ -e "$3" ] || [ -h "$3" ]; then
    [ -d "$3" ] || die 11 "$3 is not a directory"
    [ -z "$(ls -A -- "$3")" ] || die 11 "$3 is not empty"
else
    mkdir -- "$3"
    created=1
fi
out=$(cd -- "$3" && pwd -P)
trap on_exit EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$out/.cbfs
mkdir -m 0700 -- "$work" "$work/stage"
: >"$work/findings"

# ---------------------------------------------------------------- the chain of snapshots

for base in "$objects"/epochs/*.base.json; do
    [ -f "$base" ] || continue
    jq -r '["B", .epoch, .base.number // "", .base.epoch // ""] | @tsv' "$base" ||
        die 14 "damaged: $base"
done >"$work/bases"
if ! find "$objects/m" -name '*.json' -exec jq -r "$manifest_to_lines" {} + \
    >"$work/manifests" 2>/dev/null; then
    # One is unreadable, which matters only if the chain needs it: one by one.
    for file in "$objects"/m/*.json; do
        jq -r "$manifest_to_lines" "$file" 2>/dev/null || say "unreadable manifest: $file"
    done >"$work/manifests"
fi
awk -v want="$want" "$choose_chain" "$work/bases" "$work/manifests" >"$work/chain"
tab=$(printf '\t')
IFS=$tab read -r mark code text <"$work/chain" || die 10 "file system $handle has no snapshot"
[ "$mark" = C ] || die "$code" "$handle: $text"

# Fields may be empty, and tabs count as blanks in IFS: another separator.
tr '\t' '|' <"$work/chain" >"$work/chain.lines"
last_number=
while IFS='|' read -r mark number epoch format incompat tarballs meta; do
    [ "$format" -le 1 ] 2>/dev/null ||
        die 13 "snapshot $number has format $format; this script reads format 1"
    [ -z "$incompat" ] || die 13 "snapshot $number needs what this script does not know: $incompat"
    last_number=$number
    printf '%010d-e%s.json\n' "$number" "$epoch"
done <"$work/chain.lines" >"$work/chain.names"
say "$handle: snapshot $last_number, from $(wc -l <"$work/chain.names") manifests"

# ---------------------------------------------------------------- check the objects

# Objects named by the chain: is it read here, key, size, BLAKE3.
awk -F '\t' -v wanted="$(tail -n 1 "$work/chain.names")" '
    NR == FNR { chain[$1] = 1; next }
    $2 == "O" && ($1 in chain) && !($4 in seen) {
        seen[$4] = 1
        print ($3 == "needed" ? "needed" : $1 == wanted ? "present" : "other"), $4, $5, $6
    }' "$work/chain.names" "$work/manifests" >"$work/objects"

# Data tarballs stand in the TOCs; they can only be asked with sqlite3.
if command -v sqlite3 >/dev/null 2>&1; then
    awk '$2 ~ /\/toc\.sqlite\.zst$/ { print $2 }' "$work/objects" |
        while read -r key; do
            [ -f "$objects/$key" ] || continue
            zstd -dcq -- "$objects/$key" >"$work/toc.sqlite" 2>/dev/null || continue
            sqlite3 -separator ' ' "$work/toc.sqlite" \
                "SELECT 'other', key, size, blake3 FROM tarball" 2>/dev/null || :
        done >"$work/tarballs"
    cat "$work/tarballs" >>"$work/objects"
fi
(
    cd -- "$objects"
    awk '{ print $2 }' "$work/objects" | xargs -r stat -c '%n %s' -- 2>/dev/null || :
) >"$work/sizes"
if command -v b3sum >/dev/null 2>&1; then
    (
        cd -- "$objects"
        awk '{ print $1 }' "$work/sizes" | xargs -r b3sum -- || :
    ) >"$work/sums"
else
    : >"$work/sums"
fi
awk '
    FILENAME ~ /sizes$/ { size[$1] = $2; next }
    FILENAME ~ /sums$/ { sum[$2] = $1; next }
    !($2 in size) { if ($1 != "other") print $1, "missing:", $2; next }
    size[$2] != $3 { print $1, "damaged:", $2, "has", size[$2], "bytes instead of", $3; next }
    ($2 in sum) && sum[$2] != $4 { print $1, "damaged:", $2, "has other contents than were written" }
    ' "$work/sizes" "$work/sums" "$work/objects" >"$work/damage"
while read -r use text; do
    case $use$text in
    needed* | *.tar.zst*)
        say "$text"
        touch "$work/fatal"
        ;;
    *)
        say "$text (not needed to recover the tree)"
        echo objects >>"$work/findings"
        ;;
    esac
done <"$work/damage"
[ ! -f "$work/fatal" ] ||
    die 14 "damage found; what can be done: docs/recovery.md, When objects are damaged or missing"

# ---------------------------------------------------------------- plan

# Everything the planner reads: for each snapshot S (number, folder, tarballs expected and found),
# T for each tarball, then its rows.
planner_input() {
    while IFS='|' read -r mark number epoch format incompat tarballs meta; do
        [ -n "$meta" ] || continue # nothing changed
        folder=${meta%/*}
        found=0 list=''
        for file in "$objects/$folder"/[0-9][0-9][0-9][0-9]*.tar.zst; do
            file=${file##*/}
            [ "$file" != 0000.tar.zst ] && [ -f "$objects/$folder/$file" ] || continue
            found=$((found + 1))
            list="${list}T$tab${file%%.*}$tab$file
"
        done
        printf 'S\t%s\t%s\t%s\t%s\n%s' "$number" "$folder" "$tarballs" "$found" "$list"
        { zstd -dcq -- "$objects/$meta" || echo "$meta" >>"$work/failed"; } |
            { tar -xiOf - --warning=no-unknown-keyword .cbfs/changes.jsonl || echo "$meta" >>"$work/failed"; } |
            { sed -E "$quote_numbers" || echo "$meta" >>"$work/failed"; } |
            { jq -r "$rows_to_lines" || echo "$meta" >>"$work/failed"; }
    done <"$work/chain.lines"
}
planner_input |
    awk -v block_size="$block_size" -v damage_file="$work/impossible" -v needs_file="$work/needs" \
        -v lost_file_list="$work/lost" "$plan_changes" >"$work/plan" || die 1 "planning failed"
[ ! -f "$work/failed" ] || die 14 "damaged: $(head -n 1 "$work/failed")"
[ ! -f "$work/impossible" ] || die 14 "$(cat "$work/impossible")"
if [ -f "$work/needs" ] && ! command -v setfattr >/dev/null 2>&1; then
    die 1 "setfattr is needed here; install it (apt-get install attr)"
fi
if [ -f "$work/lost" ]; then
    say "the contents of these files are lost (their tarballs are missing):"
    head -n 100 "$work/lost" >&2
    [ "$(wc -l <"$work/lost")" -le 100 ] || say "and $(($(wc -l <"$work/lost") - 100)) more"
    [ -n "$keep_going" ] || die 14 "nothing was restored; --keep-going leaves them out"
    echo lost >>"$work/findings"
fi

# ---------------------------------------------------------------- run

kept_findings=$(mktemp)
cd -- "$out"
running=1
exec </dev/null
. "$work/plan"
running=
work=
if grep -q attributes "$kept_findings"; then findings=1; fi
if grep -Eq 'objects|lost' "$kept_findings"; then findings=14; fi
rm -f -- "$kept_findings"
case $findings in
0) say "done: $out is snapshot $last_number of $handle" ;;
1) say "done, but the disk of $out refused some extended attributes" ;;
14) say "done, but damage was found: see above" ;;
esac
exit "$findings"
