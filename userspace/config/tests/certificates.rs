//! Files that `[services.NAME.tls]` names: read, judged, and handed on without what is a secret.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so does what it calls"
)]

use std::{fs, path::PathBuf};

use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd};
use weir_config::{diff, load};
use weir_core::plan::Tls;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A configuration with these lines of TLS from line 6 on, in which `DIR` is the directory.
    fn toml(&self, tls: &str) -> PathBuf {
        let text = format!(
            "[services.www]\nlisten = [\"127.0.0.1:8443\"]\nmode = \"http\"\npool = \"web\"\n[services.www.tls]\n{tls}\n\
             [node]\nxdp = \"off\"\n[pools.web]\nbackends = [{{ address = \"10.0.0.11:80\" }}]\n"
        );
        self.write(
            "weir.toml",
            text.replace("DIR", &self.0.path().display().to_string()),
        )
    }

    /// What loading says of it, with the directory's name taken out.
    fn report(&self, tls: &str) -> String {
        let told = load(&self.toml(tls)).unwrap_err().to_string();
        told.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn tls(loaded: &weir_config::Loaded) -> &Tls {
    loaded.plan.services[0].tls.as_ref().unwrap()
}

fn made() -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(["www.test".to_owned()]).unwrap()
}

#[test]
fn what_is_good_is_handed_on_without_its_key() {
    let dir = Dir::new();
    let one = made();
    let key = one.signing_key.serialize_pem();
    dir.write("www.pem", format!("{}{key}", one.cert.pem()));
    dir.write(
        "tickets",
        "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAx\n",
    );
    let path = dir.toml("certificates = [\"DIR/www.pem\"]\nticket_keys = \"DIR/tickets\"");
    let before = load(&path).unwrap();
    assert_eq!(tls(&before).alpn, ["h2", "http/1.1"]);
    assert!(
        tls(&before).certificates[0]
            .chain
            .text
            .contains("BEGIN CERTIFICATE")
    );
    assert_eq!(before.source.resolve().unwrap(), *before.plan);
    // Neither what is handed on nor what is shown of it has the key.
    let secret = key.lines().nth(1).unwrap();
    assert!(!before.source.text.contains(secret));
    let shown = format!("{before:?}");
    assert!(!shown.contains(secret) && !shown.contains("MDEyMzQ1"), "{shown}");

    // Another certificate in the same place is a change.
    let other = made();
    dir.write(
        "www.pem",
        format!("{}{}", other.cert.pem(), other.signing_key.serialize_pem()),
    );
    let after = load(&path).unwrap();
    let changes: Vec<_> = diff(&before.plan, &after.plan)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].contains("as it is now"), "{changes:?}");
    assert!(diff(&before.plan, &before.plan).is_empty());
}

