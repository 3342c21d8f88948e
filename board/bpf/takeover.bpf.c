// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How an unmodified server takes a connection over (design: takeover.md).
 *
 *   farm_xdp      ipOS frames: stores, refuses, answers; takes the ipOS header off 0x02
 *   farm_ingress  sends XDP's answers out; gives the first packet of a stored endpoint to its listener; guards the rest
 *   farm_egress   hides what an endpoint that was given up would still say to its client
 *   socket_state  watches the sockets that grew out of records
 *   reap, settle  run by the agent: age records out; conclude the destruction of a socket
 */
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
#define TOMBSTONE_NS (60000 * NS_PER_MS)
#define PENDING_NS (30000 * NS_PER_MS)
/* A request to the agent that was not settled by then may be made again. */
#define AGENT_REPEAT_NS (200 * NS_PER_MS)
#define STRAY_INTERVAL_NS (1000 * NS_PER_MS)

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Set by the loader before the programs are verified. */
const volatile __be16 farm_ethertype;
const volatile __be32 board_address;
const volatile __u8 board_mac[6];
const volatile __u64 netns_cookie;

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

static __always_inline void add(__u32 counter, __s64 n)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += n;
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

/* Turns the frame into its answer. farm_ingress sends it out: that needs no XDP program on a veth peer, as XDP_TX would. */
static __noinline int answer(struct xdp_md *ctx, const struct flow *flow, __u32 type_protocol_code, __be64 id)
{
	long length = (long)ctx->data_end - (long)ctx->data;
	struct flow copy;
	void *data;

	if (!flow)
		return XDP_DROP;
	copy = *flow;
	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(struct answer) - (int)length))
		return drop(COUNT_RESIZE_FAILED);
	data = (void *)(long)ctx->data;
	if (data + sizeof(struct answer) > (void *)(long)ctx->data_end)
		return drop(COUNT_RESIZE_FAILED);
	write_answer(data, &copy, type_protocol_code >> 16, type_protocol_code >> 8, type_protocol_code, id);
	return XDP_PASS;
}

#define ANSWER(type, code) (((__u32)(type) << 16) | (PROTOCOL_TCP << 8) | (code))

static __always_inline int refuse(struct xdp_md *ctx, const struct flow *flow, __u8 reason, __be64 id)
{
	add(COUNT_REFUSED_NO_LISTENER + reason - REFUSE_NO_LISTENER, 1);
	return answer(ctx, flow, ANSWER(TYPE_REFUSED, reason), id);
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

/* Whether a socket of this state still owns the endpoint (TIME-WAIT and half-made ones do not). */
static __always_inline int owns_endpoint(int state)
{
	return state != 0 && state != TCP_LISTEN && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV &&
	       state != TCP_SYN_SENT && state != TCP_CLOSE;
}

/* Why no listener of this board can take the flow now; 0 when one can. */
static __noinline int listener_refusal(struct xdp_md *ctx, __be32 address, __be16 port)
{
	struct bpf_sock_tuple tuple = {};
	struct tcp_sock *tcp;
	struct bpf_sock *sk;
	int refusal = 0;

	/* No source: an established socket of the flow must not be found instead. */
	tuple.ipv4.daddr = address;
	tuple.ipv4.dport = port;
	sk = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk) {
		tuple.ipv4.daddr = board_address;
		if (socket_met(ctx, &tuple) == TCP_LISTEN)
			return REFUSE_NOT_COVERED;
		tuple.ipv4.daddr = bpf_htonl(0x7f000001);
		if (socket_met(ctx, &tuple) == TCP_LISTEN)
			return REFUSE_NOT_COVERED;
		return REFUSE_NO_LISTENER;
	}
	tcp = sk->state == TCP_LISTEN ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!tcp)
		refusal = REFUSE_NO_LISTENER;
	else if (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp)
		refusal = REFUSE_MPTCP;
	else if (((struct sock *)tcp)->sk_ack_backlog > ((struct sock *)tcp)->sk_max_ack_backlog)
		refusal = REFUSE_QUEUE_FULL;
	bpf_sk_release(sk);
	return refusal;
}

