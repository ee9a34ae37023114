//! The object as it was built: it loads, the verifier takes it with room to spare, and its maps are those of `weir-abi`.

use anyhow::{Context as _, Result, ensure};
use aya::{EbpfLoader, maps::MapType, programs::Program};
use weir_abi::{
    MAPS, MapSpec, names,
    spec::{flag, kind},
};
use weir_dataplane_tests::{Kernel, kernel::map_data, object};

/// What the verifier may have to follow before it gives up: a million instructions.
const VERIFIER_LIMIT: u32 = 1_000_000;

#[test]
fn all_programs_load() -> Result<()> {
    // As it is built, maps of their default sizes.
    let mut kernel = Kernel::load_with(&mut EbpfLoader::new())?;
    let names: Vec<String> = kernel
        .ebpf()
        .programs()
        .map(|(name, _)| name.to_owned())
        .collect();
    let stages = names::STAGE_PROGRAMS.map(|(_, name)| name);
    let others = [
        names::XDP_PROGRAM,
        names::STEER_PROGRAM,
        names::STEER_ANY_PROGRAM,
        names::TAKE_PROGRAM,
        names::LEAVE_PROGRAM,
        names::ARRIVE_PROGRAM,
    ];
    let expected = [&others, &stages[..]].concat();
    ensure!(names.len() == expected.len(), "programs: {names:?}");
    let mut most = 0;
    for name in expected {
        let program: &Program = kernel.ebpf().program(name).context(name)?;
        let info = program.info()?;
        let followed = info
            .verified_instruction_count()
            .context("the kernel says how much it verified")?;
        let size = info.size_translated().unwrap_or(0) / 8;
        println!("{name}: {size} instructions, {followed} followed by the verifier");
        ensure!(
            info.name_as_str() == Some(name),
            "the kernel calls it {:?}",
            info.name_as_str()
        );
        ensure!(info.gpl_compatible() == Some(true), "{name}: not GPL-compatible");
        most = followed.max(most);
    }
    // Older kernels prune less: half of the limit is kept free for them.
    ensure!(most < VERIFIER_LIMIT / 2, "{most} instructions followed");
    Ok(())
}

/// What LLVM does not expand (an `==` of arrays, a big copy) it makes a call of, to a function that goes byte by byte: one
/// of these was more than a quarter of what the short way cost.
#[test]
fn programs_call_nothing_but_helpers() -> Result<()> {
    /// A call (RFC 9669 section 4.3.1), whatever is called.
    const CALL: u8 = 0x85;
    /// `src_reg` of a call of a helper.
    const HELPER: u8 = 0;
    let bytes = object::bytes()?;
    let object = aya_obj::Object::parse(&bytes)?;
    ensure!(!object.programs.is_empty());
    for (name, program) in &object.programs {
        let function = object.functions.get(&program.function_key()).context("no code")?;
        let others = function
            .instructions
            .iter()
            .filter(|instruction| instruction.code == CALL && instruction.src_reg() != HELPER)
            .count();
        ensure!(
            others == 0,
            "{name} calls {others} functions: see the relocations of the object"
        );
    }
    Ok(())
}

#[test]
fn maps_are_as_the_abi_says() -> Result<()> {
    let mut kernel = Kernel::load_with(&mut EbpfLoader::new())?;
    let mut built: Vec<String> = kernel.ebpf().maps().map(|(name, _)| name.to_owned()).collect();
    built.sort_unstable();
    let mut described: Vec<&str> = MAPS.iter().map(|spec| spec.name).collect();
    described.sort_unstable();
    ensure!(built == described, "built: {built:?}");
    for MapSpec {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
        resizable: _,
    } in MAPS
    {
        let info = map_data(kernel.ebpf().map(name).context(name)?)?.info()?;
        ensure!(
            number(info.map_type()?) == kind,
            "{name}: type {:?}",
            info.map_type()
        );
        ensure!(
            info.key_size() == key_size && info.value_size() == value_size,
            "{name}: {info:?}"
        );
        ensure!(
            info.max_entries() == max_entries,
            "{name}: {} entries",
            info.max_entries()
        );
        ensure!(info.map_flags() == flags, "{name}: flags {:#x}", info.map_flags());
    }
    ensure!(MapSpec::named(names::RINGS).is_some_and(|rings| rings.flags & flag::MMAPABLE != 0));
    Ok(())
}

#[test]
fn every_resizable_map_takes_another_size() -> Result<()> {
    let mut loader = EbpfLoader::new();
    for spec in MAPS.iter().filter(|spec| spec.resizable) {
        loader.map_max_entries(
            spec.name,
            if spec.kind == kind::RINGBUF {
                128 * 1024
            } else {
                64
            },
        );
    }
    let mut kernel = Kernel::load_with(&mut loader)?;
    for spec in &MAPS {
        let entries = map_data(kernel.ebpf().map(spec.name).context(spec.name)?)?
            .info()?
            .max_entries();
        let expected = match (spec.resizable, spec.kind) {
            (false, _) => spec.max_entries,
            (true, kind::RINGBUF) => 128 * 1024,
            (true, _) => 64,
        };
        ensure!(entries == expected, "{}: {entries} entries", spec.name);
    }
    Ok(())
}

/// The numbers in `weir-abi` are the kernel's.
fn number(map_type: MapType) -> u32 {
    map_type as u32
}
