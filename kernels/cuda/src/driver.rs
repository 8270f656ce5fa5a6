//! The driver's objects, each freed when it is dropped. The driver itself is loaded when it is first asked for.

#![allow(unsafe_code, reason = "calls of the driver")]

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use cudarc::driver::sys;
use sys::CUdevice_attribute_enum as Attribute;

/// Why there is no GPU to compute with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuError {
    /// No `libcuda.so`.
    NoDriver,
    /// A driver, and nothing that it drives.
    NoDevice {
        /// Which was asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// Too old for the instructions of our kernels.
    TooOld {
        /// Name of the device.
        device: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// The kernels were not compiled when this program was.
    NotBuilt,
    /// A call that failed.
    Call {
        /// The function.
        call: &'static str,
        /// The driver's name of the error, and what it says.
        error: String,
    },
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuError::NoDriver => f.write_str(
                "there is no NVIDIA driver here (libcuda.so.1): install one, or use --device cpu",
            ),
            GpuError::NoDevice { index, count } => write!(
                f,
                "there is no GPU {index}: the driver knows {count}; `nvidia-smi` lists them"
            ),
            GpuError::TooOld {
                device,
                capability: (major, minor),
            } => write!(
                f,
                "{device} has compute capability {major}.{minor}: our kernels take 8.0 or newer; use --device cpu"
            ),
            GpuError::NotBuilt => f.write_str(
                "this program was built without CUDA kernels: run kernels/cu/toolkit and build again, or use --device cpu",
            ),
            GpuError::Call { call, error } => write!(f, "{call}: {error}"),
        }
    }
}

impl std::error::Error for GpuError {}

fn check(call: &'static str, result: sys::CUresult) -> Result<(), GpuError> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut at = null();
        // SAFETY: the driver gives a string that lives as long as itself, or none.
        unsafe {
            get(result, &raw mut at);
            if at.is_null() {
                String::new()
            } else {
                CStr::from_ptr(at).to_string_lossy().into_owned()
            }
        }
    };
    let error = format!(
        "{} ({})",
        text(sys::cuGetErrorName),
        text(sys::cuGetErrorString)
    );
    Err(GpuError::Call { call, error })
}

/// Calls a function of the driver, which checks its handles itself. What it reads and writes is the caller's to say.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: pointers are those of live values, of the sizes that are given with them.
        check(stringify!($name), unsafe { sys::$name($($argument),*) })
    };
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFacts {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Version of CUDA that the driver speaks, as 13000 for 13.0.
    pub driver: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether its memory is that of the host, as on Jetson.
    pub unified: bool,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes that nobody has taken.
    pub free_bytes: u64,
}

/// Kernels, compiled ahead.
pub(super) struct Image {
    /// Machine code by compute capability.
    pub(super) code: [((u32, u32), &'static [u8]); 3],
    /// PTX, which a driver compiles for any other device, with a zero at its end.
    pub(super) text: &'static [u8],
}

impl Image {
    /// Whether there is machine code for a device of this compute capability.
    fn has(&self, capability: (u32, u32)) -> bool {
        self.code.iter().any(|code| code.0 == capability)
    }

    /// What a device of this compute capability takes.
    fn of(&self, capability: (u32, u32)) -> &'static [u8] {
        let code = self.code.iter().find(|code| code.0 == capability);
        code.map_or(self.text, |code| code.1)
    }
}

/// A device with a stream and our kernels.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    facts: GpuFacts,
    /// Whether kernels may start before the one ahead of them ends.
    early: bool,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, as each method does.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Inner {}

/// A kernel of [`Gpu`]. Valid as long as that is.
#[derive(Clone, Copy)]
pub(super) struct Kernel(sys::CUfunction);

// SAFETY: a handle, as above.
unsafe impl Send for Kernel {}
// SAFETY: a handle, as above.
unsafe impl Sync for Kernel {}

/// How a kernel is started.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: (usize, usize),
    pub(super) threads: usize,
    /// Bytes of shared memory.
    pub(super) shared: usize,
    /// Whether its blocks may come before the kernel before it has ended: where that one says when.
    pub(super) early: bool,
}

