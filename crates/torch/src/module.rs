//! Compiling the kernels and launching them.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result, sys};
use cudarc::nvrtc::{self, CompileOptions};
use tch::Tensor;

/// Which kernels, and for what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kernels {
    /// Those of a transformer block in bf16, for one width of rows.
    Block { width: i64 },
    /// Attention of drawing, for one width of heads.
    Attention { dim: i64, is_bf16: bool },
}

impl Kernels {
    fn source(self) -> &'static str {
        match self {
            Kernels::Block { .. } => include_str!("kernels.cu"),
            Kernels::Attention { .. } => include_str!("attention.cu"),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Kernels::Block { .. } => &[
                "rms_norm_forward",
                "rms_norm_backward",
                "rotated_heads_forward",
                "rotated_heads_backward",
                "swiglu_forward",
                "swiglu_backward",
            ],
            Kernels::Attention { .. } => &["attend", "rotate"],
        }
    }

    fn macros(self) -> Vec<String> {
        match self {
            Kernels::Block { width } => vec![format!("--define-macro=WIDTH={width}")],
            Kernels::Attention { dim, is_bf16 } => {
                let mut macros = vec![format!("--define-macro=DIM={dim}")];
                macros.extend(is_bf16.then(|| "--define-macro=BF16".to_owned()));
                macros
            }
        }
    }
}

/// The kernels of one source, compiled.
pub(crate) struct Module {
    context: Arc<CudaContext>,
    functions: BTreeMap<&'static str, Function>,
}

struct Function(sys::CUfunction);

// SAFETY: a handle of the driver, valid on every thread on which its context is current.
unsafe impl Send for Function {}
// SAFETY: as above; launching does not change the handle.
unsafe impl Sync for Function {}

/// What a kernel is given.
#[derive(Clone, Copy)]
pub(crate) enum Argument {
    Pointer(u64),
    Long(i64),
    Int(i32),
    Float(f32),
}

impl Argument {
    pub fn of(tensor: &Tensor) -> Self {
        Argument::Pointer(tensor.data_ptr() as u64)
    }

    /// Its bits, from the lowest address on.
    fn bits(self) -> u64 {
        match self {
            Argument::Pointer(pointer) => pointer,
            Argument::Long(value) => value as u64,
            Argument::Int(value) => u64::from(value as u32),
            Argument::Float(value) => u64::from(value.to_bits()),
        }
    }
}

/// Modules; none where they can't be had.
static MODULES: Mutex<BTreeMap<Kernels, Option<&'static Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    /// The kernels, compiled the first time and kept.
    pub fn get(kernels: Kernels) -> Option<&'static Module> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        *modules.entry(kernels).or_insert_with(|| {
            let module = Module::compile(kernels)?;
            Some(Box::leak(Box::new(module)))
        })
    }

    fn compile(kernels: Kernels) -> Option<Module> {
        // SAFETY: both only look for the library.
        let present =
            unsafe { cudarc::driver::sys::is_culib_present() && nvrtc::sys::is_culib_present() };
        if !present {
            return None;
        }
        let context = CudaContext::new(0).ok()?;
        let (major, minor) = context.compute_capability().ok()?;
        let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
        options.extend(kernels.macros());
        let options = CompileOptions {
            options,
            name: Some("kernels.cu".into()),
            ..CompileOptions::default()
        };
        let ptx = nvrtc::compile_ptx_with_opts(kernels.source(), options).ok()?;
        let image = CString::new(ptx.to_src()).ok()?;
        context.bind_to_thread().ok()?;
        // SAFETY: PTX text that ends with a zero; the driver copies it.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.ok()?;
        let mut functions = BTreeMap::new();
        for &name in kernels.names() {
            let symbol = CString::new(name).ok()?;
            // SAFETY: the module was just loaded and is never unloaded.
            let function = unsafe { result::module::get_function(module, symbol) }.ok()?;
            functions.insert(name, Function(function));
        }
        Some(Module { context, functions })
    }

    /// Launches a kernel in order with LibTorch's work. None if the driver refuses it.
    ///
    /// The callers of this crate hold the kernels' contracts: as many arguments as the kernel has, of its types;
    /// tensors on device 0 that are as large as the sizes say and outlive the launch, which they do because LibTorch
    /// gives memory back in stream order.
    pub fn launch(&self, name: &str, blocks: [u32; 2], arguments: &[Argument]) -> Option<()> {
        self.launch_threads(name, (blocks, super::THREADS), arguments)
    }

    /// [`Self::launch`] with another number of threads in a block.
    pub fn launch_threads(
        &self,
        name: &str,
        ([x, y], threads): ([u32; 2], u32),
        arguments: &[Argument],
    ) -> Option<()> {
        self.context.bind_to_thread().ok()?;
        let function = self.functions.get(name)?.0;
        let mut bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut pointers: Vec<*mut c_void> = bits
            .iter_mut()
            .map(|bits| std::ptr::from_mut(bits).cast())
            .collect();
        // SAFETY: the contract above; `bits` outlives the call, which copies the arguments.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (x, y, 1),
                (threads, 1, 1),
                0,
                std::ptr::null_mut(),
                &mut pointers,
            )
        };
        launched.ok()
    }
}
