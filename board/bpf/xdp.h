/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ipOS frames from the farm: stored, refused, answered, or taken off the client's packet.
 *
 * Input: frames of the farm's EtherType (all others pass). Output: XDP_PASS for a decapsulated packet and for an answer
 * (farm_ingress sends it out), XDP_DROP otherwise, each with one counter.
 */
#ifndef IPOS_XDP_H
#define IPOS_XDP_H

#include "common.h"

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

/* Whether a socket of this state still owns the endpoint (half-made ones do not). TIME-WAIT does: a server that closed first
 * is in it while the client may go on for long, and only the kernel that holds it can acknowledge the client's FIN. */
static __always_inline int owns_endpoint(int state)
{
	return state != 0 && state != TCP_LISTEN && state != TCP_NEW_SYN_RECV && state != TCP_SYN_SENT &&
	       state != TCP_CLOSE;
}

static __always_inline struct bpf_sock *lookup(void *ctx, struct bpf_sock_tuple *tuple)
{
	return bpf_skc_lookup_tcp(ctx, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
}

/* Why no listener of this board can take the flow now; 0 when one can. */
static __noinline int listener_refusal(struct xdp_md *ctx, const struct flow *flow, __be16 port)
{
	struct bpf_sock_tuple tuple = {};
	struct tcp_sock *tcp;
	struct bpf_sock *sk;
	int refusal = 0;

	if (!flow)
		return REFUSE_NO_LISTENER;
	/* With the client's numbers, because they choose among the members of a SO_REUSEPORT group. */
	tuple_of(&tuple, flow, port);
	sk = lookup(ctx, &tuple);
	if (sk && sk->state != TCP_LISTEN) {
		/* An old socket of the flow; without a source only a listener can be found. */
		bpf_sk_release(sk);
		tuple.ipv4.saddr = 0;
		tuple.ipv4.sport = 0;
		sk = lookup(ctx, &tuple);
	}
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
	endpoint->last_word = WORD_UNKNOWN;
	endpoint->moved = 0;
	endpoint->busy_told = 0;
	endpoint->let_in = bpf_ntohl(tcb->rcv_nxt);
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
		add_held((state == ENDPOINT_PENDING) - held(old_state));
		return 0;
	}
	struct endpoint endpoint = {};

	fill(&endpoint, frame, appliance);
	endpoint.state = state;
	switch (bpf_map_update_elem(&endpoints, flow, &endpoint, BPF_NOEXIST)) {
	case 0:
		add_held(state == ENDPOINT_PENDING);
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
		if (old_state == ENDPOINT_BUSY || old_state == ENDPOINT_CLEARING)
			return drop(COUNT_BUSY_DROPPED);
		if (outdated(&frame->tcb, old))
			return refuse(ctx, flow, REFUSE_HELD, id);
	}
	if (!guarded(flow->endpoint_address, flow->endpoint_port))
		return refuse(ctx, flow, REFUSE_NOT_COVERED, id);
	refusal = listener_refusal(ctx, flow, frame->server_port);
	if (refusal)
		return refuse(ctx, flow, refusal, id);
	tuple_of(&tuple, flow, flow->endpoint_port);
	met = socket_met(ctx, &tuple);
	/* The client reuses its port: the old socket, or its TIME-WAIT, would answer for the new connection. Or the endpoint
	 * comes back before the agent has destroyed the socket that was left here: whether that one is still met or not, the
	 * agent may be about to, so it is the agent who says when the new one can come. */
	state = old_state == ENDPOINT_DETACHING || (met != 0 && met != TCP_LISTEN) ? ENDPOINT_CLEARING
									     : ENDPOINT_PENDING;
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

/* 0x01, UDP: the board takes the flow when a socket would get its datagrams. There is nothing to keep. */
static __always_inline int connection_of_udp(struct xdp_md *ctx, const struct flow *flow)
{
	struct connection_udp *frame = (void *)(long)ctx->data;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	if (frame->server_address != board_address)
		return drop(COUNT_NOT_OURS);
	add(COUNT_UDP_CONNECTIONS_RECEIVED, 1);
	tuple_of(&tuple, flow, frame->server_port);
	sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk) {
		add(COUNT_REFUSED_NO_LISTENER, 1);
		return answer(ctx, flow, (TYPE_REFUSED << 16) | (PROTOCOL_UDP << 8) | REFUSE_NO_LISTENER, 0);
	}
	bpf_sk_release(sk);
	add(COUNT_UDP_ACKS_SENT, 1);
	return answer(ctx, flow, (TYPE_ACK << 16) | (PROTOCOL_UDP << 8), 0);
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
	if ((frame->ipos.protocol != PROTOCOL_TCP && frame->ipos.protocol != PROTOCOL_UDP) || ip->version_ihl >> 4 != 4 || total < sizeof(*ip) ||
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

/* Turns a 0x05 into the 0x06 that answers it: id and numbers are the same. */
static __noinline int answer_detach(struct xdp_md *ctx, __u32 code)
{
	long length = (long)ctx->data_end - (long)ctx->data;
	struct detach *frame;

	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(struct detach) - (int)length))
		return drop(COUNT_RESIZE_FAILED);
	frame = (void *)(long)ctx->data;
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_RESIZE_FAILED);
	__builtin_memcpy(frame->ethernet.destination, frame->ethernet.source, 6);
	for (int i = 0; i < 6; i++)
		frame->ethernet.source[i] = board_mac[i];
	frame->ipos.type = TYPE_DETACHED;
	frame->ipos.checksum = 0;
	frame->code = code;
	__builtin_memset(frame->zeros, 0, sizeof(frame->zeros));
	__builtin_memset(frame->trailer.tag, 0, sizeof(frame->trailer.tag));
	frame->ipos.checksum = ~sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2);
	return XDP_PASS;
}

