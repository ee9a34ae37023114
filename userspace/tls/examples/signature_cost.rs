//! What it costs to have a handshake's signature made by another process: wall time, and CPU time of both processes, for
//! each kind of key, here and there. `taskset -c 0` shows it on one core.

use std::{
    io::Write,
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Instant,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustls::SignatureScheme;
use weir_tls::{KeySource, LocalKeys, PrivateKey, RemoteKeys, Signing};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let rounds: u32 = std::env::args().nth(1).map_or(Ok(2000), |n| n.parse())?;
    if let Some(path) = std::env::args().nth(2) {
        let signing = Signing::default();
        signing.add([PrivateKey::read(&std::fs::read(path)?)?]);
        signing.serve(&std::io::stdin().as_fd().try_clone_to_owned()?)?;
        return Ok(());
    }
    let p256 = rcgen::KeyPair::generate()?;
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    println!("key          where   us/signature   CPU us/signature   of it over there");
    for (pair, scheme) in [
        (p256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (rsa, SignatureScheme::RSA_PSS_SHA256),
    ] {
        measure(&pair, scheme, rounds)?;
    }
    Ok(())
}

fn measure(pair: &rcgen::KeyPair, scheme: SignatureScheme, rounds: u32) -> Result<(), Failed> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(pair.serialize_pem().as_bytes())?;
    let key = PrivateKey::read(pair.serialize_pem().as_bytes())?;
    let (id, kind) = (key.id(), key.kind());
    let local: LocalKeys = [key].into_iter().collect();
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut there = Command::new(std::env::current_exe()?)
        .arg("0")
        .arg(file.path())
        .stdin(Stdio::from(far))
        .spawn()?;
    let remote = RemoteKeys::new(1);
    remote.connect(vec![near])?;
    let sources: [(&str, &dyn KeySource); 2] = [("here", &local), ("there", &remote)];
    for (place, source) in sources {
        let signing = source.signing_key(&id, kind).ok_or("no key")?;
        let message = [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
        let once = || -> Result<(), Failed> {
            let signer = signing.choose_scheme(&[scheme]).ok_or("no scheme")?;
            signer.sign(&message)?;
            Ok(())
        };
        for _ in 0..rounds / 10 {
            once()?;
        }
        let (own, other, start) = (on_cpu("self")?, on_cpu(&there.id().to_string())?, Instant::now());
        for _ in 0..rounds {
            once()?;
        }
        let each = |nanos: u64| nanos as f64 / 1000.0 / f64::from(rounds);
        let wall = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        let (own, other) = (
            each(on_cpu("self")? - own),
            each(on_cpu(&there.id().to_string())? - other),
        );
        println!(
            "{:<12} {place:<6} {wall:>13.1} {:>18.1} {other:>18.1}",
            kind.to_string(),
            own + other
        );
    }
    drop(remote);
    there.wait()?;
    Ok(())
}

/// Nanoseconds that the first thread of a process was on a CPU (proc_pid_schedstat).
fn on_cpu(process: &str) -> Result<u64, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    Ok(text.split_whitespace().next().ok_or("no time")?.parse()?)
}
