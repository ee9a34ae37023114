//! Certificates and keys for tests, made by rcgen; and two ends of TLS that talk in memory.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RsaKeySize, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{LocalKeys, PrivateKey};

/// 2026-06-01: certificates of tests are valid from 2026-01-01 to 2027-01-01.
pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_780_272_000))
}

pub(crate) struct Authority {
    pub(crate) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (params, key) = authority_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let (mut params, key) = authority_params(name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn issue(&self, names: &[&str], key: &KeyPair) -> Certificate {
        self.issue_with(names, key, |_| ())
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let names: Vec<_> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example, Inc.");
        let name = names.first().map_or("nobody", String::as_str);
        params.distinguished_name.push(DnType::CommonName, name);
        dates(&mut params);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap()
    }

    /// A revocation list with these serial numbers.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2026, 2, 1),
            reason_code: None,
            invalidity_date: None,
        });
        rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 2, 1),
            // Before certificates end.
            next_update: rcgen::date_time_ymd(2026, 12, 15),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

fn authority_params(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dates(&mut params);
    (params, p256())
}

fn dates(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
}

pub(crate) fn p256() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(crate) fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

pub(crate) fn key_of(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

pub(crate) fn read_key(key: &KeyPair) -> PrivateKey {
    PrivateKey::read(key.serialize_pem().as_bytes()).unwrap()
}

pub(crate) fn keys(pairs: &[&KeyPair]) -> LocalKeys {
    pairs.iter().map(|key| read_key(key)).collect()
}

/// A client that believes an authority.
pub(crate) fn client(authority: &Authority, identity: Option<(&Certificate, &KeyPair)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_details(Arc::new(crate::provider()), Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap(),
    }
}

#[derive(Debug)]
pub(crate) struct Clock;

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

/// What the server, then the client, failed by.
pub(crate) type Failed = Box<(Option<rustls::Error>, Option<rustls::Error>)>;

/// Both ends after a handshake.
#[expect(
    clippy::unwrap_in_result,
    reason = "what is broken in the test itself is no outcome of it"
)]
pub(crate) fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ServerConnection, ClientConnection), Failed> {
    let mut server_config = ServerConfig::clone(server);
    server_config.time_provider = Arc::new(Clock);
    let mut server = ServerConnection::new(Arc::new(server_config)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    for _ in 0..10 {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.write_tls(&mut up).unwrap();
        let mut up = up.as_slice();
        let mut failed = (None, None);
        while !up.is_empty() && server.read_tls(&mut up).unwrap() > 0 {
            failed.0 = server.process_new_packets().err();
        }
        server.write_tls(&mut down).unwrap();
        let mut down = down.as_slice();
        while !down.is_empty() && client.read_tls(&mut down).unwrap() > 0 {
            failed.1 = client.process_new_packets().err();
        }
        if failed.0.is_some() || failed.1.is_some() {
            return Err(Box::new(failed));
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

pub(crate) fn chain(certificates: &[&Certificate]) -> String {
    certificates.iter().map(|c| c.pem()).collect()
}

pub(crate) fn shown(client: &ClientConnection) -> &CertificateDer<'static> {
    client.peer_certificates().and_then(<[_]>::first).unwrap()
}
