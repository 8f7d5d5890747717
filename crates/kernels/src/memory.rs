//! The allocator's habits.

/// Asks the C library's allocator to keep freed memory, instead of giving each large block back to the
/// system: a training step frees and wants the same hundreds of MiB again, and the system's zeroing of
/// fresh pages takes longer than most kernels need to fill them. For programs to call once at their start;
/// affects the whole process. Does nothing where the allocator is not glibc's.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: i32 = -1;
        const MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: a function of glibc that is safe to call at any time.
        unsafe {
            mallopt(MMAP_THRESHOLD, 1 << 30);
            mallopt(TRIM_THRESHOLD, i32::MAX);
        }
    }
}
