//! Pools of packet buffers.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use thiserror::Error;

use crate::burst::Burst;
use crate::eal::{NotInitialised, Runtime, strerror};
use crate::mbuf::Mbuf;

/// Octets of a buffer that suits a link of 1500 or less: 2048 and the headroom.
pub const DATA_ROOM_OCTETS: u16 = sys::DPDK_SYS_MBUF_DEFAULT_BUF_SIZE as u16;

/// Octets in front of a fresh packet, into which headers can be prepended.
pub const HEADROOM_OCTETS: u16 = sys::DPDK_SYS_PKTMBUF_HEADROOM as u16;

/// The largest cache that a lcore can have, in mbufs.
pub const CACHE_MAX: u32 = sys::DPDK_SYS_MEMPOOL_CACHE_MAX_SIZE;

/// Why a pool was not made.
#[derive(Debug, Error)]
pub enum MempoolError {
    /// No EAL.
    #[error(transparent)]
    NotInitialised(#[from] NotInitialised),
    /// The name cannot be one.
    #[error("mempool name {name:?} must have 1 to {max} octets and no zero octet")]
    Name {
        /// The name.
        name: String,
        /// The longest a name can be, in octets.
        max: u32,
    },
    /// The name is taken.
    #[error("a mempool named {name:?} exists: choose another name")]
    Exists {
        /// The name.
        name: String,
    },
    /// The cache does not fit.
    #[error(
        "mempool {name:?}: a cache of {cache} mbufs needs cache <= {CACHE_MAX} and cache * 1.5 <= count ({count})"
    )]
    Cache {
        /// The name.
        name: String,
        /// The cache, in mbufs.
        cache: u32,
        /// The pool, in mbufs.
        count: u32,
    },
    /// Buffers too small to be of use.
    #[error(
        "mempool {name:?}: a data room of {data_room_octets} octets leaves nothing after the headroom of \
         {HEADROOM_OCTETS}: take {DATA_ROOM_OCTETS}"
    )]
    DataRoom {
        /// The name.
        name: String,
        /// The data room, in octets.
        data_room_octets: u16,
    },
    /// Not enough memory.
    #[error(
        "mempool {name:?}: no room for {count} mbufs of {data_room_octets} octets (about {need_mb} MiB{socket}): give \
         the EAL more memory, or take fewer mbufs"
    )]
    Memory {
        /// The name.
        name: String,
        /// The pool, in mbufs.
        count: u32,
        /// The data room, in octets.
        data_room_octets: u16,
        /// What it takes, in MiB.
        need_mb: u64,
        /// Which NUMA socket, in words.
        socket: String,
    },
    /// Anything else.
    #[error("mempool {name:?}: {reason}")]
    Create {
        /// The name.
        name: String,
        /// DPDK's error in words.
        reason: String,
    },
}

/// A pool of packet buffers: a handle to share, also between threads. The pool is given back with its last handle;
/// mbufs may outlive the handles (the pool's memory then stays until the process ends).
///
/// Threads that are lcores, or registered with [`crate::lcore::register_thread`], have a cache each; others work, but
/// go to the shared ring every time (1.6 times the cost, design: dependencies.md).
#[derive(Debug, Clone)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: NonNull<sys::rte_mempool>,
    name: String,
    count: u32,
    data_room_octets: u16,
    /// Dropped after the pool.
    runtime: Arc<Runtime>,
}

