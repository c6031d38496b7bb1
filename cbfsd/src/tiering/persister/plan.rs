//! What becomes of each changed inode, and the path names of those that become members.
//!
//! One scan over the frozen inodes in the order of their numbers, joined with inline data and
//! names, which all lie in that order: no look-ups for what the frozen layer knows. Path names are
//! resolved only for members under their path; patches and attributes go by inode number.

use super::frozen::Frozen;
use super::{Job, MountedInstance, Observer, cancelled};
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::Ino;
use cbfs_core::inode::FileKind;
use cbfs_core::layers::{Layer, rows};
use rusqlite::{Row, params};
use std::collections::HashMap;
use std::sync::Arc;

/// No path has more directories than this: a deeper one is a loop.
const MAX_DEPTH: usize = 1 << 16;

/// A member under its path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) ino: Ino,
    name_at: usize,
    /// Index into [`Directories`].
    pub(super) dir: u32,
    name_length: u16,
    /// The inode has further names, which are items too.
    pub(super) many_names: bool,
}

/// The work list.
pub(super) struct Plan {
    /// Files stored whole, symlinks and special files, one per name: directories in the order of
    /// their paths, within each by inode number.
    items: Vec<Item>,
    names: Vec<u8>,
    directories: Directories,
    /// Directories that are members, parents first.
    pub(super) directory_items: Vec<(u32, Ino)>,
    /// Files of which single blocks are stored, by number.
    pub(super) patched: Vec<Ino>,
    /// Inodes that have no member under their path, by number.
    pub(super) attributes: Vec<Ino>,
    /// Inodes without a name, by number: gone, as far as the snapshot goes.
    pub(super) orphans: Vec<Ino>,
    /// From this number on all there is of an inode is in the frozen layer.
    first_new: Ino,
    /// Inodes created or changed.
    pub(super) changed: u64,
    /// Inodes removed.
    pub(super) removed: u64,
    /// Files with data to store.
    pub(super) files: u64,
    /// Bytes of it (blocks count whole).
    pub(super) bytes: u64,
}

/// A frozen inode, with the names that are frozen with it.
struct Candidate {
    ino: Ino,
    kind: FileKind,
    nlink: u64,
    size: u64,
    min_size: u64,
    /// Bytes of inline data, when the content is inline.
    inline: Option<u64>,
    names: Vec<(Ino, Vec<u8>)>,
}

const CANDIDATES: &str =
    "SELECT i.ino, i.kind, i.nlink, i.size, i.min_size, length(l.data), d.parent, d.name
     FROM inode i LEFT JOIN inline l ON l.ino = i.ino LEFT JOIN dentry d ON d.ino = i.ino
     WHERE i.gone = 0 ORDER BY i.ino";

impl Plan {
    /// Look through the frozen layer.
    pub(super) fn collect(job: &Job<'_>, frozen: &Frozen, observer: &dyn Observer) -> Result<Plan> {
        let mut collector = Collector {
            frozen,
            at_cut: job.instance.at_cut(),
            first: job.parent.is_none(),
            block_size: job.block_size,
            plan: Plan {
                items: Vec::new(),
                names: Vec::new(),
                directories: Directories::default(),
                directory_items: Vec::new(),
                patched: Vec::new(),
                attributes: Vec::new(),
                orphans: Vec::new(),
                first_new: match job.parent {
                    None => Ino(0),
                    Some(_) => job.instance.first_new_inode()?,
                },
                changed: 0,
                removed: 0,
                files: 0,
                bytes: 0,
            },
        };
        let mut statement = frozen.conn.prepare(CANDIDATES)?;
        let mut found = statement.query([])?;
        let mut current: Option<Candidate> = None;
        while let Some(row) = found.next()? {
            let ino = Ino(row.get::<_, i64>(0)? as u64);
            if current.as_ref().is_none_or(|c| c.ino != ino)
                && let Some(complete) = current.replace(Candidate::from_row(ino, row)?)
            {
                if observer.cancelled() {
                    return Err(cancelled());
                }
                collector.add(complete)?;
            }
            if let (Some(candidate), Some(parent)) = (&mut current, row.get::<_, Option<i64>>(6)?) {
                candidate.names.push((Ino(parent as u64), row.get(7)?));
            }
        }
        if let Some(last) = current {
            collector.add(last)?;
        }
        let gone: i64 =
            frozen
                .conn
                .query_row("SELECT count(*) FROM inode WHERE gone <> 0", [], |row| {
                    row.get(0)
                })?;
        let mut plan = collector.plan;
        plan.removed = gone as u64 + plan.orphans.len() as u64;
        plan.sort();
        Ok(plan)
    }

    /// The members under their paths, in the order in which they are to be stored.
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The path of an item.
    pub(super) fn path(&self, item: &Item) -> Vec<u8> {
        [self.directories.path(item.dir), self.name(item)].concat()
    }

    /// The path of a directory, with its final `/`; `./` for the root.
    pub(super) fn directory_path(&self, dir: u32) -> &[u8] {
        match self.directories.path(dir) {
            b"" => b"./",
            path => path,
        }
    }

