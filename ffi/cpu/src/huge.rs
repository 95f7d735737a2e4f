//! Large zeroed slices on huge pages, for tables that are read at random.
//!
//! A 4 KiB page under each random access costs a TLB miss beside the cache miss; 2 MiB pages take most of them away.
//! The memory is faulted in at once by the calling thread, so a worker that builds its own tables gets them on its own
//! NUMA node and never faults later. Not here: growing, and types that are not plain bytes.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4096;
/// From here on huge pages are tried; a small table would waste most of one.
const HUGE_FROM: usize = HUGE_PAGE / 2;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for [u64; 8] {}
    impl Sealed for [[u32; 8]; 2] {}
    impl Sealed for super::Line {}
}

/// One cache line of plain words.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [u64; 8]);

/// Types for which any bytes, zeroes in particular, are a valid value.
///
/// # Safety
/// Every bit pattern is a valid value, there is no padding and no drop glue, and the size is neither 0 nor more than a
/// page. Sealed: only this crate can say so.
pub unsafe trait Plain: Copy + sealed::Sealed {}

// SAFETY: an integer: every bit pattern is valid, no padding, 8 bytes.
unsafe impl Plain for u64 {}
// SAFETY: an array of integers: every bit pattern is valid, no padding, 64 bytes.
unsafe impl Plain for [u64; 8] {}
// SAFETY: as above.
unsafe impl Plain for [[u32; 8]; 2] {}
// SAFETY: repr(C) over an array as large as its alignment, hence without padding: as above.
unsafe impl Plain for Line {}

/// What pages a [`HugeSlice`] got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PageKind {
    /// Reserved 2 MiB pages (`vm.nr_hugepages`).
    Huge,
    /// Transparent huge pages: asked for, and the kernel has them switched on.
    Transparent,
    /// Ordinary pages: the slice is small, or the kernel has neither kind of huge page to give.
    Small,
}

/// A fixed number of `T`, zeroed, prefaulted and aligned to at least 64 bytes.
pub struct HugeSlice<T: Plain> {
    start: NonNull<T>,
    len: usize,
    map: Option<Map>,
}

// SAFETY: the slice owns its memory as a Box<[T]> does; the mapping is tied to no thread.
unsafe impl<T: Plain + Send> Send for HugeSlice<T> {}
// SAFETY: as for Box<[T]>: shared access only reads.
unsafe impl<T: Plain + Sync> Sync for HugeSlice<T> {}

impl<T: Plain> HugeSlice<T> {
    /// `len` zeroed items on the largest pages to be had, faulted in by the calling thread.
    ///
    /// # Errors
    /// `OutOfMemory` when the kernel has not that much memory to give, or the size overflows.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        if bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), len: 0, map: None });
        }
        let map = Map::new(bytes)?;
        Ok(Self { start: map.start.cast(), len, map: Some(map) })
    }

    /// The pages this slice lies on.
    #[must_use]
    pub fn pages(&self) -> PageKind {
        self.map.as_ref().map_or(PageKind::Small, |map| map.kind)
    }
}

impl<T: Plain> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is page-aligned (or dangling with len 0, which slices allow), the mapping has at least
        // len * size_of::<T>() readable bytes, and any bytes are a valid T (Plain); &self excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for HugeSlice<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and writable; &mut self excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> std::fmt::Debug for HugeSlice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HugeSlice").field("len", &self.len).field("pages", &self.pages()).finish()
    }
}

/// One private anonymous mapping, unmapped on drop.
struct Map {
    start: NonNull<u8>,
    bytes: usize,
    kind: PageKind,
}

impl Map {
    fn new(bytes: usize) -> io::Result<Self> {
        if bytes < HUGE_FROM {
            return Self::small(bytes);
        }
        Self::reserved(bytes).or_else(|_| Self::transparent(bytes))
    }

    fn reserved(bytes: usize) -> io::Result<Self> {
        let bytes = round_up(bytes, HUGE_PAGE)?;
        let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        let map = Self { start: map_anonymous(bytes, flags)?, bytes, kind: PageKind::Huge };
        // A hugetlb cgroup limit shows only on the first touch, as SIGBUS; populating answers with an error instead.
        // A kernel too old to populate (before 5.14) gets no reserved pages for that reason.
        map.populate()?;
        Ok(map)
    }

    /// Ordinary memory that starts on a 2 MiB boundary, so that the kernel can use huge pages throughout.
    fn transparent(bytes: usize) -> io::Result<Self> {
        let bytes = round_up(bytes, HUGE_PAGE)?;
        let spare = bytes.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = Self { start: map_anonymous(spare, 0)?, bytes: spare, kind: PageKind::Small };
        map.cut_front(map.start.as_ptr().align_offset(HUGE_PAGE));
        map.cut_back(bytes);
        // SAFETY: the range is a live mapping of ours; MADV_HUGEPAGE changes no contents.
        let advised =
            unsafe { libc::madvise(map.start.as_ptr().cast(), map.bytes, libc::MADV_HUGEPAGE) } == 0;
        if advised && transparent_enabled() {
            map.kind = PageKind::Transparent;
        }
        map.populate_or_touch()?;
        Ok(map)
    }