/* Whether a request with these numbers is all that comes next: everything before it has been read, and it acknowledges
 * everything that was written (which then has left; the socket's SND.NXT may be a moment behind that). */
static __noinline int has_nothing_unread(struct xdp_md *ctx, const struct flow *flow, __u32 seq, __u32 ack)
{
	struct bpf_sock_tuple tuple = {};
	struct tcp_sock *tcp;
	struct bpf_sock *sk;
	int quiet = 0;

	if (!flow)
		return 0;
	tuple_of(&tuple, flow, flow->endpoint_port);
	sk = lookup(ctx, &tuple);
	if (!sk)
		return 0;
	tcp = sk->state == TCP_ESTABLISHED ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (tcp)
		quiet = tcp->rcv_nxt == seq && tcp->copied_seq == seq && tcp->write_seq == ack;
	bpf_sk_release(sk);
	return quiet;
}

/* Whether the endpoint can go to another board with that request: the board has had the last word, and nothing of the request has been
 * let in, of which TCP may know nothing yet (see note_let_in). */
static __always_inline int quiescent(struct xdp_md *ctx, const struct flow *flow, const struct endpoint *endpoint,
				     __u32 seq, __u32 ack)
{
	return *(volatile const __u8 *)&endpoint->last_word == WORD_OF_BOARD &&
	       (__s32)(*(volatile const __u32 *)&endpoint->let_in - seq) <= 0 &&
	       has_nothing_unread(ctx, flow, seq, ack);
}

/* 0x05 without force: another board shall have the endpoint, from the client's next request on. */
static __always_inline int detach_for_move(struct xdp_md *ctx, const struct flow *flow, const struct detach *frame,
					   __be32 appliance)
{
	__u32 seq = bpf_ntohl(frame->next_seq), ack = bpf_ntohl(frame->next_ack);
	__be32 next_seq = frame->next_seq;
	__be64 id = frame->trailer.migration_id;
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, flow);

	if (!endpoint || endpoint->migration_id != id)
		goto not_held;
	if (endpoint->moved) {
		add(COUNT_MOVES_DETACHED, 1);
		return answer_detach(ctx, DETACH_DONE);
	}
	if (endpoint->state == ENDPOINT_GONE)
		goto not_held;
	/* A repetition must not be answered otherwise: the appliance may act on the first answer already. */
	if (endpoint->busy_told && endpoint->busy_seq == next_seq)
		goto busy;
	/* Looked at before, so that a busy endpoint is not kept from sending even for a moment; and after, when nothing that
	 * is let in can be overlooked any more. */
	if (!quiescent(ctx, flow, endpoint, seq, ack) || !change(endpoint, ENDPOINT_LIVE, ENDPOINT_DETACHING))
		goto busy;
	if (!quiescent(ctx, flow, endpoint, seq, ack)) {
		change(endpoint, ENDPOINT_DETACHING, ENDPOINT_LIVE);
		goto busy;
	}
	/* Before the agent hears of it, which must know that the endpoint is another board's if it cannot destroy the socket.
	 * When the ring is full, the reaper tells it. */
	endpoint->moved = 1;
	endpoint->silent = 1;
	endpoint->changed_ns = bpf_ktime_get_ns();
	add_held(-1);
	emit(EVENT_MOVED, appliance, flow, 0, id);
	add(COUNT_MOVES_DETACHED, 1);
	return answer_detach(ctx, DETACH_DONE);
