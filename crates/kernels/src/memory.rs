//! The allocator's habits, and files as memory.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file's bytes: mapped into memory on 64-bit Unix, so that no byte is read before it is used and none takes memory
/// that the system can't have back; read whole elsewhere. Unmapped when it is dropped.
#[derive(Debug)]
pub struct FileBytes(Kind);

#[derive(Debug)]
enum Kind {
    #[cfg(all(unix, target_pointer_width = "64"))]
    Mapped(Mapping),
    Read(Vec<u8>),
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            #[cfg(all(unix, target_pointer_width = "64"))]
            Kind::Mapped(mapping) => mapping.bytes(),
            Kind::Read(bytes) => bytes,
        }
    }
}

/// Maps a file.
///
/// # Safety
/// While the bytes are in use the file must not be changed or truncated in place: what was read could change under a
/// reference, and reading after a new end stops the process. A new file under the same name does no harm.
pub unsafe fn map(path: &Path) -> io::Result<FileBytes> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())
        .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if length == 0 {
        return Ok(FileBytes(Kind::Read(Vec::new())));
    }
    #[cfg(all(unix, target_pointer_width = "64"))]
    return Mapping::new(&file, path, length).map(|mapping| FileBytes(Kind::Mapped(mapping)));
    #[cfg(not(all(unix, target_pointer_width = "64")))]
    return std::fs::read(path).map(|bytes| FileBytes(Kind::Read(bytes)));
}

/// Gives the memory that the mappings of a file take back to the system, which keeps what is read again in its own
/// cache. For after a large file has been gone through once.
pub fn release(path: &Path) {
    #[cfg(all(unix, target_pointer_width = "64"))]
    for entry in mapping::mapped().iter().filter(|entry| entry.path == path) {
        entry.release();
    }
    #[cfg(not(all(unix, target_pointer_width = "64")))]
    let _ = path;
}

/// [`release`] of all files that are mapped. For after a part of a model that is not needed again.
pub fn release_all() {
    #[cfg(all(unix, target_pointer_width = "64"))]
    for entry in mapping::mapped().iter() {
        entry.release();
    }
}

#[cfg(all(unix, target_pointer_width = "64"))]
use mapping::Mapping;

#[cfg(all(unix, target_pointer_width = "64"))]
mod mapping {
    use std::ffi::{c_int, c_void};
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};
    use std::ptr::NonNull;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    const PROT_READ: c_int = 1;
    const MAP_PRIVATE: c_int = 2;
    // The same number on Linux, macOS and the BSDs.
    const DONT_NEED: c_int = 4;

    unsafe extern "C" {
        fn mmap(
            address: *mut c_void,
            length: usize,
            protection: c_int,
            flags: c_int,
            file: c_int,
            offset: i64,
        ) -> *mut c_void;
        fn munmap(address: *mut c_void, length: usize) -> c_int;
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    /// A mapping that is alive.
    pub(super) struct Entry {
        pub path: PathBuf,
        address: usize,
        length: usize,
    }

    impl Entry {
        pub fn release(&self) {
            // SAFETY: mapped by us, read-only, from a file, and alive while it is listed, which the caller's lock
            // keeps: its pages come again when they are read.
            unsafe {
                madvise(self.address as *mut c_void, self.length, DONT_NEED);
            }
        }
    }

    /// All that are alive.
    pub(super) fn mapped() -> MutexGuard<'static, Vec<Entry>> {
        static MAPPED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
        MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a file, mapped for reading.
    #[derive(Debug)]
    pub(super) struct Mapping {
        address: NonNull<u8>,
        length: usize,
    }

    // SAFETY: the bytes are only ever read, by the contract of `map` they don't change, and they belong to no thread.
    unsafe impl Send for Mapping {}
    // SAFETY: as above.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub fn new(file: &File, path: &Path, length: usize) -> io::Result<Self> {
            let file = file.as_raw_fd();
            let anywhere = std::ptr::null_mut();
            // SAFETY: a fresh mapping that nothing else knows; the file is open.
            let address = unsafe { mmap(anywhere, length, PROT_READ, MAP_PRIVATE, file, 0) };
            let address = match NonNull::new(address.cast::<u8>()) {
                Some(address) if address.as_ptr() as isize != -1 => address,
                _ => return Err(io::Error::last_os_error()),
            };
            mapped().push(Entry {
                path: path.to_owned(),
                address: address.as_ptr() as usize,
                length,
            });
            Ok(Mapping { address, length })
        }

        pub fn bytes(&self) -> &[u8] {
            // SAFETY: that many bytes are mapped for reading until `self` is dropped.
            unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            let address = self.address.as_ptr();
            mapped().retain(|entry| entry.address != address as usize);
            // SAFETY: mapped by `new`, not unmapped before, and nothing borrows from `self` any more.
            unsafe {
                munmap(address.cast(), self.length);
            }
        }
    }
}

/// Asks the C library's allocator to keep freed memory, instead of giving each large block back to the
/// system: a layer frees and wants the same hundreds of MiB again, and the system's zeroing of
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

/// Gives freed memory back to the system that was [kept](keep_freed). Does nothing where the allocator is not glibc's.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: a function of glibc that is safe to call at any time.
        unsafe {
            malloc_trim(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_as_it_is() {
        let path = std::env::temp_dir().join(format!("impasto-map-{}", std::process::id()));
        // SAFETY: nobody else knows the file.
        let map = |path: &Path| unsafe { map(path) };
        for bytes in [vec![], vec![7u8], (0..10_000u32).map(|i| i as u8).collect()] {
            std::fs::write(&path, &bytes).expect("written");
            let mapped = map(&path).expect("mapped");
            assert!(mapped.as_ref() == bytes);
            // The name may go, the bytes stay.
            std::fs::remove_file(&path).expect("removed");
            release(&path);
            assert!(mapped.as_ref() == bytes);
        }
        let missing = map(&path).expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[cfg(all(unix, target_pointer_width = "64"))]
    #[test]
    fn what_is_dropped_is_unmapped() {
        let path = std::env::temp_dir().join(format!("impasto-unmap-{}", std::process::id()));
        std::fs::write(&path, vec![1u8; 5000]).expect("written");
        let alive = || {
            mapping::mapped()
                .iter()
                .filter(|entry| entry.path == path)
                .count()
        };
        // SAFETY: nobody else knows the file.
        let map = || unsafe { map(&path) }.expect("mapped");
        let first = map();
        for _ in 0..100 {
            let second = map();
            assert_eq!((alive(), second.as_ref()[4999]), (2, 1));
        }
        assert_eq!((alive(), first.as_ref()[0]), (1, 1));
        drop(first);
        assert_eq!(alive(), 0);
        std::fs::remove_file(&path).expect("removed");
    }
}
