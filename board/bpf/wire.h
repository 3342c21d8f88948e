/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ipOS frames and the packet headers around them (docs/wire.md). All multi-octet fields are big-endian. */
#ifndef IPOS_WIRE_H
#define IPOS_WIRE_H

#include <linux/types.h>

#define PACKED __attribute__((packed))

enum {
	TYPE_CONNECTION = 0x01,
	TYPE_PACKET = 0x02,
	TYPE_ACK = 0x03,
	TYPE_REFUSED = 0x04,
	TYPE_DETACH = 0x05,
	TYPE_DETACHED = 0x06,
	TYPE_CLOSED = 0x07,
	TYPE_WHO_HOLDS = 0x08,
	TYPE_HOLDS = 0x09,
	TYPE_CLOSE_IDLE = 0x13,
	TYPE_ORDER = 0x20,
};

enum { PROTOCOL_TCP = 1, PROTOCOL_UDP = 2 };

enum {
	REFUSE_NO_LISTENER = 1,
	REFUSE_NOT_COVERED = 2,
	REFUSE_QUEUE_FULL = 3,
	REFUSE_TABLE_FULL = 4,
	REFUSE_CONTROL_BLOCK = 5,
	REFUSE_MSS = 6,
	REFUSE_MPTCP = 7,
	REFUSE_HELD = 8,
	REFUSE_PROTOCOL = 9,
};

enum { CLOSED_ENDED = 0, CLOSED_NOT_HELD = 1, CLOSED_STRAY = 2, CLOSED_FORCED = 3 };
enum { HOLDS_PENDING = 1, HOLDS_LIVE = 2 };
enum { DETACH_FORCE = 1 };
enum { DETACH_DONE = 1, DETACH_BUSY = 2, DETACH_NOT_HELD = 3 };
enum { OPTION_TIMESTAMPS = 1, OPTION_SACK = 2, OPTION_WINDOW_SCALE = 4, OPTION_ECN = 8 };

/* RFC 9293 order of states, as the control block counts them. */
#define TCB_STATE_ESTABLISHED 4
#define TCB_VERSION 1
#define MSS_MIN 536 /* RFC 9293 3.7.1; the kfunc refuses less */
#define WINDOW_SCALE_MAX 14 /* RFC 7323 2.3 */

/* A connection's name: 12 octets as in Fig. 11B, also the key of the endpoint table. */
struct flow {
	__be32 client_address;
	__be16 client_port;
	__be32 endpoint_address;
	__be16 endpoint_port;
} PACKED;

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
} PACKED;

struct ipos_header {
	struct flow flow;
	__u8 type;
	__u8 protocol;
	__be16 checksum;
} PACKED;

struct tcp_control_block {
	__u8 version;
	__u8 state;
	__be16 options;
	__be16 client_mss;
	__be16 our_mss;
	__u8 client_window_scale;
	__u8 our_window_scale;
	__be16 zero;
	__be32 iss;
	__be32 irs;
	__be32 snd_una;
	__be32 snd_nxt;
	__be32 snd_wnd;
	__be32 snd_wl1;
	__be32 snd_wl2;
	__be32 rcv_nxt;
	__be32 rcv_wnd;
	__be32 ts_recent;
	__be32 last_tsval;
	__be32 srtt_us;
	__be32 rttvar_us;
	__be32 cwnd;
	__be32 ssthresh;
	__be64 migration_id;
	__be64 established_at_us;
	__be32 service_id;
	__be32 octets_following;
	__be16 appliance_id;
	__be16 epoch;
	__u8 zeros[24];
	__u8 tag[16];
} PACKED;

struct trailer {
	__be64 migration_id;
	__u8 tag[16];
} PACKED;

struct frame {
	struct ethernet ethernet;
	struct ipos_header ipos;
} PACKED;

/* Fig. 11E. */
struct connection_tcp {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__be32 server_address;
	__be16 server_port;
	struct tcp_control_block tcb;
} PACKED;

/* Fig. 11F. */
struct connection_udp {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__be32 server_address;
	__be16 server_port;
} PACKED;

/* 0x05 coming in; 0x06 going out with the same numbers. */
struct detach {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__u8 code;
	__u8 zeros[3];
	__be32 next_seq;
	__be32 next_ack;
	struct trailer trailer;
} PACKED;

/* 0x04, 0x07 and 0x09 going out. */
struct coded {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__u8 code;
	__u8 zeros[3];
	struct trailer trailer;
} PACKED;

/* 0x08 coming in. */
struct question {
	struct ethernet ethernet;
	struct ipos_header ipos;
	struct trailer trailer;
} PACKED;

/* 0x20 coming in; the agent reads what is in it. */
struct order {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__u8 body[72];
} PACKED;

/* 0x13 coming in. */
struct close_idle {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__u8 version;
	__u8 zero;
	__be16 idle_ms;
	__u8 tag[16];
} PACKED;

#define CLOSE_IDLE_VERSION 1

/* What every answer is written as: the minimum Ethernet frame without FCS. 0x03 and the coded ones fit. */
struct answer {
	struct ethernet ethernet;
	struct ipos_header ipos;
	__u8 body[30];
} PACKED;

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
} PACKED;

struct tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
} PACKED;

enum { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10 };
#define IPPROTO_TCP 6
#define IPV4_FRAGMENTED 0x3fff /* more-fragments flag and offset, RFC 791 */

_Static_assert(sizeof(struct flow) == 12, "Fig. 11B");
_Static_assert(sizeof(struct frame) == 30, "Fig. 11I");
_Static_assert(sizeof(struct connection_tcp) == 176, "Fig. 11E");
_Static_assert(sizeof(struct connection_udp) == 36, "Fig. 11F");
_Static_assert(sizeof(struct tcp_control_block) == 140, "Fig. 11D");
_Static_assert(sizeof(struct detach) == 66, "docs/wire.md");
_Static_assert(sizeof(struct coded) == 58, "docs/wire.md");
_Static_assert(sizeof(struct question) == 54, "docs/wire.md");
_Static_assert(sizeof(struct order) == 102, "docs/wire.md");
_Static_assert(sizeof(struct answer) == 60, "IEEE 802.3");

#endif
