//! Path names of inodes: climbing from names to the root.

use super::Layer;
use crate::error::{Error, Result};
use crate::ids::Ino;
use std::collections::HashMap;

/// No path has more directories than this: a deeper one is a loop.
const MAX_DEPTH: usize = 1 << 16;

/// Resolves inodes to paths in one layer (mostly a stack). Paths are relative, without a leading
/// or final `/`; the root's is empty. Remembers directories.
pub struct Paths<'a> {
    layer: &'a dyn Layer,
    directories: HashMap<Ino, Option<Vec<u8>>>,
}

impl std::fmt::Debug for Paths<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}

impl<'a> Paths<'a> {
    /// Paths in `layer`.
    pub fn new(layer: &'a dyn Layer) -> Paths<'a> {
        Paths {
            layer,
            directories: HashMap::from([(Ino::ROOT, Some(Vec::new()))]),
        }
    }

    /// The path of a directory; `None` when it has no name here.
    ///
    /// # Errors
    /// Those of the layer; [`crate::ErrorKind::Damage`] when directories form a loop.
    pub fn directory(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let mut climbed = Vec::new();
        let mut at = ino;
        let mut path = loop {
            if let Some(known) = self.directories.get(&at) {
                break known.clone();
            }
            let names = self.layer.names_of(at)?;
            let Some(name) = names.into_iter().find(|row| row.ino == Some(at)) else {
                self.directories.insert(at, None);
                break None;
            };
            climbed.push((at, name.name));
            if climbed.len() > MAX_DEPTH {
                let text = format!("directory {ino} is not below the root");
                return Err(Error::damage(text));
            }
            at = name.parent;
        };
        for (ino, name) in climbed.into_iter().rev() {
            path = path.map(|path| join(&path, &name));
            self.directories.insert(ino, path.clone());
        }
        Ok(path)
    }

    /// The path of one name in a directory; `None` when the directory has no path.
    pub fn name(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.directory(parent)?.map(|path| join(&path, name)))
    }

    /// All paths of an inode, sorted; none when it has no name here.
    pub fn of(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        if ino == Ino::ROOT {
            return Ok(vec![Vec::new()]);
        }
        let mut paths = Vec::new();
        for row in self.layer.names_of(ino)? {
            if row.ino == Some(ino) {
                paths.extend(self.name(row.parent, &row.name)?);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// A name below a directory's path.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/".as_slice(), name].concat()
    }
}
