/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps, load-time constants and what XDP and tc both do. */
#ifndef IPOS_COMMON_H
#define IPOS_COMMON_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "tables.h"

/* TCX verdicts, newer than some distributions' linux/bpf.h. */
#define TCX_NEXT -1
#define TCX_DROP 2

#define ETHERTYPE_IPV4 bpf_htons(0x0800)
#define NS_PER_MS 1000000ULL
/* A request to the agent that was not settled by then may be made again. */
#define AGENT_REPEAT_NS (200 * NS_PER_MS)
#define STRAY_INTERVAL_NS (1000 * NS_PER_MS)

/* Set by the loader before the programs are verified. */
const volatile __be16 farm_ethertype;
const volatile __be32 board_address;
const volatile __u8 board_mac[6];
const volatile __u64 netns_cookie;
const volatile __u64 pending_ns;
const volatile __u64 tombstone_ns;

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* preallocated, never LRU: full means a refusal */
	__uint(max_entries, 1048576);
	__type(key, struct flow);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct mac_key);
	__type(value, __be32);
} appliances SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, __u32);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct exempt_key);
	__type(value, __u32);
} exempt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* when a stray was last told of; losing one costs one more frame */
	__uint(max_entries, 16384);
	__type(key, struct flow);
	__type(value, __u64);
} strays SEC(".maps");

extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk, struct bpf_tcp_req_attrs *attrs,
				   int attrs__sz) __ksym;

static __always_inline void add(__u32 counter, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += n;
}

/* The gauge is also moved in process context, which a packet may interrupt. */
static __always_inline void add_held(__s64 n)
{
	__u32 counter = COUNT_ENDPOINTS_HELD;
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value && n)
		__sync_fetch_and_add(value, n);
}

static __always_inline int drop(__u32 counter)
{
	add(counter, 1);
	return XDP_DROP;
}

static __always_inline int hold(int verdict, __u32 counter)
{
	add(counter, 1);
	return verdict;
}

/* True when this party moved the record from `from` to `to`; the record is then its own. */
static __always_inline int change(struct endpoint *endpoint, __u32 from, __u32 to)
{
	return __sync_val_compare_and_swap(&endpoint->state, from, to) == from;
}

static __always_inline void publish(struct endpoint *endpoint, __u32 state)
{
	/* An exchange, because it also orders the fields written before it. */
	__sync_lock_test_and_set(&endpoint->state, state);
}

static __always_inline int held(__u32 state)
{
	return state == ENDPOINT_PENDING || state == ENDPOINT_LIVE;
}

/* Whether endpoints at this address and port are taken over, and so guarded. */
static __always_inline int guarded(__be32 address, __be16 port)
{
	struct exempt_key key = { .address = address, .port = port };
	__u32 *how = bpf_map_lookup_elem(&services, &address);

	return how && (*how != GUARDED_BUT_EXEMPT || !bpf_map_lookup_elem(&exempt, &key));
}

/* RFC 1071 over `words` 16-bit words, folded, not complemented. */
static __always_inline __u16 sum(const __be16 *words, int count)
{
	__u32 total = 0;

	for (int i = 0; i < count; i++)
		total += words[i];
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	return total;
}

static __always_inline int emit(__u32 kind, __be32 appliance, const struct flow *flow, __u32 reason, __be64 id)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		add(COUNT_EVENTS_LOST, 1);
		return 0;
	}
	event->kind = kind;
	event->appliance_address = appliance;
	event->flow = *flow;
	event->reason = reason;
	event->migration_id = id;
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/* Writes a whole answer over `frame`; the receiver's address comes from the Ethernet source of what is answered. */
static __always_inline void write_answer(struct answer *frame, const struct flow *flow, __u8 type, __u8 protocol,
					 __u8 code, __be64 id)
{
	__builtin_memcpy(frame->ethernet.destination, frame->ethernet.source, 6);
	for (int i = 0; i < 6; i++)
		frame->ethernet.source[i] = board_mac[i];
	frame->ethernet.type = farm_ethertype;
	frame->ipos.flow = *flow;
	frame->ipos.type = type;
	frame->ipos.protocol = protocol;
	frame->ipos.checksum = 0;
	__builtin_memset(frame->body, 0, sizeof(frame->body));
	if (type == TYPE_ACK) {
		__builtin_memcpy(frame->body, &id, sizeof(id));
	} else {
		frame->body[0] = code;
		__builtin_memcpy(frame->body + 4, &id, sizeof(id));
	}
	/* Octets past the message are zero and do not change the sum. */
	frame->ipos.checksum = ~sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2);
}

static __always_inline void tuple_of(struct bpf_sock_tuple *tuple, const struct flow *flow, __be16 port)
{
	tuple->ipv4.saddr = flow->client_address;
	tuple->ipv4.sport = flow->client_port;
	tuple->ipv4.daddr = flow->endpoint_address;
	tuple->ipv4.dport = port;
}

/* The state of the socket that a packet of this flow would meet, 0 for none. */
static __always_inline int socket_met(void *ctx, const struct bpf_sock_tuple *tuple)
{
	struct bpf_sock *sk =
		bpf_skc_lookup_tcp(ctx, (struct bpf_sock_tuple *)tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	int state;

	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state;
}

#endif
