/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What goes to userspace and what stays with the kernel. Two XDP programs, of which one is loaded for a device:
 *
 *   penstock_all     a pod's port: every packet goes to the socket of its queue.
 *   penstock_uplink  a device shared with the kernel. In this order:
 *     1. destination in `ours` (pod networks, service addresses)               -> userspace
 *     2. destination in `local` (the node's own addresses) and
 *        a. TCP/UDP/SCTP to a destination port in `ports`                      -> userspace
 *        b. an ICMP echo reply with an identifier in `ports`, unless `asked`
 *           says that the kernel has asked                                     -> userspace
 *        c. an ICMP error that quotes a packet from such a port or identifier
 *           of ours, or a UDP packet to one (VXLAN: its source ports are
 *           hashes)                                                            -> userspace
 *        d. a later fragment of a datagram whose first fragment went there     -> userspace
 *     3. all else (ARP, neighbour discovery, VLAN tags, other destinations)    -> kernel
 *
 * And with penstock_uplink, where the same device sends:
 *
 *   penstock_asked   notes in `asked` whom the kernel asks by ICMP echo with an identifier in `ports`. Nothing keeps the
 *                    kernel from those (they are its own choice, or random, over all 16 bits), as
 *                    net.ipv4.ip_local_port_range does for ports. What AF_XDP sends does not pass here.
 *
 * A packet for userspace whose queue has no socket is dropped, never passed: the kernel would forward a pod's
 * packet past every policy. A later fragment that overtakes its first goes to the kernel and is lost to us; the
 * sender's retransmission mends it.
 */
#include "defs.h"

/* The kernel asks for one it knows before it lends some helpers. */
char _license[] SEC("license") = "GPL";

struct address {
	__u8 bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
};

struct prefix {
	__u32 length; /* bits, of 128 */
	struct address address;
};

struct datagram {
	struct address source, destination;
	__u32 id;
	__u32 protocol;
};

struct echo {
	struct address remote;
	__u32 id;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 256);
} xsks SEC(".maps");

/* Packets: 0 redirected, 1 passed to the kernel, 2 dropped because the queue has no socket. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 3);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} ours SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address);
	__type(value, __u32);
	__uint(max_entries, 1024);
} local SEC(".maps");

/* One bit a port: 1024 words each for TCP, UDP, SCTP, and for the identifiers of ICMP and ICMPv6 echoes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 4096);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct datagram);
	__type(value, __u32);
	__uint(max_entries, 4096);
} fragments SEC(".maps");

/* The kernel's own echoes, and when the last request left (nanoseconds of CLOCK_MONOTONIC). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct echo);
	__type(value, __u64);
	__uint(max_entries, 4096);
} asked SEC(".maps");

/* As __sk_buff has them. */
enum { ETHERTYPE_IPV4 = __builtin_bswap16(0x0800), ETHERTYPE_IPV6 = __builtin_bswap16(0x86dd) };

/* How long the kernel may wait for a reply: as long as a flow of echoes lives. */
#define ASKED_LIFE (30ULL * 1000 * 1000 * 1000)

enum { REDIRECTED, PASSED, NO_SOCKET };
enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58, SCTP = 132 };
enum { ECHO_REPLY = 0, ECHO_REQUEST = 8, ECHO_REQUEST_V6 = 128, ECHO_REPLY_V6 = 129 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION_OPTIONS = 60 };
enum { EXTENSION_HEADERS = 6 };

INLINE void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&verdicts, &what);
	if (counter)
		*counter += 1;
}

INLINE int to_userspace(struct xdp_md *ctx)
{
	long action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
	count(action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET);
	return action;
}

INLINE int to_kernel(void)
{
	count(PASSED);
	return XDP_PASS;
}

INLINE __u32 be16(const __u8 *at)
{
	return (__u32)at[0] << 8 | at[1];
}

INLINE void map_v4(struct address *address, const __u8 *at)
{
	__builtin_memset(address, 0, 10);
	address->bytes[10] = 0xff;
	address->bytes[11] = 0xff;
	__builtin_memcpy(&address->bytes[12], at, 4);
}

INLINE int in_ours(const struct address *address)
{
	struct prefix key = { .length = 128, .address = *address };
	return bpf_map_lookup_elem(&ours, &key) != 0;
}

