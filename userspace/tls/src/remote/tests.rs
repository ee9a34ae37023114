//! Tests of keys in another process: here, in another thread, at the far end of a socket.

use std::{sync::Arc, thread};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::{
    Certificate, Front, Policy, PrivateKey, Signing,
    fixture::{self, Authority, shake},
    message::encode_answer,
};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn served(keys: &[PrivateKey]) -> (RemoteKeys, Arc<Signing>, thread::JoinHandle<std::io::Result<()>>) {
    let signing = Arc::new(Signing::default());
    signing.add(keys.iter().cloned());
    let remote = RemoteKeys::new(1);
    let (near, far) = pair();
    remote.connect(vec![near]).unwrap();
    let there = Arc::clone(&signing);
    (remote, signing, thread::spawn(move || there.serve(&far)))
}

fn handshake() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat()
}

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[test]
fn handshakes_of_every_kind_and_version_work() {
    let root = Authority::new("Root");
    for pair in [
        fixture::p256(),
        fixture::key_of(&rcgen::PKCS_ECDSA_P384_SHA384),
        fixture::key_of(&rcgen::PKCS_ECDSA_P521_SHA512),
        fixture::key_of(&rcgen::PKCS_ED25519),
        fixture::rsa(),
    ] {
        let key = fixture::read_key(&pair);
        let pem = root.issue(&["www.example.net"], &pair).pem();
        let certificate = Certificate::read(pem.as_bytes(), None).unwrap();
        for version in ["TLSv1.2", "TLSv1.3"] {
            let policy = Policy::intermediate().with_versions([version]).unwrap();
            let front = Front::new(policy).certificate(certificate.clone(), Vec::new());
            let (remote, signing, thread) = served(std::slice::from_ref(&key));
            let (_, config) = front.build(&remote).unwrap();
            let client = Arc::new(fixture::client(&root, None));
            shake(&config, &client, "www.example.net").unwrap();
            assert_eq!(
                (signing.signed(), signing.refused()),
                (1, 0),
                "{version} {}",
                key.kind()
            );
            drop((remote, config));
            thread.join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_handshake_fails_by_its_reason_and_works_again() {
    let root = Authority::new("Root");
    let pair_of_keys = fixture::p256();
    let key = fixture::read_key(&pair_of_keys);
    let pem = root.issue(&["www.example.net"], &pair_of_keys).pem();
    let certificate = Certificate::read(pem.as_bytes(), None).unwrap();
    let remote = RemoteKeys::new(1);
    let front = Front::new(Policy::modern()).certificate(certificate, Vec::new());
    let (_, config) = front.build(&remote).unwrap();
    let client = Arc::new(fixture::client(&root, None));
    let failure = || {
        let failed = shake(&config, &client, "www.example.net").unwrap_err();
        NoSignature::of(failed.0.as_ref().unwrap()).unwrap()
    };
    assert!(!remote.is_there());
    assert_eq!(failure(), NoSignature::Away);
    // It has other keys.
    let signing = Arc::new(Signing::default());
    let (near, far) = pair();
    remote.connect(vec![near]).unwrap();
    let there = Arc::clone(&signing);
    let thread = thread::spawn(move || there.serve(&far));
    assert!(remote.is_there());
    assert_eq!(
        failure(),
        NoSignature::Refused("the keys process does not have the key")
    );
    signing.add([key]);
    shake(&config, &client, "www.example.net").unwrap();
    // It dies, and another takes its place.
    let (near, far) = pair();
    drop(far);
    remote.connect(vec![near]).unwrap();
    thread.join().unwrap().unwrap();
    assert_eq!(failure(), NoSignature::Away);
    assert!(!remote.is_there());
    let (near, far) = pair();
    remote.connect(vec![near]).unwrap();
    let thread = thread::spawn(move || signing.serve(&far));
    shake(&config, &client, "www.example.net").unwrap();
    drop((remote, config));
    thread.join().unwrap().unwrap();
}

#[test]
fn one_that_hangs_is_waited_for_once_and_then_left_alone() {
    let remote = RemoteKeys::new(1);
    let (near, far) = pair();
    remote.connect(vec![near]).unwrap();
    let start = Instant::now();
    let sign = || remote.sign(KeyId([1; 32]), SCHEME, &handshake());
    assert_eq!(sign(), Err(NoSignature::Late));
    assert!(start.elapsed() >= DEADLINE);
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(sign(), Err(NoSignature::Late));
    }
    assert!(start.elapsed() < DEADLINE / 2);
    // It comes to itself: answers what was asked long ago, then what is asked now.
    thread::sleep(REST);
    let late = thread::spawn(move || {
        let mut packet = [0; 1024];
        // After a long hang there are many that nobody waits for any more.
        for times in [20, 1] {
            let (_, length) = recv(&far, &mut packet, RecvFlags::empty()).unwrap();
            let request = Request::decode(&packet[..length]).unwrap();
            let answer = encode_answer(request.number, Ok(&request.number.to_be_bytes()));
            for _ in 0..times {
                send(&far, &answer, SendFlags::empty()).unwrap();
            }
        }
        far
    });
    assert_eq!(sign(), Ok(vec![0, 0, 0, 2]));
    drop(late.join().unwrap());
    assert_eq!(sign(), Err(NoSignature::Away));
}

#[test]
fn what_is_no_answer_ends_the_talk() {
    for answer in [
        b"rubbish".to_vec(),
        vec![1; 1100],
        encode_answer(1, Ok(&[0; 64]))[..5].to_vec(),
    ] {
        let remote = RemoteKeys::new(1);
        let (near, far) = pair();
        remote.connect(vec![near]).unwrap();
        send(&far, &answer, SendFlags::empty()).unwrap();
        assert_eq!(
            remote.sign(KeyId([1; 32]), SCHEME, &handshake()),
            Err(NoSignature::Garbled)
        );
        assert_eq!(
            remote.sign(KeyId([1; 32]), SCHEME, &handshake()),
            Err(NoSignature::Away)
        );
    }
}

#[test]
fn threads_do_not_wait_for_each_other() {
    let pair_of_keys = fixture::p256();
    let key = fixture::read_key(&pair_of_keys);
    let id = key.id();
    let signing = Arc::new(Signing::default());
    signing.add([key]);
    let remote = RemoteKeys::new(4);
    let (near, far): (Vec<_>, Vec<_>) = (0..4).map(|_| pair()).unzip();
    remote.connect(near).unwrap();
    assert!(remote.connect(Vec::new()).is_err(), "not as many as threads");
    let servers: Vec<_> = far
        .into_iter()
        .map(|far| {
            let signing = Arc::clone(&signing);
            thread::spawn(move || signing.serve(&far))
        })
        .collect();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    remote.sign(id, SCHEME, &handshake()).unwrap();
                }
            });
        }
    });
    assert_eq!(signing.signed(), 400);
    drop(remote);
    for server in servers {
        server.join().unwrap().unwrap();
    }
}

#[test]
fn what_is_no_request_ends_the_service() {
    let signing = Signing::default();
    for packet in [b"rubbish".to_vec(), vec![1; 40_000]] {
        let (near, far) = pair();
        send(&near, &packet, SendFlags::empty()).unwrap();
        assert!(signing.serve(&far).is_err());
    }
    assert_eq!(signing.refused(), 2);
}
