//! Error numbers, as DPDK returns them.

use std::{ffi::CStr, fmt};

/// A positive error number; displayed in DPDK's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Errno(pub i32);

impl Errno {
    /// The number in a negative return value.
    #[must_use]
    pub const fn of_return(value: i32) -> Self {
        Self(value.wrapping_neg())
    }

    /// `rte_errno` of this thread.
    #[must_use]
    pub fn last() -> Self {
        // SAFETY: reads a thread-local.
        Self(unsafe { dpdk_sys::fairlead_errno() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: returns a string that is valid until this thread's next call.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

/// Success, or the number in a negative return value.
pub(crate) const fn check(value: i32) -> Result<(), Errno> {
    if value < 0 { Err(Errno::of_return(value)) } else { Ok(()) }
}
