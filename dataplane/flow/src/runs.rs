//! How long random tests run.

/// Cases of a random test: what the ordinary test command has time for, times what
/// `PENSTOCK_FUZZ_RUNS` says.
pub(crate) fn runs(ordinary: u32) -> u32 {
    let factor = std::env::var("PENSTOCK_FUZZ_RUNS").ok();
    factor.map_or(ordinary, |factor| ordinary * factor.parse::<u32>().unwrap())
}
