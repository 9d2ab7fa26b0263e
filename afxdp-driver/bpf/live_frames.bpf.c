/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The generator's program: run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, once a packet. It writes the
 * packet's headers afresh (the kernel recycles pages without cleaning them, and whoever received the last packet in
 * this page may have changed it), numbers it, stamps the time and sends it out of the device named in the context.
 */
#include "defs.h"

char _license[] SEC("license") = "GPL";

enum { HEADERS = 64, LAST_OFFSET = 4095 };

struct run {
	__u64 sequence;
	__u32 stamp_offset; /* from the packet's first byte; 0: no stamp */
	__u32 port_offset;  /* of the UDP source port; 0: leave it */
	__u32 first_port;
	__u32 flows;
	__u64 headers[HEADERS / 8]; /* the packet's first bytes */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct run);
	__uint(max_entries, 1);
} runs SEC(".maps");

/* The low 48 bits, most significant byte first. */
INLINE void put_48(__u8 *at, __u64 value)
{
	at[0] = value >> 40;
	at[1] = value >> 32;
	at[2] = value >> 24;
	at[3] = value >> 16;
	at[4] = value >> 8;
	at[5] = value;
}

/* One pointer that the verifier sees checked and used: the compiler may not compute it twice. */
INLINE __u8 *place(__u8 *data, __u32 offset)
{
	__u8 *at = data + offset;
	asm volatile("" : "+r"(at));
	return at;
}

SEC("xdp")
int live_frame(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u8 *end = (__u8 *)(long)ctx->data_end;
	__u8 *at;
	__u32 zero = 0, offset;
	struct run *run = bpf_map_lookup_elem(&runs, &zero);
	__u64 sequence;

	if (!run)
		return XDP_ABORTED;
	sequence = run->sequence;
	run->sequence = sequence + 1;
#pragma unroll
	for (int i = 0; i < HEADERS / 8; i++) {
		if (data + i * 8 + 8 > end)
			break;
		*(__u64 *)(data + i * 8) = run->headers[i];
	}
	offset = run->port_offset & LAST_OFFSET;
	at = place(data, offset);
	if (offset && at + 2 <= end) {
		__u32 port = run->first_port + (run->flows ? sequence % run->flows : 0);

		at[0] = port >> 8;
		at[1] = port;
	}
	offset = run->stamp_offset & LAST_OFFSET;
	at = place(data, offset);
	if (offset && at + 12 <= end) {
		put_48(at, sequence);
		put_48(at + 6, bpf_ktime_get_ns());
	}
	return XDP_TX;
}
