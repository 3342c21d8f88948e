// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How an unmodified server takes a connection over (design: takeover.md).
 *
 *   farm_xdp      ipOS frames: stores, refuses, answers; takes the ipOS header off 0x02
 *   farm_ingress  sends XDP's answers out; gives the first packet of a stored endpoint to its listener; guards the rest
 *   farm_egress   hides what an endpoint that was given up would still say to its client
 *   socket_state  watches the sockets that grew out of records
 *   reap, settle  run by the agent: age records out; conclude the destruction of a socket
 *   held_on       run by the agent: how many endpoints a listener has
 */
#include "common.h"
#include "tc.h"
#include "xdp.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state, const struct sock *sk, int old_state, int new_state)
{
	struct endpoint *endpoint;
	struct flow flow;

	if (new_state != TCP_ESTABLISHED && new_state != TCP_CLOSE)
		return 0;
	/* The tracepoint is system-wide, and another namespace may hold the same flow. */
	if (BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie) != netns_cookie)
		return 0;
	flow.client_address = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	flow.client_port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	flow.endpoint_address = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
	/* At CLOSE skc_num is gone already. */
	flow.endpoint_port = BPF_CORE_READ((struct inet_sock *)sk, inet_sport);
	endpoint = bpf_map_lookup_elem(&endpoints, &flow);
	if (!endpoint)
		return 0;
	if (new_state == TCP_ESTABLISHED) {
		if (old_state != TCP_SYN_RECV || !change(endpoint, ENDPOINT_PENDING, ENDPOINT_LIVE))
			return 0;
		endpoint->socket = (__u64)sk;
		add(COUNT_ENDPOINTS_LIVE, 1);
		return 0;
	}
	if (endpoint->socket != (__u64)sk || !change(endpoint, ENDPOINT_LIVE, ENDPOINT_GONE))
		return 0;
	endpoint->changed_ns = bpf_ktime_get_ns();
	add_held(-1);
	add(COUNT_ENDPOINTS_CLOSED, 1);
	emit(EVENT_CLOSED, endpoint->appliance_address, &flow, CLOSED_ENDED, endpoint->migration_id);
	return 0;
}

struct bpf_map;

static long reap_one(struct bpf_map *map, struct flow *flow, struct endpoint *endpoint, __u64 *now)
{
	__u32 state = endpoint->state;
	__s64 age = *now - endpoint->changed_ns;
	struct flow key = *flow;

	if (state == ENDPOINT_GONE && age > (__s64)tombstone_ns) {
		if (!change(endpoint, ENDPOINT_GONE, ENDPOINT_BUSY))
			return 0;
		add(COUNT_TOMBSTONES_EXPIRED, 1);
	} else if (state == ENDPOINT_PENDING && age > (__s64)pending_ns) {
		if (!change(endpoint, ENDPOINT_PENDING, ENDPOINT_BUSY))
			return 0;
		add_held(-1);
		add(COUNT_PENDING_EXPIRED, 1);
	} else if (state == ENDPOINT_CLEARING && age > (__s64)pending_ns) {
		if (!change(endpoint, ENDPOINT_CLEARING, ENDPOINT_BUSY))
			return 0;
		add(COUNT_PENDING_EXPIRED, 1);
	} else if (state == ENDPOINT_DETACHING && age > (__s64)AGENT_REPEAT_NS) {
		/* Not destroyed yet, and an appliance does not ask again for what was moved. */
		endpoint->changed_ns = *now;
		emit(endpoint->moved ? EVENT_MOVED : EVENT_DETACH, endpoint->appliance_address, &key, CLOSED_FORCED,
		     endpoint->migration_id);
		return 0;
	} else {
		return 0;
	}
	bpf_map_delete_elem(&endpoints, &key);
	return 0;
}

/* Here and not in the agent, so that a record which is being taken again cannot be deleted under its new owner. */
SEC("syscall")
int reap(void *ctx)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_for_each_map_elem(&endpoints, reap_one, &now, 0);
	return 0;
}

/* 1 when the endpoint of that id was being cleared or detached and has been concluded. */
SEC("syscall")
int settle(struct settlement *settlement)
{
	struct flow flow = settlement->flow;
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &flow);
	__u32 state;

	if (!endpoint || endpoint->migration_id != settlement->migration_id)
		return 0;
	state = endpoint->state;
	if (state != ENDPOINT_CLEARING && state != ENDPOINT_DETACHING)
		return 0;
	if (!change(endpoint, state, ENDPOINT_BUSY))
		return 0;
	endpoint->changed_ns = bpf_ktime_get_ns();
	if (settlement->destroyed && state == ENDPOINT_DETACHING) {
		endpoint->reason = CLOSED_FORCED;
		publish(endpoint, ENDPOINT_GONE);
	} else if (settlement->destroyed) {
		publish(endpoint, ENDPOINT_PENDING);
		add_held(1);
	} else if (endpoint->moved) {
		/* Another board has it by now: it must not speak again. */
		publish(endpoint, ENDPOINT_DETACHING);
	} else if (state == ENDPOINT_DETACHING) {
		endpoint->silent = 0;
		publish(endpoint, ENDPOINT_LIVE);
		add_held(1);
	} else {
		bpf_map_delete_elem(&endpoints, &flow);
	}
	return 1;
}

struct held_count {
	struct listener on;
	__u32 held;
};

static long count_held(struct bpf_map *map, struct flow *flow, struct endpoint *endpoint, struct held_count *count)
{
	if (endpoint->server_port == count->on.port && endpoint->state != ENDPOINT_GONE &&
	    (!count->on.address || flow->endpoint_address == count->on.address))
		count->held++;
	return 0;
}

/* Endpoints of this listener that have not ended, those included that wait for their first packet. */
SEC("syscall")
int held_on(struct listener *on)
{
	struct held_count count = { .on = *on };

	bpf_for_each_map_elem(&endpoints, count_held, &count, 0);
	return count.held;
}
