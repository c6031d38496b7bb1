//! HTTPS to a store whose certificate an authority of one's own has signed.

use super::create_and_mount;
use super::secrets::configured;
use super::server::Server;
use cbfs_tests::{Stage, needs_fuse};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn openssl(dir: &Path, line: &str) {
    let done = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {line}: {said}");
}

/// An authority; answers its certificate.
fn authority(dir: &Path, name: &str) -> PathBuf {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ),
    );
    dir.join(format!("{name}.pem"))
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_store_is_trusted_by_the_authority_that_the_environment_or_the_settings_name_and_no_other() {
    needs_fuse!();
    let stage = Stage::new();
    let dir = stage.dir("keys");
    let (ours, other) = (authority(&dir, "ours"), authority(&dir, "other"));
    openssl(
        &dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=store -addext subjectAltName=IP:127.0.0.1 -keyout store.key -out store.csr",
    );
    openssl(
        &dir,
        "x509 -req -in store.csr -CA ours.pem -CAkey ours.key -CAcreateserial -copy_extensions copy -days 2 -out store.pem",
    );
    let server = Server::start_with_tls(&dir.join("store.pem"), &dir.join("store.key"));
    let url = server.https_url("tls");

    let stranger = stage.node("stranger");
    stranger.set("SSL_CERT_FILE", other.to_str().unwrap());
    stranger
        .ctl(["fs", "list", "--bucket", &url])
        .fails(5, &["UnknownIssuer", "SSL_CERT_FILE"]);

    // The daemon inherits it from who starts it.
    let (master, mnt) = (stage.node("master"), stage.dir("mnt"));
    master.set("SSL_CERT_FILE", ours.to_str().unwrap());
    let fs = create_and_mount(&master, &url, &mnt);
    fs::write(mnt.join("file"), vec![7; 3_000_000]).unwrap();
    master
        .ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
        .ok();

    let (bucket, endpoint) = url.split_once("?endpoint=").unwrap();
    let variable = |name: &str| std::env::var(name).unwrap();
    let section = format!(
        "[bucket.\"{bucket}\"]\nendpoint = \"{endpoint}\"\nca_file = \"{}\"\naccess_key_id = \"{}\"\n\
         secret_access_key = \"{}\"\n",
        ours.display(),
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
    );
    let (slave, there) = (configured(&stage, "slave", &section), stage.dir("there"));
    slave.set("SSL_CERT_FILE", other.to_str().unwrap());
    slave.start();
    let dir = there.to_str().unwrap();
    let at = format!("{fs}@1");
    slave
        .ctl(["mount", &at, dir, "--slave", "--bucket", bucket])
        .ok();
    assert_eq!(fs::read(there.join("file")).unwrap(), vec![7; 3_000_000]);
}