static __always_inline int control_block_refusal(const struct tcp_control_block *tcb)
{
	__u16 options = bpf_ntohs(tcb->options);

	if (tcb->version != TCB_VERSION || tcb->state != TCB_STATE_ESTABLISHED || tcb->snd_una != tcb->snd_nxt ||
	    tcb->migration_id == 0)
		return REFUSE_CONTROL_BLOCK;
	if ((options & OPTION_WINDOW_SCALE) &&
	    (tcb->client_window_scale > WINDOW_SCALE_MAX || tcb->our_window_scale > WINDOW_SCALE_MAX))
		return REFUSE_CONTROL_BLOCK;
	if (bpf_ntohs(tcb->client_mss) < MSS_MIN)
		return REFUSE_MSS;
	return 0;
}

/* An older connection of the same appliance: a Connection Packet that was delayed past its successor. */
static __always_inline int outdated(const struct tcp_control_block *tcb, const struct endpoint *endpoint)
{
	return bpf_ntohs(tcb->appliance_id) == endpoint->appliance_id &&
	       bpf_be64_to_cpu(tcb->established_at_us) < endpoint->established_at_us;
}

static __always_inline void fill(struct endpoint *endpoint, const struct connection_tcp *frame, __be32 appliance)
{
	const struct tcp_control_block *tcb = &frame->tcb;

	endpoint->migration_id = tcb->migration_id;
	endpoint->changed_ns = bpf_ktime_get_ns();
	endpoint->established_at_us = bpf_be64_to_cpu(tcb->established_at_us);
	endpoint->socket = 0;
	endpoint->appliance_address = appliance;
	endpoint->rcv_nxt = tcb->rcv_nxt;
	endpoint->snd_nxt = tcb->snd_nxt;
	endpoint->ts_recent = bpf_ntohl(tcb->ts_recent);
	endpoint->last_tsval = bpf_ntohl(tcb->last_tsval);
	endpoint->server_port = frame->server_port;
	endpoint->client_mss = bpf_ntohs(tcb->client_mss);
	endpoint->appliance_id = bpf_ntohs(tcb->appliance_id);
	endpoint->options = bpf_ntohs(tcb->options);
	endpoint->client_window_scale = tcb->client_window_scale;
	endpoint->our_window_scale = tcb->our_window_scale;
	endpoint->assigned = 0;
	endpoint->silent = 0;
	endpoint->reason = 0;
}

/* A Connection Packet with the id that the record has already: the same attempt. */
static __always_inline int repeated(struct xdp_md *ctx, const struct flow *flow, struct endpoint *endpoint,
				    __u32 state)
{
	__be64 id = endpoint->migration_id;
	__u64 now = bpf_ktime_get_ns();

	if (held(state)) {
		if (state == ENDPOINT_PENDING)
			endpoint->changed_ns = now;
		add(COUNT_ACKS_REPEATED, 1);
		return answer(ctx, flow, ANSWER(TYPE_ACK, 0), id);
	}
	if (state == ENDPOINT_GONE) {
		add(COUNT_TOMBSTONE_ANSWERS, 1);
		return answer(ctx, flow, ANSWER(TYPE_CLOSED, endpoint->reason), id);
	}
	if (state == ENDPOINT_CLEARING && now - endpoint->changed_ns > AGENT_REPEAT_NS) {
		endpoint->changed_ns = now;
		emit(EVENT_CLEAR, endpoint->appliance_address, flow, 0, id);
	}
	return drop(COUNT_BUSY_DROPPED);
}

