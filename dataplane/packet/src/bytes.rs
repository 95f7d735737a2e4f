//! Reads and writes at constant offsets. `N` is the length that was proven, so every index here is checked when the
//! crate is compiled, not when a packet arrives.

/// The `N` bytes from `at` on, if there are as many.
#[inline]
pub(crate) fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// The big-endian 16 bits at `at` of a proven chunk.
#[inline]
pub(crate) fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32 bits at `at` of a proven chunk.
#[inline]
pub(crate) fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The 16 bits at `at` of a proven chunk, in the machine's order.
#[inline]
pub(crate) fn ne16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, at))
}

/// The 32 bits at `at` of a proven chunk, in the machine's order.
#[inline]
pub(crate) fn ne32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, at))
}

/// The 64 bits at `at` of a proven chunk, in the machine's order.
#[inline]
pub(crate) fn ne64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_ne_bytes(array(bytes, at))
}

/// The big-endian 64 bits at `at` of a proven chunk.
#[inline]
pub(crate) fn be64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// The `M` bytes at `at` of a proven chunk.
#[inline]
pub(crate) fn array<const M: usize, const N: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&bytes[at..at + M]);
    out
}

/// Writes `value` at `at` of a proven chunk.
#[inline]
pub(crate) fn put<const M: usize, const N: usize>(bytes: &mut [u8; N], at: usize, value: [u8; M]) {
    bytes[at..at + M].copy_from_slice(&value);
}

/// The `N` bytes from `at` on for writing, if there are as many.
#[inline]
pub(crate) fn chunk_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}
