/* What bindgen cannot see: macros, the places of mbuf fields, bit fields. No logic.
 *
 * The constants are evaluated by the compiler from the installed headers, so the Rust side reads mbuf fields directly
 * on every DPDK from 22.11 on, although 24.11 moved them into anonymous unions. */
#ifndef FAIRLEAD_SHIM_H
#define FAIRLEAD_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>

/* mbuf fields: byte offsets; the assertions hold the widths that the Rust accessors read. */
#define FAIRLEAD_FIELD(field, type) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), #field " has another width")
FAIRLEAD_FIELD(buf_addr, void *);
FAIRLEAD_FIELD(data_off, uint16_t);
FAIRLEAD_FIELD(nb_segs, uint16_t);
FAIRLEAD_FIELD(ol_flags, uint64_t);
FAIRLEAD_FIELD(pkt_len, uint32_t);
FAIRLEAD_FIELD(data_len, uint16_t);
FAIRLEAD_FIELD(buf_len, uint16_t);
FAIRLEAD_FIELD(next, void *);
FAIRLEAD_FIELD(tx_offload, uint64_t);
#undef FAIRLEAD_FIELD

static const size_t FAIRLEAD_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t FAIRLEAD_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t FAIRLEAD_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t FAIRLEAD_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t FAIRLEAD_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t FAIRLEAD_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t FAIRLEAD_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t FAIRLEAD_MBUF_NEXT = offsetof(struct rte_mbuf, next);
static const size_t FAIRLEAD_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload);

static const uint16_t FAIRLEAD_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint16_t FAIRLEAD_DATAROOM = RTE_MBUF_DEFAULT_DATAROOM;

/* Places of the lengths inside tx_offload. */
static const uint32_t FAIRLEAD_TX_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS;
static const uint32_t FAIRLEAD_TX_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS;
static const uint32_t FAIRLEAD_TX_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS;
static const uint32_t FAIRLEAD_TX_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS;

static const uint64_t FAIRLEAD_RX_IP_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t FAIRLEAD_RX_IP_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t FAIRLEAD_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t FAIRLEAD_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t FAIRLEAD_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t FAIRLEAD_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t FAIRLEAD_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t FAIRLEAD_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t FAIRLEAD_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t FAIRLEAD_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t FAIRLEAD_TX_L4_MASK = RTE_MBUF_F_TX_L4_MASK;

/* Device capabilities and modes. */
static const uint64_t FAIRLEAD_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t FAIRLEAD_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t FAIRLEAD_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t FAIRLEAD_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t FAIRLEAD_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t FAIRLEAD_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t FAIRLEAD_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t FAIRLEAD_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t FAIRLEAD_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t FAIRLEAD_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t FAIRLEAD_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t FAIRLEAD_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint32_t FAIRLEAD_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint16_t FAIRLEAD_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE;

/* rte_errno of the calling thread. */
int fairlead_errno(void);

/* The link of a port: speed in Mbit/s, up, full duplex. 0, or what rte_eth_link_get_nowait says. */
int fairlead_link(uint16_t port, uint32_t *speed_mbps, uint8_t *up, uint8_t *full_duplex);

/* Sends every line DPDK logs, on any thread, to `sink`, which must neither unwind nor log. 0, or -1 with errno. */
int fairlead_log_to(void (*sink)(const char *bytes, size_t len));

#endif
