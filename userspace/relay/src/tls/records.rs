//! A connection's records: what is sent is made into them, what comes is taken out of them; whichever side this is.

use std::io;

use rustls::{
    Error,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus},
};

use super::buffers::{WRITE, encode, fitting};

/// What of a connection's records is under way.
#[derive(Default)]
pub(super) struct Records {
    /// What has come of a record that is not whole, or of records that nobody has asked for.
    pub(super) incoming: Vec<u8>,
    /// `incoming` was not looked at to its end.
    pub(super) unread: bool,
    /// What of a record was not asked for, from `at` on.
    pub(super) plain: Vec<u8>,
    at: usize,
    /// Records that the system has not taken.
    pub(super) outgoing: Vec<u8>,
    /// The other side has ended its bytes, in order.
    pub(super) ended: bool,
}

/// Which side of the protocol this is.
pub(super) enum Side {
    /// That of the service, with a client.
    Server(UnbufferedServerConnection),
    /// That of the client, with a backend.
    Client(UnbufferedClientConnection),
}

impl Side {
    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(conn) => conn.is_handshaking(),
            Self::Client(conn) => conn.is_handshaking(),
        }
    }

    /// Takes records apart: see [`feed`].
    pub(super) fn feed(
        &mut self,
        records: &mut Records,
        bytes: &mut [u8],
        to: &mut [u8],
    ) -> Result<usize, Error> {
        match self {
            Self::Server(conn) => feed(conn, records, bytes, to),
            Self::Client(conn) => feed(conn, records, bytes, to),
        }
    }

    /// Makes records: see [`seal`].
    pub(super) fn seal(
        &mut self,
        records: &mut Records,
        bytes: &[u8],
        to: &mut Vec<u8>,
        at: usize,
        last: bool,
    ) -> io::Result<(usize, usize)> {
        match self {
            Self::Server(conn) => seal(conn, records, bytes, to, at, last),
            Self::Client(conn) => seal(conn, records, bytes, to, at, last),
        }
    }
}

/// What both sides' connections can do.
trait Unbuffered {
    /// rustls' own of the side.
    type Data;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn wants_write(&self) -> bool;

    /// Adds a record of the handshake to what is to be sent.
    fn encode(data: &mut EncodeTlsData<'_, Self::Data>, to: &mut Vec<u8>);
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }

    fn encode(data: &mut EncodeTlsData<'_, Self::Data>, to: &mut Vec<u8>) {
        encode(|room| data.encode(room), to);
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }

    fn encode(data: &mut EncodeTlsData<'_, Self::Data>, to: &mut Vec<u8>) {
        encode(|room| data.encode(room), to);
    }
}

/// Makes the alert that tells of an error ready to be sent. Asks rustls no more than it has to say: it must not be given
/// anything to take apart once it has failed.
fn queue_alert<C: Unbuffered>(conn: &mut C, records: &mut Records) {
    while conn.wants_write() {
        match conn.process(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => C::encode(&mut data, &mut records.outgoing),
            Ok(_) | Err(_) => return,
        }
    }
}

/// Takes records apart: the plain bytes go into `to`, and what has no room there is kept, as is what is no whole
/// record. Answers with how many went into `to`.
fn feed<C: Unbuffered>(
    conn: &mut C,
    records: &mut Records,
    bytes: &mut [u8],
    to: &mut [u8],
) -> Result<usize, Error> {
    let (mut at, mut got) = (0, 0);
    records.unread = false;
    loop {
        let rest = bytes.get_mut(at..).unwrap_or_default();
        let UnbufferedStatus { discard, state } = conn.process(rest);
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                queue_alert(conn, records);
                return Err(error);
            }
        };
        let goes_on = match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let payload = record?.payload;
                    let room = to.get_mut(got..).unwrap_or_default();
                    let (now, later) = payload.split_at(payload.len().min(room.len()));
                    if let Some(room) = room.get_mut(..now.len()) {
                        room.copy_from_slice(now);
                    }
                    got += now.len();
                    records.plain.extend_from_slice(later);
                }
                true
            }
            ConnectionState::EncodeTlsData(mut data) => {
                C::encode(&mut data, &mut records.outgoing);
                true
            }
            ConnectionState::TransmitTlsData(transmit) => {
                transmit.done();
                true
            }
            ConnectionState::PeerClosed => {
                records.ended = true;
                true
            }
            // Nobody is offered early data.
            ConnectionState::ReadEarlyData(_)
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::BlockedHandshake
            | ConnectionState::Closed => false,
            _ => false,
        };
        at += discard;
        if goes_on && got == to.len() && got > 0 {
            // The rest has time until it is asked for.
            records.unread = at < bytes.len();
            break;
        }
        if !goes_on {
            break;
        }
    }
    records.incoming = bytes.get(at..).unwrap_or_default().to_vec();
    Ok(got)
}