    /// Hash of the work list, hex: an attempt is only continued along the list it began with.
    pub(super) fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for item in &self.items {
            put(&item.ino.0.to_le_bytes());
            put(self.directories.path(item.dir));
            put(self.name(item));
        }
        put(b"patched");
        for ino in &self.patched {
            put(&ino.0.to_le_bytes());
        }
        put(b"directories");
        for (dir, ino) in &self.directory_items {
            put(&ino.0.to_le_bytes());
            put(self.directories.path(*dir));
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Extended attributes of an inode at the cut, for its member: all of them, also unchanged ones.
    pub(super) fn xattrs(
        &self,
        frozen: &Frozen,
        instance: &dyn MountedInstance,
        ino: Ino,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let all = match (ino >= self.first_new, frozen.has_xattrs()) {
            (true, false) => return Ok(Vec::new()),
            (true, true) => rows::xattrs(&frozen.conn, ino)?,
            (false, _) => instance.at_cut().xattrs(ino)?,
        };
        Ok(all
            .into_iter()
            .filter_map(|x| Some((x.name, x.value?)))
            .collect())
    }

    /// Free what only the data tarballs needed.
    pub(super) fn forget_members(&mut self) {
        (self.items, self.names) = (Vec::new(), Vec::new());
        self.directories = Directories::default();
        self.directory_items = Vec::new();
    }

    fn name(&self, item: &Item) -> &[u8] {
        &self.names[item.name_at..item.name_at + usize::from(item.name_length)]
    }

    fn sort(&mut self) {
        let ranks = self.directories.ranks();
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable_by(|a, b| {
            let rank = |item: &Item| (ranks[item.dir as usize], item.ino);
            rank(a)
                .cmp(&rank(b))
                .then_with(|| self.name(a).cmp(self.name(b)))
        });
        self.items = items;
        self.directory_items
            .sort_unstable_by_key(|(dir, _)| ranks[*dir as usize]);
    }
}

impl Candidate {
    fn from_row(ino: Ino, row: &Row<'_>) -> Result<Candidate> {
        let number = |index| -> Result<u64> { Ok(row.get::<_, i64>(index)? as u64) };
        let code = number(1)?;
        let kind = u32::try_from(code).ok().and_then(FileKind::from_code);
        Ok(Candidate {
            ino,
            kind: kind.ok_or_else(|| {
                Error::damage(format!(
                    "inode {ino} of the frozen layer has the kind {code}"
                ))
            })?,
            nlink: number(2)?,
            size: number(3)?,
            min_size: number(4)?,
            inline: row.get::<_, Option<i64>>(5)?.map(|length| length as u64),
            names: Vec::new(),
        })
    }
}

struct Collector<'a> {
    frozen: &'a Frozen,
    at_cut: Arc<dyn Layer>,
    first: bool,
    block_size: u64,
    plan: Plan,
}

impl Collector<'_> {
    fn add(&mut self, candidate: Candidate) -> Result<()> {
        let ino = candidate.ino;
        if candidate.nlink == 0 && candidate.names.is_empty() && ino != Ino::ROOT {
            self.plan.orphans.push(ino);
            return Ok(());
        }
        self.plan.changed += 1;
        match candidate.kind {
            FileKind::Directory => {
                // One that only changed in place goes by its number: it has its path already.
                if !candidate.names.is_empty() || (ino == Ino::ROOT && self.first) {
                    let dir = self.directory(ino)?;
                    self.plan.directory_items.push((dir, ino));
                } else {
                    self.plan.attributes.push(ino);
                }
            }
            FileKind::File => self.add_file(candidate)?,
            // tar has no sockets: rows and attributes are all there is of them.
            FileKind::Socket => self.plan.attributes.push(ino),
            FileKind::Symlink | FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice => {
                if candidate.names.is_empty() {
                    self.plan.attributes.push(ino);
                } else {
                    self.add_items(candidate)?;
                }
            }
        }
        Ok(())
    }

    fn add_file(&mut self, candidate: Candidate) -> Result<()> {
        let Candidate {
            ino,
            size,
            min_size,
            inline,
            ..
        } = candidate;
        if let Some(length) = inline {
            self.plan.files += 1;
            self.plan.bytes += length;
            return self.add_items(candidate);
        }
        let blocks = size.div_ceil(self.block_size);
        let written = if size == 0 {
            0
        } else {
            self.frozen.count_blocks(ino, blocks)?
        };
        if written > 0 {
            self.plan.files += 1;
            self.plan.bytes += (written * self.block_size).min(size);
        }
        // With a min_size of 0 nothing below shows through: what has no row here is zero.
        if min_size == 0 || written == blocks {
            return self.add_items(candidate);
        }
        if written > 0 {
            self.plan.patched.push(ino);
        }
        self.plan.attributes.push(ino);
        Ok(())
    }

    fn add_items(&mut self, candidate: Candidate) -> Result<()> {
        let ino = candidate.ino;
        let complete =
            !candidate.names.is_empty() && candidate.names.len() as u64 >= candidate.nlink;
        let names = if complete {
            candidate.names
        } else {
            let all = self.at_cut.names_of(ino)?;
            all.into_iter()
                .filter(|d| d.ino == Some(ino))
                .map(|d| (d.parent, d.name))
                .collect()
        };
        if names.is_empty() {
            tracing::warn!(%ino, nlink = candidate.nlink, "an inode without a name is left out");
            self.plan.changed -= 1;
            self.plan.orphans.push(ino);
            return Ok(());
        }
        let many_names = names.len() > 1;
        for (parent, name) in names {
            let name_length = u16::try_from(name.len())
                .map_err(|_| Error::damage(format!("a name of inode {ino} is too long")))?;
            let dir = self.directory(parent)?;
            let name_at = self.plan.names.len();
            self.plan.names.extend_from_slice(&name);
            self.plan.items.push(Item {
                ino,
                name_at,
                dir,
                name_length,
                many_names,
            });
        }
        Ok(())
    }

    fn directory(&mut self, ino: Ino) -> Result<u32> {
        let (frozen, at_cut) = (self.frozen, &self.at_cut);
        self.plan.directories.resolve(ino, |ino| {
            let mut statement = frozen
                .conn
                .prepare_cached("SELECT parent, name FROM dentry WHERE ino = ?1")?;
            let mut found = statement.query(params![ino.0 as i64])?;
            if let Some(row) = found.next()? {
                return Ok(Some((Ino(row.get::<_, i64>(0)? as u64), row.get(1)?)));
            }
            let names = at_cut.names_of(ino)?;
            let name = names.into_iter().find(|d| d.ino == Some(ino));
            Ok(name.map(|d| (d.parent, d.name)))
        })
    }
}

