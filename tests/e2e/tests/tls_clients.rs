//! Who is served over TLS and who is not: certificates of clients, lists of what was revoked, names, policies; and what is
//! stapled. Clients are curl and openssl, the backend is HAProxy, which says what it was told.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_e2e_tests::{backend, service, start, unchecked_pool, vip};
use weir_harness::{
    Cmd, Lab, Netns, Weir,
    lab::Family,
    peer::{curl, haproxy::Haproxy},
    scratch::Scratch,
    wait_until,
};

/// Until a file that has changed is taken in: weir looks every two seconds, and twice.
const PATIENCE: Duration = Duration::from_secs(20);

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// An authority that issues, revokes, and answers by OCSP.
struct Authority<'s> {
    scratch: &'s Scratch,
    name: &'static str,
}

impl<'s> Authority<'s> {
    fn new(scratch: &'s Scratch, name: &'static str) -> Result<Self> {
        let this = Self { scratch, name };
        Cmd::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "30",
                "-subj",
                &format!("/CN={name}"),
            ])
            .args(P256)
            .arg("-keyout")
            .arg(this.file("key"))
            .arg("-out")
            .arg(this.file("crt"))
            .check()?;
        scratch.write(format!("{name}.index"), "")?;
        scratch.write(format!("{name}.number"), "01\n")?;
        scratch.write(
            format!("{name}.cnf"),
            format!(
                "[ca]\ndefault_ca = d\n[d]\ndatabase = {}\ncrlnumber = {}\ndefault_md = sha256\ndefault_crl_days = 30\n\
                 crl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid:always\n",
                this.file("index").display(),
                this.file("number").display()
            ),
        )?;
        Ok(this)
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.scratch.join(format!("{}.{kind}", self.name))
    }

    fn certificate(&self) -> String {
        self.file("crt").display().to_string()
    }

    /// A certificate with its key in one PEM file; without extensions it is of version 1.
    fn issue(&self, name: &str, subject: &str, extensions: &str) -> Result<String> {
        let [request, chain, secret] =
            ["csr", "crt", "key"].map(|kind| self.scratch.join(format!("{name}.{kind}")));
        Cmd::new("openssl")
            .args(["req", "-nodes", "-subj", subject])
            .args(P256)
            .arg("-keyout")
            .arg(&secret)
            .arg("-out")
            .arg(&request)
            .check()?;
        let mut cmd = Cmd::new("openssl")
            .args(["x509", "-req", "-days", "30", "-CAcreateserial", "-CA"])
            .arg(self.file("crt"))
            .arg("-CAkey")
            .arg(self.file("key"))
            .arg("-in")
            .arg(&request)
            .arg("-out")
            .arg(&chain);
        if !extensions.is_empty() {
            cmd = cmd
                .arg("-extfile")
                .arg(self.scratch.write(format!("{name}.ext"), extensions)?);
        }
        cmd.check()?;
        let both = fs::read_to_string(&chain)? + &fs::read_to_string(&secret)?;
        Ok(self
            .scratch
            .write(format!("{name}.pem"), both)?
            .display()
            .to_string())
    }

    fn ca(&self) -> Cmd<'static> {
        Cmd::new("openssl")
            .args(["ca", "-batch", "-config"])
            .arg(self.file("cnf"))
            .arg("-keyfile")
            .arg(self.file("key"))
            .arg("-cert")
            .arg(self.file("crt"))
    }

    fn revoke(&self, name: &str) -> Result<()> {
        let chain = self.scratch.join(format!("{name}.crt"));
        self.ca().arg("-revoke").arg(chain).check().map(drop)
    }

    /// The list of what was revoked, put in its place at once.
    fn list(&self) -> Result<String> {
        let (new, path) = (self.file("crl.new"), self.file("crl"));
        self.ca().arg("-gencrl").arg("-out").arg(&new).check()?;
        fs::rename(&new, &path)?;
        Ok(path.display().to_string())
    }

    /// Answers of OCSP that a certificate is good: one that is good itself, and one whose time (nextUpdate) is over. The
    /// signature of the latter fits no more, which is the client's to see.
    fn staples(&self, name: &str) -> Result<[String; 2]> {
        let chain = self.scratch.join(format!("{name}.crt"));
        let serial = Cmd::new("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(&chain)
            .check()?;
        let serial = serial
            .trim()
            .strip_prefix("serial=")
            .context("a serial number")?
            .to_owned();
        let index = format!("V\t401231235959Z\t\t{serial}\tunknown\t/CN=www.test\n");
        let good = self.scratch.join(format!("{name}.ocsp"));
        Cmd::new("openssl")
            .args(["ocsp", "-ndays", "5", "-index"])
            .arg(self.scratch.write("ocsp.index", index)?)
            .arg("-rsigner")
            .arg(self.file("crt"))
            .arg("-rkey")
            .arg(self.file("key"))
            .arg("-CA")
            .arg(self.file("crt"))
            .arg("-issuer")
            .arg(self.file("crt"))
            // Of whom it asks stands before what it asks for.
            .args(["-serial", &format!("0x{serial}")])
            .arg("-respout")
            .arg(&good)
            .check()?;
        let mut bytes = fs::read(&good)?;
        // nextUpdate: [0] EXPLICIT GeneralizedTime of 15 characters (RFC 6960, 4.2.1).
        let head = [0xa0, 17, 24, 15];
        let at = bytes
            .windows(4)
            .position(|window| window == head)
            .context("nextUpdate")?;
        bytes.splice(at + 4..at + 19, *b"20260101000000Z");
        let stale = self.scratch.write(format!("{name}.stale.ocsp"), bytes)?;
        Ok([good, stale].map(|path| path.display().to_string()))
    }
}

