//! A port whose wire ends in another thread, with receive interrupts if wanted.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use cpu::Bell;

use crate::{
    buf::Burst,
    io::{Capabilities, PortIo, mem::MemBuf},
};

/// The worker's side.
pub struct PipePort {
    waiting: Receiver<MemBuf>,
    out: Sender<MemBuf>,
    interrupt: Option<Arc<Interrupt>>,
}

/// The other end of the wire.
pub struct Wire {
    to: Sender<MemBuf>,
    /// What the worker has sent.
    pub sent: Receiver<MemBuf>,
    interrupt: Option<Arc<Interrupt>>,
}

/// A device's interrupt, which is what a bell does.
struct Interrupt {
    bell: Bell,
    armed: AtomicBool,
    refuses: AtomicBool,
}

/// A port and its wire.
///
/// # Errors
/// When this process may open no more files.
pub fn pipe(interrupts: bool) -> io::Result<(PipePort, Wire)> {
    let (to, waiting) = channel();
    let (out, sent) = channel();
    let make = || -> io::Result<_> {
        let (armed, refuses) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Arc::new(Interrupt { bell: Bell::new()?, armed, refuses }))
    };
    let interrupt = interrupts.then(make).transpose()?;
    Ok((PipePort { waiting, out, interrupt: interrupt.clone() }, Wire { to, sent, interrupt }))
}

impl Wire {
    /// Lets a packet arrive; false when the port is gone.
    pub fn send(&self, buf: MemBuf) -> bool {
        let sent = self.to.send(buf).is_ok();
        self.interrupt.iter().for_each(|interrupt| interrupt.bell.ring());
        sent
    }

    /// Whether the device was told to interrupt, and not yet to be silent.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|interrupt| interrupt.armed.load(Ordering::Relaxed))
    }

    /// From now on the device refuses to be armed, or no longer.
    pub fn refuse(&self, refuses: bool) {
        self.interrupt.iter().for_each(|interrupt| interrupt.refuses.store(refuses, Ordering::Relaxed));
    }
}

impl PortIo for PipePort {
    type Buf = MemBuf;

    fn capabilities(&self) -> Capabilities {
        Capabilities { rx_interrupts: self.interrupt.is_some(), ..Capabilities::default() }
    }

    fn rx(&mut self, burst: &mut Burst<MemBuf>) {
        let mut count = 0;
        for (slot, buf) in burst.spare_mut().iter_mut().zip(self.waiting.try_iter()) {
            *slot = Some(buf);
            count += 1;
        }
        burst.filled(count);
    }

    fn tx(&mut self, burst: &mut Burst<MemBuf>) {
        let slots = burst.slots_mut();
        let count = slots.len();
        slots.iter_mut().filter_map(Option::take).for_each(|buf| drop(self.out.send(buf)));
        burst.sent(count);
    }

    fn alloc(&mut self) -> Option<MemBuf> {
        Some(MemBuf::empty())
    }

    fn arm(&mut self) -> io::Result<BorrowedFd<'_>> {
        let interrupt = self.interrupt.as_ref().filter(|one| !one.refuses.load(Ordering::Relaxed));
        let interrupt = interrupt.ok_or(io::ErrorKind::Unsupported)?;
        interrupt.armed.store(true, Ordering::Relaxed);
        interrupt.bell.listen();
        Ok(interrupt.bell.as_fd())
    }

    fn disarm(&mut self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.armed.store(false, Ordering::Relaxed);
            interrupt.bell.ignore();
        }
    }
}