/* Stores the control block; 0 or the refusal, -1 when another party holds the record just now. */
static __always_inline int store(const struct flow *flow, struct endpoint *old, __u32 old_state, __u32 state,
				 const struct connection_tcp *frame, __be32 appliance)
{
	if (old) {
		if (!change(old, old_state, ENDPOINT_BUSY))
			return -1;
		fill(old, frame, appliance);
		publish(old, state);
		add(COUNT_ENDPOINTS_HELD, (state == ENDPOINT_PENDING) - held(old_state));
		return 0;
	}
	struct endpoint endpoint = {};

	fill(&endpoint, frame, appliance);
	endpoint.state = state;
	switch (bpf_map_update_elem(&endpoints, flow, &endpoint, BPF_NOEXIST)) {
	case 0:
		add(COUNT_ENDPOINTS_HELD, state == ENDPOINT_PENDING);
		return 0;
	case -17: /* EEXIST: the same frame on another CPU */
		return -1;
	default:
		return REFUSE_TABLE_FULL;
	}
}

/* 0x01, TCP. */
static __always_inline int connection(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct connection_tcp *frame = (void *)(long)ctx->data;
	struct bpf_sock_tuple tuple = {};
	struct endpoint *old;
	__u32 old_state = 0, state;
	int refusal, met, stored;
	__be64 id;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	if (frame->server_address != board_address)
		return drop(COUNT_NOT_OURS);
	add(COUNT_CONNECTIONS_RECEIVED, 1);
	id = frame->tcb.migration_id;
	refusal = control_block_refusal(&frame->tcb);
	if (refusal)
		return refuse(ctx, flow, refusal, id);
	old = bpf_map_lookup_elem(&endpoints, flow);
	if (old) {
		old_state = old->state;
		if (old->migration_id == id)
			return repeated(ctx, flow, old, old_state);
		if (old_state == ENDPOINT_BUSY || old_state == ENDPOINT_CLEARING || old_state == ENDPOINT_DETACHING)
			return drop(COUNT_BUSY_DROPPED);
		if (outdated(&frame->tcb, old))
			return refuse(ctx, flow, REFUSE_HELD, id);
	}
	if (!bpf_map_lookup_elem(&services, &flow->endpoint_address))
		return refuse(ctx, flow, REFUSE_NOT_COVERED, id);
	refusal = listener_refusal(ctx, flow->endpoint_address, frame->server_port);
	if (refusal)
		return refuse(ctx, flow, refusal, id);
	tuple_of(&tuple, flow, flow->endpoint_port);
	met = socket_met(ctx, &tuple);
	/* The client reuses its port: the old socket, or its TIME-WAIT, would answer for the new connection. */
	state = met != 0 && met != TCP_LISTEN ? ENDPOINT_CLEARING : ENDPOINT_PENDING;
	stored = store(flow, old, old_state, state, frame, appliance);
	if (stored < 0)
		return drop(COUNT_BUSY_DROPPED);
	if (stored > 0)
		return refuse(ctx, flow, stored, id);
	if (state == ENDPOINT_CLEARING) {
		/* When the ring is full the appliance's repetition asks again. */
		emit(EVENT_CLEAR, appliance, flow, 0, id);
		return drop(COUNT_CLEARS_QUEUED);
	}
	add(COUNT_ACKS_SENT, 1);
	return answer(ctx, flow, ANSWER(TYPE_ACK, 0), id);
}

/* 0x01, UDP: this board takes TCP endpoints only, and says so. */
static __always_inline int connection_of_udp(struct xdp_md *ctx, const struct flow *flow)
{
	struct connection_udp *frame = (void *)(long)ctx->data;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	add(COUNT_REFUSED_PROTOCOL, 1);
	return answer(ctx, flow, (TYPE_REFUSED << 16) | (PROTOCOL_UDP << 8) | REFUSE_PROTOCOL, 0);
}

