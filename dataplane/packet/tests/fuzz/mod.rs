//! Seeded random runs, as ordinary bounded tests: the same every time, more of them by
//! `PENSTOCK_FUZZ_RUNS=<factor>`, one of them again by `PENSTOCK_FUZZ_SEED=<seed>`.

#![allow(
    dead_code,
    reason = "each test binary compiles its own copy and uses a part"
)]

use penstock_packet::TcpFlags;
use penstock_packet::build::Frame;

pub(crate) mod frames;

/// Where all runs start, so that a build fails or passes for everybody.
const START: u64 = 0x70e5_70c4;

/// Runs `target` with `runs` seeds times the factor, and names the seed of the run that failed.
pub(crate) fn fuzz(runs: u64, target: impl Fn(&mut Random)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let run = |seed| {
        let named = NameSeed(seed);
        target(&mut Random(seed));
        drop(named);
    };
    if let Some(seed) = number("PENSTOCK_FUZZ_SEED") {
        return run(seed);
    }
    let factor: u64 = number("PENSTOCK_FUZZ_RUNS").unwrap_or(1);
    let mut seeds = Random::start();
    for _ in 0..runs * factor {
        run(seeds.next());
    }
}

/// Tells the seed when a run panics.
struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with PENSTOCK_FUZZ_SEED={}", self.0);
        }
    }
}

/// Fast, seeded, not secret numbers: SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The generator every test starts with.
    pub(crate) const fn start() -> Self {
        Self(START)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number less than `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A word; often one that ones' complement treats specially.
    pub(crate) fn word(&mut self) -> u16 {
        match self.below(8) {
            0 => 0,
            1 => 0xffff,
            2 => self.one_of(&[1, 0xfffe, 0x8000, 0x00ff, 0xff00]),
            _ => self.next() as u16,
        }
    }

    /// An IPv4 address of two such words.
    pub(crate) fn address(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    /// Fewer than `end` bytes of one value or of many.
    pub(crate) fn bytes(&mut self, end: usize) -> Vec<u8> {
        let length = self.below(end);
        match self.below(4) {
            0 => vec![self.one_of(&[0, 0xff, self.0 as u8]); length],
            _ => (0..length).map(|_| self.byte()).collect(),
        }
    }

    pub(crate) fn flags(&mut self) -> TcpFlags {
        TcpFlags(self.byte() & 0x3f)
    }

    /// Bends a few bytes of a frame, most often those of its headers.
    pub(crate) fn bend(&mut self, mut frame: Frame) -> Frame {
        for _ in 0..self.below(4) {
            let end = frame.bytes.len().min(self.one_of(&[20, 60, 100, 2000]));
            let value = match self.below(3) {
                0 => self.one_of(&[0, 1, 4, 5, 6, 17, 43, 44, 58, 60, 0x45, 0x60, 0xff]),
                _ => self.byte(),
            };
            let at = self.below(end.max(1));
            frame = frame.with(at, [value]);
        }
        frame
    }
}