/// Shared memory that a kernel may have without asking.
const SHARED_DEFAULT: usize = 48 << 10;

impl Gpu {
    /// Facts of device `index`, which is let go again.
    pub fn facts_of(index: u32) -> Result<GpuFacts, GpuError> {
        let device = device(index)?;
        let attribute = |attribute| -> Result<u32, GpuError> {
            let mut value = 0;
            call!(cuDeviceGetAttribute(&raw mut value, attribute, device))?;
            Ok(value.unsigned_abs())
        };
        let mut name = [0; 128];
        call!(cuDeviceGetName(
            name.as_mut_ptr(),
            name.len() as c_int,
            device
        ))?;
        let name: Vec<u8> = name.iter().map(|c| *c as u8).collect();
        let name = CStr::from_bytes_until_nul(&name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (mut driver, mut memory) = (0, 0);
        call!(cuDriverGetVersion(&raw mut driver))?;
        call!(cuDeviceTotalMem_v2(&raw mut memory, device))?;
        let (mut free, mut total) = (0, 0);
        let context = Context::retain(device)?;
        call!(cuCtxSetCurrent(context.handle))?;
        call!(cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
        Ok(GpuFacts {
            name,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            driver: driver.unsigned_abs(),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            unified: attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
            memory_bytes: memory as u64,
            free_bytes: free as u64,
        })
    }

    /// Takes device `index`: its primary context, a stream, and `images` of kernels.
    pub(super) fn open(index: u32, images: &[Image]) -> Result<Gpu, GpuError> {
        let device = device(index)?;
        // Before its facts are asked for, which would make it and let it go again.
        let context = Context::retain(device)?;
        let facts = Gpu::facts_of(index)?;
        if facts.capability < (8, 0) {
            return Err(GpuError::TooOld {
                device: facts.name,
                capability: facts.capability,
            });
        }
        // Kernels wait by themselves where they were compiled for it, which the text that other devices get is not;
        // graphs can have that since CUDA 12.3.
        let compiled = images.iter().all(|image| image.has(facts.capability));
        let early = compiled && facts.capability >= (9, 0) && facts.driver >= 12_030;
        let mut inner = Inner {
            context,
            stream: null_mut(),
            modules: Vec::new(),
            facts,
            early,
        };
        inner.bind()?;
        // Does not wait for the legacy stream, which nobody here uses.
        call!(cuStreamCreate(&raw mut inner.stream, 1))?;
        for image in images {
            let image = image.of(inner.facts.capability);
            let mut module = null_mut();
            let loaded = call!(cuModuleLoadData(&raw mut module, image.as_ptr().cast()));
            loaded.map_err(|error| {
                let built = image.iter().any(|byte| *byte != 0);
                if built { error } else { GpuError::NotBuilt }
            })?;
            inner.modules.push(module);
        }
        Ok(Gpu {
            inner: Arc::new(inner),
        })
    }

    /// What it is; `free_bytes` are those of when it was opened.
    pub fn facts(&self) -> &GpuFacts {
        &self.inner.facts
    }

    /// Waits until all that was asked for is done.
    pub fn finish(&self) -> Result<(), GpuError> {
        self.inner.bind()?;
        call!(cuStreamSynchronize(self.inner.stream))
    }

    /// Memory of the device, of which nothing is known yet.
    pub fn buffer<T: Copy>(&self, len: usize) -> Result<Buffer<T>, GpuError> {
        self.inner.bind()?;
        let mut at = 0;
        let bytes = (len * size_of::<T>()).max(1);
        call!(cuMemAlloc_v2(&raw mut at, bytes))?;
        Ok(Buffer {
            gpu: self.inner.clone(),
            at,
            len,
            kind: PhantomData,
        })
    }

    /// Memory of the host that the device reads and writes by itself, all zero.
    pub fn pinned<T: Copy + Default>(&self, len: usize) -> Result<Pinned<T>, GpuError> {
        self.inner.bind()?;
        let mut at = null_mut();
        call!(cuMemHostAlloc(
            &raw mut at,
            (len * size_of::<T>()).max(1),
            0
        ))?;
        let at: *mut T = at.cast();
        for i in 0..len {
            // SAFETY: the driver gave room for `len` values, aligned to a page or to 16 bytes.
            unsafe { at.add(i).write(T::default()) };
        }
        Ok(Pinned {
            gpu: self.inner.clone(),
            at,
            len,
        })
    }

    /// Begins to copy elements from `start` on to the device; they must stay as they are until [`Gpu::finish`].
    pub fn upload<T: Copy>(
        &self,
        from: &Pinned<T>,
        start: usize,
        to: Slice<'_, T>,
    ) -> Result<(), GpuError> {
        assert!(start + to.len <= from.len);
        self.inner.bind()?;
        call!(cuMemcpyHtoDAsync_v2(
            to.at,
            (from.at() + (start * size_of::<T>()) as u64) as *const c_void,
            to.len * size_of::<T>(),
            self.inner.stream
        ))
    }

    /// Memory of the host that only the device writes, all zero.
    pub fn inbox<T: Copy + Default>(&self, len: usize) -> Result<Inbox<T>, GpuError> {
        self.pinned(len).map(Inbox)
    }

    /// Begins to copy from the device, to elements from `start` on.
    pub fn download<T: Copy>(
        &self,
        from: Slice<'_, T>,
        Inbox(to): &Inbox<T>,
        start: usize,
    ) -> Result<(), GpuError> {
        assert!(start + from.len <= to.len);
        self.inner.bind()?;
        call!(cuMemcpyDtoHAsync_v2(
            (to.at() + (start * size_of::<T>()) as u64) as *mut c_void,
            from.at,
            from.len * size_of::<T>(),
            self.inner.stream
        ))
    }

    /// Begins to copy within the device.
    pub fn copy<T: Copy>(&self, from: Slice<'_, T>, to: Slice<'_, T>) -> Result<(), GpuError> {
        assert_eq!(from.len, to.len);
        self.inner.bind()?;
        call!(cuMemcpyDtoDAsync_v2(
            to.at,
            from.at,
            from.len * size_of::<T>(),
            self.inner.stream
        ))
    }

    /// Finds a kernel, and lets it have `shared` bytes of shared memory.
    pub(super) fn kernel(&self, name: &str, shared: usize) -> Result<Kernel, GpuError> {
        self.inner.bind()?;
        let c_name = CString::new(name).expect("names of kernels have no zero byte");
        let mut kernel = null_mut();
        let mut found = Err(GpuError::NoDriver);
        for module in &self.inner.modules {
            found = call!(cuModuleGetFunction(
                &raw mut kernel,
                *module,
                c_name.as_ptr()
            ));
            if found.is_ok() {
                break;
            }
        }
        found.map_err(|error| GpuError::Call {
            call: "cuModuleGetFunction",
            error: format!("kernel `{name}`: {error}"),
        })?;
        if shared > SHARED_DEFAULT {
            call!(cuFuncSetAttribute(
                kernel,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared as c_int
            ))?;
        }
        Ok(Kernel(kernel))
    }

    /// Starts a kernel after what was started before. `A` is the struct that it takes.
    pub(super) fn launch<A: Copy>(
        &self,
        Kernel(kernel): Kernel,
        grid: Grid,
        argument: &A,
    ) -> Result<(), GpuError> {
        self.inner.bind()?;
        let mut early = sys::CUlaunchAttribute_st {
            id:
                sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue_union {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let config = sys::CUlaunchConfig_st {
            gridDimX: grid.blocks.0 as u32,
            gridDimY: grid.blocks.1 as u32,
            gridDimZ: 1,
            blockDimX: grid.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared as u32,
            hStream: self.inner.stream,
            attrs: &raw mut early,
            numAttrs: u32::from(grid.early && self.inner.early),
        };
        let mut arguments: [*mut c_void; 1] = [(&raw const *argument).cast_mut().cast()];
        call!(cuLaunchKernelEx(
            &raw const config,
            kernel,
            arguments.as_mut_ptr(),
            null_mut()
        ))
    }

    /// Records what `work` starts, to start it all at once later.
    pub(super) fn capture(
        &self,
        work: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<Graph, GpuError> {
        self.inner.bind()?;
        call!(cuStreamBeginCapture_v2(
            self.inner.stream,
            sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        ))?;
        let done = work();
        let mut graph = null_mut();
        let ended = call!(cuStreamEndCapture(self.inner.stream, &raw mut graph));
        let mut executable = null_mut();
        // What failed first is the cause.
        let made = done
            .and(ended)
            .and_then(|()| call!(cuGraphInstantiateWithFlags(&raw mut executable, graph, 0)));
        if !graph.is_null() {
            call!(cuGraphDestroy(graph))?;
        }
        made?;
        Ok(Graph {
            gpu: self.inner.clone(),
            executable,
        })
    }

    /// Bytes per second that the device reads and writes, counted together, when it copies so many.
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<f64, GpuError> {
        let (from, to) = (self.buffer::<u8>(bytes)?, self.buffer::<u8>(bytes)?);
        from.fill(1)?;
        let ms = self.time(|| self.copy(from.all(), to.all()))?;
        Ok(2.0 * bytes as f64 / (f64::from(ms) / 1e3))
    }

    /// Milliseconds that the device takes for `work`.
    pub fn time(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<f32, GpuError> {
        self.inner.bind()?;
        let (mut start, mut end, mut ms) = (null_mut(), null_mut(), 0.0);
        call!(cuEventCreate(&raw mut start, 0))?;
        call!(cuEventCreate(&raw mut end, 0))?;
        call!(cuEventRecord(start, self.inner.stream))?;
        let done = work();
        call!(cuEventRecord(end, self.inner.stream))?;
        call!(cuEventSynchronize(end))?;
        call!(cuEventElapsedTime(&raw mut ms, start, end))?;
        call!(cuEventDestroy_v2(start))?;
        call!(cuEventDestroy_v2(end))?;
        done.map(|()| ms)
    }
}

fn device(index: u32) -> Result<sys::CUdevice, GpuError> {
    // SAFETY: loads a library, as the first call would.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    let (mut device, mut count) = (0, 0);
    match call!(cuInit(0)).and_then(|()| call!(cuDeviceGetCount(&raw mut count))) {
        Err(GpuError::Call { error, .. }) if error.contains("NO_DEVICE") => count = 0,
        other => other?,
    }
    let count = count.unsigned_abs();
    if index >= count {
        return Err(GpuError::NoDevice { index, count });
    }
    call!(cuDeviceGet(&raw mut device, index as c_int))?;
    Ok(device)
}

impl Inner {
    fn bind(&self) -> Result<(), GpuError> {
        call!(cuCtxSetCurrent(self.context.handle))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What fails here has failed before, and was told then.
        let _ = self.bind();
        for module in &self.modules {
            let _ = call!(cuModuleUnload(*module));
        }
        if !self.stream.is_null() {
            let _ = call!(cuStreamDestroy_v2(self.stream));
        }
    }
}

/// The context of a device that all of a process share, made by who retains it first.
struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

impl Context {
    fn retain(device: sys::CUdevice) -> Result<Context, GpuError> {
        let mut handle = null_mut();
        call!(cuDevicePrimaryCtxRetain(&raw mut handle, device))?;
        Ok(Context { device, handle })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

/// Memory of the device.
pub struct Buffer<T> {
    gpu: Arc<Inner>,
    at: sys::CUdeviceptr,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Copy> Buffer<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    pub fn all(&self) -> Slice<'_, T> {
        Slice {
            at: self.at,
            len: self.len,
            lives: PhantomData,
        }
    }

    /// Writes elements from `start` on; done when it returns.
    pub fn write(&self, start: usize, from: &[T]) -> Result<(), GpuError> {
        assert!(start + from.len() <= self.len);
        self.gpu.bind()?;
        let at = self.at + (start * size_of::<T>()) as u64;
        // On our stream, which the driver's own one does not wait for.
        call!(cuMemcpyHtoDAsync_v2(
            at,
            from.as_ptr().cast(),
            size_of_val(from),
            self.gpu.stream
        ))?;
        call!(cuStreamSynchronize(self.gpu.stream))
    }

    /// Reads elements from `start` on, after all that writes them.
    pub fn read(&self, start: usize, to: &mut [T]) -> Result<(), GpuError> {
        assert!(start + to.len() <= self.len);
        self.gpu.bind()?;
        let at = self.at + (start * size_of::<T>()) as u64;
        call!(cuMemcpyDtoHAsync_v2(
            to.as_mut_ptr().cast(),
            at,
            size_of_val(to),
            self.gpu.stream
        ))?;
        call!(cuStreamSynchronize(self.gpu.stream))
    }

    /// Begins to set each byte.
    pub fn fill(&self, byte: u8) -> Result<(), GpuError> {
        self.gpu.bind()?;
        let bytes = self.len * size_of::<T>();
        call!(cuMemsetD8Async(self.at, byte, bytes, self.gpu.stream))
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        let _ = call!(cuMemFree_v2(self.at));
    }
}

/// Some elements of a [`Buffer`].
pub struct Slice<'a, T> {
    at: sys::CUdeviceptr,
    len: usize,
    lives: PhantomData<&'a T>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'a, T> Slice<'a, T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements from `start` on.
    #[must_use]
    pub fn range(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len);
        Self {
            at: self.at + (start * size_of::<T>()) as u64,
            len,
            lives: PhantomData,
        }
    }

    /// The same memory as larger elements, of `words` of these.
    pub(super) fn cast<U>(&self, words: usize) -> Slice<'a, U> {
        assert_eq!(size_of::<U>(), words * size_of::<T>());
        Slice {
            at: self.at,
            len: self.len / words,
            lives: PhantomData,
        }
    }

    /// Its address on the device.
    pub(super) fn at(&self) -> u64 {
        self.at
    }
}

/// Memory of the host that the device reads and writes.
pub struct Pinned<T> {
    gpu: Arc<Inner>,
    at: *mut T,
    len: usize,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T> Pinned<T> {
    /// Its address, on the device as on the host.
    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }
}

impl<T> std::ops::Deref for Pinned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values that were written, until it is dropped.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl<T> std::ops::DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        let _ = call!(cuMemFreeHost(self.at.cast()));
    }
}

/// Memory of the host that the device writes.
pub struct Inbox<T>(Pinned<T>);

impl<T> Inbox<T> {
    /// What came, once all that was asked for is done.
    pub fn wait(&mut self) -> Result<&mut [T], GpuError> {
        self.0.gpu.bind()?;
        call!(cuStreamSynchronize(self.0.gpu.stream))?;
        Ok(&mut self.0)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Its address, on the device as on the host.
    pub(super) fn at(&self) -> u64 {
        self.0.at()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }
}

/// Work that was recorded.
pub(super) struct Graph {
    gpu: Arc<Inner>,
    executable: sys::CUgraphExec,
}

// SAFETY: a handle, as those of `Inner`.
unsafe impl Send for Graph {}

impl Graph {
    /// Starts it after what was started before.
    pub(super) fn launch(&self) -> Result<(), GpuError> {
        self.gpu.bind()?;
        call!(cuGraphLaunch(self.executable, self.gpu.stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        let _ = call!(cuGraphExecDestroy(self.executable));
    }
}
