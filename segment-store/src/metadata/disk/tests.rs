//! What the file keeps, and what is said of files that are not ours.

use super::*;

fn changes() -> Vec<Change> {
    let entry = |version, owner: Option<&str>, value: &[u8]| Entry {
        version,
        owner: owner.map(Into::into),
        value: Bytes::copy_from_slice(value),
    };
    vec![
        Change::Put { key: "ram/a".into(), entry: entry(1, Some("owner-a"), b"\xff\0bytes, not text") },
        Change::Put { key: "ram/b".into(), entry: entry(2, None, b"") },
        Change::Put { key: "ram/c".into(), entry: entry(3, None, b"gone soon") },
        Change::Lease { owner: "owner-a".into(), ttl_ms: 1500 },
        Change::Lease { owner: "owner-b".into(), ttl_ms: 1 },
        Change::Remove { key: "ram/c".into(), version: 4 },
        Change::NoLease { owner: "owner-b".into() },
    ]
}

fn view_of(changes: &[Change]) -> View {
    let mut view = View::default();
    changes.iter().for_each(|change| view.apply(change));
    view
}

#[test]
fn what_was_committed_is_there_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (disk, kept) = Disk::open(&path).unwrap();
    assert_eq!(kept, (View::default(), vec![]));
    let view = view_of(&changes());
    disk.commit(&changes(), &view).unwrap();
    drop(disk);
    let (_disk, kept) = Disk::open(&path).unwrap();
    assert_eq!(kept, (view, vec![("owner-a".into(), Duration::from_millis(1500))]));
}

#[test]
fn the_version_survives_when_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (disk, _) = Disk::open(&path).unwrap();
    let mut all = changes();
    all.extend([
        Change::Remove { key: "ram/a".into(), version: 5 },
        Change::Remove { key: "ram/b".into(), version: 6 },
    ]);
    disk.commit(&all, &view_of(&all)).unwrap();
    drop(disk);
    let (_disk, (view, _)) = Disk::open(&path).unwrap();
    assert!(view.entries.is_empty());
    assert_eq!((view.version, view.last_removal), (6, 6));
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (_disk, _) = Disk::open(&path).unwrap();
    let error = Disk::open(&path).err().unwrap();
    assert!(matches!(error, DiskError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letter.txt");
    let text = "Dear reader, ".repeat(10_000);
    std::fs::write(&path, &text).unwrap();
    let error = Disk::open(&path).err().unwrap();
    assert!(matches!(error, DiskError::Foreign { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<'_, u32, u32>::new("entries")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Disk::open(&path).err().unwrap();
    assert!(matches!(error, DiskError::Foreign { .. }), "{error:?}");
}

#[test]
fn a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (disk, _) = Disk::open(&path).unwrap();
    let transaction = disk.database.begin_write().unwrap();
    transaction.open_table(COUNTERS).unwrap().insert("format", FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(disk);
    let error = Disk::open(&path).err().unwrap();
    assert!(error.to_string().contains("its format is 2, this version's is 1"), "{error}");
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Disk::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("cannot be opened: "), "{error}");
    let error = Disk::open(&dir.path().join("no/such/dir")).err().unwrap();
    assert!(error.to_string().contains("cannot be opened: "), "{error}");
}
