//! Randomness that is the same in each run.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use apikey_application::ports::{Entropy, EntropyError};

/// Bytes that follow from a seed: for tests alone, since whoever knows the seed knows the keys. Copies continue one sequence.
#[derive(Clone, Debug)]
pub struct SeededEntropy(Arc<Source>);

#[derive(Debug)]
struct Source {
    state: AtomicU64,
    exhausted: AtomicBool,
}

impl SeededEntropy {
    /// The sequence of that seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Source { state: AtomicU64::new(seed), exhausted: AtomicBool::new(false) }))
    }

    /// From now on there is no entropy, until the test says otherwise.
    pub fn exhaust(&self, exhausted: bool) {
        self.0.exhausted.store(exhausted, Ordering::SeqCst);
    }

    /// Fills the buffer: the form in which the domain takes entropy.
    ///
    /// # Errors
    /// None.
    pub fn fill_always(&self, buffer: &mut [u8]) -> Result<(), Infallible> {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    /// `SplitMix64` (Steele, Lea and Flood, 2014): one addition per step, so that copies on several threads never repeat a value.
    fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut mixed = self.0.state.fetch_add(GAMMA, Ordering::SeqCst).wrapping_add(GAMMA);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        if self.0.exhausted.load(Ordering::SeqCst) {
            return Err(EntropyError("the test took the entropy away".into()));
        }
        self.fill_always(buffer).map_err(|never| match never {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(entropy: &SeededEntropy) -> [u8; 20] {
        let mut buffer = [0; 20];
        entropy.fill(&mut buffer).expect("there is entropy");
        buffer
    }

    #[test]
    fn a_seed_gives_one_sequence_that_copies_continue() {
        let (first, again) = (SeededEntropy::new(7), SeededEntropy::new(7));
        assert_eq!(draw(&first), draw(&again));
        assert_ne!(draw(&first), draw(&first.clone()));
        assert_ne!(draw(&SeededEntropy::new(8)), draw(&SeededEntropy::new(7)));
    }

    #[test]
    fn exhausted_entropy_is_an_error() {
        let entropy = SeededEntropy::new(7);
        entropy.exhaust(true);
        assert!(entropy.fill(&mut [0; 4]).is_err());
        entropy.exhaust(false);
        assert!(entropy.fill(&mut [0; 4]).is_ok());
    }
}