INLINE int is_local(const struct address *address)
{
	return bpf_map_lookup_elem(&local, address) != 0;
}

INLINE int port_is_ours(__u32 protocol, __u32 port)
{
	__u32 slot = protocol == TCP ? 0 : protocol == UDP ? 1 : protocol == SCTP ? 2 : 3;
	__u32 word = slot * 1024 + (port >> 6);
	__u64 *bits = bpf_map_lookup_elem(&ports, &word);
	return bits && (*bits >> (port & 63) & 1);
}

INLINE int has_ports(__u32 protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP;
}

INLINE int kernel_asked(const struct address *remote, __u32 id)
{
	struct echo echo = { .remote = *remote, .id = id };
	__u64 *when = bpf_map_lookup_elem(&asked, &echo);
	return when && bpf_ktime_get_ns() - *when < ASKED_LIFE;
}

/* Whether the ICMP or ICMPv6 message at `at` is an echo of type `type`, asked of `remote`, with an identifier of ours. */
INLINE int echo_is_ours(const __u8 *at, const __u8 *end, __u32 type, const struct address *remote)
{
	__u32 id;

	if (at + 8 > end || at[0] != type)
		return 0;
	id = be16(at + 4);
	return port_is_ours(ICMP, id) && !kernel_asked(remote, id);
}

/* The transport header at `at` in a packet to `remote` that an ICMP error quotes: one that we sent. */
INLINE int quoted_is_ours(const __u8 *at, const __u8 *end, __u32 protocol, const struct address *remote)
{
	if (protocol == ICMP)
		return echo_is_ours(at, end, ECHO_REQUEST, remote);
	if (protocol == ICMPV6)
		return echo_is_ours(at, end, ECHO_REQUEST_V6, remote);
	if (!has_ports(protocol) || at + 4 > end)
		return 0;
	if (port_is_ours(protocol, be16(at)))
		return 1;
	return protocol == UDP && port_is_ours(UDP, be16(at + 2));
}

/* Echo reply; or destination unreachable, time exceeded, parameter problem. */
INLINE int icmp_is_ours(const __u8 *at, const __u8 *end, const struct address *sender)
{
	struct address source, remote;
	const __u8 *quoted = at + 8;
	__u32 length;

	if (echo_is_ours(at, end, ECHO_REPLY, sender))
		return 1;
	if (quoted + 20 > end || (at[0] != 3 && at[0] != 11 && at[0] != 12))
		return 0;
	length = (quoted[0] & 15) * 4;
	if (quoted[0] >> 4 != 4 || length < 20 || (be16(quoted + 6) & 0x1fff))
		return 0;
	map_v4(&source, quoted + 12);
	map_v4(&remote, quoted + 16);
	return is_local(&source) && quoted_is_ours(quoted + length, end, quoted[9], &remote);
}

/* Echo reply; or unreachable, packet too big, time exceeded, parameter problem. Extension headers in the quoted packet: not ours. */
INLINE int icmpv6_is_ours(const __u8 *at, const __u8 *end, const struct address *sender)
{
	struct address source, remote;
	const __u8 *quoted = at + 8;

	if (echo_is_ours(at, end, ECHO_REPLY_V6, sender))
		return 1;
	if (quoted + 40 > end || at[0] < 1 || at[0] > 4 || quoted[0] >> 4 != 6)
		return 0;
	__builtin_memcpy(&source, quoted + 8, 16);
	__builtin_memcpy(&remote, quoted + 24, 16);
	return is_local(&source) && quoted_is_ours(quoted + 40, end, quoted[6], &remote);
}

/* Whether the transport header at `at` makes a packet from `sender` to a local address ours. */
INLINE int transport_is_ours(const __u8 *at, const __u8 *end, __u32 protocol, const struct address *sender)
{
	if (has_ports(protocol))
		return at + 4 <= end && port_is_ours(protocol, be16(at + 2));
	if (protocol == ICMP)
		return icmp_is_ours(at, end, sender);
	if (protocol == ICMPV6)
		return icmpv6_is_ours(at, end, sender);
	return 0;
}

