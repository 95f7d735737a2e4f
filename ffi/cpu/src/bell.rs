//! Waiting for files and for other threads: a bell that costs its ringers next to nothing while nobody waits, and the
//! watch that its owner keeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crate::idle::nap;

/// Calls a thread that waits; shared by all who may have something for it.
#[derive(Debug)]
pub struct Bell {
    /// The owner waits, or is about to.
    awaited: AtomicBool,
    /// An eventfd. Never read: the owner looks for changes alone, and 2^64 of them are enough.
    file: OwnedFd,
}

/// The owner's end: its bell and any number of files.
#[derive(Debug)]
pub struct Watch {
    bell: Arc<Bell>,
    epoll: OwnedFd,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// The bell or a file.
    Called,
    /// Time has passed, or a signal came.
    Late,
}

impl Bell {
    /// A bell that nobody listens to yet.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: two integers; the result is checked.
        let file = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { awaited: AtomicBool::new(false), file })
    }

    /// Wakes the owner if it listens. To be called after what it is to find was put where it looks.
    #[inline]
    pub fn ring(&self) {
        // With the fence in `listen`: either we see that it listens, or its next look sees what we put there.
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::Relaxed) {
            self.strike();
        }
    }

    /// From now on it is heard, once. To be called before the last look.
    pub fn listen(&self) {
        self.awaited.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// From now on nobody listens.
    pub fn ignore(&self) {
        // Only the owner sets it. Stored anew it would be a line that ringers miss.
        if self.awaited.load(Ordering::Relaxed) {
            self.awaited.store(false, Ordering::Relaxed);
        }
    }

    #[cold]
    fn strike(&self) {
        let one = 1_u64;
        // SAFETY: eight readable bytes, which is what an eventfd takes; it refuses nothing but an overflow.
        unsafe { libc::write(self.file.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Watch {
    /// A watch over a bell of its own.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: one integer; the result is checked.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let watch = Self { bell: Arc::new(Bell::new()?), epoll };
        watch.add(watch.bell.as_fd())?;
        Ok(watch)
    }

    /// What calls the owner.
    #[must_use]
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Watches a file too, until it is closed; one that is watched already may be added again, which changes nothing.
    /// It wakes for each change to readable, so the owner need not read it; and at once if it is readable now.
    ///
    /// # Errors
    /// When the kernel cannot watch such a file.
    pub fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(), u64: 0 };
        let (epoll, file) = (self.epoll.as_raw_fd(), file.as_raw_fd());
        // SAFETY: both files are open, and the event is copied.
        let result = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, file, &raw mut event) };
        match checked(result) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the bell or a file, at most so long in whole milliseconds. What changed since the last wait ends it at once.
    pub fn wait(&self, bound: Duration) -> Woken {
        let bound_ms = i32::try_from(bound.as_millis()).unwrap_or(i32::MAX);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: room for sixteen events; more than that are told next time.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 16, bound_ms) };
        match checked(count) {
            Ok(0) => Woken::Late,
            Ok(_) => Woken::Called,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Woken::Late,
            Err(_) => {
                // Nothing but a bad call is refused so; an owner that spins would be worse than one that is late.
                nap(bound);
                Woken::Late
            }
        }
    }
}

fn owned(file: i32) -> io::Result<OwnedFd> {
    let file = checked(file)?;
    // SAFETY: new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;
    use crate::idle::NAP_MAX;

    #[test]
    fn a_bell_is_heard_once_by_who_listens() {
        let watch = Watch::new().unwrap();
        watch.bell().ring();
        assert_eq!(watch.wait(Duration::ZERO), Woken::Late, "nobody listened");
        watch.bell().listen();
        watch.bell().ring();
        watch.bell().ring();
        assert_eq!(watch.wait(NAP_MAX), Woken::Called);
        assert_eq!(watch.wait(Duration::ZERO), Woken::Late, "it was heard");
        watch.bell().listen();
        watch.bell().ring();
        assert_eq!(watch.wait(NAP_MAX), Woken::Called, "though nobody has read the file");
        watch.bell().listen();
        watch.bell().ignore();
        watch.bell().ring();
        assert_eq!(watch.wait(Duration::ZERO), Woken::Late);
    }

    #[test]
    fn each_change_of_a_file_wakes_and_no_other_wait_does() {
        let (watch, device) = (Watch::new().unwrap(), Bell::new().unwrap());
        for _ in 0..3 {
            watch.add(device.as_fd()).expect("again is no error");
            device.listen();
            device.ring();
            assert_eq!(watch.wait(NAP_MAX), Woken::Called);
            assert_eq!(watch.wait(Duration::ZERO), Woken::Late);
        }
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(watch.add(file.as_fd()).is_err(), "ordinary files are always readable");
    }

    /// What is put down before a ring is found: by the last look, or by the one after the wait. The bound of a wait would
    /// hide a loss, so waits that it ends are repeated without a look.
    #[test]
    fn no_call_is_lost() {
        const ROUNDS: u64 = 20_000;
        let watch = Watch::new().unwrap();
        let (bell, put, seen) =
            (Arc::clone(watch.bell()), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (theirs, answers) = (Arc::clone(&put), Arc::clone(&seen));
        let caller = thread::spawn(move || {
            for round in 1..=ROUNDS {
                theirs.store(round, Ordering::Relaxed);
                bell.ring();
                while answers.load(Ordering::Relaxed) < round {
                    thread::yield_now();
                }
            }
        });
        let mut last = 0;
        while last < ROUNDS {
            watch.bell().listen();
            if put.load(Ordering::Relaxed) == last {
                let late = (0..1_000).take_while(|_| watch.wait(NAP_MAX) == Woken::Late).count();
                assert!(late < 1_000, "nobody called for {last}");
            }
            watch.bell().ignore();
            last = put.load(Ordering::Relaxed);
            seen.store(last, Ordering::Relaxed);
        }
        caller.join().unwrap();
    }
}