/// HAProxy as a backend that answers with what stands in the fields that weir sets, and how often.
fn echo(lab: &Lab) -> Result<Haproxy> {
    let at = backend(Family::V4, 0, 80).parse()?;
    let sections = format!(
        "frontend echo\n  mode http\n  timeout http-request 10s\n  bind {at}\n  http-request return status 200 \
         content-type text/plain lf-string \"%[req.fhdr_cnt(x-verify)] %[req.fhdr(x-verify)] %[req.fhdr_cnt(x-subject)] \
         %[req.fhdr(x-subject)] .\\n\"\n"
    );
    Haproxy::start(&lab.backends[0], &sections, &[at])
}

const TOLD: &str = "request_headers = [{ set = \"X-Verify\", value = \"{tls.client.verify}\" }, \
    { set = \"X-Subject\", value = \"{tls.client.subject}\" }]\n";

fn https(name: &str, port: u16, more: &str, tls: &str) -> String {
    let listen = [vip(Family::V4, port).to_string()];
    service(
        name,
        "http",
        &listen,
        "web",
        &format!("{more}[services.{name}.tls]\n{tls}"),
    )
}

/// A request by curl for a path of a service, with more arguments.
fn get(netns: &Netns, port: u16, path: &str, ca: &str, more: &[&str]) -> Result<curl::Response> {
    let resolve = format!("www.test:{port}:{}", vip(Family::V4, port).ip());
    let mut args = vec!["--resolve", &resolve, "--cacert", ca];
    args.extend(more);
    curl::get(netns, &format!("https://www.test:{port}{path}"), &args)
}

/// What `openssl s_client` says. `ask`: it sends a request, and waits for the answer.
fn s_client(netns: &Netns, port: u16, ask: bool, args: &[&str]) -> Result<String> {
    let mut cmd = Cmd::new("openssl")
        .args(["s_client", "-connect", &vip(Family::V4, port).to_string()])
        .args(args)
        .inside(netns);
    if ask {
        cmd = cmd
            .arg("-ign_eof")
            .stdin("GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n");
    }
    let output = cmd.run()?;
    Ok(output.text() + &output.complaint())
}

