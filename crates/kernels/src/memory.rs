//! The allocator's habits, and files as memory.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file's bytes: mapped into memory on 64-bit Unix, for as long as the process runs, so that no byte is read
/// before it is used and none takes memory that the system can't have back; read whole elsewhere.
///
/// The file must not be changed or cut in place meanwhile (a new one under its name does no harm): what was
/// read could change, and reading behind a new end stops the process.
pub fn map(path: &Path) -> io::Result<Cow<'static, [u8]>> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())
        .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if length == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    map_file(&file, path, length)
}

#[cfg(all(unix, target_pointer_width = "64"))]
fn map_file(file: &File, _: &Path, length: usize) -> io::Result<Cow<'static, [u8]>> {
    use std::ffi::{c_int, c_void};
    use std::os::fd::AsRawFd;

    const PROT_READ: c_int = 1;
    const MAP_PRIVATE: c_int = 2;
    unsafe extern "C" {
        fn mmap(
            address: *mut c_void,
            length: usize,
            protection: c_int,
            flags: c_int,
            file: c_int,
            offset: i64,
        ) -> *mut c_void;
    }
    // SAFETY: a fresh mapping that nothing else knows; the file is open.
    let address = unsafe {
        mmap(
            std::ptr::null_mut(),
            length,
            PROT_READ,
            MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if address as isize == -1 {
        return Err(io::Error::last_os_error());
    }
    mapped().push((address as usize, length));
    // SAFETY: that many bytes are mapped for reading, and never unmapped.
    Ok(Cow::Borrowed(unsafe {
        std::slice::from_raw_parts(address.cast::<u8>(), length)
    }))
}

/// Where files are mapped, and how many bytes of each.
#[cfg(all(unix, target_pointer_width = "64"))]
fn mapped() -> std::sync::MutexGuard<'static, Vec<(usize, usize)>> {
    use std::sync::{Mutex, PoisonError};
    static MAPPED: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the memory that mapped files take back to the system, which keeps what is read again in its own cache. For
/// after a large file has been gone through once.
pub fn release_mapped() {
    #[cfg(all(unix, target_pointer_width = "64"))]
    {
        use std::ffi::{c_int, c_void};
        // The same number on Linux, macOS and the BSDs.
        const DONT_NEED: c_int = 4;
        unsafe extern "C" {
            fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        for &(address, length) in mapped().iter() {
            // SAFETY: mapped by us, read-only, from a file: its pages come again when they are read.
            unsafe {
                madvise(address as *mut c_void, length, DONT_NEED);
            }
        }
    }
}

#[cfg(not(all(unix, target_pointer_width = "64")))]
fn map_file(_: &File, path: &Path, _: usize) -> io::Result<Cow<'static, [u8]>> {
    std::fs::read(path).map(Cow::Owned)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_as_it_is() {
        let path = std::env::temp_dir().join(format!("impasto-map-{}", std::process::id()));
        for bytes in [vec![], vec![7u8], (0..10_000u32).map(|i| i as u8).collect()] {
            std::fs::write(&path, &bytes).expect("written");
            let mapped = map(&path).expect("mapped");
            assert!(*mapped == bytes[..]);
            // The name may go, the bytes stay.
            std::fs::remove_file(&path).expect("removed");
            release_mapped();
            assert!(*mapped == bytes[..]);
        }
        let missing = map(&path).expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
