//! Reads the section table of the eBPF object, to show what was built.
//!
//! Only 64-bit little-endian ELF, only names and sizes. Loading and relocating is aya's work, in `weir-datapath`.

/// A section of an object file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its name, such as `xdp`.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// The sections of `image`, or `None` when it is no such ELF file.
pub(crate) fn sections(image: &[u8]) -> Option<Vec<Section>> {
    // e_ident: magic, ELFCLASS64, ELFDATA2LSB.
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64_at(image, 40)?).ok()?;
    let size = usize::from(u16_at(image, 58)?);
    let count = usize::from(u16_at(image, 60)?);
    let names = usize::from(u16_at(image, 62)?);
    let header = |i: usize| image.get(table.checked_add(i.checked_mul(size)?)?..);
    let strings = body(image, header(names)?)?;
    (0..count)
        .map(|i| {
            let header = header(i)?;
            let start = usize::try_from(u32_at(header, 0)?).ok()?;
            let name = strings.get(start..)?.split(|b| *b == 0).next()?;
            Some(Section {
                name: String::from_utf8_lossy(name).into_owned(),
                size: u64_at(header, 32)?,
            })
        })
        .collect()
}

/// The bytes of the section that `header` describes.
fn body<'a>(image: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = usize::try_from(u64_at(header, 24)?).ok()?;
    let size = usize::try_from(u64_at(header, 32)?).ok()?;
    image.get(offset..offset.checked_add(size)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sections: an empty one, and the names.
    fn sample() -> Vec<u8> {
        let names = b"\0.shstrtab\0";
        let mut image = vec![0; 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[40..48].copy_from_slice(&(64 + names.len() as u64).to_le_bytes());
        image[58..60].copy_from_slice(&64u16.to_le_bytes());
        image[60..62].copy_from_slice(&2u16.to_le_bytes());
        image[62..64].copy_from_slice(&1u16.to_le_bytes());
        image.extend(names);
        image.extend([0; 64]);
        let mut header = [0; 64];
        header[0] = 1;
        header[24..32].copy_from_slice(&64u64.to_le_bytes());
        header[32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
        image.extend(header);
        image
    }

    #[test]
    fn names_and_sizes_are_read() {
        let expected = [("", 0), (".shstrtab", 11)].map(|(name, size)| Section {
            name: name.into(),
            size,
        });
        assert_eq!(sections(&sample()), Some(expected.into()));
    }

    #[test]
    fn a_cut_file_is_no_object() {
        let whole = sample();
        for end in 0..whole.len() - 24 {
            assert_eq!(sections(&whole[..end]), None, "cut at {end}");
        }
        assert_eq!(sections(b"#!/bin/sh\n"), None);
    }
}
