/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The clients' packets on their way to TCP, and TCP's answers on their way out.
 *
 * Input: every packet of the farm interface. Ingress gives the first packet of a pending endpoint to its listener and
 * drops what would make the kernel reset somebody; egress hides what an endpoint that was given up would still say.
 */
#ifndef IPOS_TC_H
#define IPOS_TC_H

#include "common.h"

static __always_inline int is_mac(const __u8 *mac)
{
	int same = 1;

	for (int i = 0; i < 6; i++)
		same &= mac[i] == board_mac[i];
	return same;
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
	__u16 octets; /* of the connection, that it carries */
};

/* 0 when the packet is IPv4 and was read; negative for everything that is passed on unread. */
static __always_inline int parse(struct __sk_buff *skb, struct parsed *parsed)
{
	struct ethernet *ethernet;
	struct ipv4 *ip;
	struct tcp *tcp;
	__u32 header, headers, total;

	if ((void *)(long)skb->data + sizeof(*ethernet) + sizeof(*ip) + sizeof(*tcp) > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, skb->len < 94 ? skb->len : 94);
	ethernet = (void *)(long)skb->data;
	ip = (void *)(ethernet + 1);
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -1;
	parsed->ethernet = *ethernet;
	parsed->tcp = 0;
	parsed->fragment = 0;
	parsed->octets = 0;
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
	headers = header + (tcp->offset >> 4) * 4;
	total = bpf_ntohs(ip->total_length);
	parsed->octets = total > headers ? total - headers : 0;
	return 0;
}

/*
 * Notes up to where the client's octets are let up to TCP, before the record's state is looked at. False when that could not be noted,
 * because other CPUs note at the same time: the packet must not go up then.
 *
 * A request must reach TCP on one board only, and between this place and TCP nobody sees it. This CPU notes and then reads the state;
 * the one that gives the endpoint up (detach_for_move) takes the state away from LIVE and then reads the note. Each has an atomic with
 * a result in between, which orders what is before it with what comes after (as the kernel's own fully ordered atomics do). So at least
 * one of the two sees the other: either the packet is dropped here, or the endpoint is busy there. Should both see the other, the
 * packet is dropped and the endpoint stays: the client sends it again. The note never goes back, whatever the order in which
 * packets come, and it does not matter when the board speaks, so that a late retransmission of an answer hides nothing.
 */
static __always_inline int note_let_in(struct endpoint *endpoint, const struct parsed *parsed)
{
	__u32 end = bpf_ntohl(parsed->sequence) + parsed->octets + !!(parsed->flags & TCP_FIN);
	__u32 noted = *(volatile __u32 *)&endpoint->let_in;

	if ((__s32)(end - noted) > 0)
		__sync_val_compare_and_swap(&endpoint->let_in, noted, end);
	/* Its result is used, or it would be an atomic without one, which orders nothing. */
	return (__s32)(end - __sync_fetch_and_add(&endpoint->let_in, 0)) <= 0;
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
	__u32 state;
	int met;

	if (parse(skb, &parsed))
		return TCX_NEXT;
	if (parsed.ethernet.type == farm_ethertype) {
		/* XDP lets nothing but this board's answers through; without it nothing may be reflected. */
		if (!is_mac(parsed.ethernet.source))
			return hold(TCX_DROP, COUNT_NOT_OURS);
		add(COUNT_ANSWERS_REDIRECTED, 1);
		return bpf_redirect(skb->ifindex, 0);
	}
	if (!bpf_map_lookup_elem(&services, &parsed.destination))
		return TCX_NEXT;
	if (parsed.fragment)
		return hold(TCX_DROP, COUNT_FRAGMENTS_DROPPED);
	if (!parsed.tcp || (parsed.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return TCX_NEXT;
	/* The ACK of the board's own SYN cookie would not pass the guard. */
	if (!guarded(parsed.destination, parsed.destination_port))
		return TCX_NEXT;
	flow.client_address = parsed.source;
	flow.client_port = parsed.source_port;
	flow.endpoint_address = parsed.destination;
	flow.endpoint_port = parsed.destination_port;
	/* Looked up for every packet, never remembered: a cached mark once let a RST through. */
	tuple_of(&tuple, &flow, flow.endpoint_port);
	endpoint = bpf_map_lookup_elem(&endpoints, &flow);
	if (endpoint) {
		if (parsed.octets)
			endpoint->last_word = WORD_OF_CLIENT;
		if ((parsed.octets || (parsed.flags & TCP_FIN)) && !note_let_in(endpoint, &parsed))
			return hold(TCX_DROP, COUNT_PACKETS_BUSY_DROPPED);
		state = *(volatile __u32 *)&endpoint->state;
		if (state == ENDPOINT_CLEARING || state == ENDPOINT_DETACHING)
			return hold(TCX_DROP, COUNT_PACKETS_BUSY_DROPPED);
	}
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

/*
 * Marks an endpoint live whose socket speaks. As a rule socket_state has done so; now and then the kernel tells nobody of a new socket
 * (one in a thousand moves in the lab, each time with the agent at work on that CPU; why is not known). Without this its endpoint would
 * be pending, hence "busy", for life.
 */
static __always_inline void speaks(struct __sk_buff *skb, struct endpoint *endpoint)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tcp;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	tcp = sk && sk->state == TCP_ESTABLISHED ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!tcp || !change(endpoint, ENDPOINT_PENDING, ENDPOINT_LIVE))
		return;
	endpoint->socket = (__u64)tcp;
	add(COUNT_ENDPOINTS_LIVE, 1);
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
	if (parsed.octets)
		endpoint->last_word = WORD_OF_BOARD;
	if (parsed.octets && endpoint->state == ENDPOINT_PENDING)
		speaks(skb, endpoint);
	state = endpoint->state;
	/* Busy: on its way from one of these to another, for less than a microsecond; what was lost in it is sent again. */
	if (state == ENDPOINT_CLEARING || state == ENDPOINT_DETACHING || state == ENDPOINT_BUSY)
		return hold(TCX_DROP, COUNT_EGRESS_HIDDEN);
	if ((parsed.flags & TCP_RST) && (state == ENDPOINT_PENDING || (state == ENDPOINT_GONE && endpoint->silent)))
		return hold(TCX_DROP, COUNT_EGRESS_HIDDEN);
	return TCX_NEXT;
}

#endif