/// A box that comes up again serves what it has; but nothing that is over takes the place of anything.
#[test]
fn a_certificate_that_is_over_is_loaded_and_told() {
    let dir = Dir::new();
    let one = made();
    let mut params = CertificateParams::new(["www.test".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    let old = params.self_signed(&one.signing_key).unwrap().pem();
    dir.write("k.pem", one.signing_key.serialize_pem());
    let file = dir.write("c.pem", old);
    let path = dir.toml("certificates = [{ chain = \"DIR/c.pem\", key = \"DIR/k.pem\" }]");
    let loaded = load(&path).unwrap();
    let [(named, mistake)] = &loaded.untimely[..] else {
        panic!("{:?}", loaded.untimely);
    };
    assert_eq!(*named, file);
    let told = mistake.to_string();
    assert!(told.contains("weir.toml:6:27: "), "{told}");
    assert!(
        told.contains("has expired: it was valid until 2002-01-01"),
        "{told}"
    );
    let anew = loaded.source.with_tls_files_anew(&[file.clone()].into());
    assert!(anew.unwrap_err().to_string().contains("has expired"));
    dir.write("c.pem", one.cert.pem());
    let anew = loaded.source.with_tls_files_anew(&[file].into()).unwrap();
    assert!(anew.untimely.is_empty() && load(&path).unwrap().untimely.is_empty());
}

/// The relay makes of it what was judged here.
#[test]
fn what_nobody_could_speak_is_refused() {
    let dir = Dir::new();
    let one = made();
    dir.write(
        "www.pem",
        format!("{}{}", one.cert.pem(), one.signing_key.serialize_pem()),
    );
    let with = |more: &str| load(&dir.toml(&format!("certificates = [\"DIR/www.pem\"]\n{more}")));
    for more in [
        "policy = \"modern\"\nversions = [\"1.2\"]",
        "policy = \"modern\"\nversions = [\"1.2\", \"1.3\"]",
        "policy = \"modern\"\ngroups = [\"X25519MLKEM768\"]",
        "versions = [\"1.2\"]\nciphers = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]",
        "policy = \"modern\"\nversions = [\"1.2\"]\nciphers = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]",
        "groups = [\"secp384r1\", \"X25519MLKEM768\"]",
    ] {
        let loaded = with(more).unwrap_or_else(|report| panic!("{more}: {report}"));
        weir_tls::Policy::asked(tls(&loaded)).unwrap();
    }
    let report = with("groups = [\"X25519MLKEM768\"]").unwrap_err().to_string();
    assert!(report.contains("weir.toml:7:10: "), "{report}");
    assert!(
        report.contains("no key exchange group is left for TLSv1.2; add x25519"),
        "{report}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_where_it_is_named() {
    let dir = Dir::new();
    let (one, other) = (made(), made());
    dir.write("c.pem", one.cert.pem());
    dir.write("k.pem", one.signing_key.serialize_pem());
    dir.write("other.key", other.signing_key.serialize_pem());
    dir.write("garbage.pem", "garbage\n");
    dir.write("garbage.der", [0x30, 0x82, 0xff]);
    dir.write(
        "bad.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for (chain, key, begins, has) in [
        (
            "none.pem",
            "k.pem",
            "weir.toml:6:27: ",
            "cannot be read: No such file",
        ),
        (
            "c.pem",
            "none.key",
            "weir.toml:6:52: ",
            "cannot be read: No such file",
        ),
        (
            "garbage.pem",
            "k.pem",
            "weir.toml:6:27: ",
            "holds no certificate; name a PEM file",
        ),
        (
            "garbage.der",
            "k.pem",
            "weir.toml:6:27: ",
            "is not text in PEM form; name a PEM file",
        ),
        ("bad.pem", "k.pem", "weir.toml:6:27: ", "can't be read"),
        (
            "c.pem",
            "garbage.pem",
            "weir.toml:6:52: ",
            "holds no private key; name a PEM file",
        ),
        (
            "c.pem",
            "other.key",
            "weir.toml:6:52: ",
            "the key is not the certificate's",
        ),
    ] {
        let report = dir.report(&format!(
            "certificates = [{{ chain = \"DIR/{chain}\", key = \"DIR/{key}\" }}]"
        ));
        // The second place depends on the length of what stands before it.
        let place = report.split(": ").next().unwrap_or_default();
        assert!(place.starts_with("weir.toml:6:"), "{report}");
        if begins.contains(":27:") {
            assert!(report.starts_with(begins), "{report}");
        }
        assert!(report.contains(has), "{report}");
        assert!(report.contains("; "), "{report}");
        assert_eq!(report.lines().count(), 1, "{report}");
    }
    for (key, file, has) in [
        ("ticket_keys", "garbage.pem", "ticket keys"),
        (
            "client_certificates = \"required\"\nclient_ca",
            "garbage.pem",
            "holds no certificate",
        ),
        (
            "client_certificates = \"required\"\nclient_ca = \"DIR/c.pem\"\nclient_crl",
            "c.pem",
            "holds no list of revoked certificates",
        ),
    ] {
        let report = dir.report(&format!(
            "certificates = [{{ chain = \"DIR/c.pem\", key = \"DIR/k.pem\" }}]\n{key} = \"DIR/{file}\""
        ));
        assert!(report.contains(has), "{report}");
        assert_eq!(report.lines().count(), 1, "{report}");
    }
    let report = dir.report(
        "certificates = [{ chain = \"DIR/c.pem\", key = \"DIR/k.pem\", ocsp = \"DIR/garbage.pem\" }]",
    );
    assert!(report.contains("holds no OCSP response"), "{report}");
}

/// What `[pools.NAME.tls]` names is read, judged and handed on in the same way; a client's certificate needs no names.
#[test]
fn files_for_backends_are_judged_too() {
    let dir = Dir::new();
    let www = made();
    dir.write(
        "www.pem",
        format!("{}{}", www.cert.pem(), www.signing_key.serialize_pem()),
    );
    let nameless = |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().pem();
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    dir.write("client.pem", nameless(&key) + &key.serialize_pem());
    dir.write("mixed.pem", nameless(&key) + &other.serialize_pem());
    dir.write("ca.pem", www.cert.pem());
    dir.write("none.pem", key.serialize_pem());
    let lines = |ca: &str, client: &str| {
        format!(
            "certificates = [\"DIR/www.pem\"]\n[pools.web.tls]\nca = \"DIR/{ca}\"\ncertificate = \"DIR/{client}\""
        )
    };
    let loaded = load(&dir.toml(&lines("ca.pem", "client.pem"))).unwrap();
    let tls = loaded.plan.pools[0].tls.as_ref().unwrap();
    assert_eq!(*tls.trust.authorities().unwrap().text, *www.cert.pem());
    let secret = key.serialize_pem();
    let secret = secret.lines().nth(1).unwrap();
    let shown = format!("{loaded:?}");
    assert!(!shown.contains(secret) && !loaded.source.text.contains(secret));
    assert_eq!(loaded.source.resolve().unwrap(), *loaded.plan);

    let told = dir.report(&lines("none.pem", "client.pem"));
    assert!(
        told.contains("pools.web.tls.ca names none.pem, which holds no certificate"),
        "{told}"
    );
    let told = dir.report(&lines("ca.pem", "mixed.pem"));
    assert!(
        told.contains("pools.web.tls.certificate names mixed.pem"),
        "{told}"
    );
    let told = dir.report(&lines("gone.pem", "client.pem"));
    assert!(told.contains("pools.web.tls.ca names gone.pem"), "{told}");
}
