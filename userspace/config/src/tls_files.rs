//! Files that `[services.NAME.tls]` and `[pools.NAME.tls]` name: what of them is handed on with the configuration.
//!
//! Owns which parts of a file are taken. Of a file that holds certificates and their key only the certificates are: a
//! private key is looked at where the configuration is loaded, and never becomes part of what is handed on.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use weir_tls::{
    Certificate, ClientAuth, Mistake, PrivateKey, Roots, Secret, TicketKeys, Wanted,
    rustls::pki_types::UnixTime,
};

use crate::{report::Draft, words};

/// Longest text of PEM, in bytes: a bundle of authorities, or a list of what was revoked.
const PEM_LONGEST: u64 = 16 << 20;

/// Longest OCSP response, in bytes.
const OCSP_LONGEST: u64 = 64 << 10;

/// The texts of the files that sections `tls` name, by path and by what is taken of them. One that is not here
/// was not read, and counts as empty.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles(BTreeMap<PathBuf, BTreeMap<Part, String>>);

impl std::fmt::Debug for TlsFiles {
    /// Without the texts, some of which are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is taken of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Its certificates.
    Certificates,
    /// Its lists of what was revoked.
    Revocations,
    /// All of it: a response in DER. Kept in base64.
    Ocsp,
    /// All of it, which is a secret.
    TicketKeys,
    /// Nothing: whether there is a private key is looked at.
    Key,
}

impl Part {
    /// The label of its blocks of PEM.
    const fn label(self) -> Option<&'static str> {
        match self {
            Self::Certificates => Some("CERTIFICATE"),
            Self::Revocations => Some("X509 CRL"),
            Self::Ocsp | Self::TicketKeys | Self::Key => None,
        }
    }
}

/// A file that a key names.
#[derive(Clone, Debug)]
pub(crate) struct TlsFile {
    pub(crate) path: PathBuf,
    pub(crate) part: Part,
    /// Where its key's value stands.
    pub(crate) at: usize,
    /// The key's name, for messages.
    pub(crate) key: String,
}

impl TlsFiles {
    pub(crate) fn get(&self, path: &Path, part: Part) -> Option<&str> {
        self.0.get(path)?.get(&part).map(String::as_str)
    }

    /// Whether a file holds what it holds there.
    pub fn is_same(&self, other: &Self, path: &Path) -> bool {
        self.0.get(path) == other.0.get(path)
    }

    /// Forgets what was read of a file.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The mistake of the key that names it.
    pub(crate) fn read(&mut self, named: &TlsFile) -> Result<(), Draft> {
        if self.get(&named.path, named.part).is_some() {
            return Ok(());
        }
        if let Some(text) = named.text()? {
            let parts = self.0.entry(named.path.clone()).or_default();
            parts.insert(named.part, text);
        }
        Ok(())
    }
}

impl TlsFile {
    fn trouble(&self, what: impl std::fmt::Display, mend: &str) -> Draft {
        Draft {
            at: self.at,
            what: format!(
                "{} names {}, which {what}",
                self.key,
                words::plain(&self.path.to_string_lossy())
            ),
            mend: mend.into(),
        }
    }

    /// What was read of it.
    fn of<'f>(&self, files: &'f TlsFiles) -> &'f [u8] {
        files.get(&self.path, self.part).unwrap_or_default().as_bytes()
    }

    /// A mistake of what stands in it.
    fn told(&self, mistake: &Mistake) -> Draft {
        let all = mistake.to_string();
        let (what, mend) = all.split_once("; ").unwrap_or((&all, "name another file"));
        Draft {
            at: self.at,
            what: format!(
                "{} names {}: {what}",
                self.key,
                words::plain(&self.path.to_string_lossy())
            ),
            mend: mend.into(),
        }
    }

    /// What is taken of the file.
    fn text(&self) -> Result<Option<String>, Draft> {
        if self.part == Part::Ocsp {
            return self.ocsp().map(Some);
        }
        // There may be a private key in it, whatever is taken.
        let all = secret(&self.path).map_err(|error| {
            self.trouble(
                format!("cannot be read: {error}"),
                "name a file that weir may read",
            )
        })?;
        let text = std::str::from_utf8(all.bytes()).map_err(|_| {
            self.trouble(
                "is not text in PEM form",
                "name a PEM file; `openssl x509 -inform der` makes one of DER",
            )
        })?;
        match self.part {
            Part::Certificates | Part::Revocations => {
                let label = self.part.label().unwrap_or_default();
                let blocks = blocks(text, label);
                let (what, mend) = match self.part {
                    Part::Revocations => (
                        "holds no list of revoked certificates",
                        "name a PEM file with a block `X509 CRL`",
                    ),
                    Part::Certificates | Part::Ocsp | Part::TicketKeys | Part::Key => (
                        "holds no certificate",
                        "name a PEM file with blocks `CERTIFICATE`, that of the service first",
                    ),
                };
                match blocks.is_empty() {
                    true => Err(self.trouble(what, mend)),
                    false => Ok(Some(blocks)),
                }
            }
            Part::Key if !text.contains("PRIVATE KEY-----") => {
                let mend = "name a PEM file with a block `PRIVATE KEY`, without a passphrase";
                Err(self.trouble("holds no private key", mend))
            }
            Part::Key => Ok(None),
            Part::Ocsp | Part::TicketKeys => Ok(Some(text.to_owned())),
        }
    }

    fn ocsp(&self) -> Result<String, Draft> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|f| f.take(OCSP_LONGEST + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            let what = format!("cannot be read: {error}");
            return Err(self.trouble(what, "name a file that weir may read"));
        }
        // A response is a SEQUENCE (RFC 6960 section 4.2.1).
        if bytes.first() != Some(&0x30) || bytes.len() as u64 > OCSP_LONGEST {
            let mend = "name a file in DER, as `openssl ocsp -respout` writes it";
            return Err(self.trouble("holds no OCSP response", mend));
        }
        Ok(STANDARD.encode(bytes))
    }
}