// SAFETY: DPDK's default pool (ring, several producers and consumers) may be used by all threads at once; each cache
// belongs to the one thread that has its lcore id.
unsafe impl Send for Inner {}
// SAFETY: as above: no operation needs exclusive access.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool of `count` mbufs (best 2^n - 1), with a cache of `cache` mbufs for every lcore (0 for none) and
    /// buffers of `data_room_octets`, which include [`HEADROOM_OCTETS`], on the NUMA `socket` (any if `None`).
    ///
    /// # Errors
    /// [`MempoolError`].
    pub fn new(
        name: &str,
        count: u32,
        cache: u32,
        data_room_octets: u16,
        socket: Option<u32>,
    ) -> Result<Self, MempoolError> {
        let runtime = Runtime::current()?;
        let max = sys::DPDK_SYS_MEMPOOL_NAME_MAX;
        let owned = || name.to_owned();
        let c_name = CString::new(name).ok().filter(|n| (1..=max as usize).contains(&n.count_bytes()));
        let c_name = c_name.ok_or_else(|| MempoolError::Name { name: owned(), max })?;
        if cache > CACHE_MAX || u64::from(cache) * 3 > u64::from(count) * 2 {
            return Err(MempoolError::Cache { name: owned(), cache, count });
        }
        if data_room_octets <= HEADROOM_OCTETS {
            return Err(MempoolError::DataRoom { name: owned(), data_room_octets });
        }
        let socket_id =
            socket.map_or(sys::DPDK_SYS_SOCKET_ID_ANY, |id| i32::try_from(id).unwrap_or(i32::MAX));
        // SAFETY: the EAL runs, `runtime` keeps it; the name is a zero-terminated string that is copied.
        let pool = unsafe {
            sys::dpdk_sys_pktmbuf_pool_create(c_name.as_ptr(), count, cache, data_room_octets, socket_id)
        };
        match NonNull::new(pool) {
            Some(pool) => Ok(Self(Arc::new(Inner { pool, name: owned(), count, data_room_octets, runtime }))),
            None => Err(create_error(owned(), count, data_room_octets, socket)),
        }
    }

    /// Takes one mbuf, empty, with [`HEADROOM_OCTETS`] of headroom; `None` when the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive. A fresh mbuf belongs to the caller alone.
        unsafe {
            NonNull::new(sys::dpdk_sys_rte_pktmbuf_alloc(self.as_ptr())).map(|mbuf| Mbuf::from_raw(mbuf))
        }
    }

    /// Fills the free places of a burst: all of them, or none when the pool has fewer mbufs. Returns how many.
    #[inline]
    pub fn alloc_burst<const N: usize>(&self, burst: &mut Burst<N>) -> usize {
        let free = burst.spare();
        let places = burst.spare_ptr();
        // SAFETY: `places` has room for `free` addresses, and all of them are written on success only; fresh mbufs
        // belong to the caller alone.
        unsafe {
            let error = sys::dpdk_sys_rte_pktmbuf_alloc_bulk(self.as_ptr(), places, free as u32);
            let filled = if error == 0 { free } else { 0 };
            burst.set_filled(filled);
            filled
        }
    }

    /// Number of mbufs in the pool, in use or not.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Mbufs that can be taken: a snapshot, exact only while no other thread uses the pool. Walks all caches.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Mbufs that are out: zero again when nothing leaked. As exact as [`Mempool::available`].
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.0.in_use()
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Octets of each buffer, headroom included.
    #[must_use]
    pub fn data_room_octets(&self) -> u16 {
        self.0.data_room_octets
    }

    /// DPDK's pool.
    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.0.pool.as_ptr()
    }
}

impl Inner {
    fn in_use(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No handle is left, so nothing can be taken any more and the count only falls. It can be seen too low only
        // within the few instructions in which another thread's cache spills into the ring: hence a second look.
        if self.in_use() != 0 || self.in_use() != 0 {
            // Mbufs are still out, and will be put back into this pool: it must stay, and so must the EAL.
            std::mem::forget(Arc::clone(&self.runtime));
            return;
        }
        // SAFETY: the last handle, and no mbuf is out: nothing refers to the pool.
        unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
    }
}

fn create_error(name: String, count: u32, data_room_octets: u16, socket: Option<u32>) -> MempoolError {
    // SAFETY: reads a thread-local.
    match unsafe { sys::dpdk_sys_rte_errno() } {
        libc::EEXIST => MempoolError::Exists { name },
        libc::ENOMEM | libc::ENOBUFS => {
            // An mbuf's own two cache lines and the pool's header of one come on top.
            let need_mb = (u64::from(count) * (u64::from(data_room_octets) + 192)).div_ceil(1 << 20);
            let socket = socket.map_or(String::new(), |id| format!(" on NUMA socket {id}"));
            MempoolError::Memory { name, count, data_room_octets, need_mb, socket }
        }
        errno => MempoolError::Create { name, reason: strerror(errno) },
    }
}
