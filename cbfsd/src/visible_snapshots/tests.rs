use super::*;

fn list(all: &[(u64, u16, Option<&str>)]) -> List {
    List {
        all: all
            .iter()
            .map(|(number, epoch, name)| ((*number, *epoch), name.map(Into::into)))
            .collect(),
        changed: 1,
    }
}

#[test]
fn a_snapshot_is_found_by_its_number_in_one_spelling_and_by_its_name() {
    let list = list(&[(1, 1, Some("first")), (2, 1, None), (12, 2, Some("7"))]);
    assert_eq!(find(&list, b"1"), Some(view(1, 1, false)));
    assert_eq!(find(&list, b"first"), Some(view(1, 1, true)));
    assert_eq!(find(&list, b"12"), Some(view(12, 2, false)));
    assert_eq!(find(&list, b"7"), Some(view(12, 2, true)));
    for other in [&b"01"[..], b"+1", b"3", b"", b"First", b"\xff"] {
        assert_eq!(find(&list, other), None);
    }
}

#[test]
fn nothing_below_the_reserved_name_can_be_changed_nor_the_name_itself() {
    assert_eq!(writable(CONTROL), Err(Errno::EROFS.into()));
    assert_eq!(writable(Ino::ROOT.0), Ok(()));
    assert_eq!(not_reserved((1, RESERVED_NAME)), Err(Errno::EPERM.into()));
    assert_eq!(not_reserved((2, RESERVED_NAME)), Ok(()));
}