/* 0x02: the client's own packet, as if it had come straight here. */
static __always_inline int packet(struct xdp_md *ctx, const struct flow *flow)
{
	struct frame *frame = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ipv4 *ip = (void *)(frame + 1);
	struct ethernet ethernet;
	__u32 total;

	if ((void *)(ip + 1) > end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, sizeof(frame->ipos) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	total = bpf_ntohs(ip->total_length);
	if (frame->ipos.protocol != PROTOCOL_TCP || ip->version_ihl >> 4 != 4 || total < sizeof(*ip) ||
	    (void *)ip + total > end || ip->destination != flow->endpoint_address)
		return drop(COUNT_MALFORMED);
	ethernet = frame->ethernet;
	ethernet.type = ETHERTYPE_IPV4;
	if (bpf_xdp_adjust_head(ctx, sizeof(struct ipos_header)))
		return drop(COUNT_RESIZE_FAILED);
	if ((void *)(long)ctx->data + sizeof(ethernet) > (void *)(long)ctx->data_end)
		return drop(COUNT_RESIZE_FAILED);
	__builtin_memcpy((void *)(long)ctx->data, &ethernet, sizeof(ethernet));
	add(COUNT_PACKETS_DECAPSULATED, 1);
	return XDP_PASS;
}

/* 0x05: only the record with that very id is given up. */
static __always_inline int detach(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct coded *frame = (void *)(long)ctx->data;
	struct endpoint *endpoint;
	__be64 id;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	/* Giving up without force needs to know quiescence, which this version does not judge. */
	if (!(frame->code & DETACH_FORCE))
		return drop(COUNT_UNKNOWN_TYPE);
	add(COUNT_DETACHES_RECEIVED, 1);
	id = frame->trailer.migration_id;
	endpoint = bpf_map_lookup_elem(&endpoints, flow);
	if (!endpoint || endpoint->migration_id != id) {
		add(COUNT_DETACHES_NOT_HELD, 1);
		return answer(ctx, flow, ANSWER(TYPE_CLOSED, CLOSED_NOT_HELD), id);
	}
	if (endpoint->state == ENDPOINT_GONE) {
		add(COUNT_TOMBSTONE_ANSWERS, 1);
		return answer(ctx, flow, ANSWER(TYPE_CLOSED, endpoint->reason), id);
	}
	/* A first packet that was taken may be a socket in the making: then it is the agent's case. */
	if (!endpoint->assigned && change(endpoint, ENDPOINT_PENDING, ENDPOINT_BUSY)) {
		bpf_map_delete_elem(&endpoints, flow);
		add(COUNT_ENDPOINTS_HELD, -1);
		add(COUNT_DETACHED_PENDING, 1);
		return answer(ctx, flow, ANSWER(TYPE_CLOSED, CLOSED_FORCED), id);
	}
	if (change(endpoint, ENDPOINT_LIVE, ENDPOINT_DETACHING) ||
	    change(endpoint, ENDPOINT_PENDING, ENDPOINT_DETACHING))
		add(COUNT_ENDPOINTS_HELD, -1);
	else if (endpoint->state != ENDPOINT_DETACHING)
		return drop(COUNT_BUSY_DROPPED);
	endpoint->silent = 1;
	endpoint->changed_ns = bpf_ktime_get_ns();
	emit(EVENT_DETACH, appliance, flow, CLOSED_FORCED, id);
	return drop(COUNT_DETACHES_QUEUED);
}

/* 0x08: the socket is the truth; a record without one counts while it is pending. */
static __always_inline int who_holds(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct question *frame = (void *)(long)ctx->data;
	struct bpf_sock_tuple tuple = {};
	struct endpoint *endpoint;
	__be64 id = 0;
	__u32 state;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	add(COUNT_QUESTIONS_RECEIVED, 1);
	endpoint = bpf_map_lookup_elem(&endpoints, flow);
	state = endpoint ? endpoint->state : ENDPOINT_GONE;
	if (endpoint && state != ENDPOINT_GONE)
		id = endpoint->migration_id;
	if (state == ENDPOINT_PENDING || state == ENDPOINT_CLEARING) {
		endpoint->appliance_address = appliance;
		add(COUNT_QUESTIONS_HELD, 1);
		return answer(ctx, flow, ANSWER(TYPE_HOLDS, HOLDS_PENDING), id);
	}
	tuple_of(&tuple, flow, flow->endpoint_port);
	if (state != ENDPOINT_DETACHING && bpf_map_lookup_elem(&services, &flow->endpoint_address) &&
	    owns_endpoint(socket_met(ctx, &tuple))) {
		/* Who asks takes the flow over, so the notice of its end goes there. */
		if (endpoint && state == ENDPOINT_LIVE)
			endpoint->appliance_address = appliance;
		add(COUNT_QUESTIONS_HELD, 1);
		return answer(ctx, flow, ANSWER(TYPE_HOLDS, HOLDS_LIVE), id);
	}
	add(COUNT_QUESTIONS_NOT_HELD, 1);
	return answer(ctx, flow, ANSWER(TYPE_CLOSED, CLOSED_NOT_HELD), frame->trailer.migration_id);
}

static __always_inline int addressed_here(const struct ethernet *ethernet, __u8 type)
{
	int same = 1, broadcast = 1;

	for (int i = 0; i < 6; i++) {
		same &= ethernet->destination[i] == board_mac[i];
		broadcast &= ethernet->destination[i] == 0xff;
	}
	return same || (broadcast && type == TYPE_WHO_HOLDS);
}

SEC("xdp")
int farm_xdp(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct mac_key sender = {};
	struct flow flow;
	__be32 *appliance;

	if ((void *)(&frame->ethernet + 1) > end || frame->ethernet.type != farm_ethertype)
		return XDP_PASS;
	if ((void *)(frame + 1) > end)
		return drop(COUNT_MALFORMED);
	if (!addressed_here(&frame->ethernet, frame->ipos.type))
		return drop(COUNT_NOT_OURS);
	__builtin_memcpy(sender.mac, frame->ethernet.source, 6);
	appliance = bpf_map_lookup_elem(&appliances, &sender);
	if (!appliance)
		return drop(COUNT_UNKNOWN_SENDER);
	add(COUNT_FRAMES_RECEIVED, 1);
	flow = frame->ipos.flow;
	switch (frame->ipos.type) {
	case TYPE_PACKET:
		return packet(ctx, &flow);
	case TYPE_CONNECTION:
		if (frame->ipos.protocol == PROTOCOL_TCP)
			return connection(ctx, &flow, *appliance);
		if (frame->ipos.protocol == PROTOCOL_UDP)
			return connection_of_udp(ctx, &flow);
		return drop(COUNT_MALFORMED);
	case TYPE_DETACH:
		return detach(ctx, &flow, *appliance);
	case TYPE_WHO_HOLDS:
		return who_holds(ctx, &flow, *appliance);
	default:
		return drop(COUNT_UNKNOWN_TYPE);
	}
}

/* What tc reads of a packet; `l4` false for what is no unfragmented TCP over IPv4. */
struct parsed {
	struct ethernet ethernet;
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 flags;
	__u8 tcp;
	__u8 fragment;
};

/* 0 when the packet is IPv4 and was read; negative for everything that is passed on unread. */
static __always_inline int parse(struct __sk_buff *skb, struct parsed *parsed)
{
	struct ethernet *ethernet;
	struct ipv4 *ip;
	struct tcp *tcp;
	__u32 header;

	if ((void *)(long)skb->data + sizeof(*ethernet) + sizeof(*ip) + sizeof(*tcp) > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, skb->len < 94 ? skb->len : 94);
	ethernet = (void *)(long)skb->data;
	ip = (void *)(ethernet + 1);
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -1;
	parsed->ethernet = *ethernet;
	parsed->tcp = 0;
	parsed->fragment = 0;
	if (ethernet->type != ETHERTYPE_IPV4)
		return ethernet->type == farm_ethertype ? 0 : -1;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->protocol != IPPROTO_TCP)
		return -1;
	parsed->source = ip->source;
	parsed->destination = ip->destination;
	parsed->fragment = (ip->fragment & bpf_htons(IPV4_FRAGMENTED)) != 0;
	header = (ip->version_ihl & 15) * 4;
	tcp = (void *)ip + header;
	if (header < sizeof(*ip) || (void *)(tcp + 1) > (void *)(long)skb->data_end)
		return parsed->fragment ? 0 : -1;
	parsed->tcp = !parsed->fragment;
	parsed->source_port = tcp->source;
	parsed->destination_port = tcp->destination;
	parsed->sequence = tcp->sequence;
	parsed->acknowledgement = tcp->acknowledgement;
	parsed->flags = tcp->flags;
	return 0;
}

