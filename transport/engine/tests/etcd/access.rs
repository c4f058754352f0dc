//! Users, passwords and TLS.

use crate::common::{eventually, secs};
use crate::server::Etcd;
use crate::store::{Counting, owner};
use nvferry_engine::MetadataStore;
use nvferry_engine::metadata::MetadataError;
use nvferry_engine::metadata::etcd::EtcdStore;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SEGMENT: &str = "mooncake/ram/a";

/// All that a node does works.
fn works(store: &EtcdStore) {
    let owner = owner("me", 60_000);
    store.put("mooncake/rpc_meta/a", "1", Some(&owner), secs(10)).unwrap();
    store.put(SEGMENT, "1", Some(&owner), secs(10)).unwrap();
    let known = store.get(SEGMENT, secs(10)).unwrap().unwrap().version;
    let watch = Counting::new(store, SEGMENT, known);
    store.put(SEGMENT, "2", Some(&owner), secs(10)).unwrap();
    watch.sees_more_than(0);
    assert_eq!(store.list("mooncake/", secs(10)).unwrap(), [SEGMENT, "mooncake/rpc_meta/a"]);
    assert!(store.remove(SEGMENT, Some(&owner), secs(10)).unwrap());
    assert!(store.remove("mooncake/rpc_meta/a", Some(&owner), secs(10)).unwrap());
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn users_and_passwords() {
    let Some(mut etcd) = Etcd::start() else { return };
    let password = |text: &str| file(etcd.dir(), &format!("password-{text}"), &format!("{text}\n"));
    let as_user = |name: &str, text: &str| {
        let file = password(text);
        EtcdStore::new(&format!("etcd://{name}@{}?password_file={}", etcd.endpoint(), file.display())).unwrap()
    };
    // While etcd knows no users, naming one is a mistake that is told.
    let error = as_user("node", "right").get(SEGMENT, secs(10)).unwrap_err().to_string();
    assert!(error.contains("leave the user out"), "{error}");
    let root = Some(("root", "top"));
    etcd.admin(None, async |client| {
        client.user_add("root", "top", None).await?;
        client.role_add("root").await?;
        client.user_grant_role("root", "root").await?;
        client.role_add("node").await?;
        let prefix = etcd_client::Permission::read_write("mooncake/").with_prefix();
        client.role_grant_permission("node", prefix).await?;
        client.user_add("node", "right", None).await?;
        client.user_grant_role("node", "node").await?;
        client.auth_enable().await
    });
    let store = as_user("node", "right");
    works(&store);
    // A change of the users makes all tokens old; so does a restart.
    etcd.admin(root, async |client| client.user_add("third", "x", None).await);
    works(&store);
    let watch = Counting::new(&store, SEGMENT, Some(0));
    let wrong = as_user("node", "geheim").get(SEGMENT, secs(10)).unwrap_err();
    assert!(matches!(wrong, MetadataError::Refused { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("authentication failed") && !wrong.to_string().contains("geheim"), "{wrong}");
    let nobody = etcd.store().get(SEGMENT, secs(10)).unwrap_err();
    assert!(nobody.to_string().contains("etcd://user@host:port"), "{nobody}");
    let denied = store.put("elsewhere", "1", None, secs(10)).unwrap_err();
    assert!(matches!(denied, MetadataError::Refused { .. }), "{denied:?}");
    assert!(denied.to_string().contains("permission denied"), "{denied}");
    etcd.kill();
    etcd.run();
    store.put(SEGMENT, "after", None, secs(10)).unwrap();
    watch.sees_more_than(0);
    works(&store);
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self, dir: &Path, name: &str) -> PathBuf {
        file(dir, name, &self.issuer.pem())
    }

    /// A certificate and its key, as files.
    fn issue(&self, dir: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (file(dir, &format!("{name}.pem"), &certificate.pem()), file(dir, &format!("{name}.key"), &key.serialize_pem()))
    }
}

/// An etcd with this certificate, that asks for its clients' if it is told whose to take.
fn start_tls(certificate: &(PathBuf, PathBuf), clients: Option<&Path>) -> Option<Etcd> {
    let (cert, key) = (certificate.0.to_str().unwrap(), certificate.1.to_str().unwrap());
    let mut args = vec!["--cert-file", cert, "--key-file", key];
    if let Some(ca) = clients {
        args.extend(["--client-cert-auth", "--trusted-ca-file", ca.to_str().unwrap()]);
    }
    Etcd::start_with(&args)
}

#[test]
fn tls_with_an_authority_and_what_it_does_not_vouch_for() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (ca, other_ca) = (ours.pem(dir.path(), "ca.pem"), theirs.pem(dir.path(), "other.pem"));
    let server = ours.issue(dir.path(), "server", |_| {});
    let Some(etcd) = start_tls(&server, None) else { return };
    let store = |options: &str| EtcdStore::new(&format!("etcds://{}{options}", etcd.endpoint())).unwrap();
    works(&store(&format!("?ca={}", ca.display())));
    let error_of = |store: EtcdStore| store.get(SEGMENT, secs(10)).unwrap_err();
    for options in [String::new(), format!("?ca={}", other_ca.display())] {
        let error = error_of(store(&options));
        assert!(matches!(error, MetadataError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    }
    let plain = error_of(EtcdStore::new(&etcd.address()).unwrap()).to_string();
    assert!(plain.contains("with TLS or both without"), "{plain}");
    let Some(etcd) = Etcd::start() else { return };
    let to_plain = EtcdStore::new(&format!("etcds://{}?ca={}", etcd.endpoint(), ca.display())).unwrap();
    let error = error_of(to_plain).to_string();
    assert!(error.contains("with TLS or both without"), "{error}");
    for name in ["server.key", "does-not-exist"] {
        let address = format!("etcds://a:1?ca={}", dir.path().join(name).display());
        assert!(EtcdStore::new(&address).err().unwrap().to_string().contains(name));
    }
}

#[test]
fn tls_with_an_expired_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let ca = ours.pem(dir.path(), "ca.pem");
    let server = ours.issue(dir.path(), "server", |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let Some(etcd) = start_tls(&server, None) else { return };
    let store = EtcdStore::new(&format!("etcds://{}?ca={}", etcd.endpoint(), ca.display())).unwrap();
    let error = store.get(SEGMENT, secs(10)).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("expired"), "{error}");
}

#[test]
fn clients_show_their_certificate_where_etcd_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = ours.pem(dir.path(), "ca.pem");
    let server = ours.issue(dir.path(), "server", |_| {});
    let Some(etcd) = start_tls(&server, Some(&ca)) else { return };
    let store = |identity: Option<(PathBuf, PathBuf)>| {
        let identity = identity.map(|(cert, key)| format!("&cert={}&key={}", cert.display(), key.display()));
        let options = format!("ca={}{}", ca.display(), identity.unwrap_or_default());
        EtcdStore::new(&format!("etcds://{}?{options}", etcd.endpoint())).unwrap()
    };
    let good = store(Some(ours.issue(dir.path(), "client", |_| {})));
    eventually("it serves", || good.get(SEGMENT, secs(1)).is_ok());
    works(&good);
    assert!(store(None).get(SEGMENT, secs(10)).is_err());
    assert!(store(Some(theirs.issue(dir.path(), "foreign", |_| {}))).get(SEGMENT, secs(10)).is_err());
}
