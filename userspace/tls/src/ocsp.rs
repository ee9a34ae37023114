//! An OCSP response that is to be stapled (RFC 6960): enough of it to see that it is one, for this certificate, and good.
//!
//! Owns reading its dates and its verdict. Whether the authority signed it, clients check.

use x509_parser::{
    asn1_rs::{Any, FromDer, GeneralizedTime, Oid, Sequence, oid},
    error::X509Error,
};

use crate::mistake::{Mistake, Moment};

/// What clients tolerate between two clocks, in seconds.
const SKEW: i64 = 300;

/// A response in DER.
#[derive(Clone, Debug)]
pub(crate) struct Staple {
    der: Vec<u8>,
    this_update: i64,
    next_update: Option<i64>,
}

impl Staple {
    /// Reads a response that speaks of the certificate with this serial number.
    pub(crate) fn read(der: &[u8], serial: &[u8]) -> Result<Self, Mistake> {
        let bad = |why: &str| Mistake::Staple(why.to_owned());
        let unreadable = |_| bad("it can't be read as an OCSP response in DER");
        let (status, basic) = response(der).map_err(unreadable)?;
        if status != [0] {
            return Err(bad("the responder reports an error in it, so fetch it anew"));
        }
        let basic = basic.ok_or_else(|| bad("it holds no answer"))?;
        for single in answers(basic).map_err(unreadable)? {
            let (found, verdict, this_update, next_update) = single_answer(single).map_err(unreadable)?;
            if stripped(found) != stripped(serial) {
                continue;
            }
            // CertStatus: good [0], revoked [1], unknown [2].
            return match verdict {
                0 => Ok(Self {
                    der: der.to_owned(),
                    this_update,
                    next_update,
                }),
                1 => Err(bad("it says that the certificate is revoked")),
                _ => Err(bad("the responder does not know the certificate")),
            };
        }
        Err(bad("it is for another certificate"))
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The last moment that it is good for, in seconds since 1970. None: it does not say.
    pub(crate) fn end(&self) -> Option<i64> {
        self.next_update
    }

    pub(crate) fn check_dates(&self, now: i64) -> Result<(), Mistake> {
        match self.next_update {
            Some(end) if now > end => Err(Mistake::Staple(format!("it was valid until {}", Moment(end)))),
            _ if now + SKEW < self.this_update => Err(Mistake::Staple(format!(
                "it is valid from {} on",
                Moment(self.this_update)
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// An integer's bytes without zeros before it.
fn stripped(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

type Read<T> = Result<T, x509_parser::asn1_rs::Err<X509Error>>;

fn next<'a>(input: &mut &'a [u8]) -> Read<Any<'a>> {
    let (rest, any) = Any::from_der(input).map_err(lift)?;
    *input = rest;
    Ok(any)
}

fn lift(
    error: x509_parser::asn1_rs::Err<x509_parser::asn1_rs::Error>,
) -> x509_parser::asn1_rs::Err<X509Error> {
    error.map(X509Error::Der)
}

fn sequence(input: &[u8]) -> Read<&[u8]> {
    let (_, sequence) = Sequence::from_der(input).map_err(lift)?;
    Ok(match sequence.content {
        std::borrow::Cow::Borrowed(content) => content,
        std::borrow::Cow::Owned(_) => &[],
    })
}

/// OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, responseBytes \[0\] EXPLICIT ResponseBytes OPTIONAL }: the
/// status, and the BasicOCSPResponse if there is one.
fn response(der: &[u8]) -> Read<(&[u8], Option<&[u8]>)> {
    let mut fields = sequence(der)?;
    let status = next(&mut fields)?.data;
    if fields.is_empty() {
        return Ok((status, None));
    }
    let mut bytes = sequence(next(&mut fields)?.data)?;
    let (rest, kind) = Oid::from_der(bytes).map_err(lift)?;
    bytes = rest;
    let basic = (kind == oid!(1.3.6.1.5.5.7.48.1.1)).then_some(next(&mut bytes)?.data);
    Ok((status, basic))
}

/// The SingleResponses of BasicOCSPResponse ::= SEQUENCE { tbsResponseData SEQUENCE { version \[0\] DEFAULT v1,
/// responderID \[1\] or \[2\], producedAt, responses SEQUENCE OF SingleResponse, ... }, ... }.
fn answers(basic: &[u8]) -> Read<Vec<&[u8]>> {
    let mut data = sequence(sequence(basic)?)?;
    let mut first = next(&mut data)?;
    if first.tag().0 == 0 {
        first = next(&mut data)?;
    }
    let (_responder, _produced) = (first, next(&mut data)?);
    let mut list = next(&mut data)?.data;
    let mut answers = Vec::new();
    while !list.is_empty() {
        answers.push(next(&mut list)?.data);
    }
    Ok(answers)
}

/// SingleResponse ::= SEQUENCE { certID SEQUENCE { hashAlgorithm, issuerNameHash, issuerKeyHash, serialNumber },
/// certStatus, thisUpdate, nextUpdate \[0\] EXPLICIT OPTIONAL, ... }: serial, status, both dates.
fn single_answer(mut fields: &[u8]) -> Read<(&[u8], u32, i64, Option<i64>)> {
    let mut id = next(&mut fields)?.data;
    let (_algorithm, _name, _key) = (next(&mut id)?, next(&mut id)?, next(&mut id)?);
    let serial = next(&mut id)?.data;
    let verdict = next(&mut fields)?.tag().0;
    let (rest, this_update) = GeneralizedTime::from_der(fields).map_err(lift)?;
    let this_update = seconds(&this_update)?;
    fields = rest;
    let next_update = match fields.is_empty() {
        true => None,
        false => match next(&mut fields)? {
            tagged if tagged.tag().0 == 0 => {
                let (_, end) = GeneralizedTime::from_der(tagged.data).map_err(lift)?;
                Some(seconds(&end)?)
            }
            _ => None,
        },
    };
    Ok((serial, verdict, this_update, next_update))
}

fn seconds(time: &GeneralizedTime) -> Read<i64> {
    let time = time.utc_datetime();
    time.map(|t| t.unix_timestamp())
        .map_err(|_| x509_parser::asn1_rs::Err::Error(X509Error::InvalidDate))
}

#[cfg(test)]
mod tests;
