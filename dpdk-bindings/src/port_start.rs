//! Configuring, starting and closing a port: once in its life, under one lock.

use std::collections::BTreeSet;
use std::ffi::{CString, c_int};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::eal::{Runtime, strerror};
use crate::mempool::{HEADROOM_OCTETS, Mempool};
use crate::port::{Offloads, Open, Port, PortConfig, PortError, PortId, QueueId, RssMode, name};
use crate::queue::{RxQueue, TxQueue};

/// Ethernet header, two VLAN tags and the frame check sequence, which some ports deliver.
const LINK_OCTETS: u32 = 14 + 2 * 4 + 4;

/// Both directions of a connection hash alike under a key of one repeated 16-bit word (Woo and Park, "Scalable TCP
/// session monitoring with symmetric receive-side scaling", 2012).
const SYMMETRIC_KEY_WORD: [u8; 2] = [0x6d, 0x5a];

/// Length of an RSS key where the port does not tell, in octets.
const RSS_KEY_OCTETS: u8 = 40;

/// Ports that are started. The lock also orders control operations, which DPDK does not.
static STARTED: Mutex<BTreeSet<PortId>> = Mutex::new(BTreeSet::new());

fn started() -> MutexGuard<'static, BTreeSet<PortId>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a port while it is being started.
struct Starting<'a> {
    id: PortId,
    name: String,
    info: sys::rte_eth_dev_info,
    config: &'a PortConfig,
}

pub(crate) fn start(
    id: PortId,
    config: &PortConfig,
    pools: &[Mempool],
) -> Result<(Port, Vec<RxQueue>, Vec<TxQueue>), PortError> {
    let runtime = Runtime::current()?;
    let name = name(id).ok_or_else(|| PortError::NoSuchPort {
        device: id.to_string(),
        present: crate::port::names().join(", "),
    })?;
    let mut started = started();
    if started.contains(&id) {
        return Err(PortError::AlreadyStarted { port: name });
    }
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: the port exists; the address is valid for writes.
    let error = unsafe { sys::rte_eth_dev_info_get(id.raw(), &raw mut info) };
    let port = Starting { id, name, info, config };
    port.step("reading its abilities", error)?;
    port.check_queues(pools)?;
    let frame_fits = port.check_frame(pools)?;
    let (mut conf, mut offloads) = port.wanted(frame_fits);
    // The key's address is used during the call only.
    let mut key: Vec<u8> =
        SYMMETRIC_KEY_WORD.iter().copied().cycle().take(port.key_octets().into()).collect();
    if offloads.rss {
        conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
        conf.rx_adv_conf.rss_conf.rss_key_len = port.key_octets();
    }
    port.configure(&conf)?;
    port.set_up_queues(&conf, pools)?;
    // SAFETY: configured, with all its queues.
    port.step("starting", unsafe { sys::rte_eth_dev_start(id.raw()) })?;
    started.insert(id);
    // From here on dropping `open` stops and closes the port, which takes the lock.
    drop(started);
    let open = Arc::new(Open { id, _pools: pools.to_vec(), _runtime: runtime });
    port.spread_fixed(offloads.rss);
    offloads.promiscuous = port.promiscuous()?;
    let queues = |count: u16| (0..count).map(QueueId);
    // SAFETY: these queues are set up and started, and the port was not started before: these are their only handles.
    let rx = queues(config.rx_queues).map(|q| unsafe { RxQueue::new(Arc::clone(&open), q) }).collect();
    // SAFETY: as above.
    let tx = queues(config.tx_queues).map(|q| unsafe { TxQueue::new(Arc::clone(&open), q) }).collect();
    let (max_rx_queues, max_tx_queues) = (port.info.max_rx_queues, port.info.max_tx_queues);
    Ok((Port { open, name: port.name, offloads, max_rx_queues, max_tx_queues }, rx, tx))
}

/// Stops and closes a port that `start` started.
pub(crate) fn close(id: PortId) {
    let mut started = started();
    // SAFETY: the last handle is gone, so no thread polls its queues; the EAL still runs. An error leaves the port as
    // it is, and there is nothing to be done about it.
    unsafe {
        sys::rte_eth_dev_stop(id.raw());
        sys::rte_eth_dev_close(id.raw());
    }
    started.remove(&id);
}

/// Attaches a device.
pub(crate) fn attach(device: &str) -> Result<(), PortError> {
    let failed = |reason: String| PortError::Attach { device: device.to_owned(), reason };
    let arguments = CString::new(device).map_err(|_| failed("its name holds a zero octet".to_owned()))?;
    let _ordered = started();
    // SAFETY: the EAL runs (the caller holds a share); a zero-terminated string that is copied.
    match unsafe { sys::rte_dev_probe(arguments.as_ptr()) } {
        0 => Ok(()),
        error => Err(failed(strerror(error))),
    }
}