/* Drops a packet that would make the kernel reset somebody, and tells its appliance that nobody here holds the flow. */
static __always_inline int guard(struct __sk_buff *skb, const struct flow *flow, const struct parsed *parsed)
{
	struct mac_key sender = {};
	__u64 now = bpf_ktime_get_ns();
	__u64 *told;
	void *data;

	add(COUNT_GUARD_DROPPED, 1);
	__builtin_memcpy(sender.mac, parsed->ethernet.source, 6);
	if ((parsed->flags & TCP_RST) || !bpf_map_lookup_elem(&appliances, &sender))
		return TCX_DROP;
	told = bpf_map_lookup_elem(&strays, flow);
	if (told && now - *told < STRAY_INTERVAL_NS)
		return TCX_DROP;
	bpf_map_update_elem(&strays, flow, &now, BPF_ANY);
	if (bpf_skb_change_tail(skb, sizeof(struct answer), 0) || bpf_skb_pull_data(skb, sizeof(struct answer)))
		return hold(TCX_DROP, COUNT_RESIZE_FAILED);
	data = (void *)(long)skb->data;
	if (data + sizeof(struct answer) > (void *)(long)skb->data_end)
		return hold(TCX_DROP, COUNT_RESIZE_FAILED);
	write_answer(data, flow, TYPE_CLOSED, PROTOCOL_TCP, CLOSED_STRAY, 0);
	add(COUNT_STRAYS_SENT, 1);
	return bpf_redirect(skb->ifindex, 0);
}