    fn small(bytes: usize) -> io::Result<Self> {
        let bytes = round_up(bytes, SMALL_PAGE)?;
        let map = Self { start: map_anonymous(bytes, 0)?, bytes, kind: PageKind::Small };
        map.populate_or_touch()?;
        Ok(map)
    }

    /// Gives the first `bytes`, whole pages and fewer than all, back to the kernel.
    fn cut_front(&mut self, bytes: usize) {
        debug_assert!(bytes < self.bytes && bytes.is_multiple_of(SMALL_PAGE));
        let front = self.start;
        // SAFETY: `bytes` is less than the length of this mapping, so the result points into it.
        self.start = unsafe { front.add(bytes) };
        self.bytes -= bytes;
        unmap(front, bytes);
    }

    /// Keeps the first `bytes`, whole pages, and gives the rest back to the kernel.
    fn cut_back(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes && bytes.is_multiple_of(SMALL_PAGE));
        // SAFETY: `bytes` is at most the length of this mapping, so the result points into it or to its end.
        let rest = unsafe { self.start.add(bytes) };
        unmap(rest, self.bytes - bytes);
        self.bytes = bytes;
    }

    /// Faults every page in, or says why the kernel cannot.
    fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is a live mapping of ours; populating changes no contents.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn populate_or_touch(&self) -> io::Result<()> {
        match self.populate() {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.touch();
                Ok(())
            }
            result => result,
        }
    }

    /// Faults every page in by writing to it, for kernels before 5.14.
    fn touch(&self) {
        for offset in (0..self.bytes).step_by(SMALL_PAGE) {
            // SAFETY: offset < bytes, so the byte lies in our live, writable mapping, and nobody else knows of it yet.
            // Volatile, or the compiler may find that a store of zero to zeroed memory changes nothing.
            unsafe { self.start.add(offset).write_volatile(0) };
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        unmap(self.start, self.bytes);
    }
}

fn round_up(bytes: usize, page: usize) -> io::Result<usize> {
    bytes.checked_next_multiple_of(page).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn map_anonymous(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: no fixed address is asked for, so the new mapping replaces nothing; no file is involved.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn unmap(start: NonNull<u8>, bytes: usize) {
    if bytes > 0 {
        // SAFETY: every caller gives up the only pointer to this range of a mapping made by `map_anonymous`.
        let result = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
        debug_assert_eq!(result, 0, "munmap of a range of our own: {}", io::Error::last_os_error());
    }
}

/// Whether the kernel gives transparent huge pages to those who ask.
fn transparent_enabled() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|modes| !modes.contains("[never]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Plain + PartialEq + std::fmt::Debug>(len: usize, zero: T, other: T) {
        let mut slice = HugeSlice::<T>::zeroed(len).unwrap();
        assert_eq!(slice.len(), len);
        assert!(slice.iter().all(|item| *item == zero), "{len} not zeroed");
        if let Some(last) = slice.last_mut() {
            *last = other;
        }
        assert_eq!(slice.last().copied(), (len > 0).then_some(other));
        assert!(len == 0 || slice.as_ptr().addr().is_multiple_of(64));
    }

    #[test]
    fn slices_of_every_size_are_zeroed_writable_and_aligned() {
        for len in [0, 1, 511, 512, 513, 131_072, 262_144, 262_145, 1 << 20] {
            check::<u64>(len, 0, u64::MAX);
        }
        for len in [0, 1, 65, 16_384, 40_000] {
            check::<[u64; 8]>(len, [0; 8], [7; 8]);
            check::<Line>(len, Line([0; 8]), Line([7; 8]));
        }
    }

    #[test]
    fn small_slices_take_small_pages_and_large_ones_start_on_a_boundary() {
        assert_eq!(HugeSlice::<u64>::zeroed(100).unwrap().pages(), PageKind::Small);
        let large = HugeSlice::<u64>::zeroed(3 << 17).unwrap();
        assert!(large.as_ptr().addr().is_multiple_of(HUGE_PAGE), "{large:?}");
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, usize::MAX / 64, 1 << 43] {
            let error = HugeSlice::<Line>::zeroed(len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{len}");
        }
    }

    #[test]
    fn touching_faults_pages_in_without_changing_them() {
        let map = Map::small(3 * SMALL_PAGE).unwrap();
        map.touch();
        assert_eq!(map.bytes, 3 * SMALL_PAGE);
    }

    #[test]
    fn a_slice_may_move_to_another_thread() {
        let mut slice = HugeSlice::<u64>::zeroed(1 << 18).unwrap();
        slice[77] = 77;
        let slice = std::thread::spawn(move || slice).join().unwrap();
        assert_eq!(slice[77], 77);
    }
}
