/* What dpdk-sys binds: the headers, constants that are macros in C, and functions that are inline in C.
 * Nothing here decides anything; that is the safe crate's part. */
#ifndef DPDK_SYS_WRAPPER_H
#define DPDK_SYS_WRAPPER_H

#include <stddef.h>
#include <stdint.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_pause.h>
#include <rte_version.h>

/* Field offsets of struct rte_mbuf. wrapper.c checks the widths that Rust reads and writes at them. */
static const size_t DPDK_SYS_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t DPDK_SYS_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t DPDK_SYS_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt);
static const size_t DPDK_SYS_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t DPDK_SYS_MBUF_PORT = offsetof(struct rte_mbuf, port);
static const size_t DPDK_SYS_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t DPDK_SYS_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t DPDK_SYS_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t DPDK_SYS_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci);
static const size_t DPDK_SYS_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss);
static const size_t DPDK_SYS_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t DPDK_SYS_MBUF_NEXT = offsetof(struct rte_mbuf, next);
static const size_t DPDK_SYS_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload);

/* Places of the lengths within tx_offload, in bits. */
static const uint32_t DPDK_SYS_MBUF_L2_LEN_OFS = RTE_MBUF_L2_LEN_OFS;
static const uint32_t DPDK_SYS_MBUF_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS;
static const uint32_t DPDK_SYS_MBUF_L3_LEN_OFS = RTE_MBUF_L3_LEN_OFS;
static const uint32_t DPDK_SYS_MBUF_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS;
static const uint32_t DPDK_SYS_MBUF_L4_LEN_OFS = RTE_MBUF_L4_LEN_OFS;
static const uint32_t DPDK_SYS_MBUF_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS;

static const uint32_t DPDK_SYS_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t DPDK_SYS_MBUF_DEFAULT_BUF_SIZE = RTE_MBUF_DEFAULT_BUF_SIZE;
static const uint32_t DPDK_SYS_MEMPOOL_CACHE_MAX_SIZE = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t DPDK_SYS_MEMPOOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1; /* less the final zero */
static const uint32_t DPDK_SYS_ETH_NAME_MAX_LEN = RTE_ETH_NAME_MAX_LEN;
static const uint32_t DPDK_SYS_MAX_ETHPORTS = RTE_MAX_ETHPORTS;
static const uint32_t DPDK_SYS_MAX_LCORE = RTE_MAX_LCORE;
static const uint32_t DPDK_SYS_LCORE_ID_ANY = LCORE_ID_ANY;
static const int32_t DPDK_SYS_SOCKET_ID_ANY = SOCKET_ID_ANY;

/* Limits of rte_hash. */
static const uint32_t DPDK_SYS_HASH_NAME_MAX = RTE_HASH_NAMESIZE - 1; /* less the final zero */
static const uint32_t DPDK_SYS_HASH_LOOKUP_BULK_MAX = RTE_HASH_LOOKUP_BULK_MAX;

/* Receive flags. */
static const uint64_t DPDK_SYS_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t DPDK_SYS_MBUF_F_RX_VLAN = RTE_MBUF_F_RX_VLAN;
static const uint64_t DPDK_SYS_MBUF_F_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t DPDK_SYS_MBUF_F_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t DPDK_SYS_MBUF_F_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t DPDK_SYS_MBUF_F_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t DPDK_SYS_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t DPDK_SYS_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DPDK_SYS_MBUF_F_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;

/* Transmit flags. */
static const uint64_t DPDK_SYS_MBUF_F_TX_OFFLOAD_MASK = RTE_MBUF_F_TX_OFFLOAD_MASK;
static const uint64_t DPDK_SYS_MBUF_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t DPDK_SYS_MBUF_F_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t DPDK_SYS_MBUF_F_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t DPDK_SYS_MBUF_F_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;

/* Port offloads. */
static const uint64_t DPDK_SYS_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_SYS_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t DPDK_SYS_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_SYS_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t DPDK_SYS_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DPDK_SYS_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_SYS_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t DPDK_SYS_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_SYS_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint32_t DPDK_SYS_ETH_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t DPDK_SYS_ETH_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint64_t DPDK_SYS_ETH_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t DPDK_SYS_ETH_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t DPDK_SYS_ETH_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint32_t DPDK_SYS_ETH_RETA_GROUP_SIZE = RTE_ETH_RETA_GROUP_SIZE;
static const uint32_t DPDK_SYS_ETH_SPEED_NUM_UNKNOWN = RTE_ETH_SPEED_NUM_UNKNOWN;

/* Thread-local or inline in C. */
int dpdk_sys_rte_errno(void);
unsigned int dpdk_sys_rte_lcore_id(void);
unsigned int dpdk_sys_rte_socket_id(void);
void dpdk_sys_rte_pause(void);
uint64_t dpdk_sys_rte_rdtsc(void);
struct rte_mbuf *dpdk_sys_rte_pktmbuf_alloc(struct rte_mempool *pool);
int dpdk_sys_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void dpdk_sys_rte_pktmbuf_free(struct rte_mbuf *mbuf);
int dpdk_sys_rte_pktmbuf_linearize(struct rte_mbuf *mbuf);
int dpdk_sys_rte_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail);
uint16_t dpdk_sys_rte_mbuf_refcnt_read(const struct rte_mbuf *mbuf);
uint16_t dpdk_sys_rte_pktmbuf_data_room_size(struct rte_mempool *pool);
uint16_t dpdk_sys_rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t dpdk_sys_rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/*
 * rte_pktmbuf_pool_create, but without hugepages the objects are packed: DPDK would pad them so that none crosses a 4 KiB
 * page, and net_af_xdp 22.11, which registers count x object size as UMEM, would leave the last third of them outside.
 */
struct rte_mempool *dpdk_sys_pktmbuf_pool_create(const char *name, unsigned int count, unsigned int cache,
						 uint16_t data_room, int socket);

/* struct rte_eth_link is bit-fields, within an anonymous union from DPDK 24.11 on: told as plain numbers. */
int dpdk_sys_rte_eth_link_get_nowait(uint16_t port, uint32_t *speed_mbps, uint32_t *up);

#endif