/* Gives the packet to the listener as the ACK of a valid SYN cookie: the kernel makes the established socket of it. */
static __always_inline int assign(struct __sk_buff *skb, const struct flow *flow, struct endpoint *endpoint)
{
	__u8 options = endpoint->options;
	struct bpf_tcp_req_attrs attrs = {
		.mss = endpoint->client_mss,
		.wscale_ok = !!(options & OPTION_WINDOW_SCALE),
		.sack_ok = !!(options & OPTION_SACK),
		.ecn_ok = !!(options & OPTION_ECN),
		.tstamp_ok = !!(options & OPTION_TIMESTAMPS),
	};
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	struct tcp_sock *tcp;
	int error = -1;

	if (attrs.wscale_ok) {
		attrs.snd_wscale = endpoint->client_window_scale;
		attrs.rcv_wscale = endpoint->our_window_scale;
	}
	if (attrs.tstamp_ok) {
		attrs.rcv_tsval = endpoint->ts_recent;
		/* The kernel continues our clock from here: the last TSval that we sent, not what the client echoes. */
		attrs.rcv_tsecr = endpoint->last_tsval;
	}
	tuple_of(&tuple, flow, endpoint->server_port);
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return hold(TCX_DROP, COUNT_ASSIGN_FAILED);
	if (sk->state == TCP_LISTEN) {
		tcp = bpf_skc_to_tcp_sock(sk);
		if (tcp)
			error = bpf_sk_assign_tcp_reqsk(skb, (struct sock *)tcp, &attrs, sizeof(attrs));
	}
	bpf_sk_release(sk);
	if (error)
		return hold(TCX_DROP, COUNT_ASSIGN_FAILED);
	endpoint->assigned = 1;
	return hold(TCX_NEXT, COUNT_ASSIGNED);
}