/// Makes records of `bytes` (as much as is taken at once) at `to[at..]`. Answers with how many were taken, and where
/// the records end.
fn seal<C: Unbuffered>(
    conn: &mut C,
    records: &mut Records,
    bytes: &[u8],
    to: &mut Vec<u8>,
    at: usize,
    last: bool,
) -> io::Result<(usize, usize)> {
    let taken = bytes.len().min(WRITE);
    let bytes = bytes.get(..taken).unwrap_or_default();
    let mut end = at;
    // Each time round something of what has come is out of the way.
    loop {
        let mut incoming = std::mem::take(&mut records.incoming);
        let UnbufferedStatus { discard, state } = conn.process(&mut incoming);
        let sealed = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                if !bytes.is_empty() {
                    end += fitting(to, end, |room| traffic.encrypt(bytes, room))?;
                }
                if last {
                    end += fitting(to, end, |room| traffic.queue_close_notify(room))?;
                }
                true
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    records
                        .plain
                        .extend_from_slice(record.map_err(io::Error::other)?.payload);
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                // In its place between the records.
                let mut record = Vec::new();
                C::encode(&mut data, &mut record);
                end += fitting(to, end, |room| match room.get_mut(..record.len()) {
                    Some(room) => {
                        room.copy_from_slice(&record);
                        Ok(record.len())
                    }
                    None => Err(EncryptError::InsufficientSize(InsufficientSizeError {
                        required_size: record.len(),
                    })),
                })?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                records.ended = true;
                false
            }
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => {
                queue_alert(conn, records);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        incoming.drain(..discard.min(incoming.len()));
        // An idle connection has no buffer.
        records.incoming = match incoming.is_empty() {
            true => Vec::new(),
            false => incoming,
        };
        if sealed {
            return Ok((taken, end));
        }
    }
}

impl Records {
    /// Bytes that are kept of what has come.
    pub(super) fn kept(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity()
    }

    /// What was kept of a record goes into `to`.
    pub(super) fn take_plain(&mut self, to: &mut [u8]) -> usize {
        let kept = self.plain.get(self.at..).unwrap_or_default();
        let n = kept.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..n), kept.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        if self.at == self.plain.len() {
            self.plain = Vec::new();
            self.at = 0;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use rustls::{
        AlertDescription, ClientConfig, ClientConnection, RootCertStore, ServerConfig,
        pki_types::PrivatePkcs8KeyDer,
    };

    use super::*;

    /// Both ends after their handshake.
    fn ends() -> (Side, Records, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut side = Side::Server(UnbufferedServerConnection::new(Arc::new(server)).unwrap());
        let mut client = ClientConnection::new(Arc::new(client), "a.test".try_into().unwrap()).unwrap();
        let mut records = Records::default();
        while client.is_handshaking() || side.is_handshaking() {
            let mut up = std::mem::take(&mut records.incoming);
            client.write_tls(&mut up).unwrap();
            side.feed(&mut records, &mut up, &mut []).unwrap();
            assert_eq!(take(&mut client, &mut records), None);
        }
        (side, records, client)
    }

    /// The client takes what there is for it.
    fn take(client: &mut ClientConnection, records: &mut Records) -> Option<Error> {
        let down = std::mem::take(&mut records.outgoing);
        let mut down = down.as_slice();
        while !down.is_empty() && client.read_tls(&mut down).unwrap() > 0 {
            if let Err(error) = client.process_new_packets() {
                return Some(error);
            }
        }
        None
    }

    #[test]
    fn what_is_found_broken_while_something_is_sent_is_told() {
        let (mut side, mut records, mut client) = ends();
        client.writer().write_all(b"question").unwrap();
        client.write_tls(&mut records.incoming).unwrap();
        // It has changed on the way, and lies there as an answer is sent.
        *records.incoming.last_mut().unwrap() ^= 1;
        let sealed = side.seal(&mut records, b"answer", &mut Vec::new(), 0, false);
        assert_eq!(sealed.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            take(&mut client, &mut records),
            Some(Error::AlertReceived(AlertDescription::BadRecordMac))
        );
    }
}
