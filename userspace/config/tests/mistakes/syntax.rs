//! What is not TOML.

use crate::check_as_it_stands;

#[test]
fn each_has_its_line() {
    check_as_it_stands(
        r"a = [1, 2
b = 3
",
        &[r"2:1: not TOML: missing comma between array elements; TOML expects `,` here"],
    );
    check_as_it_stands(
        r"[node]
name = edge
",
        &[r"2:8: not TOML: `edge` is no value; put it in double quotes"],
    );
    check_as_it_stands(
        r#"[node]
name = "a"
name = "b"
[node]
x = 
"#,
        &[
            r"3:1: `name` stands twice; remove one of them, or join the two",
            r"4:2: `node` stands twice; remove one of them, or join the two",
            r"5:5: not TOML: there is no value; write one behind the equals sign",
        ],
    );
    check_as_it_stands(
        r"[pools.web
",
        &[r"1:11: not TOML: unclosed table; TOML expects `]` here"],
    );
    check_as_it_stands(
        r#"[node]
name = "a
"#,
        &[r#"2:10: not TOML: invalid basic string; TOML expects `"` here"#],
    );
    check_as_it_stands(
        r"[node]
workers = 010
",
        &[r"2:11: not TOML: unexpected leading zero; remove it"],
    );
    check_as_it_stands(
        r"name: edge
",
        &[r"1:5: not TOML: invalid unquoted key; TOML expects letters, numbers, `-`, `_` here"],
    );
    check_as_it_stands(
        "\0",
        &[r"1:1: not TOML: invalid unquoted key; TOML expects letters, numbers, `-`, `_` here"],
    );
    check_as_it_stands(
        r#"[node]
name = "\q"
"#,
        &[
            r#"2:10: not TOML: missing escaped value; TOML expects `b`, `e`, `f`, `n`, `r`, `\`, `"`, `x`, `u`, `U` here"#,
        ],
    );
}
