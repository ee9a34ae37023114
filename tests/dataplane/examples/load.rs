use aya::{EbpfLoader, programs::{Xdp, SkLookup}, VerifierLogLevel};
fn main() {
    let bytes = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut e = EbpfLoader::new().verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS).load(&bytes).unwrap();
    let p: &mut Xdp = e.program_mut("weir_xdp").unwrap().try_into().unwrap();
    match p.load() { Ok(()) => {println!("xdp ok {:?} xlated {:?}", p.info().unwrap().verified_instruction_count(), p.info().unwrap().size_translated())}, Err(e) => { let t = format!("{e}"); let l: Vec<_> = t.lines().collect(); for x in &l[l.len().saturating_sub(60)..] { println!("{x}") } std::process::exit(1) } }
    let p: &mut SkLookup = e.program_mut("weir_steer").unwrap().try_into().unwrap();
    match p.load() { Ok(()) => println!("steer ok {:?}", p.info().unwrap().verified_instruction_count()), Err(e) => { let t = format!("{e}"); let l: Vec<_> = t.lines().collect(); for x in &l[l.len().saturating_sub(60)..] { println!("{x}") } std::process::exit(1) } }
}