SEC("tcx/ingress")
int farm_ingress(struct __sk_buff *skb)
{
	struct parsed parsed = {};
	struct bpf_sock_tuple tuple = {};
	struct endpoint *endpoint;
	struct flow flow;
	int met;

	if (parse(skb, &parsed))
		return TCX_NEXT;
	if (parsed.ethernet.type == farm_ethertype) {
		/* XDP lets nothing else through under this type: it is an answer of this board's. */
		add(COUNT_ANSWERS_REDIRECTED, 1);
		return bpf_redirect(skb->ifindex, 0);
	}
	if (!bpf_map_lookup_elem(&services, &parsed.destination))
		return TCX_NEXT;
	if (parsed.fragment)
		return hold(TCX_DROP, COUNT_FRAGMENTS_DROPPED);
	if (!parsed.tcp || (parsed.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return TCX_NEXT;
	flow.client_address = parsed.source;
	flow.client_port = parsed.source_port;
	flow.endpoint_address = parsed.destination;
	flow.endpoint_port = parsed.destination_port;
	/* Looked up for every packet, never remembered: a cached mark once let a RST through. */
	tuple_of(&tuple, &flow, flow.endpoint_port);
	endpoint = bpf_map_lookup_elem(&endpoints, &flow);
	if (endpoint && (endpoint->state == ENDPOINT_CLEARING || endpoint->state == ENDPOINT_DETACHING))
		return hold(TCX_DROP, COUNT_BUSY_DROPPED);
	met = socket_met(skb, &tuple);
	if (met != 0 && met != TCP_LISTEN)
		return TCX_NEXT;
	if (!endpoint || endpoint->state != ENDPOINT_PENDING)
		return guard(skb, &flow, &parsed);
	if (parsed.sequence == endpoint->rcv_nxt && parsed.acknowledgement == endpoint->snd_nxt &&
	    (parsed.flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK)
		return assign(skb, &flow, endpoint);
	/* A batch of packets passes here before its first one reaches TCP. What follows the first may go up, because the
	 * socket will be there by then; if it is not, farm_egress hides the RST. */
	if (endpoint->assigned && !(parsed.flags & (TCP_SYN | TCP_RST)))
		return hold(TCX_NEXT, COUNT_FOLLOWED_FIRST_PACKET);
	return hold(TCX_DROP, COUNT_FIRST_PACKET_MISMATCH);
}

SEC("tcx/egress")
int farm_egress(struct __sk_buff *skb)
{
	struct parsed parsed = {};
	struct endpoint *endpoint;
	struct flow flow;
	__u32 state;

	if (parse(skb, &parsed) || !parsed.tcp || !bpf_map_lookup_elem(&services, &parsed.source))
		return TCX_NEXT;
	flow.client_address = parsed.destination;
	flow.client_port = parsed.destination_port;
	flow.endpoint_address = parsed.source;
	flow.endpoint_port = parsed.source_port;
	endpoint = bpf_map_lookup_elem(&endpoints, &flow);
	if (!endpoint)
		return TCX_NEXT;
	state = endpoint->state;
	if (state == ENDPOINT_CLEARING || state == ENDPOINT_DETACHING)
		return hold(TCX_DROP, COUNT_EGRESS_HIDDEN);
	if ((parsed.flags & TCP_RST) && (state == ENDPOINT_PENDING || (state == ENDPOINT_GONE && endpoint->silent)))
		return hold(TCX_DROP, COUNT_EGRESS_HIDDEN);
	return TCX_NEXT;
}

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
	add(COUNT_ENDPOINTS_HELD, -1);
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

	if (state == ENDPOINT_GONE && age > (__s64)TOMBSTONE_NS) {
		if (!change(endpoint, ENDPOINT_GONE, ENDPOINT_BUSY))
			return 0;
		add(COUNT_TOMBSTONES_EXPIRED, 1);
	} else if (state == ENDPOINT_PENDING && age > (__s64)PENDING_NS) {
		if (!change(endpoint, ENDPOINT_PENDING, ENDPOINT_BUSY))
			return 0;
		add(COUNT_ENDPOINTS_HELD, -1);
		add(COUNT_PENDING_EXPIRED, 1);
	} else if (state == ENDPOINT_CLEARING && age > (__s64)PENDING_NS) {
		if (!change(endpoint, ENDPOINT_CLEARING, ENDPOINT_BUSY))
			return 0;
		add(COUNT_PENDING_EXPIRED, 1);
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
		add(COUNT_ENDPOINTS_HELD, 1);
	} else if (state == ENDPOINT_DETACHING) {
		endpoint->silent = 0;
		publish(endpoint, ENDPOINT_LIVE);
		add(COUNT_ENDPOINTS_HELD, 1);
	} else {
		bpf_map_delete_elem(&endpoints, &flow);
	}
	return 1;
}
