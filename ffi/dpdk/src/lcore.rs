//! Work on a worker lcore: started from the main lcore, joined there, panics contained.

use std::{
    any::Any,
    ffi::{c_int, c_void},
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use crate::{Eal, Errno, errno};

/// Why work did not start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LaunchError {
    /// There is no worker lcore of this number (0 is the main one).
    NoLcore(u16),
    /// The lcore is busy, or DPDK refused for another reason.
    Refused(Errno),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLcore(lcore) => write!(f, "there is no worker lcore {lcore}"),
            Self::Refused(errno) => write!(f, "the lcore takes no work: {errno}"),
        }
    }
}

impl std::error::Error for LaunchError {}

type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// Work that runs on an lcore. Join it: dropped, the lcore stays taken until the work ends.
#[derive(Debug)]
pub struct Job<T> {
    lcore: u16,
    outcome: Receiver<Outcome<T>>,
    /// Joined on the main lcore only.
    _main_lcore: PhantomData<*const ()>,
}

struct Parcel<T, F> {
    work: F,
    outcome: SyncSender<Outcome<T>>,
}

impl Eal {
    /// Starts `work` on worker lcore `lcore`, from 1 on.
    ///
    /// # Errors
    /// When there is no such lcore, or it is busy.
    pub fn launch<T: Send + 'static>(
        &self,
        lcore: u16,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Job<T>, LaunchError> {
        if lcore == 0 || lcore >= self.lcores() {
            return Err(LaunchError::NoLcore(lcore));
        }
        let (sender, receiver) = sync_channel(1);
        Self::remote_launch(lcore, Parcel { work, outcome: sender })?;
        Ok(Job { lcore, outcome: receiver, _main_lcore: PhantomData })
    }

    fn remote_launch<T: Send, F: FnOnce() -> T + Send>(
        lcore: u16,
        parcel: Parcel<T, F>,
    ) -> Result<(), LaunchError> {
        let raw = Box::into_raw(Box::new(parcel));
        // SAFETY: we are the main lcore (`Eal` cannot leave its thread) and the lcore exists. `run` takes the box over,
        // once; what it holds is `Send` and lives until then.
        let result =
            unsafe { dpdk_sys::rte_eal_remote_launch(Some(run::<T, F>), raw.cast(), u32::from(lcore)) };
        errno::check(result).map_err(|errno| {
            // SAFETY: it was not launched, so the box is still ours.
            drop(unsafe { Box::from_raw(raw) });
            LaunchError::Refused(errno)
        })
    }
}

/// Runs on the lcore.
unsafe extern "C" fn run<T, F: FnOnce() -> T>(raw: *mut c_void) -> c_int {
    // SAFETY: `remote_launch` gave us this box, once.
    let parcel = unsafe { Box::from_raw(raw.cast::<Parcel<T, F>>()) };
    let Parcel { work, outcome } = *parcel;
    // A panic must not unwind into C. The work is gone afterwards, so nothing broken can be seen.
    let result = catch_unwind(AssertUnwindSafe(work));
    let failed = result.is_err();
    // The joining side may have been dropped.
    drop(outcome.send(result));
    c_int::from(failed)
}

impl<T> Job<T> {
    /// Waits for the work's end and gives what it returned.
    ///
    /// # Errors
    /// The panic that ended it.
    pub fn join(self) -> Outcome<T> {
        // SAFETY: the lcore exists, and we are on the main lcore.
        unsafe { dpdk_sys::rte_eal_wait_lcore(u32::from(self.lcore)) };
        self.outcome.recv().unwrap_or_else(|error| Err(Box::new(error.to_string())))
    }

    /// True when the work has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // SAFETY: any number is answered.
        unsafe {
            dpdk_sys::rte_eal_get_lcore_state(u32::from(self.lcore)) != dpdk_sys::rte_lcore_state_t::RUNNING
        }
    }
}
