//! Reading text files, bounded, with located errors.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use crate::report::{Draft, Mistake, place};

/// More than any configuration needs: 16 MiB.
const LARGEST: u64 = 16 << 20;

/// The file's text. Boxed: a mistake is large, and rare.
pub(crate) fn read_text(path: &Path) -> Result<String, Box<Mistake>> {
    let file: Arc<str> = path.to_string_lossy().into();
    let whole = |what: String, mend: &str| {
        Box::new(Mistake {
            file: file.clone(),
            place: None,
            what,
            mend: mend.into(),
        })
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            whole(
                format!("cannot be read: {error}"),
                "name a file that weir may read",
            )
        })?;
    if bytes.len() as u64 > LARGEST {
        return Err(whole("is larger than 16 MiB".into(), "name a configuration file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default()).into_owned();
        let draft = Draft {
            at: valid,
            what: "this byte is not UTF-8".into(),
            mend: "save the file in UTF-8".into(),
        };
        place(&file, &text, vec![draft]).pop().map_or_else(
            || whole("is not UTF-8".into(), "save the file in UTF-8"),
            Box::new,
        )
    })
}
