//! POSIX ACLs as the kernel leaves them to a FUSE server: inheritance at creation, the mask at
//! chmod, the mode at setfacl (POSIX.1e draft 17; acl(5); Linux fs/posix_acl.c). Permission checks are
//! the kernel's.

/// Extended attribute that holds the access ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Extended attribute that holds a directory's default ACL.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An ACL in its attribute form: `u32` version 2, then entries of `u16` tag, `u16` permission,
/// `u32` id, all little endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Parse; `None` for anything the kernel would not have written.
    pub(super) fn parse(bytes: &[u8]) -> Option<Acl> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
            return None;
        }
        let entries = rest.chunks_exact(8).map(|e| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            perm: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        });
        let acl = Acl(entries.collect());
        let has = |tag| acl.0.iter().any(|e| e.tag == tag);
        (has(USER_OBJ) && has(GROUP_OBJ) && has(OTHER)).then_some(acl)
    }

    /// The attribute form.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.perm.to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out
    }

    /// Whether the mode says all of it: then no attribute is kept.
    fn is_minimal(&self) -> bool {
        self.0
            .iter()
            .all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm & 7)
    }

    /// The permission bits of a mode that stand for this ACL: the group bits are the mask's.
    fn mode_bits(&self) -> u16 {
        let of = |tag| self.perm(tag).unwrap_or(0);
        let group = self.perm(MASK).unwrap_or_else(|| of(GROUP_OBJ));
        (of(USER_OBJ) << 6) | (group << 3) | of(OTHER)
    }

    /// chmod: what the mode says of owner, mask (or group) and others goes into the ACL.
    pub(super) fn with_mode(mut self, mode: u16) -> Acl {
        let masked = self.perm(MASK).is_some();
        for e in &mut self.0 {
            match e.tag {
                USER_OBJ => e.perm = (mode >> 6) & 7,
                MASK => e.perm = (mode >> 3) & 7,
                GROUP_OBJ if !masked => e.perm = (mode >> 3) & 7,
                OTHER => e.perm = mode & 7,
                _ => {}
            }
        }
        self
    }

    /// Creation below a directory with this default ACL: permissions become the intersection with
    /// what the creator asked for (the umask plays no part). Answers the mode bits and the access
    /// ACL to store, if the mode alone does not say it.
    pub(super) fn inherit(mut self, mode: u16) -> (u16, Option<Acl>) {
        let masked = self.perm(MASK).is_some();
        for e in &mut self.0 {
            match e.tag {
                USER_OBJ => e.perm &= (mode >> 6) & 7,
                MASK => e.perm &= (mode >> 3) & 7,
                GROUP_OBJ if !masked => e.perm &= (mode >> 3) & 7,
                OTHER => e.perm &= mode & 7,
                _ => {}
            }
        }
        let bits = (mode & !0o777) | self.mode_bits();
        let keep = !self.is_minimal();
        (bits, keep.then_some(self))
    }

    /// setfacl of an access ACL: the new permission bits, and the ACL unless it is minimal.
    pub(super) fn into_access(self, mode: u16) -> (u16, Option<Acl>) {
        let bits = (mode & !0o777) | self.mode_bits();
        let keep = !self.is_minimal();
        (bits, keep.then_some(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|&(tag, perm, id)| Entry { tag, perm, id })
            .collect())
    }

    #[test]
    fn attribute_form_round_trips_and_nonsense_is_refused() {
        let full = acl(&[
            (1, 7, u32::MAX),
            (2, 5, 1000),
            (4, 5, u32::MAX),
            (16, 7, 0),
            (32, 0, 0),
        ]);
        assert_eq!(Acl::parse(&full.to_bytes()), Some(full));
        assert_eq!(Acl::parse(b""), None);
        assert_eq!(Acl::parse(&acl(&[(1, 7, 0)]).to_bytes()), None);
    }

    #[test]
    fn inheritance_masks_with_the_requested_mode() {
        let default = acl(&[(1, 7, 0), (2, 7, 1000), (4, 5, 0), (16, 7, 0), (32, 5, 0)]);
        let (mode, access) = default.inherit(0o640);
        assert_eq!(mode, 0o640);
        assert_eq!(access.unwrap().perm(MASK), Some(4));
        let minimal = acl(&[(1, 7, 0), (4, 5, 0), (32, 5, 0)]);
        assert_eq!(minimal.inherit(0o666), (0o644, None));
    }
}
