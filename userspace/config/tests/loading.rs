//! Loading from files: what can't be read, tunables beside the file, certificates that checks name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weir_config::{Facts, load};

const GOOD: &str =
    "[node]\nxdp = \"off\"\nname = \"a\"\n[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory can be made"))
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory can be made");
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The report of loading, with the directory's name taken out.
    fn report(&self, path: &Path) -> String {
        load(path)
            .expect_err("it has a mistake")
            .to_string()
            .replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn tunables_beside_the_file_count() {
    let dir = Dir::new();
    let path = dir.write("weir.toml", format!("{GOOD}check = {{ type = \"tcp\" }}\n"));
    dir.write("tunables.d/a.conf", "weir.check.fall = 9\n");
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.plan.pools[0].check.as_ref().unwrap().fall, 9);
    assert_eq!(loaded.source.tunables.values().check_fall, 9);
    assert_eq!(loaded.source.name, path.to_string_lossy());
    assert_eq!(loaded.source.resolve().unwrap(), *loaded.plan);
    assert_eq!(loaded.source.facts, Facts::of_this_machine());
}

#[test]
fn mistakes_of_all_files_are_told() {
    let dir = Dir::new();
    let path = dir.write("weir.toml", format!("{GOOD}balance = \"\"\n"));
    dir.write("tunables.d/a.conf", "weir.check.fall = 0\n");
    assert_eq!(
        dir.report(&path),
        "tunables.d/a.conf:1:1: weir.check.fall is 0, less than 1; set it to 1 or more\n\
         weir.toml:6:11: pools.web.balance is ``, which is none of its values; write \"round-robin\" or \"least-connections\""
    );
}

#[test]
fn what_is_no_text_file_says_so() {
    let dir = Dir::new();
    let missing = dir.0.path().join("none.toml");
    assert_eq!(
        dir.report(&missing),
        "none.toml: cannot be read: No such file or directory (os error 2); name a file that weir may read"
    );
    fs::create_dir(dir.0.path().join("d.toml")).unwrap();
    let report = dir.report(&dir.0.path().join("d.toml"));
    assert_eq!(
        report,
        "d.toml: cannot be read: Is a directory (os error 21); name a file that weir may read"
    );
    let path = dir.write("weir.toml", b"[node]\nname = \"\xc3\xa4\xff\"\n");
    assert_eq!(
        dir.report(&path),
        "weir.toml:2:10: this byte is not UTF-8; save the file in UTF-8"
    );
    let path = dir.write("large.toml", vec![b'#'; (16 << 20) + 1]);
    assert_eq!(
        dir.report(&path),
        "large.toml: is larger than 16 MiB; name a configuration file"
    );
}

#[test]
fn certificates_that_a_check_names_must_be_there() {
    let dir = Dir::new();
    let ca = dir.write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let text = |ca: &PathBuf| {
        format!(
            "{GOOD}[pools.web.check]\ntype = \"https\"\nca = \"{}\"\nrise = 3\n",
            ca.display()
        )
    };
    load(&dir.write("weir.toml", text(&ca))).unwrap();
    let path = dir.write("weir.toml", text(&dir.0.path().join("none.pem")));
    assert_eq!(
        dir.report(&path),
        "weir.toml:8:6: pools.web.check.ca names none.pem, which cannot be read: No such file or directory (os error 2); \
         name a file that weir may read"
    );
    let path = dir.write(
        "weir.toml",
        text(&dir.write("key.pem", "-----BEGIN PRIVATE KEY-----\n")),
    );
    assert_eq!(
        dir.report(&path),
        "weir.toml:8:6: pools.web.check.ca names key.pem, which holds no certificate; name a file of certificates in PEM \
         form"
    );
    // Beside other mistakes it is told as well.
    let both = text(&dir.0.path().join("none.pem")).replace("rise = 3", "rise = 0");
    assert_eq!(dir.report(&dir.write("weir.toml", both)).lines().count(), 2);
}
