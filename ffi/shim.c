#define _GNU_SOURCE /* fopencookie */
#include <stdio.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_log.h>

#include "shim.h"

int fairlead_errno(void)
{
	return rte_errno;
}

int fairlead_link(uint16_t port, uint32_t *speed_mbps, uint8_t *up, uint8_t *full_duplex)
{
	struct rte_eth_link link;
	memset(&link, 0, sizeof(link));
	int result = rte_eth_link_get_nowait(port, &link);
	if (result != 0)
		return result;
	*speed_mbps = link.link_speed;
	*up = link.link_status == RTE_ETH_LINK_UP;
	*full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

static void (*log_sink)(const char *bytes, size_t len);

static ssize_t log_write(void *cookie, const char *bytes, size_t len)
{
	(void)cookie;
	log_sink(bytes, len);
	return (ssize_t)len;
}

int fairlead_log_to(void (*sink)(const char *bytes, size_t len))
{
	cookie_io_functions_t functions = { .write = log_write };
	log_sink = sink;
	/* Never closed: DPDK may log until the process ends. */
	FILE *stream = fopencookie(NULL, "w", functions);
	return stream == NULL ? -1 : rte_openlog_stream(stream);
}