/* A packet to a local address. `more` and `offset` are zero for what is not fragmented. */
INLINE int local_is_ours(const __u8 *at, const __u8 *end, const struct datagram *datagram, __u32 offset, __u32 more)
{
	__u32 yes = 1;
	int verdict;

	if (offset)
		return bpf_map_lookup_elem(&fragments, datagram) != 0;
	verdict = transport_is_ours(at, end, datagram->protocol, &datagram->source);
	if (more && verdict)
		bpf_map_update_elem(&fragments, datagram, &yes, 0);
	else if (more)
		bpf_map_delete_elem(&fragments, datagram); /* the id served a datagram of ours before */
	return verdict;
}

INLINE int ipv4_is_ours(const __u8 *ip, const __u8 *end)
{
	struct datagram datagram = {};
	__u32 length, fragment;

	if (ip + 20 > end || ip[0] >> 4 != 4)
		return 0;
	map_v4(&datagram.destination, ip + 16);
	if (in_ours(&datagram.destination))
		return 1;
	length = (ip[0] & 15) * 4;
	if (length < 20 || !is_local(&datagram.destination))
		return 0;
	map_v4(&datagram.source, ip + 12);
	datagram.id = be16(ip + 4);
	datagram.protocol = ip[9];
	fragment = be16(ip + 6);
	return local_is_ours(ip + length, end, &datagram, fragment & 0x1fff, fragment & 0x2000);
}

INLINE int ipv6_is_ours(const __u8 *ip, const __u8 *end)
{
	struct datagram datagram = {};
	__u32 at = 40, offset = 0, more = 0, next;

	if (ip + 40 > end || ip[0] >> 4 != 6)
		return 0;
	__builtin_memcpy(&datagram.destination, ip + 24, 16);
	if (in_ours(&datagram.destination))
		return 1;
	if (!is_local(&datagram.destination))
		return 0;
	__builtin_memcpy(&datagram.source, ip + 8, 16);
	next = ip[6];
#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		const __u8 *header = ip + at;

		if (next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != DESTINATION_OPTIONS)
			break;
		if (header + 8 > end)
			return 0;
		if (next == FRAGMENT) {
			offset = be16(header + 2) >> 3;
			more = header[3] & 1;
			datagram.id = be16(header + 4) << 16 | be16(header + 6);
			at += 8;
		} else {
			at += (header[1] + 1) * 8;
		}
		next = header[0];
		if (offset)
			break; /* what follows is payload */
	}
	datagram.protocol = next;
	return local_is_ours(ip + at, end, &datagram, offset, more);
}

SEC("xdp.frags")
int penstock_all(struct xdp_md *ctx)
{
	return to_userspace(ctx);
}

SEC("xdp.frags")
int penstock_uplink(struct xdp_md *ctx)
{
	const __u8 *data = (const __u8 *)(long)ctx->data;
	const __u8 *end = (const __u8 *)(long)ctx->data_end;
	int ours = 0;

	if (data + 14 > end)
		return to_kernel();
	if (be16(data + 12) == 0x0800)
		ours = ipv4_is_ours(data + 14, end);
	else if (be16(data + 12) == 0x86dd)
		ours = ipv6_is_ours(data + 14, end);
	return ours ? to_userspace(ctx) : to_kernel();
}

SEC("tcx/egress")
int penstock_asked(struct __sk_buff *skb)
{
	struct echo echo = {};
	__u32 at, request;
	__u8 ip[40], icmp[8];
	__u64 now;

	if (skb->protocol == ETHERTYPE_IPV4) {
		if (bpf_skb_load_bytes(skb, 14, ip, 20) || ip[9] != ICMP || (be16(ip + 6) & 0x1fff))
			return TCX_NEXT;
		map_v4(&echo.remote, ip + 16);
		at = 14 + (ip[0] & 15) * 4;
		request = ECHO_REQUEST;
	} else if (skb->protocol == ETHERTYPE_IPV6) {
		if (bpf_skb_load_bytes(skb, 14, ip, 40) || ip[6] != ICMPV6)
			return TCX_NEXT;
		__builtin_memcpy(&echo.remote, ip + 24, 16);
		at = 14 + 40;
		request = ECHO_REQUEST_V6;
	} else {
		return TCX_NEXT;
	}
	if (bpf_skb_load_bytes(skb, at, icmp, 8) || icmp[0] != request)
		return TCX_NEXT;
	echo.id = be16(icmp + 4);
	if (port_is_ours(ICMP, echo.id)) {
		now = bpf_ktime_get_ns();
		bpf_map_update_elem(&asked, &echo, &now, 0);
	}
	return TCX_NEXT;
}
