/* What capsule needs of libdpdk besides its functions: those that are inline or thread-local in C, which capsule calls by
 * their name with an underscore before it, and constants that are macros in C. */
#ifndef CAPSULE_FFI_WRAPPER_H
#define CAPSULE_FFI_WRAPPER_H

/* For the sets of CPUs. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdint.h>

#include <numa.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

static const uint64_t CAPSULE_FFI_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t CAPSULE_FFI_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t CAPSULE_FFI_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t CAPSULE_FFI_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint64_t CAPSULE_FFI_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

int _rte_errno(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void _rte_pktmbuf_free(struct rte_mbuf *mbuf);
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned int count);
uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

#endif
