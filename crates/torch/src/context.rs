//! Settings of LibTorch's global context that its C interface does not reach: methods of `at::Context`, called by the
//! names that C++ compilers other than Microsoft's give them. They are exported by LibTorch 2.9 to 2.11.

#[cfg(not(target_env = "msvc"))]
mod symbols {
    use std::ffi::c_void;

    unsafe extern "C" {
        /// `at::Context& at::globalContext()`: a reference is passed as a pointer.
        #[link_name = "_ZN2at13globalContextEv"]
        safe fn global_context() -> *mut c_void;
        /// `void at::Context::setAllowTF32CuDNN(bool)`: the object is the first argument.
        #[link_name = "_ZN2at7Context17setAllowTF32CuDNNEb"]
        fn set_allow_tf32_cudnn(context: *mut c_void, allowed: bool);
        /// `void at::Context::setAllowTF32CuBLAS(bool)`.
        #[link_name = "_ZN2at7Context18setAllowTF32CuBLASEb"]
        fn set_allow_tf32_cublas(context: *mut c_void, allowed: bool);
        /// `void at::Context::setSDPUseCuDNN(bool)`.
        #[link_name = "_ZN2at7Context14setSDPUseCuDNNEb"]
        fn set_sdp_use_cudnn(context: *mut c_void, used: bool);
    }

    pub fn allow_tf32(allowed: bool) {
        let context = global_context();
        // SAFETY: the context lives as long as the process, and each setter stores into a field of its own. A setter that
        // throws aborts; these warn at most.
        unsafe {
            set_allow_tf32_cudnn(context, allowed);
            set_allow_tf32_cublas(context, allowed);
        }
    }

    pub fn use_cudnn_attention(used: bool) {
        // SAFETY: as above.
        unsafe { set_sdp_use_cudnn(global_context(), used) }
    }
}

#[cfg(target_env = "msvc")]
mod symbols {
    pub fn allow_tf32(_allowed: bool) {}
    pub fn use_cudnn_attention(_used: bool) {}
}

/// Whether products and convolutions of `f32` may round their factors to tf32, 10 bits of mantissa instead of 23.
/// LibTorch's default allows it for convolutions. For the whole process.
pub fn allow_tf32(allowed: bool) {
    symbols::allow_tf32(allowed);
}

/// Calls `work` while LibTorch chooses attention among its own kernels and not cuDNN's, which plans anew for every
/// number of keys. Work on other threads meanwhile may choose among these, too.
pub fn without_cudnn_attention<T>(work: impl FnOnce() -> T) -> T {
    struct Restored;
    impl Drop for Restored {
        fn drop(&mut self) {
            symbols::use_cudnn_attention(true);
        }
    }
    symbols::use_cudnn_attention(false);
    let _restored = Restored;
    work()
}
