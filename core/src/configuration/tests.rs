use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn parse(text: &str) -> Result<Configuration> {
    Configuration::parse(Path::new("cbfsd.toml"), text)
}

fn refusal(text: &str) -> String {
    let e = parse(text).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    e.to_string()
}

fn url(text: &str) -> BucketUrl {
    text.parse().unwrap()
}

/// The keys that a table knows, as its refusal of another one lists them.
fn keys(with_unknown: &str) -> Vec<String> {
    let said = refusal(with_unknown);
    let (_, list) = said.split_once("expected").unwrap();
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_example_and_the_manual_name_every_key() {
    let example = include_str!("../../../share/cbfsd.toml");
    // As it is delivered nothing is set.
    assert_eq!(
        parse(example).unwrap(),
        Configuration {
            file: Some("cbfsd.toml".into()),
            ..Configuration::default()
        }
    );
    // A comment has a space behind its sign, a setting has none.
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting,
        _ => line,
    });
    let all = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(parse(&all).unwrap().buckets.len(), 3);
    let manual = include_str!("../../../docs/configuration.md");
    for table in [
        "x = 1",
        "log.x = 1",
        "bucket.\"s3://b\".x = 1",
        "bucket.\"s3://b\".prices.x = 1",
    ] {
        let keys = keys(table);
        assert!(keys.len() > 1, "{keys:?}");
        for key in keys {
            if !matches!(key.as_str(), "log" | "bucket" | "prices") {
                assert!(all.contains(&format!("\n{key} = ")), "{key} in the example");
            }
            assert!(manual.contains(&format!("`{key}`")), "{key} in the manual");
        }
    }
}

#[test]
fn an_unknown_key_is_refused_by_name_with_its_line() {
    let said = refusal("state_dir = \"/s\"\n\nproxylimit = 5\n");
    assert!(
        said.contains("line 3") && said.contains("proxylimit"),
        "{said}"
    );
    let said = refusal("[log]\nfilter = \"info\"\nlevel = \"debug\"\n");
    assert!(said.contains("line 3") && said.contains("level"), "{said}");
    let said = refusal("[bucket.\"s3://b\"]\nregion = \"r\"\nendpiont = \"http://x\"\n");
    assert!(
        said.contains("line 3") && said.contains("endpiont"),
        "{said}"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, says) in [
        ("proxy_limit = \"1MB\"", "no size"),
        ("proxy_limit = -1", "not negative"),
        ("state_dir = \"relative\"", "absolute"),
        ("[log]\nformat = \"xml\"", "xml"),
        ("[bucket.\"b\"]\n", "line 1"),
        ("\n[bucket.\"file:///b\"]\n", "line 2"),
        ("[bucket.\"s3://b\"]\naccess_key_id = \"A\"", "go together"),
        ("[bucket.\"s3://b\"]\npart_size = \"1M\"", "part_size"),
        ("[bucket.\"s3://b\"]\nparallel_parts = 0", "parallel_parts"),
        ("[bucket.\"s3://b\"]\nupload_limit = 7", "upload_limit"),
        ("x = ", "line 1"),
    ] {
        let said = refusal(text);
        assert!(said.contains(says), "{text}: {said}");
    }
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        "[bucket.\"s3://b\"]\nsecret_acces_key = \"Hush\"",
        "[bucket.\"s3://b\"]\nsecret_access_key = \"Hush\" x",
        "[bucket.\"s3://b\"]\nsecret_access_key = \"Hush",
        "[bucket.\"s3://b\"]\nsecret_access_key = \"Hush\"",
        "[bucket.\"s3://Id:Hush@b\"]\nregion = \"r\"",
        "[bucket.\"s3://b\"]\nendpoint = \"http://a\"\nsecret_access_key = [\"Hush\"]",
        "[bucket.\"s3://b\"]\naccess_key_id = \"A\"\nsecret_access_key = 4711",
    ] {
        let e = parse(text).unwrap_err();
        let said = format!("{e} {e:?} {:?}", e.causes());
        assert!(!said.contains("Hush") && !said.contains("4711"), "{said}");
    }
    let text = "[bucket.\"s3://b\"]\naccess_key_id = \"A\"\nsecret_access_key = \"Hush\"";
    let told = format!("{:?}", parse(text).unwrap());
    assert!(
        told.contains("(secret)") && !told.contains("Hush"),
        "{told}"
    );
}

#[test]
fn the_most_specific_section_is_that_of_a_bucket() {
    let text = "[bucket.\"s3://b\"]\nregion = \"all\"\n[bucket.\"s3://b/deep/er\"]\nregion = \"deeper\"\n\
        [bucket.\"s3://b/deep?endpoint=http://e\"]\nregion = \"endpoint\"\n\
        [bucket.\"s3://b/deep\"]\nregion = \"deep\"\n";
    let configuration = parse(text).unwrap();
    let region = |of: &str| {
        configuration
            .bucket(&url(of))
            .and_then(|s| s.region.clone())
    };
    assert_eq!(region("s3://b/x").as_deref(), Some("all"));
    assert_eq!(region("s3://b/deep").as_deref(), Some("deep"));
    assert_eq!(region("s3://b/deeper").as_deref(), Some("all"));
    assert_eq!(region("s3://b/deep/er/x").as_deref(), Some("deeper"));
    assert_eq!(
        region("s3://b/deep/x?endpoint=http://e").as_deref(),
        Some("endpoint")
    );
    assert_eq!(region("s3://c"), None);
    assert_eq!(region("file:///b"), None);
}

#[test]
fn a_file_with_a_secret_that_everybody_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cbfsd.toml");
    let text = "[bucket.\"s3://b\"]\naccess_key_id = \"A\"\nsecret_access_key = \"Hush\"";
    fs::write(&path, text).unwrap();
    let allow = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o644, 0o604, 0o602] {
        allow(mode);
        let e = Configuration::read(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Credentials, "{mode:o}");
    }
    for mode in [0o600, 0o640] {
        allow(mode);
        Configuration::read(&path).unwrap();
    }
    fs::write(&path, "proxy_limit = \"2G\"").unwrap();
    allow(0o644);
    assert_eq!(
        Configuration::read(&path).unwrap().proxy_limit,
        Some(2 << 30)
    );
}

#[test]
fn what_changed_is_told_by_name() {
    let before = parse("state_dir = \"/a\"\n[bucket.\"s3://b\"]\nregion = \"r\"").unwrap();
    let after =
        parse("state_dir = \"/b\"\n[log]\nfilter = \"debug\"\n[bucket.\"s3://b\"]\nregion = \"s\"")
            .unwrap();
    let changes = after.changes(&before);
    assert_eq!(changes.needs_restart, ["state_dir"]);
    assert_eq!(changes.applied, ["log.filter", "bucket.\"s3://b\""]);
    assert_eq!(after.changes(&after), Changes::default());
}
