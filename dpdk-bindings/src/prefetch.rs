//! Asks the processor to load a cache line that will be needed soon (DPDK: `rte_prefetch0`).
//!
//! Cost: one instruction; the load goes on while the program does. A burst asks for the lines of all its packets before
//! it uses the first, so that their cache misses overlap.

/// Loads the line at `place` into all cache levels.
#[inline(always)]
pub fn read<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint without any effect that a program could observe, on an address that is valid besides.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
            std::ptr::from_ref(place).cast(),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the instruction writes no register and no memory.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) std::ptr::from_ref(place), options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}