busy:
	endpoint->busy_seq = next_seq;
	endpoint->busy_told = 1;
	add(COUNT_MOVES_BUSY, 1);
	return answer_detach(ctx, DETACH_BUSY);
not_held:
	add(COUNT_MOVES_NOT_HELD, 1);
	return answer_detach(ctx, DETACH_NOT_HELD);
}

/* 0x05: only the record with that very id is given up. */
static __always_inline int detach(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct detach *frame = (void *)(long)ctx->data;
	struct endpoint *endpoint;
	__be64 id;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	if (!(frame->code & DETACH_FORCE))
		return detach_for_move(ctx, flow, frame, appliance);
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
		add_held(-1);
		add(COUNT_DETACHED_PENDING, 1);
		return answer(ctx, flow, ANSWER(TYPE_CLOSED, CLOSED_FORCED), id);
	}
	if (change(endpoint, ENDPOINT_LIVE, ENDPOINT_DETACHING) ||
	    change(endpoint, ENDPOINT_PENDING, ENDPOINT_DETACHING))
		add_held(-1);
	else if (endpoint->state != ENDPOINT_DETACHING)
		return drop(COUNT_BUSY_DROPPED);
	endpoint->silent = 1;
	endpoint->changed_ns = bpf_ktime_get_ns();
	emit(EVENT_DETACH, appliance, flow, CLOSED_FORCED, id);
	return drop(COUNT_DETACHES_QUEUED);
}

/* 0x08: the socket is the truth, also one that this kernel has shaken hands for (kind l4); a record without one counts while it is
 * pending. */
static __always_inline int who_holds(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct question *frame = (void *)(long)ctx->data;
	struct bpf_sock_tuple tuple = {};
	struct endpoint *endpoint;
	__be64 id = 0;
	__u32 state;
	int met, is_ours;

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
	met = socket_met(ctx, &tuple);
	is_ours = owns_endpoint(met);
	/* In the making, of kind l4: the client may have answered already. */
	if (met == TCP_NEW_SYN_RECV && !guarded(flow->endpoint_address, flow->endpoint_port))
		is_ours = 1;
	if (is_ours && state != ENDPOINT_DETACHING) {
		/* Who asks takes the flow over, so the notice of its end goes there. */
		if (endpoint && state == ENDPOINT_LIVE)
			endpoint->appliance_address = appliance;
		add(COUNT_QUESTIONS_HELD, 1);
		/* The client may have used its port again since: then another board has the live socket, and its word counts. */
		return answer(ctx, flow, ANSWER(TYPE_HOLDS, met == TCP_TIME_WAIT ? HOLDS_PENDING : HOLDS_LIVE), id);
	}
	add(COUNT_QUESTIONS_NOT_HELD, 1);
	return answer(ctx, flow, ANSWER(TYPE_CLOSED, CLOSED_NOT_HELD), frame->trailer.migration_id);
}

/* 0x20: for the agent, which starts and stops applications. */
static __always_inline int order(struct xdp_md *ctx, __be32 appliance)
{
	struct order *frame = (void *)(long)ctx->data;
	struct order_event *event;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	/* The appliance repeats what is not answered. */
	if (!event)
		return drop(COUNT_EVENTS_LOST);
	event->kind = EVENT_ORDER;
	event->appliance_address = appliance;
	__builtin_memcpy(event->message, &frame->ipos, sizeof(event->message));
	bpf_ringbuf_submit(event, 0);
	return drop(COUNT_ORDERS_RECEIVED);
}

/* 0x13: which connections are idle is for the agent to see; when the ring is full, the appliance's repetition asks again. */
static __always_inline int close_idle(struct xdp_md *ctx, const struct flow *flow, __be32 appliance)
{
	struct close_idle *frame = (void *)(long)ctx->data;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end || frame->ipos.protocol != 0)
		return drop(COUNT_MALFORMED);
	if (sum((__be16 *)&frame->ipos, (sizeof(*frame) - sizeof(frame->ethernet)) / 2) != 0xffff)
		return drop(COUNT_BAD_CHECKSUM);
	if (frame->version != CLOSE_IDLE_VERSION)
		return drop(COUNT_UNKNOWN_TYPE);
	if (flow->client_address != board_address)
		return drop(COUNT_NOT_OURS);
	emit(EVENT_CLOSE_IDLE, appliance, flow, bpf_ntohs(frame->idle_ms), 0);
	return XDP_DROP;
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
	case TYPE_ORDER:
		return order(ctx, *appliance);
	case TYPE_CLOSE_IDLE:
		return close_idle(ctx, &flow, *appliance);
	default:
		return drop(COUNT_UNKNOWN_TYPE);
	}
}

#endif
