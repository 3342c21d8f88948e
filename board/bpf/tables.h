/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs share with each other and, pinned, with the agent. Bump LAYOUT_VERSION with every change of a key or a
 * value: an agent refuses maps of another version. src/maps.rs holds the same layouts. */
#ifndef IPOS_TABLES_H
#define IPOS_TABLES_H

#include "wire.h"

/* One per outcome; src/counters.rs holds the same list and docs/board.md explains each. */
enum counter {
	COUNT_FRAMES_RECEIVED,
	COUNT_UNKNOWN_SENDER,
	COUNT_NOT_OURS,
	COUNT_MALFORMED,
	COUNT_BAD_CHECKSUM,
	COUNT_UNKNOWN_TYPE,
	COUNT_CONNECTIONS_RECEIVED,
	COUNT_ACKS_SENT,
	COUNT_ACKS_REPEATED,
	COUNT_REFUSED_NO_LISTENER,
	COUNT_REFUSED_NOT_COVERED,
	COUNT_REFUSED_QUEUE_FULL,
	COUNT_REFUSED_TABLE_FULL,
	COUNT_REFUSED_CONTROL_BLOCK,
	COUNT_REFUSED_MSS,
	COUNT_REFUSED_MPTCP,
	COUNT_REFUSED_HELD,
	COUNT_REFUSED_PROTOCOL,
	COUNT_CLEARS_QUEUED,
	COUNT_TOMBSTONE_ANSWERS,
	COUNT_BUSY_DROPPED,
	COUNT_PACKETS_DECAPSULATED,
	COUNT_DETACHES_RECEIVED,
	COUNT_DETACHED_PENDING,
	COUNT_DETACHES_QUEUED,
	COUNT_DETACHES_NOT_HELD,
	COUNT_MOVES_DETACHED,
	COUNT_MOVES_BUSY,
	COUNT_MOVES_NOT_HELD,
	COUNT_QUESTIONS_RECEIVED,
	COUNT_QUESTIONS_HELD,
	COUNT_QUESTIONS_NOT_HELD,
	COUNT_ORDERS_RECEIVED,
	COUNT_RESIZE_FAILED,
	COUNT_ANSWERS_REDIRECTED,
	COUNT_ASSIGNED,
	COUNT_ASSIGN_FAILED,
	COUNT_FIRST_PACKET_MISMATCH,
	COUNT_FOLLOWED_FIRST_PACKET,
	COUNT_PACKETS_BUSY_DROPPED,
	COUNT_GUARD_DROPPED,
	COUNT_STRAYS_SENT,
	COUNT_FRAGMENTS_DROPPED,
	COUNT_EGRESS_HIDDEN,
	COUNT_ENDPOINTS_LIVE,
	COUNT_ENDPOINTS_CLOSED,
	COUNT_EVENTS_LOST,
	COUNT_PENDING_EXPIRED,
	COUNT_TOMBSTONES_EXPIRED,
	COUNT_UDP_CONNECTIONS_RECEIVED,
	COUNT_UDP_ACKS_SENT,
	COUNT_ENDPOINTS_HELD, /* a gauge: pending and live records, summed over CPUs modulo 2^64 */
	COUNTERS,
};

/* The states of a record. Whoever changes one does it by compare-and-swap, so exactly one party wins a race. */
enum endpoint_state {
	/* A party is rewriting the record; nobody else may use it. */
	ENDPOINT_BUSY = 1,
	/* Control block stored and acknowledged; no socket yet. */
	ENDPOINT_PENDING = 2,
	/* An established socket exists. */
	ENDPOINT_LIVE = 3,
	/* Tombstone: closed or given up; a repeated Connection Packet is answered with 0x07. */
	ENDPOINT_GONE = 4,
	/* An older socket is in the way; the agent destroys it, then acknowledges. */
	ENDPOINT_CLEARING = 5,
	/* Given up, by force or for another board; the agent destroys the socket while egress is hidden. */
	ENDPOINT_DETACHING = 6,
};

/* Who sent data last, as the packets passed here: between two requests it is the board. */
enum last_word { WORD_UNKNOWN = 0, WORD_OF_CLIENT = 1, WORD_OF_BOARD = 2 };

struct endpoint {
	__be64 migration_id;
	__u64 changed_ns;
	__u64 established_at_us;
	__u64 socket; /* address of the kernel's socket, an identity only */
	__u32 state;
	__be32 appliance_address;
	__be32 rcv_nxt;
	__be32 snd_nxt;
	__u32 ts_recent;
	__u32 last_tsval;
	__be16 server_port;
	__u16 client_mss;
	__u16 appliance_id;
	__u8 options;
	__u8 client_window_scale;
	__u8 our_window_scale;
	__u8 assigned; /* the kfunc took a first packet */
	__u8 silent; /* given up: no RST may reach the client */
	__u8 reason; /* of the 0x07 that a tombstone answers */
	__u8 last_word; /* enum last_word */
	__u8 moved; /* given up between two requests: another board may have it by now */
	__u8 busy_told; /* a detach for `busy_seq` was answered "still busy", which then is the answer to its repetitions */
	__u8 zero;
	__be32 busy_seq;
	/* The client's sequence number behind all of its octets (and FIN) that farm_ingress let up to TCP: at first, RCV.NXT. */
	__u32 let_in;
};
_Static_assert(sizeof(struct endpoint) == 80, "src/records.rs");

/* Values of the service table: whether every port of the address is guarded, or those in `exempt` are not. */
enum guarded { GUARDED = 1, GUARDED_BUT_EXEMPT = 2 };

/* A port of a guarded address whose connections the board's own kernel shakes hands for (kind l4). */
struct exempt_key {
	__be32 address;
	__be16 port;
	__u16 zero;
};
_Static_assert(sizeof(struct exempt_key) == 8, "src/takeover.rs");

/* Padded to 8 octets, the hash map's grain. */
struct mac_key {
	__u8 mac[6];
	__u8 zeros[2];
};

/* EVENT_CLOSE_IDLE has no flow; its reason is how long a connection must have been quiet, in milliseconds. */
enum event_kind {
	EVENT_CLOSED = 1,
	EVENT_CLEAR = 2,
	EVENT_DETACH = 3,
	EVENT_ORDER = 4,
	EVENT_CLOSE_IDLE = 5,
	EVENT_MOVED = 6,
};

struct event {
	__u32 kind;
	__be32 appliance_address;
	struct flow flow;
	__u32 reason;
	__be64 migration_id;
};
_Static_assert(sizeof(struct event) == 32, "src/maps.rs");

/* EVENT_ORDER: the message as it came, from its ipOS header on. */
struct order_event {
	__u32 kind;
	__be32 appliance_address;
	__u8 message[88];
};
_Static_assert(sizeof(struct order_event) == 96, "src/records.rs");

/* Argument of the held_on program: address 0 stands for every address. */
struct listener {
	__be32 address;
	__be16 port;
	__u16 zero;
};
_Static_assert(sizeof(struct listener) == 8, "src/records.rs");

/* Argument of the settle program: what came of destroying a socket. */
struct settlement {
	struct flow flow;
	__u32 destroyed;
	__be64 migration_id;
};
_Static_assert(sizeof(struct settlement) == 24, "src/maps.rs");

#endif
