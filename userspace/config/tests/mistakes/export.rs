//! `[export]`

use crate::check;

#[test]
fn each_has_its_line() {
    check(
        "[export]\ntable = 254\n",
        &[
            r#"2:9: export.table is 254, the kernel's table "main"; name a table that nothing else uses, as 180: routes there do not change where this box sends packets"#,
        ],
    );
    check(
        "[export]\ntable = 0\n",
        &[r"2:9: export.table is 0, less than 1; write a number from 1 to 4294967295"],
    );
    check(
        "[export]\nwhen = \"most\"\n",
        &[r#"2:8: export.when is `most`, which is none of its values; write "any" or "all""#],
    );
    check(
        "[export]\nnotice = \"1h\"\n",
        &[r#"2:10: export.notice is 1h, more than 5m; write at most "5m""#],
    );
    check(
        "[export]\nmetric = 1\n",
        &[r"2:1: unknown key `metric` in [export]; it has table, when and notice"],
    );
}
