//! Compression (RFC 7541): what is a block, and what is none.
//!
//! Names and values in Huffman's code are those of the RFC's own examples (appendix C): `custom-key`, `custom-value`.

use crate::http2::{
    case::{Case, case},
    frames::{Code, GET, block, integer, request},
};

const COMPRESSION: &[Code] = &[Code::COMPRESSION_ERROR];

const KEY: &[u8] = &[0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
const VALUE: &[u8] = &[0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];
const PLAIN_KEY: &[u8] = b"\x0acustom-key";
const PLAIN_VALUE: &[u8] = b"\x0ccustom-value";

/// `user-agent` in the static table.
const USER_AGENT: usize = 58;

/// Entries of the static table.
const STATIC: usize = 61;

pub(super) fn cases() -> Vec<Case> {
    let get = block(&GET);
    let behind = |more: &[u8]| request(1, &[&get[..], more].concat());
    let sound = |id, rule, more: &[&[u8]]| case(id, rule).send(behind(&more.concat())).answered();
    let broken = |id, rule, more: &[&[u8]]| {
        case(id, rule)
            .send(behind(&more.concat()))
            .ends(COMPRESSION)
            .untouched()
    };
    let mut all = vec![
        sound("7541-6.1/static", "an entry of the static table", &[&[0x80 | 16]]),
        // The second is the entry that the first has made.
        sound(
            "7541-6.1/dynamic",
            "an entry of the dynamic table",
            &[&[0x40], PLAIN_KEY, PLAIN_VALUE, &integer(0x80, 7, STATIC + 1)],
        ),
        sound(
            "7541-6.2.1/indexed-name",
            "a literal that is kept, its name in the table",
            &[&integer(0x40, 6, USER_AGENT), PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.1/indexed-name-huffman",
            "the same by Huffman's code",
            &[&integer(0x40, 6, USER_AGENT), VALUE],
        ),
        sound(
            "7541-6.2.1/new-name",
            "a literal that is kept",
            &[&[0x40], PLAIN_KEY, PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.1/new-name-huffman",
            "the same by Huffman's code",
            &[&[0x40], KEY, VALUE],
        ),
        sound(
            "7541-6.2.2/indexed-name",
            "a literal that is not kept, its name in the table",
            &[&integer(0, 4, USER_AGENT), PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.2/indexed-name-huffman",
            "the same by Huffman's code",
            &[&integer(0, 4, USER_AGENT), VALUE],
        ),
        sound(
            "7541-6.2.2/new-name",
            "a literal that is not kept",
            &[&[0], PLAIN_KEY, PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.2/new-name-huffman",
            "the same by Huffman's code",
            &[&[0], KEY, VALUE],
        ),
        sound(
            "7541-6.2.3/indexed-name",
            "a literal that is never kept, its name in the table",
            &[&integer(0x10, 4, USER_AGENT), PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.3/indexed-name-huffman",
            "the same by Huffman's code",
            &[&integer(0x10, 4, USER_AGENT), VALUE],
        ),
        sound(
            "7541-6.2.3/new-name",
            "a literal that is never kept",
            &[&[0x10], PLAIN_KEY, PLAIN_VALUE],
        ),
        sound(
            "7541-6.2.3/new-name-huffman",
            "the same by Huffman's code",
            &[&[0x10], KEY, VALUE],
        ),
        case("7541-6.3/change", "the table's size may change before a block")
            .send(request(1, &[&integer(0x20, 5, 128), &get[..]].concat()))
            .answered(),
        case("7541-6.3/changes", "twice, too")
            .send(request(
                1,
                &[&integer(0x20, 5, 128), &integer(0x20, 5, 4096), &get[..]].concat(),
            ))
            .answered(),
        broken(
            "7541-2.3.3/index",
            "there is no such entry",
            &[&integer(0x80, 7, STATIC + 9)],
        ),
        broken(
            "7541-2.3.3/name-index",
            "nor one to take a name from",
            &[&integer(0x40, 6, STATIC + 9), b"\0"],
        ),
        broken(
            "7541-4.2/change-behind",
            "the size does not change behind fields",
            &[&[0x21]],
        ),
        broken(
            "7541-5.2/padded-too-much",
            "Huffman's padding is less than a byte",
            &[&[0], b"\x06x-test", &[0x82, 0x1f, 0xff]],
        ),
        broken(
            "7541-5.2/padded-by-zeros",
            "it is of ones",
            &[&[0], b"\x06x-test", &[0x81, 0x18]],
        ),
        broken(
            "7541-5.2/end-of-string",
            "the code's own end is no letter",
            &[&[0], b"\x06x-test", &[0x85, 0x1f, 0xff, 0xff, 0xff, 0xff]],
        ),
        broken("7541-5.2/cut", "a string is whole", &[&[0], b"\x7fx-test"]),
        broken("7541-5.1/endless", "an integer has an end", &[&[0xff; 12]]),
        broken("7541-6.1/zero", "there is no entry 0", &[&[0x80]]),
    ];
    all.push(
        case("7541-6.3/larger", "the table is no larger than was allowed")
            .send_by(|settings| {
                let size = integer(0x20, 5, settings.table + 1);
                Some(request(1, &[&size[..], &block(&GET)].concat()))
            })
            .ends(COMPRESSION)
            .untouched(),
    );
    all
}