/// Files that are judged together, by whoever loads.
#[derive(Clone, Debug)]
pub(crate) enum Judged {
    Certificate {
        chain: TlsFile,
        key: TlsFile,
        ocsp: Option<TlsFile>,
    },
    TicketKeys(TlsFile),
    /// What is shown to backends.
    OfClient {
        chain: TlsFile,
        key: TlsFile,
    },
    /// Who issues backends' certificates.
    Authorities(TlsFile),
    Clients {
        ca: TlsFile,
        crl: Option<TlsFile>,
    },
}

impl Judged {
    /// Whether one of the files is named there.
    pub(crate) fn is_at(&self, at: usize) -> bool {
        let (first, second, third) = match self {
            Self::Certificate { chain, key, ocsp } => (chain, Some(key), ocsp.as_ref()),
            Self::OfClient { chain, key } => (chain, Some(key), None),
            Self::TicketKeys(file) | Self::Authorities(file) => (file, None, None),
            Self::Clients { ca, crl } => (ca, crl.as_ref(), None),
        };
        first.at == at || [second, third].into_iter().flatten().any(|file| file.at == at)
    }

    /// The certificate whose time has not come or is over, and its file. Nothing of one that is no certificate.
    pub(crate) fn untimely(&self, files: &TlsFiles) -> Option<(PathBuf, Draft)> {
        let (chain, certificate) = match self {
            Self::Certificate { chain, .. } => (chain, Certificate::read(chain.of(files), None)),
            Self::OfClient { chain, .. } => (chain, Certificate::read_of_client(chain.of(files))),
            Self::TicketKeys(_) | Self::Authorities(_) | Self::Clients { .. } => return None,
        };
        let certificate = certificate.ok()?;
        let mistake = certificate.check_dates(UnixTime::now()).err()?;
        Some((chain.path.clone(), chain.told(&mistake)))
    }

    /// What is wrong with what stands in them, each of which could be read; but for the time.
    pub(crate) fn mistake(&self, files: &TlsFiles) -> Option<Draft> {
        let text = |file| TlsFile::of(file, files);
        let told = TlsFile::told;
        match self {
            Self::Certificate { chain, key, ocsp } => {
                let staple = ocsp.as_ref().and_then(|file| STANDARD.decode(text(file)).ok());
                let certificate = match Certificate::read(text(chain), None) {
                    Ok(certificate) => certificate,
                    Err(mistake) => return Some(told(chain, &mistake)),
                };
                if let (Some(file), Some(staple)) = (ocsp, &staple)
                    && let Err(mistake) = Certificate::read(text(chain), Some(staple))
                {
                    return Some(told(file, &mistake));
                }
                misfit(key, &certificate)
            }
            Self::OfClient { chain, key } => match Certificate::read_of_client(text(chain)) {
                Ok(certificate) => misfit(key, &certificate),
                Err(mistake) => Some(told(chain, &mistake)),
            },
            Self::Authorities(file) => Roots::read(text(file)).err().map(|mistake| told(file, &mistake)),
            Self::TicketKeys(file) => TicketKeys::shared(text(file))
                .err()
                .map(|mistake| told(file, &mistake)),
            Self::Clients { ca, crl } => {
                if let Err(mistake) = ClientAuth::read(Wanted::Required, text(ca), &[]) {
                    return Some(told(ca, &mistake));
                }
                let crl = crl.as_ref()?;
                ClientAuth::read(Wanted::Required, text(ca), &[text(crl)])
                    .err()
                    .map(|mistake| told(crl, &mistake))
            }
        }
    }
}

/// Whether the key in a file is none, or not the certificate's.
fn misfit(key: &TlsFile, certificate: &Certificate) -> Option<Draft> {
    // What can't be read was told before.
    let pem = secret(&key.path).unwrap_or_default();
    let private = PrivateKey::read(pem.bytes());
    let fits = private.and_then(|private| certificate.check_key(&private));
    fits.err().map(|mistake| key.told(&mistake))
}

/// A file's content, overwritten when it is let go.
fn secret(path: &Path) -> std::io::Result<Secret> {
    Secret::read(File::open(path)?, PEM_LONGEST)
}

/// The blocks of PEM with that label, and nothing between them.
fn blocks(text: &str, label: &str) -> String {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let mut blocks = String::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        inside |= line == begin;
        if inside {
            blocks.push_str(line);
            blocks.push('\n');
        }
        inside &= line != end;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_certificates_is_taken() {
        let text = "subject=x\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n\
                    -----BEGIN CERTIFICATE-----\r\nBBBB\r\n-----END CERTIFICATE-----\r\n\
                    -----BEGIN EC PRIVATE KEY-----\nCCCC\n-----END EC PRIVATE KEY-----\n  \
                    -----BEGIN CERTIFICATE-----\nDDDD\n-----END CERTIFICATE-----\ntail\n";
        assert_eq!(
            blocks(text, "CERTIFICATE"),
            "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n\
             -----BEGIN CERTIFICATE-----\nDDDD\n-----END CERTIFICATE-----\n"
        );
        assert_eq!(blocks("no blocks", "CERTIFICATE"), "");
    }
}
