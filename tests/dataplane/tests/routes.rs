//! Where next hops come from: routes looked up as if from `lo`, whose forwarding switch is the only one that is set.

use anyhow::Result;
use weir_dataplane_tests::{Lab, Kernel};

#[test]
fn smoke() -> Result<()> {
    Lab::run(|lab| { let _k = Kernel::load()?; println!("{lab:?}"); Ok(()) })
}