/// The paths of directories, each resolved once. The root's is empty, others end in `/`.
#[derive(Default)]
struct Directories {
    known: HashMap<Ino, u32>,
    paths: Vec<Box<[u8]>>,
}

impl Directories {
    fn path(&self, dir: u32) -> &[u8] {
        &self.paths[dir as usize]
    }

    /// The index of a directory. `name_of` tells parent and name of one.
    fn resolve(
        &mut self,
        ino: Ino,
        name_of: impl Fn(Ino) -> Result<Option<(Ino, Vec<u8>)>>,
    ) -> Result<u32> {
        let mut climbed = Vec::new();
        let mut at = ino;
        let mut dir = loop {
            if let Some(dir) = self.known.get(&at) {
                break *dir;
            }
            if at == Ino::ROOT {
                break self.insert(at, Box::default())?;
            }
            let (parent, name) = name_of(at)?.ok_or_else(|| {
                Error::damage(format!("directory {at} has entries but no name at the cut"))
            })?;
            climbed.push((at, name));
            if climbed.len() > MAX_DEPTH {
                return Err(Error::damage(format!(
                    "directory {ino} is not below the root"
                )));
            }
            at = parent;
        };
        for (ino, name) in climbed.into_iter().rev() {
            let path = [self.path(dir), &name, b"/".as_slice()].concat();
            dir = self.insert(ino, path.into())?;
        }
        Ok(dir)
    }

    fn insert(&mut self, ino: Ino, path: Box<[u8]>) -> Result<u32> {
        let dir = u32::try_from(self.paths.len())
            .map_err(|_| Error::failed("more directories changed than one snapshot can hold"))?;
        self.paths.push(path);
        self.known.insert(ino, dir);
        Ok(dir)
    }

    /// The place of each directory in the order of the paths.
    fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.paths.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.path(*a).cmp(self.path(*b)));
        let mut ranks = vec![0; order.len()];
        for (rank, dir) in order.into_iter().enumerate() {
            ranks[dir as usize] = rank as u32;
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::layers::schema::KVS_TABLES;
    use rusqlite::Connection;

    #[test]
    fn the_scan_of_candidates_sorts_nothing_and_looks_names_up_by_index() {
        let conn = Connection::open_in_memory().unwrap();
        rows::create_tables(&conn).unwrap();
        conn.execute_batch(KVS_TABLES).unwrap();
        let mut statement = conn
            .prepare(&format!("EXPLAIN QUERY PLAN {CANDIDATES}"))
            .unwrap();
        let lines = statement
            .query_map([], |row| row.get::<_, String>(3))
            .unwrap();
        let plan = lines
            .map(|line| line.unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        assert!(plan.contains("USING COVERING INDEX dentry_ino"), "{plan}");
        assert!(
            plan.contains("SEARCH l USING INTEGER PRIMARY KEY"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[test]
    fn a_loop_of_directories_is_damage_not_a_hang() {
        let mut directories = Directories::default();
        let looped = directories.resolve(Ino(5), |ino| Ok(Some((Ino(11 - ino.0), b"x".to_vec()))));
        assert_eq!(looped.unwrap_err().kind(), cbfs_core::ErrorKind::Damage);
    }
}
