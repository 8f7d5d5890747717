//! What parallel tasks share: a pointer to memory that they write disjoint parts of, and each
//! thread's scratch memory.

use std::cell::RefCell;

use crate::team;

/// A pointer that tasks may hold; whoever dereferences it proves that the tasks' parts are disjoint.
pub(crate) struct SharedPtr<T>(*mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedPtr<T> {}

// SAFETY: whoever dereferences it proves that no other thread touches the same part, so values only move between
// threads, which `T` allows.
unsafe impl<T: Send> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    pub(crate) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    // A method, as closures would capture the bare field otherwise.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Memory that grows and is never given back, aligned to cache lines.
pub(crate) struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// At least `len` floats with whatever was in them.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: `Line` is 16 floats without padding, and all of them are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<f32>(), len) }
    }
}

thread_local! {
    static FREE: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `len` floats of this thread's scratch memory. Nested calls, also by a task that
/// the thread steals meanwhile, get memory of their own.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = FREE.with_borrow_mut(Vec::pop).unwrap_or(Scratch::new());
    let result = work(scratch.floats(len));
    FREE.with_borrow_mut(|free| free.push(scratch));
    result
}

/// A vector of `len` floats for a kernel to fill, without a pass of zeros.
///
/// Crate-private: every caller writes each element before anything reads it.
#[allow(clippy::uninit_vec)]
pub(crate) fn fresh(len: usize) -> Vec<f32> {
    let mut floats = Vec::with_capacity(len);
    // SAFETY: the capacity is there; any bits are a float, and callers write before they read.
    unsafe { floats.set_len(len) };
    floats
}

/// Elements from which a second thread is worth its start.
const PARALLEL_FROM: usize = 1 << 15;

/// Runs `work(first_row, rows)` over all rows of `width` elements, in tasks of a fixed size.
pub(crate) fn for_rows(rows: usize, width: usize, work: impl Fn(usize, usize) + Sync) {
    if rows * width < PARALLEL_FROM || rayon::current_num_threads() == 1 {
        if rows > 0 {
            work(0, rows);
        }
        return;
    }
    let each = (PARALLEL_FROM / 2 / width.max(1)).clamp(1, rows);
    team::for_each(rows.div_ceil(each), |task| {
        work(task * each, each.min(rows - task * each));
    });
}

/// Runs `work` on each item, on as many threads as the current rayon pool has: for items that take some microseconds each.
pub fn for_each_item<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let shared = SharedPtr::new(items.as_mut_ptr());
    team::for_each(items.len(), |index| {
        // SAFETY: each task has an item of its own, within the slice, which is borrowed until all are done.
        work(unsafe { &mut *shared.get().add(index) });
    });
}

/// Rows `first..first + rows` of a row-major matrix that tasks share.
///
/// # Safety
/// They lie within the allocation, and no other task touches them.
pub(crate) unsafe fn rows_mut<'a>(
    matrix: SharedPtr<f32>,
    first: usize,
    rows: usize,
    width: usize,
) -> &'a mut [f32] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(matrix.get().add(first * width), rows * width) }
}
