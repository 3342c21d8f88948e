//! One packet: an owned DPDK message buffer.
//!
//! A packet is one segment (contiguous) or a chain of them. [`Mbuf::len`] counts all segments; [`Mbuf::data`] is the
//! first, the whole packet only if [`Mbuf::is_contiguous`]. Accessors are plain loads at the offsets that the C
//! compiler gives (cost: no call); [`Mbuf::linearize`], dropping and allocating call DPDK.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

/// A packet. Owned, not `Clone`; goes back to its pool when dropped.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an Mbuf is the only reference to its buffer, and pools take buffers back from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: `&Mbuf` only reads.
unsafe impl Sync for Mbuf {}

/// What the port found out about a checksum of a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The port checked it: right.
    Good,
    /// The port checked it: wrong.
    Bad,
    /// Nobody checked it (or only the pseudo-header is filled in): software must.
    Unknown,
}

/// The layer-4 protocol whose checksum the port shall compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What the port shall compute when it sends an IPv4 packet. Ask only for what the port grants
/// ([`crate::port::Offloads`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxChecksums {
    /// Octets of the link header, VLAN tags included: at most 127.
    pub l2_octets: u16,
    /// Octets of the IPv4 header, options included: at most 511.
    pub l3_octets: u16,
    /// The IPv4 header checksum; its field must be zero in the packet.
    pub ipv4: bool,
    /// The layer-4 checksum; its field must hold that of the pseudo-header in the packet.
    pub l4: Option<L4>,
}

/// A field of `struct rte_mbuf`: its offset by the C compiler, its type checked there too (wrapper.c).
struct Field<T>(usize, PhantomData<T>);

impl<T> Field<T> {
    const fn at(offset: usize) -> Self {
        Self(offset, PhantomData)
    }
}

const BUF_ADDR: Field<*mut u8> = Field::at(sys::DPDK_SYS_MBUF_BUF_ADDR);
const DATA_OFF: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_DATA_OFF);
const NB_SEGS: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_NB_SEGS);
const PORT: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_PORT);
const OL_FLAGS: Field<u64> = Field::at(sys::DPDK_SYS_MBUF_OL_FLAGS);
const PKT_LEN: Field<u32> = Field::at(sys::DPDK_SYS_MBUF_PKT_LEN);
const DATA_LEN: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_DATA_LEN);
const VLAN_TCI: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_VLAN_TCI);
const HASH_RSS: Field<u32> = Field::at(sys::DPDK_SYS_MBUF_HASH_RSS);
const BUF_LEN: Field<u16> = Field::at(sys::DPDK_SYS_MBUF_BUF_LEN);
const NEXT: Field<Option<Segment>> = Field::at(sys::DPDK_SYS_MBUF_NEXT);
const TX_OFFLOAD: Field<u64> = Field::at(sys::DPDK_SYS_MBUF_TX_OFFLOAD);

/// One segment of a packet: an address without ownership, for the code below.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Segment(NonNull<sys::rte_mbuf>);

impl Segment {
    #[inline(always)]
    fn read<T: Copy>(self, field: Field<T>) -> T {
        // SAFETY: a Segment is made only from an Mbuf or its chain, while that Mbuf is borrowed: it is alive, and the
        // field is inside it, aligned and of this type.
        unsafe { self.0.as_ptr().cast::<u8>().add(field.0).cast::<T>().read() }
    }

    /// To be called only with the Mbuf borrowed exclusively.
    #[inline(always)]
    fn write<T: Copy>(self, field: Field<T>, value: T) {
        // SAFETY: as in `read`; methods that write take `&mut Mbuf`.
        unsafe { self.0.as_ptr().cast::<u8>().add(field.0).cast::<T>().write(value) }
    }

    /// Address of the first octet of data.
    #[inline(always)]
    fn start(self) -> *mut u8 {
        // The offset never exceeds the buffer.
        self.read(BUF_ADDR).wrapping_add(self.read(DATA_OFF).into())
    }

    #[inline(always)]
    fn headroom(self) -> usize {
        self.read(DATA_OFF).into()
    }

    #[inline(always)]
    fn tailroom(self) -> usize {
        usize::from(self.read(BUF_LEN))
            .saturating_sub(usize::from(self.read(DATA_OFF)) + usize::from(self.read(DATA_LEN)))
    }

    fn last(self) -> Self {
        let mut segment = self;
        while let Some(next) = segment.read(NEXT) {
            segment = next;
        }
        segment
    }
}

