//! Which processors the calling thread may run on.

use std::io;

/// 8,192 processors: the most that any Linux configuration has, and 1 KiB.
const WORDS: usize = 128;
const WORD_BITS: usize = 64;

/// A set of processors by their kernel numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl CpuSet {
    /// The set without members.
    #[must_use]
    pub const fn empty() -> Self {
        Self { words: [0; WORDS] }
    }

    /// Adds a processor; `false` (and no change) when no kernel can have that many.
    pub fn insert(&mut self, cpu: usize) -> bool {
        let Some(word) = self.words.get_mut(cpu / WORD_BITS) else { return false };
        *word |= 1 << (cpu % WORD_BITS);
        true
    }

    /// Removes a processor, if it is a member.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / WORD_BITS) {
            *word &= !(1 << (cpu % WORD_BITS));
        }
    }

    /// Whether the processor is a member.
    #[must_use]
    pub fn contains(&self, cpu: usize) -> bool {
        self.words.get(cpu / WORD_BITS).is_some_and(|word| word >> (cpu % WORD_BITS) & 1 == 1)
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..WORDS * WORD_BITS).filter(|&cpu| self.contains(cpu))
    }

    /// How many members there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// Collects processors; numbers beyond any kernel's are left out.
impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        let mut set = Self::empty();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

/// Where the calling thread may run.
///
/// # Errors
/// What the kernel answers.
pub fn current() -> io::Result<CpuSet> {
    let mut set = CpuSet::empty();
    // SAFETY: pid 0 is the calling thread; the pointer is valid for writes of the size given, aligned for the
    // kernel's unsigned longs, and every bit pattern is a valid set.
    let result = unsafe {
        libc::sched_getaffinity(0, size_of_val(&set.words), set.words.as_mut_ptr().cast::<libc::cpu_set_t>())
    };
    if result == 0 { Ok(set) } else { Err(io::Error::last_os_error()) }
}

/// Confines the calling thread, and threads it creates from now on, to `set`.
///
/// # Errors
/// `InvalidInput` when no member of the set exists or is allowed here; else what the kernel answers.
pub fn set_current(set: &CpuSet) -> io::Result<()> {
    // SAFETY: pid 0 is the calling thread; the pointer is valid for reads of the size given and aligned for the
    // kernel's unsigned longs.
    let result = unsafe {
        libc::sched_setaffinity(0, size_of_val(&set.words), set.words.as_ptr().cast::<libc::cpu_set_t>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set: CpuSet = [0, 63, 64, 8_191, 8_192, usize::MAX].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 8_191]);
        assert!(!set.contains(8_192) && !set.contains(1));
        set.remove(63);
        set.remove(usize::MAX);
        assert_eq!(set.count(), 3);
    }

    #[test]
    fn a_thread_can_be_pinned_and_told_so() {
        std::thread::spawn(|| {
            let before = current().unwrap();
            let first = before.iter().next().unwrap();
            let one: CpuSet = [first].into_iter().collect();
            set_current(&one).unwrap();
            assert_eq!(current().unwrap(), one);
            set_current(&before).unwrap();
            assert_eq!(current().unwrap(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_set_without_members_is_refused() {
        assert_eq!(set_current(&CpuSet::empty()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
