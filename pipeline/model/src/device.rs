//! Where tensors live, and the threads that compute.

use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A device as users name it: `auto`, `cpu`, `cuda` or `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The first GPU where the program has CUDA and a driver is there, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text names no device.
    #[error("device `{0}` is unknown: use auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// The program lacks CUDA.
    #[error("device cuda:{0} is not in this program: build it with `--features cuda`")]
    NotCompiled(usize),
    /// The machine has no such GPU.
    #[error("device cuda:{0} is not on this machine (no driver, or no GPU of this index): use cpu")]
    Absent(usize),
    /// The pool of threads could not be started.
    #[error("a pool of {threads} compute threads could not be started")]
    Pool {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceSpec {
    /// Opens the device, for inference; `.autodiff()` on the result is for training.
    ///
    /// # Errors
    /// [`Error::NotCompiled`], [`Error::Absent`]. `auto` and `cpu` never fail.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Auto => Ok(cuda::open(0).unwrap_or_else(|_| Device::flex())),
            Self::Cuda(index) => cuda::open(index),
        }
    }

    /// The device that [`DeviceSpec::open`] opens, without `auto`.
    ///
    /// # Errors
    /// As [`DeviceSpec::open`].
    pub fn resolve(self) -> Result<Self, Error> {
        match self {
            Self::Auto => Ok(cuda::open(0).map_or(Self::Cpu, |_| Self::Cuda(0))),
            Self::Cpu => Ok(self),
            Self::Cuda(index) => cuda::open(index).map(|_| self),
        }
    }

    /// The kind of device as recipes name it: results are equal within a kind and differ between
    /// kinds. A CPU is named with the instruction set that the products use (`cpu-avx512`,
    /// `cpu-avx2`, else the architecture), a GPU with its compute capability (`cuda-sm90`).
    ///
    /// # Errors
    /// As [`DeviceSpec::open`].
    pub fn kind(self) -> Result<String, Error> {
        match self.resolve()? {
            Self::Cuda(index) => cuda::kind(index),
            Self::Cpu | Self::Auto => Ok(cpu_kind()),
        }
    }
}

/// The device below an autodiff one; any other as it is.
pub(crate) fn untracked(device: &Device) -> Device {
    match device.is_autodiff() {
        true => device.clone().inner(),
        false => device.clone(),
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_kind() -> String {
    let kind = if std::arch::is_x86_feature_detected!("avx512f") {
        "cpu-avx512"
    } else if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
    {
        "cpu-avx2"
    } else {
        "cpu-x86-64"
    };
    kind.to_owned()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_kind() -> String {
    format!("cpu-{}", std::env::consts::ARCH).replace('_', "-")
}

#[cfg(any(feature = "cuda", test))]
thread_local! {
    /// Whether this thread probes for a device.
    static PROBES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The value of `probe`, or `None` if it panics. The panic is not printed.
///
/// The panic hook belongs to the process, so it is wrapped once and never put back: a probe that
/// replaced and restored the hook would lose it to another probe at the same time, and would hide
/// the panics of other threads.
#[cfg(any(feature = "cuda", test))]
fn quietly<T>(probe: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    static WRAPPED: std::sync::Once = std::sync::Once::new();
    WRAPPED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !PROBES.get() {
                hook(panic);
            }
        }));
    });
    PROBES.set(true);
    let value = std::panic::catch_unwind(probe);
    PROBES.set(false);
    value.ok()
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Device, Error, quietly};
    use burn::tensor::DeviceType;

    /// Opens a GPU after asking the driver for it: burn itself panics without one.
    pub(super) fn open(index: usize) -> Result<Device, Error> {
        // The driver library is loaded at run time, and its absence is a panic there.
        match quietly(|| Device::enumerate(DeviceType::Cuda).into_iter().count()) {
            Some(count) if index < count => Ok(Device::cuda(index)),
            _ => Err(Error::Absent(index)),
        }
    }

    /// The compute capability of a GPU that [`open`] found.
    pub(super) fn kind(index: usize) -> Result<String, Error> {
        let absent = |_| Error::Absent(index);
        let context = cudarc::driver::CudaContext::new(index).map_err(absent)?;
        let (major, minor) = context.compute_capability().map_err(absent)?;
        Ok(format!("cuda-sm{major}{minor}"))
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::{Device, Error};

    pub(super) fn open(index: usize) -> Result<Device, Error> {
        Err(Error::NotCompiled(index))
    }

    pub(super) fn kind(index: usize) -> Result<String, Error> {
        Err(Error::NotCompiled(index))
    }
}

/// A pool of compute threads of stated size.
///
/// Everything numeric runs inside [`ComputePool::install`]: called from another
/// thread, each matrix product hops into the library's global pool and back,
/// which doubles a small step; and the number of threads is part of what makes a
/// result reproducible.
#[derive(Debug)]
pub struct ComputePool {
    /// `None` for the pool of the calling thread.
    pool: Option<rayon::ThreadPool>,
}

impl ComputePool {
    /// A pool of `threads` threads (at least one).
    ///
    /// # Errors
    /// [`Error::Pool`].
    pub fn new(threads: usize) -> Result<Self, Error> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(|source| Error::Pool { threads, source })?;
        Ok(Self { pool: Some(pool) })
    }

    /// The pool whose thread calls [`ComputePool::install`], for work between the steps of a
    /// training: it uses the threads of the rank, and its CPU time counts as theirs.
    pub fn current() -> Self {
        Self { pool: None }
    }

    /// Runs `work` on the pool and waits for it.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        match &self.pool {
            Some(pool) => pool.current_num_threads(),
            None => rayon::current_num_threads(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3"] {
            let spec: DeviceSpec = name.parse().expect("a device");
            assert_eq!(spec.to_string(), name);
        }
        assert_eq!(
            "cuda".parse::<DeviceSpec>().expect("a device"),
            DeviceSpec::Cuda(0)
        );
        for name in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(name.parse::<DeviceSpec>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_missing_gpu_is_an_error_and_auto_falls_back() {
        assert!(DeviceSpec::Cuda(99).open().is_err());
        assert!(DeviceSpec::Auto.open().is_ok());
        assert!(DeviceSpec::Cpu.open().is_ok());
    }

    #[test]
    fn probes_at_the_same_time_hide_only_their_own_panics() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::{Arc, Barrier};
        static PROBED: AtomicUsize = AtomicUsize::new(0);
        static HEARD: AtomicUsize = AtomicUsize::new(0);
        std::panic::set_hook(Box::new(|panic| {
            match panic.payload().downcast_ref::<&str>() {
                Some(&"a probe") => PROBED.fetch_add(1, Ordering::Relaxed),
                Some(&"heard") => HEARD.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
        }));
        let heard = || drop(std::panic::catch_unwind(|| panic!("heard")));
        const PROBES: usize = 4;
        for _ in 0..20 {
            let inside = Arc::new(Barrier::new(PROBES + 1));
            let probe = |_| {
                let inside = inside.clone();
                std::thread::spawn(move || {
                    let found: Option<()> = quietly(move || {
                        // All probes are inside; the panic of another thread; all end.
                        inside.wait();
                        inside.wait();
                        panic!("a probe")
                    });
                    assert!(found.is_none());
                })
            };
            let probes: Vec<_> = (0..PROBES).map(probe).collect();
            inside.wait();
            heard();
            inside.wait();
            probes.into_iter().for_each(|probe| probe.join().unwrap());
            heard();
        }
        drop(std::panic::take_hook());
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        assert_eq!((count(&PROBED), count(&HEARD)), (0, 40));
    }

    #[test]
    fn a_pool_has_the_stated_threads() {
        let pool = ComputePool::new(2).expect("a pool");
        assert_eq!(pool.install(rayon::current_num_threads), 2);
        assert_eq!(ComputePool::new(0).expect("a pool").threads(), 1);
        let outer = ComputePool::new(3).expect("a pool");
        let name = || std::thread::current().name().map(str::to_owned);
        let (threads, same) = outer.install(|| {
            let current = ComputePool::current();
            (current.threads(), current.install(name) == name())
        });
        assert_eq!((threads, same), (3, true));
    }
}