impl Mbuf {
    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    /// The mbuf is alive and well-formed, and nothing else refers to it, to its segments or (reference count 1) to
    /// their buffers.
    #[inline]
    #[must_use]
    pub unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Gives ownership away: whoever takes the address frees the mbuf.
    #[inline]
    #[must_use]
    pub fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        let mbuf = self.0;
        mem::forget(self);
        mbuf
    }

    #[inline(always)]
    fn head(&self) -> Segment {
        Segment(self.0)
    }

    /// Octets of the packet, in all its segments.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.head().read(PKT_LEN) as usize
    }

    /// Whether the packet has no octet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the packet is one segment, so that [`Mbuf::data`] is all of it.
    #[inline]
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.head().read(NB_SEGS) == 1
    }

    /// Octets of the first segment.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: data_len octets from data_off on lie in the segment's buffer, which is alive as long as `self`, and
        // was initialised by its allocator (whatever the values).
        unsafe { slice::from_raw_parts(head.start(), head.read(DATA_LEN).into()) }
    }

    /// Octets of the first segment, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let head = self.head();
        // SAFETY: as in `data`; `&mut self` is the only reference to the buffer.
        unsafe { slice::from_raw_parts_mut(head.start(), head.read(DATA_LEN).into()) }
    }

    /// The octets of each segment, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = Some(self.head());
        std::iter::from_fn(move || {
            let segment = next?;
            next = segment.read(NEXT);
            // SAFETY: as in `data`: every segment of the chain lives as long as `self`.
            Some(unsafe { slice::from_raw_parts(segment.start(), segment.read(DATA_LEN).into()) })
        })
    }

    /// Makes the packet one segment, by copying the others into the first one's tailroom; `false`, and no change, if
    /// that is too small.
    #[inline]
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: `self` owns the chain; segments that are copied are freed by DPDK and no longer part of it.
        self.is_contiguous() || unsafe { sys::dpdk_sys_rte_pktmbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// Appends the segments of another packet.
    ///
    /// # Errors
    /// Gives the other back if together they would be more segments than DPDK allows.
    pub fn chain(&mut self, tail: Self) -> Result<(), Self> {
        let tail = tail.into_raw();
        // SAFETY: both are owned and distinct; on success the chain owns the tail.
        match unsafe { sys::dpdk_sys_rte_pktmbuf_chain(self.0.as_ptr(), tail.as_ptr()) } {
            0 => Ok(()),
            // SAFETY: on failure nothing changed, and the tail is still ours.
            _ => Err(unsafe { Self::from_raw(tail) }),
        }
    }

    /// Octets that can be prepended.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.head().headroom()
    }

    /// Octets that can be appended (to the last segment).
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        if self.is_contiguous() { self.head().tailroom() } else { self.head().last().tailroom() }
    }

    /// Grows the packet by `n` octets at its front and returns them (their values are whatever was there); `None`, and
    /// no change, without the headroom.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let head = self.head();
        let offset = u16::try_from(n).ok().and_then(|n| head.read(DATA_OFF).checked_sub(n))?;
        // The offset was >= n, and offset + length fits the buffer's 16-bit length: neither sum can overflow.
        head.write(DATA_OFF, offset);
        head.write(DATA_LEN, head.read(DATA_LEN) + n as u16);
        head.write(PKT_LEN, head.read(PKT_LEN) + n as u32);
        self.data_mut().get_mut(..n)
    }

    /// Grows the packet by `n` octets at its end and returns them (their values are whatever was there); `None`, and no
    /// change, without the tailroom.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let head = self.head();
        let last = if self.is_contiguous() { head } else { head.last() };
        if n > last.tailroom() {
            return None;
        }
        let before = last.read(DATA_LEN);
        // The tailroom is part of the buffer's 16-bit length: the sum cannot overflow.
        last.write(DATA_LEN, before + n as u16);
        head.write(PKT_LEN, head.read(PKT_LEN) + n as u32);
        // SAFETY: the tailroom has these n octets, right after the data; `&mut self` is the only reference.
        Some(unsafe { slice::from_raw_parts_mut(last.start().wrapping_add(before.into()), n) })
    }

    /// Takes `n` octets off the front of the first segment; `false`, and no change, if it has fewer.
    #[inline]
    #[must_use]
    pub fn trim_front(&mut self, n: usize) -> bool {
        let head = self.head();
        let Some(left) = u16::try_from(n).ok().and_then(|n| head.read(DATA_LEN).checked_sub(n)) else {
            return false;
        };
        head.write(DATA_LEN, left);
        head.write(DATA_OFF, head.read(DATA_OFF) + n as u16);
        head.write(PKT_LEN, head.read(PKT_LEN) - n as u32);
        true
    }

    /// Shortens the packet to `n` octets, and frees segments that are not needed any more; nothing happens if it is
    /// not longer.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        if n >= self.len() {
            return;
        }
        if !self.is_contiguous() {
            return self.truncate_chain(n);
        }
        let head = self.head();
        head.write(DATA_LEN, n as u16);
        head.write(PKT_LEN, n as u32);
    }

    /// Cuts a packet of one segment to its first `keep` octets, grows it by `n` at its front, and returns all of it (the
    /// values of the first `n` are whatever was there); `None`, and no change, without the headroom, and for a packet that
    /// is shorter or a chain.
    #[inline]
    pub fn reframe(&mut self, keep: usize, n: usize) -> Option<&mut [u8]> {
        let head = self.head();
        let offset = usize::from(head.read(DATA_OFF)).checked_sub(n)?;
        if keep > usize::from(head.read(DATA_LEN)) || !self.is_contiguous() {
            return None;
        }
        // Offset and length together are what they were at most, which is the buffer's 16-bit length at most.
        head.write(DATA_OFF, offset as u16);
        head.write(DATA_LEN, (keep + n) as u16);
        head.write(PKT_LEN, (keep + n) as u32);
        // SAFETY: the octets from the new offset on lie in the segment's buffer, since `n` of them were headroom and `keep`
        // were data; `&mut self` is the only reference to it.
        Some(unsafe { slice::from_raw_parts_mut(head.start(), keep + n) })
    }

    fn truncate_chain(&mut self, n: usize) {
        let head = self.head();
        let (mut last, mut left, mut segments) = (head, n, 1);
        while left > usize::from(last.read(DATA_LEN)) {
            let Some(next) = last.read(NEXT) else { return };
            left -= usize::from(last.read(DATA_LEN));
            (last, segments) = (next, segments + 1);
        }
        let rest = last.read(NEXT);
        last.write(DATA_LEN, left as u16);
        last.write(NEXT, None);
        head.write(NB_SEGS, segments);
        head.write(PKT_LEN, n as u32);
        if let Some(rest) = rest {
            // SAFETY: the chain was owned, and these segments are no longer part of it.
            unsafe { sys::dpdk_sys_rte_pktmbuf_free(rest.0.as_ptr()) };
        }
    }

    /// Number of the port that it came from (65535 if from none).
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.head().read(PORT)
    }

    #[inline(always)]
    fn has(&self, flag: u64) -> bool {
        self.head().read(OL_FLAGS) & flag != 0
    }

    /// The hash by which the port chose the queue, if it told.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        self.has(sys::DPDK_SYS_MBUF_F_RX_RSS_HASH).then(|| self.head().read(HASH_RSS))
    }

    /// What the port found out about the IPv4 header checksum.
    #[inline]
    #[must_use]
    pub fn ip_checksum(&self) -> Checksum {
        match self.head().read(OL_FLAGS) & sys::DPDK_SYS_MBUF_F_RX_IP_CKSUM_MASK {
            sys::DPDK_SYS_MBUF_F_RX_IP_CKSUM_GOOD => Checksum::Good,
            sys::DPDK_SYS_MBUF_F_RX_IP_CKSUM_BAD => Checksum::Bad,
            _ => Checksum::Unknown,
        }
    }

    /// What the port found out about the TCP or UDP checksum.
    #[inline]
    #[must_use]
    pub fn l4_checksum(&self) -> Checksum {
        match self.head().read(OL_FLAGS) & sys::DPDK_SYS_MBUF_F_RX_L4_CKSUM_MASK {
            sys::DPDK_SYS_MBUF_F_RX_L4_CKSUM_GOOD => Checksum::Good,
            sys::DPDK_SYS_MBUF_F_RX_L4_CKSUM_BAD => Checksum::Bad,
            _ => Checksum::Unknown,
        }
    }

    /// The tag control information that the port took out of the packet, if it did.
    #[inline]
    #[must_use]
    pub fn vlan_stripped(&self) -> Option<u16> {
        self.has(sys::DPDK_SYS_MBUF_F_RX_VLAN_STRIPPED).then(|| self.head().read(VLAN_TCI))
    }

    /// Asks the port that sends the packet to compute checksums; replaces what was asked before.
    ///
    /// Returns `false`, and changes nothing, if the lengths do not fit the packet or their fields.
    #[inline]
    #[must_use]
    pub fn request_tx_checksums(&mut self, request: TxChecksums) -> bool {
        let (l2, l3) = (u64::from(request.l2_octets), u64::from(request.l3_octets));
        let fits = l2 >> sys::DPDK_SYS_MBUF_L2_LEN_BITS == 0 && l3 >> sys::DPDK_SYS_MBUF_L3_LEN_BITS == 0;
        if !fits || l2 + l3 > u64::from(self.head().read(DATA_LEN)) {
            return false;
        }
        let mut flags = sys::DPDK_SYS_MBUF_F_TX_IPV4;
        if request.ipv4 {
            flags |= sys::DPDK_SYS_MBUF_F_TX_IP_CKSUM;
        }
        match request.l4 {
            Some(L4::Tcp) => flags |= sys::DPDK_SYS_MBUF_F_TX_TCP_CKSUM,
            Some(L4::Udp) => flags |= sys::DPDK_SYS_MBUF_F_TX_UDP_CKSUM,
            None => {}
        }
        self.clear_tx_requests();
        let head = self.head();
        head.write(OL_FLAGS, head.read(OL_FLAGS) | flags);
        head.write(TX_OFFLOAD, (l2 << sys::DPDK_SYS_MBUF_L2_LEN_OFS) | (l3 << sys::DPDK_SYS_MBUF_L3_LEN_OFS));
        true
    }

    /// Asks the port that sends the packet for nothing.
    #[inline]
    pub fn clear_tx_requests(&mut self) {
        let head = self.head();
        head.write(OL_FLAGS, head.read(OL_FLAGS) & !sys::DPDK_SYS_MBUF_F_TX_OFFLOAD_MASK);
        head.write(TX_OFFLOAD, 0);
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned, and not used again.
        unsafe { sys::dpdk_sys_rte_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.head().read(NB_SEGS))
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}
