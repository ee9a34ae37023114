//! `[export]`: routes by which a routing daemon learns which addresses this box serves.

use std::time::Duration;

use weir_core::plan::{Export, ExportWhen};

use crate::{
    keys,
    reader::{Cx, Table},
};

/// The longest notice.
const NOTICE_MOST: Duration = Duration::from_secs(300);
/// Tables that the kernel and the system's own routes are in: `default`, `main`, `local`.
const TAKEN: [(u32, &str); 3] = [(253, "default"), (254, "main"), (255, "local")];

/// The section; None where the file has none. With defaults where it is silent, or wrong.
pub(crate) fn read(cx: &mut Cx, document: &Table<'_>) -> Option<Export> {
    let section = document
        .get("export")
        .and_then(|value| value.table(cx, &keys::EXPORT))?;
    let mut export = Export::DEFAULT;
    if let Some(value) = section.get("table")
        && let Some(table) = value.integer(cx, 1..=u32::MAX)
    {
        if let Some((_, name)) = TAKEN.iter().find(|(taken, _)| *taken == table) {
            value.mistake(
                cx,
                format!("is {table}, the kernel's table \"{name}\""),
                "name a table that nothing else uses, as 180: routes there do not change where this box sends packets",
            );
        }
        export.table = table;
    }
    if let Some(value) = section.get("when")
        && let Some(when) = value.choice(cx, &ExportWhen::ALL, &[])
    {
        export.when = when;
    }
    if let Some(value) = section.get("notice")
        && let Some(notice) = value.duration(cx, Duration::ZERO..=NOTICE_MOST)
    {
        export.notice = notice;
    }
    Some(export)
}
