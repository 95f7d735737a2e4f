//! Cache hints. A prefetch never faults and changes no memory, so every address is allowed.

/// Starts loading the first cache line of `value`.
#[inline(always)]
pub fn prefetch_read<T>(value: &T) {
    prefetch_address(std::ptr::from_ref(value).cast());
}

/// Starts loading the first cache line of `slice[index]`; an index past the end is a wasted hint, not an error,
/// which spares the hot path a branch.
#[inline(always)]
pub fn prefetch_index<T>(slice: &[T], index: usize) {
    prefetch_address(slice.as_ptr().wrapping_add(index).cast());
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_address(address: *const i8) {
    // SAFETY: PREFETCHT0 has no precondition on its address (Intel SDM vol. 2, PREFETCHh: no exception on a bad
    // address); SSE is part of the x86-64 baseline.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_address(address: *const i8) {
    // SAFETY: PRFM generates no synchronous fault for any address (Arm ARM, PRFM); it writes neither register nor
    // memory nor flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_address(_address: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_index_is_a_harmless_hint() {
        let slice = [1_u64, 2, 3];
        prefetch_read(&slice);
        for index in [0, 2, 3, 1 << 40, usize::MAX] {
            prefetch_index(&slice, index);
            prefetch_index::<u64>(&[], index);
        }
        assert_eq!(slice, [1, 2, 3]);
    }
}
