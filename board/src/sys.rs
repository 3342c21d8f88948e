//! The agent's only unsafe cell: the system calls that neither `nix` nor `libbpf-rs` wraps.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use libbpf_rs::{RingBuffer, libbpf_sys};

/// Where a program of this board hangs on the farm interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, before the kernel makes an skb.
    XdpNative,
    /// On the skb, for drivers without XDP.
    XdpGeneric,
    /// tc ingress, as a TCX link.
    Ingress,
    /// tc egress, as a TCX link.
    Egress,
}

impl Hook {
    /// `bpf_attach_type` and the flags of `BPF_LINK_CREATE` (linux/bpf.h, linux/if_link.h).
    fn attach(self) -> (u32, u32) {
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        match self {
            Hook::XdpNative => (libbpf_sys::BPF_XDP, XDP_FLAGS_DRV_MODE),
            Hook::XdpGeneric => (libbpf_sys::BPF_XDP, XDP_FLAGS_SKB_MODE),
            Hook::Ingress => (libbpf_sys::BPF_TCX_INGRESS, 0),
            Hook::Egress => (libbpf_sys::BPF_TCX_EGRESS, 0),
        }
    }
}

/// Attaches `program` to the interface and pins the link at `pin`.
///
/// # Errors
/// What the kernel says; EOPNOTSUPP when the driver has no native XDP, EBUSY when another XDP program is attached.
pub fn attach_pinned(program: BorrowedFd<'_>, ifindex: u32, hook: Hook, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let (attach_type, flags) = hook.attach();
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        flags,
        ..Default::default()
    };
    // SAFETY: `options` outlives the call and its `sz` is its size; both descriptors are plain integers to the kernel.
    let raw = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, attach_type, &options) };
    if raw < 0 {
        return Err(io::Error::from_raw_os_error(-raw));
    }
    // SAFETY: the call returned a descriptor that nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `path` is a C string that outlives the call.
    let pinned = unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) };
    if pinned < 0 { Err(io::Error::from_raw_os_error(-pinned)) } else { Ok(()) }
}

/// A raw packet socket on the interface that only sends: bound to no protocol, so nothing is queued to it.
///
/// # Errors
/// EPERM without CAP_NET_RAW, ENODEV when the interface is gone.
pub fn packet_sender(ifindex: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked below.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// The kernel's name for the network namespace that this process is in (SO_NETNS_COOKIE, Linux 5.14).
///
/// # Errors
/// When no socket can be made, or the kernel does not know the option.
pub fn netns_cookie() -> io::Result<u64> {
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", 0)))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value pointer has room for `length` octets and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Has a child enter a cgroup, and get the signals that the agent has blocked for itself, before it becomes its program.
pub fn prepare_child(command: &mut Command, cgroup_procs: Option<File>) {
    let hook = move || {
        if let Some(file) = &cgroup_procs {
            // SAFETY: the pointer and the length describe a constant; the descriptor is open as long as the hook lives.
            // 0 stands for the writer itself.
            if unsafe { libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: all zeros is a valid value of the plain C type, and sigemptyset writes it anew.
        let mut none = unsafe { std::mem::zeroed::<libc::sigset_t>() };
        // SAFETY: both pointers are valid or null as the calls allow.
        let set = unsafe {
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the hook makes only async-signal-safe calls (signal-safety(7)): it allocates nothing and
    // takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// A descriptor that becomes readable when the process ends, whoever its parent is (Linux 5.3).
///
/// # Errors
/// ESRCH when there is no such process.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked below.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    // SAFETY: the call returned a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What to poll for the ring's events.
pub fn ring_descriptor<'ring>(ring: &'ring RingBuffer<'_>) -> BorrowedFd<'ring> {
    // SAFETY: the ring owns its epoll descriptor until it is dropped, which the lifetime does not let happen before.
    unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) }
}
