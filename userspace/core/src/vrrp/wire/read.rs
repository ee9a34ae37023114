//! Reading an advert.

use super::{
    Addresses, Advert, Checksum, Ends, HEADER, Malformed, Packet, V2_AUTH, Version, octets, sum::Sum,
};
use crate::vrrp::{Centis, Family, HOPS, Vrid, auth::Trailer};

/// Reads the advert in an IP packet. The order of the checks is that of RFC 9568 section 7.1; what is refused here would
/// be refused by every router of the link.
///
/// # Errors
/// The first thing that is wrong.
pub fn read<'a>(packet: &Packet<'a>) -> Result<Advert<'a>, Malformed> {
    let Packet { ends, hops, payload } = *packet;
    if hops != HOPS {
        return Err(Malformed::Hops);
    }
    let (header, _) = payload.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
    let [kind, vrid, priority, count, fifth, sixth, _, _] = *header;
    let family = ends.family();
    let is_v3 = match (kind >> 4, family) {
        (3, Family::V4 | Family::V6) => true,
        (2, Family::V4) => false,
        _ => return Err(Malformed::Version),
    };
    if kind & 0xf != 1 {
        return Err(Malformed::Type);
    }
    let addresses_len = usize::from(count) * octets(family);
    let message_len = HEADER + addresses_len + if is_v3 { 0 } else { V2_AUTH };
    let (message, behind) = payload.split_at_checked(message_len).ok_or(Malformed::Short)?;
    let trailer = match behind {
        [] => None,
        _ if is_v3 => Some(Trailer::read(behind).ok_or(Malformed::Long)?),
        _ => return Err(Malformed::Long),
    };
    let checksum = checksum(message, &ends, is_v3).ok_or(Malformed::Checksum)?;
    let vrid = Vrid::new(vrid).ok_or(Malformed::Vrid)?;
    if count == 0 {
        return Err(Malformed::NoAddress);
    }
    let (interval, version) = if is_v3 {
        // The four bits before it are reserved and to be ignored (section 5.2.6).
        let interval = u16::from_be_bytes([fifth & 0xf, sixth]);
        (interval, Version::V3)
    } else {
        let auth = match fifth {
            0 => None,
            1 => Some(*message.last_chunk::<V2_AUTH>().ok_or(Malformed::Short)?),
            _ => return Err(Malformed::AuthType),
        };
        // Whole seconds: 255 of them are more than there is room for in version 3.
        let interval = (u16::from(sixth) * 100).min(Centis::MAX.get());
        (interval, Version::V2 { auth })
    };
    Ok(Advert {
        vrid,
        priority,
        interval: Centis::new(interval).ok_or(Malformed::Interval)?,
        addresses: Addresses {
            family,
            bytes: message
                .get(HEADER..HEADER + addresses_len)
                .ok_or(Malformed::Short)?,
        },
        version,
        checksum,
        trailer,
        message,
    })
}

/// Which checksum it is that the message has.
fn checksum(message: &[u8], ends: &Ends, is_v3: bool) -> Option<Checksum> {
    let is_right = |checksum| {
        Sum::NONE
            .bytes(message)
            .pseudo_header(ends, message.len(), checksum)
            .checksum()
            == 0
    };
    if !is_v3 || is_right(Checksum::Rfc9568) {
        return is_right(Checksum::Rfc9568).then_some(Checksum::Rfc9568);
    }
    is_right(Checksum::Rfc5798).then_some(Checksum::Rfc5798)
}
