//! An allocator that tells whether threads that should not allocate did.
//!
//! A program installs it with `#[global_allocator]`. Threads that took all their memory at start hold a [`guard`]; once
//! [`arm`]ed, whatever such a thread asks of the heap is counted, or ends the process. Everything else passes through.
//!
//! Until it is armed, a page of what is taken is written to at once: what a program takes at start it has at start, and
//! does not grow by when it first uses it.

#![allow(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Off) };
}

/// How a thread is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Off,
    Guarded,
    /// Guarded, and inside of [`excused`].
    Excused,
}

/// 0: not armed; else what `OnUse` says.
static ARMED: AtomicU8 = AtomicU8::new(0);
static USES: AtomicU64 = AtomicU64::new(0);
static EXCUSED_USES: AtomicU64 = AtomicU64::new(0);

/// What happens when a guarded thread uses the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUse {
    /// [`uses`] counts it.
    Count = 1,
    /// The process prints where, and ends.
    Abort = 2,
}

/// The system's allocator, watched.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchedHeap;

/// While it lives, the thread that made it is guarded.
#[derive(Debug)]
pub struct Guard {
    before: Watch,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

/// Guards this thread.
pub fn guard() -> Guard {
    Guard {
        before: WATCH.replace(Watch::Guarded),
        _thread: PhantomData,
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        WATCH.set(self.before);
    }
}

/// Does some work of a guarded thread that may use the heap: [`excused_uses`] counts it instead. For work with a bound
/// of its own, of requests that asked for it. On other threads it changes nothing.
pub fn excused<T>(work: impl FnOnce() -> T) -> T {
    let excuse = WATCH.get() == Watch::Guarded;
    let _before = excuse.then(|| Guard {
        before: WATCH.replace(Watch::Excused),
        _thread: PhantomData,
    });
    work()
}

/// From here on guarded threads are watched.
pub fn arm(on_use: OnUse) {
    ARMED.store(on_use as u8, Ordering::Relaxed);
}

/// Times that guarded threads took memory, or gave some back, since the program was armed. Stays 0 where
/// [`WatchedHeap`] is not installed.
pub fn uses() -> u64 {
    USES.load(Ordering::Relaxed)
}

/// Times that guarded threads did so inside of [`excused`], since the program was armed.
pub fn excused_uses() -> u64 {
    EXCUSED_USES.load(Ordering::Relaxed)
}

#[inline]
fn look() {
    // A thread that is being torn down has no cell any more, and nothing to guard.
    match WATCH.try_with(Cell::get).unwrap_or(Watch::Off) {
        Watch::Off => {}
        Watch::Guarded => used(),
        Watch::Excused => {
            if ARMED.load(Ordering::Relaxed) != 0 {
                EXCUSED_USES.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cold]
fn used() {
    let armed = ARMED.load(Ordering::Relaxed);
    // A panic takes memory for its message, and has more to say than we have.
    if armed == 0 || std::thread::panicking() {
        return;
    }
    USES.fetch_add(1, Ordering::Relaxed);
    if armed == OnUse::Abort as u8 {
        WATCH.set(Watch::Off);
        let place = std::backtrace::Backtrace::force_capture();
        #[expect(clippy::print_stderr, reason = "the last words of the process")]
        {
            eprintln!("a thread that must not use the heap did:\n{place}");
        }
        std::process::abort();
    }
}

/// Writes to each page of fresh memory from `from` on, before the program is armed.
///
/// # Safety
///
/// `pointer` has `bytes` bytes that may be written to, and nobody has put anything at or behind `from`, or these are
/// zeros.
unsafe fn touch(pointer: *mut u8, from: usize, bytes: usize) {
    if pointer.is_null() || bytes < from + PAGE_BYTES || ARMED.load(Ordering::Relaxed) != 0 {
        return;
    }
    for at in (from..bytes).step_by(PAGE_BYTES).chain([bytes - 1]) {
        // SAFETY: `at` is below `bytes`, and not below `from`.
        unsafe { pointer.add(at).write_volatile(0) };
    }
}

/// The smallest page of our machines. Larger ones are written to more than once.
const PAGE_BYTES: usize = 4096;

// SAFETY: every call goes on to the system's allocator as it came; what `touch` writes to belongs to the caller, who
// has not put anything there.
unsafe impl GlobalAlloc for WatchedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look();
        // SAFETY: the caller's promises are passed on, and what comes back is fresh.
        unsafe {
            let pointer = System.alloc(layout);
            touch(pointer, 0, layout.size());
            pointer
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        look();
        // SAFETY: as above; zeros are written onto zeros.
        unsafe {
            let pointer = System.alloc_zeroed(layout);
            touch(pointer, 0, layout.size());
            pointer
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        look();
        // SAFETY: as above; what is kept lies before the old size.
        unsafe {
            let pointer = System.realloc(pointer, layout, bytes);
            touch(pointer, layout.size(), bytes);
            pointer
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        look();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