/// Waits until so many connections of a service have ended for a reason.
fn ended(weir: &Weir<'_>, service: &str, reason: &str, times: f64) -> Result<()> {
    let labels = [("service", service), ("reason", reason)];
    wait_until(
        PATIENCE,
        &format!("{service}: {reason}, {times} times"),
        || match weir
            .metrics()
            .and_then(|m| m.sum("weir_relay_ends_total", &labels))
        {
            Ok(count) if count == times => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
}

#[test]
fn clients_are_known_by_their_certificates() -> Result<()> {
    let lab = Lab::unique(1)?;
    let scratch = Scratch::new()?;
    let ours = Authority::new(&scratch, "ours")?;
    let theirs = Authority::new(&scratch, "theirs")?;
    let server = ours.issue("server", "/CN=www.test", "subjectAltName = DNS:www.test\n")?;
    let for_clients = "extendedKeyUsage = clientAuth\n";
    let good = ours.issue("good", "/O=Example/CN=good", for_clients)?;
    let bad = ours.issue("bad", "/O=Example/CN=bad", for_clients)?;
    let strange = theirs.issue("strange", "/O=Other/CN=strange", for_clients)?;
    let old = ours.issue("old", "/O=Example/CN=old", "")?;
    let (ca, crl) = (ours.certificate(), ours.list()?);
    let tls = |wanted: &str, more: &str| {
        format!(
            "certificates = [\"{server}\"]\nclient_certificates = \"{wanted}\"\nclient_ca = \"{ca}\"\n{more}"
        )
    };
    let rules = "rules = [{ match = { path_prefix = \"/admin\", variable = { name = \"tls.client.verify\", value = \"ok\" } }, \
                 respond = { body = \"admin\\n\" } }, { match = { path_prefix = \"/admin\" }, respond = { status = 403, \
                 body = \"a certificate is needed\\n\" } }]\n";
    let body = unchecked_pool("web", &[(backend(Family::V4, 0, 80), 1)])
        + &https(
            "required",
            443,
            TOLD,
            &tls("required", &format!("client_crl = \"{crl}\"\n")),
        )
        + &https("optional", 444, &format!("{TOLD}{rules}"), &tls("optional", ""));
    let _echo = echo(&lab)?;
    let weir = start(&lab, body)?;
    let client = &lab.client;
    let ask = |port, path: &str, certificate: &str, more: &[&str]| {
        let mut args = more.to_vec();
        if !certificate.is_empty() {
            args.extend(["--cert", certificate]);
        }
        get(client, port, path, &ca, &args)
    };

    // Whoever comes is served where it is optional, and the backend is told who it is: by weir alone.
    let lies = [
        "-H",
        "X-Verify: ok",
        "-H",
        "X-Subject: CN=liar",
        "-H",
        "x-subject: CN=liar",
    ];
    for (certificate, told, admin) in [
        ("", "1 none 1  .", 403),
        (good.as_str(), "1 ok 1 CN=good,O=Example .", 200),
        (&strange, "1 failed:unknown-issuer 1 CN=strange,O=Other .", 403),
        // Of version 1, as `openssl x509 -req` makes it if nobody asks for more.
        (&old, "1 failed:invalid 1 CN=old,O=Example .", 403),
    ] {
        for version in [["--tls-max", "1.2"], ["--tls-max", "1.3"]] {
            let args: Vec<_> = lies.iter().chain(&version).copied().collect();
            let answer = weir.with_log(ask(444, "/", certificate, &args))?;
            assert_eq!(
                (answer.status, answer.text().trim()),
                (200, told),
                "{certificate} {version:?}"
            );
            let answer = weir.with_log(ask(444, "/admin/x", certificate, &args))?;
            assert_eq!(answer.status, admin, "{certificate} {version:?}");
        }
    }
    for told in ["CN=good,O=Example", "failed:unknown-issuer"] {
        weir.wait_record(told)?;
    }

    // Where it is required, only who has one that holds.
    for certificate in [&good, &bad] {
        let answer = weir.with_log(ask(443, "/", certificate, &[]))?;
        let text = answer.text();
        assert!(answer.status == 200 && text.starts_with("1 ok 1 CN="), "{text}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(
            client,
            443,
            true,
            &[version, "-servername", "www.test", "-cert", &good],
        )?;
        assert!(said.contains("HTTP/1.1 200 OK"), "{version}: {said}");
        // What it is asked for: certificates of this authority.
        assert!(said.contains("CN = ours"), "{version}: {said}");
        let said = s_client(client, 443, true, &[version, "-servername", "www.test"])?;
        assert!(
            said.contains("alert") && !said.contains("HTTP/1.1"),
            "{version}: {said}"
        );
    }
    for certificate in ["", &strange, &old] {
        ensure!(
            ask(443, "/", certificate, &[]).is_err(),
            "{certificate:?} was served"
        );
    }
    ended(&weir, "required", "tls-client-certificate", 5.0)?;

    // A list that changes is taken in by itself.
    ours.revoke("bad")?;
    ours.list()?;
    wait_until(PATIENCE, "what was revoked is refused", || {
        match ask(443, "/", &bad, &[]) {
            Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
            Err(_) => Ok(()),
        }
    })?;
    assert_eq!(weir.with_log(ask(443, "/", &good, &[]))?.status, 200);
    ended(&weir, "required", "tls-client-certificate", 6.0)?;
    weir.wait_record("client certificate revoked")?;
    Ok(())
}

#[test]
fn names_policies_and_staples() -> Result<()> {
    let lab = Lab::unique(1)?;
    let scratch = Scratch::new()?;
    let ours = Authority::new(&scratch, "ours")?;
    let server = ours.issue("server", "/CN=www.test", "subjectAltName = DNS:www.test\n")?;
    let [good, stale] = ours.staples("server")?;
    let with = |staple: &str| {
        format!("certificates = [{{ chain = \"{server}\", key = \"{server}\", ocsp = \"{staple}\" }}]\n")
    };
    let plain = format!("certificates = [\"{server}\"]\n");
    let body = unchecked_pool("web", &[(backend(Family::V4, 0, 80), 1)])
        + &https("fresh", 443, "", &with(&good))
        + &https("stale", 444, "", &with(&stale))
        + &https("modern", 445, "", &format!("{plain}policy = \"modern\"\n"))
        + &https(
            "chosen",
            446,
            "",
            &format!(
                "{plain}versions = [\"1.2\"]\nciphers = [\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"]\n"
            ),
        )
        + &https("strict", 447, "", &format!("{plain}unknown_names = \"refuse\"\n"));
    let _echo = echo(&lab)?;
    let weir = start(&lab, body)?;
    let client = &lab.client;
    let say = |port, args: &[&str]| s_client(client, port, false, args);
    let named = ["-servername", "www.test"];

    for version in ["-tls1_2", "-tls1_3"] {
        let said = say(
            443,
            &[
                version,
                "-status",
                "-CAfile",
                &ours.certificate(),
                named[0],
                named[1],
            ],
        )?;
        assert!(
            said.contains("OCSP Response Status: successful"),
            "{version}: {said}"
        );
        assert!(said.contains("Cert Status: good"), "{version}: {said}");
        // A client takes one whose time is over for an attack: better none.
        let said = say(444, &[version, "-status", named[0], named[1]])?;
        assert!(
            said.contains("OCSP response: no response sent"),
            "{version}: {said}"
        );
    }

    let said = say(445, &["-tls1_3", named[0], named[1]])?;
    assert!(said.contains("Cipher is TLS_"), "{said}");
    let said = say(445, &["-tls1_2", named[0], named[1]])?;
    assert!(said.contains("alert protocol version"), "{said}");
    ended(&weir, "modern", "tls-unagreed", 1.0)?;

    let cipher = |name| ["-tls1_2", "-cipher", name, named[0], named[1]];
    let said = say(446, &cipher("ECDHE-ECDSA-AES256-GCM-SHA384"))?;
    assert!(said.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "{said}");
    let said = say(446, &cipher("ECDHE-ECDSA-AES128-GCM-SHA256"))?;
    assert!(said.contains("alert handshake failure"), "{said}");
    let said = say(446, &["-tls1_3", named[0], named[1]])?;
    assert!(said.contains("alert protocol version"), "{said}");
    ended(&weir, "chosen", "tls-unagreed", 2.0)?;

    let said = say(447, &named)?;
    assert!(said.contains("Cipher is TLS_"), "{said}");
    for args in [["-servername", "other.test"].as_slice(), &["-noservername"]] {
        let said = say(447, args)?;
        assert!(said.contains("unrecognized name"), "{args:?}: {said}");
    }
    ended(&weir, "strict", "tls-unknown-name", 2.0)?;
    // Elsewhere they get the first certificate.
    for args in [["-servername", "other.test"].as_slice(), &["-noservername"]] {
        let said = say(443, args)?;
        assert!(said.contains("subject=CN = www.test"), "{args:?}: {said}");
    }
    Ok(())
}
