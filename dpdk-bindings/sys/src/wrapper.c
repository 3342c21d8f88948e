/* See wrapper.h. */
#include "wrapper.h"

#include <rte_mbuf_pool_ops.h>

#define FIELD_IS(field, octets)                                                                                 \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (octets), "rte_mbuf." #field " has another width")

FIELD_IS(buf_addr, sizeof(void *));
FIELD_IS(data_off, 2);
FIELD_IS(refcnt, 2);
FIELD_IS(nb_segs, 2);
FIELD_IS(port, 2);
FIELD_IS(ol_flags, 8);
FIELD_IS(pkt_len, 4);
FIELD_IS(data_len, 2);
FIELD_IS(vlan_tci, 2);
FIELD_IS(hash.rss, 4);
FIELD_IS(buf_len, 2);
FIELD_IS(next, sizeof(void *));
FIELD_IS(tx_offload, 8);

int dpdk_sys_rte_errno(void)
{
	return rte_errno;
}

unsigned int dpdk_sys_rte_lcore_id(void)
{
	return rte_lcore_id();
}

unsigned int dpdk_sys_rte_socket_id(void)
{
	return rte_socket_id();
}

void dpdk_sys_rte_pause(void)
{
	rte_pause();
}

uint64_t dpdk_sys_rte_rdtsc(void)
{
	return rte_rdtsc();
}

struct rte_mbuf *dpdk_sys_rte_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int dpdk_sys_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void dpdk_sys_rte_pktmbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

int dpdk_sys_rte_pktmbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

int dpdk_sys_rte_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail)
{
	return rte_pktmbuf_chain(head, tail);
}

uint16_t dpdk_sys_rte_mbuf_refcnt_read(const struct rte_mbuf *mbuf)
{
	return rte_mbuf_refcnt_read(mbuf);
}

uint16_t dpdk_sys_rte_pktmbuf_data_room_size(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

uint16_t dpdk_sys_rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t dpdk_sys_rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int dpdk_sys_rte_eth_link_get_nowait(uint16_t port, uint32_t *speed_mbps, uint32_t *up)
{
	struct rte_eth_link link = {0};
	int error = rte_eth_link_get_nowait(port, &link);

	*speed_mbps = link.link_speed;
	*up = link.link_status;
	return error;
}

struct rte_mempool *dpdk_sys_pktmbuf_pool_create(const char *name, unsigned int count, unsigned int cache,
						 uint16_t data_room, int socket)
{
	struct rte_pktmbuf_pool_private private = { .mbuf_data_room_size = data_room };
	struct rte_mempool *pool;

	if (rte_eal_has_hugepages())
		return rte_pktmbuf_pool_create(name, count, cache, 0, data_room, socket);
	pool = rte_mempool_create_empty(name, count, sizeof(struct rte_mbuf) + data_room, cache, sizeof(private), socket,
					RTE_MEMPOOL_F_NO_IOVA_CONTIG);
	if (!pool)
		return NULL;
	if (rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL) != 0) {
		rte_mempool_free(pool);
		return NULL;
	}
	rte_pktmbuf_pool_init(pool, &private);
	if (rte_mempool_populate_default(pool) < 0) {
		rte_mempool_free(pool);
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}
