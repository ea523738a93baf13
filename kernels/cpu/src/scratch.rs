//! Reusable working memory: one stack of grow-only buffers a thread, so that kernels allocate
//! nothing in the steady state.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Cache line of every machine that matters, and the widest register.
const ALIGN_BYTES: usize = 64;
/// Larger buffers lie in huge pages where the system has them: panels are read once per tile, and
/// small pages would cost a translation every few lines.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Buffers grow in steps of this many numbers (64 KiB).
const STEP: usize = 16 * 1024;

/// Numbers at an aligned address, zero when new.
struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

impl Buffer {
    const EMPTY: Buffer = Buffer { start: NonNull::dangling(), len: 0 };

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<f32>());
        let layout = bytes.and_then(|bytes| {
            let huge = bytes >= HUGE_PAGE_BYTES / 2;
            let align = if huge { HUGE_PAGE_BYTES } else { ALIGN_BYTES };
            Some(Layout::from_size_align(bytes, align).ok()?.pad_to_align())
        });
        layout.expect("scratch of less than isize::MAX bytes")
    }

    fn new(len: usize) -> Buffer {
        let layout = Self::layout(len);
        // SAFETY: `with_scratch` asks for at least `STEP` numbers, so the size is not 0.
        let start = unsafe { alloc(layout) }.cast::<f32>();
        match NonNull::new(start) {
            Some(start) => {
                if layout.align() == HUGE_PAGE_BYTES {
                    // Before the first touch: that is when pages are chosen.
                    ask_for_huge_pages(start, layout.size());
                }
                // SAFETY: the allocation holds this many bytes.
                unsafe { start.cast::<u8>().write_bytes(0, layout.size()) };
                Buffer { start, len }
            }
            None => handle_alloc_error(layout),
        }
    }
}

/// Advises the system; nothing depends on whether it follows.
fn ask_for_huge_pages(start: NonNull<f32>, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, bytes: usize, advice: i32) -> i32;
        }
        const MADV_HUGEPAGE: i32 = 14;
        // SAFETY: the range is one allocation of whole pages; the advice changes no contents.
        unsafe { madvise(start.as_ptr().cast(), bytes, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `new` allocated `start` with this layout; only the empty buffer has len 0.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

thread_local! {
    /// The buffers that no caller holds. A call takes the last one and puts it back at the end, so
    /// that the same nesting depth finds the same buffer again.
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` numbers of working memory: 64-byte aligned, contents arbitrary.
///
/// Calls nest. The memory stays with the thread, grown to the largest `len` of its depth.
pub fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let taken = FREE.with_borrow_mut(Vec::pop);
    let mut buffer = taken.unwrap_or(Buffer::EMPTY);
    if buffer.len < len {
        buffer = Buffer::new(len.next_multiple_of(STEP));
    }
    // SAFETY: the buffer holds at least `len` numbers, written when it was allocated, and was
    // taken off the list, so that nobody else has it.
    let out = f(unsafe { std::slice::from_raw_parts_mut(buffer.start.as_ptr(), len) });
    FREE.with_borrow_mut(|free| free.push(buffer));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_nested_and_reused() {
        let addresses = || {
            with_scratch(100, |outer| {
                let inner = with_scratch(STEP + 1, |inner| {
                    inner.fill(1.0);
                    inner.as_ptr() as usize
                });
                outer.fill(2.0);
                (outer.as_ptr() as usize, inner)
            })
        };
        let (outer, inner) = addresses();
        assert_ne!(outer, inner);
        assert_eq!((outer % ALIGN_BYTES, inner % ALIGN_BYTES), (0, 0));
        assert_eq!((outer, inner), addresses());
        assert_eq!(with_scratch(0, |empty| empty.len()), 0);
    }
}