impl Starting<'_> {
    fn port(&self) -> String {
        self.name.clone()
    }

    fn step(&self, step: &str, error: c_int) -> Result<(), PortError> {
        match error {
            0 => Ok(()),
            _ => Err(PortError::Step { port: self.port(), step: step.to_owned(), reason: strerror(error) }),
        }
    }

    fn check_queues(&self, pools: &[Mempool]) -> Result<(), PortError> {
        let (rx, tx) = (self.config.rx_queues, self.config.tx_queues);
        let (max_rx, max_tx) = (self.info.max_rx_queues, self.info.max_tx_queues);
        if rx == 0 || tx == 0 {
            return Err(PortError::NoQueues { port: self.port() });
        }
        if rx > max_rx {
            return Err(PortError::Queues {
                port: self.port(),
                direction: "receive",
                wanted: rx,
                max: max_rx,
            });
        }
        if tx > max_tx {
            return Err(PortError::Queues {
                port: self.port(),
                direction: "transmit",
                wanted: tx,
                max: max_tx,
            });
        }
        if pools.len() != 1 && pools.len() != usize::from(rx) {
            return Err(PortError::Pools { port: self.port(), pools: pools.len(), queues: rx });
        }
        Ok(())
    }

    /// Checks the MTU; tells whether its frames fit one buffer.
    fn check_frame(&self, pools: &[Mempool]) -> Result<bool, PortError> {
        let Some(mtu) = self.config.mtu else { return Ok(true) };
        let (min, max) = (self.info.min_mtu, self.info.max_mtu);
        if mtu < min || mtu > max {
            return Err(PortError::Mtu { port: self.port(), wanted: mtu, min, max });
        }
        let frame_octets = u32::from(mtu) + LINK_OCTETS;
        let room = |pool: &Mempool| u32::from(pool.data_room_octets() - HEADROOM_OCTETS);
        let Some(pool) = pools.iter().find(|pool| room(pool) < frame_octets) else { return Ok(true) };
        if self.info.rx_offload_capa & sys::DPDK_SYS_RX_OFFLOAD_SCATTER != 0 {
            return Ok(false);
        }
        Err(PortError::DataRoom {
            port: self.port(),
            frame_octets,
            pool: pool.name().to_owned(),
            room_octets: room(pool),
            needed_octets: frame_octets + u32::from(HEADROOM_OCTETS),
        })
    }

    /// The configuration: of what is wanted, what the port has.
    fn wanted(&self, frame_fits: bool) -> (sys::rte_eth_conf, Offloads) {
        let (rx_has, tx_has) = (self.info.rx_offload_capa, self.info.tx_offload_capa);
        let (mut rx, mut tx) = (0, tx_has & sys::DPDK_SYS_TX_OFFLOAD_MULTI_SEGS);
        if self.config.checksum_offloads {
            rx |= sys::DPDK_SYS_RX_OFFLOAD_IPV4_CKSUM
                | sys::DPDK_SYS_RX_OFFLOAD_TCP_CKSUM
                | sys::DPDK_SYS_RX_OFFLOAD_UDP_CKSUM;
            tx |= sys::DPDK_SYS_TX_OFFLOAD_IPV4_CKSUM
                | sys::DPDK_SYS_TX_OFFLOAD_TCP_CKSUM
                | sys::DPDK_SYS_TX_OFFLOAD_UDP_CKSUM;
        }
        if !frame_fits {
            rx |= sys::DPDK_SYS_RX_OFFLOAD_SCATTER;
        }
        let rss_types = sys::DPDK_SYS_ETH_RSS_IP | sys::DPDK_SYS_ETH_RSS_TCP | sys::DPDK_SYS_ETH_RSS_UDP;
        let rss_types = rss_types & self.info.flow_type_rss_offloads;
        let rss = self.config.rss == RssMode::Symmetric && rss_types & sys::DPDK_SYS_ETH_RSS_TCP != 0;
        let mut conf = sys::rte_eth_conf::default();
        conf.rxmode.mtu = self.config.mtu.map_or(0, u32::from);
        conf.rxmode.mq_mode = sys::DPDK_SYS_ETH_MQ_RX_NONE;
        if rss {
            rx |= sys::DPDK_SYS_RX_OFFLOAD_RSS_HASH;
            conf.rxmode.mq_mode = sys::DPDK_SYS_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = rss_types;
        }
        conf.rxmode.offloads = rx & rx_has;
        conf.txmode.offloads = tx & tx_has;
        let (rx, tx) = (|flag| conf.rxmode.offloads & flag != 0, |flag| conf.txmode.offloads & flag != 0);
        let offloads = Offloads {
            rx_ipv4_checksum: rx(sys::DPDK_SYS_RX_OFFLOAD_IPV4_CKSUM),
            rx_tcp_checksum: rx(sys::DPDK_SYS_RX_OFFLOAD_TCP_CKSUM),
            rx_udp_checksum: rx(sys::DPDK_SYS_RX_OFFLOAD_UDP_CKSUM),
            tx_ipv4_checksum: tx(sys::DPDK_SYS_TX_OFFLOAD_IPV4_CKSUM),
            tx_tcp_checksum: tx(sys::DPDK_SYS_TX_OFFLOAD_TCP_CKSUM),
            tx_udp_checksum: tx(sys::DPDK_SYS_TX_OFFLOAD_UDP_CKSUM),
            tx_multi_segment: tx(sys::DPDK_SYS_TX_OFFLOAD_MULTI_SEGS),
            rx_scatter: rx(sys::DPDK_SYS_RX_OFFLOAD_SCATTER),
            rss,
            promiscuous: false,
        };
        (conf, offloads)
    }

    fn key_octets(&self) -> u8 {
        if self.info.hash_key_size == 0 { RSS_KEY_OCTETS } else { self.info.hash_key_size }
    }

    fn configure(&self, conf: &sys::rte_eth_conf) -> Result<(), PortError> {
        let (rx, tx) = (self.config.rx_queues, self.config.tx_queues);
        // SAFETY: the port exists and is stopped; the configuration is copied.
        let error = unsafe { sys::rte_eth_dev_configure(self.id.raw(), rx, tx, conf) };
        self.step("configuring", error)?;
        let Some(mtu) = self.config.mtu else { return Ok(()) };
        // SAFETY: the port exists and is configured.
        match unsafe { sys::rte_eth_dev_set_mtu(self.id.raw(), mtu) } {
            // Memory ports have no MTU to set; what they carry is bounded by the buffers, which were checked.
            error if error == -libc::ENOTSUP => Ok(()),
            error => self.step(&format!("setting MTU {mtu}"), error),
        }
    }

    fn set_up_queues(&self, conf: &sys::rte_eth_conf, pools: &[Mempool]) -> Result<(), PortError> {
        let (mut rx_descriptors, mut tx_descriptors) =
            (self.config.rx_descriptors, self.config.tx_descriptors);
        // SAFETY: the port exists; both addresses are valid for writes.
        let error = unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(
                self.id.raw(),
                &raw mut rx_descriptors,
                &raw mut tx_descriptors,
            )
        };
        self.step("choosing the number of descriptors", error)?;
        // SAFETY: checks the number itself.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.id.raw()) } as u32;
        let mut rx_conf = self.info.default_rxconf;
        rx_conf.offloads = conf.rxmode.offloads;
        // One pool for each queue, or the one for all.
        for (queue, pool) in (0..self.config.rx_queues).zip(pools.iter().cycle()) {
            // SAFETY: the port is configured with this queue, and stopped; the pool is kept by the port's `Open`.
            let error = unsafe {
                let (id, pool) = (self.id.raw(), pool.as_ptr());
                sys::rte_eth_rx_queue_setup(id, queue, rx_descriptors, socket, &raw const rx_conf, pool)
            };
            self.step(&format!("setting up receive queue {queue} with {rx_descriptors} descriptors"), error)?;
        }
        let mut tx_conf = self.info.default_txconf;
        tx_conf.offloads = conf.txmode.offloads;
        for queue in 0..self.config.tx_queues {
            // SAFETY: the port is configured with this queue, and stopped.
            let error = unsafe {
                sys::rte_eth_tx_queue_setup(self.id.raw(), queue, tx_descriptors, socket, &raw const tx_conf)
            };
            self.step(
                &format!("setting up transmit queue {queue} with {tx_descriptors} descriptors"),
                error,
            )?;
        }
        Ok(())
    }

    /// Fills the redirection table round robin, so that the way of a flow is known and stays. Ports whose table cannot
    /// be written keep their own, which is as fixed.
    fn spread_fixed(&self, rss: bool) {
        let entries = usize::from(self.info.reta_size);
        if !rss || entries == 0 {
            return;
        }
        let group_octets = sys::DPDK_SYS_ETH_RETA_GROUP_SIZE as usize;
        let mut groups = vec![sys::rte_eth_rss_reta_entry64::default(); entries.div_ceil(group_octets)];
        let queues = (0..self.config.rx_queues).cycle();
        let places = groups.iter_mut().flat_map(|group| {
            group.mask = u64::MAX;
            group.reta.iter_mut()
        });
        for (place, queue) in places.zip(queues) {
            *place = queue;
        }
        // SAFETY: the port is started; the table has the length that the port told.
        unsafe { sys::rte_eth_dev_rss_reta_update(self.id.raw(), groups.as_mut_ptr(), self.info.reta_size) };
    }

    fn promiscuous(&self) -> Result<bool, PortError> {
        if !self.config.promiscuous {
            return Ok(false);
        }
        // SAFETY: the port is started.
        match unsafe { sys::rte_eth_promiscuous_enable(self.id.raw()) } {
            // Ports that do not look at addresses receive everything anyway.
            error if error == -libc::ENOTSUP => Ok(false),
            error => self.step("switching promiscuous mode on", error).map(|()| true),
        }
    }
}
