/*
 * Both ends of an SCTP association (RFC 9260) over a userland stack, straight over IP: the kernels at hand have none.
 *
 *   sctp server OWN PORT NAME     takes associations and sends every message back; greets with "NAME PEER PORT"
 *   sctp client OWN SERVER PORT   associates, prints the greeting, and does what it reads, a line each:
 *     send N     sends N numbered bytes and expects them back; prints "echoed N"
 *     shutdown   ends gracefully; prints "closed" when the server has
 *     abort      ends at once; prints "aborted"
 *
 * Each end is bound to one address: a second one would be told to the peer, who could not reach it through a translation.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <usrsctp.h>

/* A message is a few packets: it is cut into chunks and put together again. */
#define MESSAGE_MAX 4096

static const char *name;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static socklen_t address_of(const char *text, const char *port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(atoi(port));
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1) {
        fprintf(stderr, "%s is no address\n", text);
        exit(2);
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(atoi(port));
    return sizeof *v6;
}

static struct socket *bound(const char *own, const char *port)
{
    struct sockaddr_storage at;
    socklen_t len = address_of(own, port, &at);
    struct socket *sock = usrsctp_socket(at.ss_family, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);

    if (sock == NULL || usrsctp_bind(sock, (struct sockaddr *)&at, len) != 0)
        fail("bind");
    return sock;
}

static void say(struct socket *sock, const void *bytes, size_t len)
{
    if (usrsctp_sendv(sock, bytes, len, NULL, 0, NULL, 0, SCTP_SENDV_NOINFO, 0) != (ssize_t)len)
        fail("send");
}

static ssize_t hear(struct socket *sock, void *bytes, size_t len)
{
    struct sctp_rcvinfo info;
    socklen_t info_len = sizeof info;
    unsigned int kind = 0;
    int flags = 0;

    return usrsctp_recvv(sock, bytes, len, NULL, NULL, &info, &info_len, &kind, &flags);
}

struct peer {
    struct socket *sock;
    struct sockaddr_storage from;
};

static void *answer(void *given)
{
    struct peer peer = *(struct peer *)given;
    const struct sockaddr_in *v4 = (struct sockaddr_in *)&peer.from;
    const struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&peer.from;
    int is_v4 = peer.from.ss_family == AF_INET;
    char text[INET6_ADDRSTRLEN], bytes[MESSAGE_MAX];
    ssize_t len;

    free(given);
    inet_ntop(peer.from.ss_family, is_v4 ? (const void *)&v4->sin_addr : (const void *)&v6->sin6_addr, text,
              sizeof text);
    len = snprintf(bytes, sizeof bytes, "%s %s %u\n", name, text, ntohs(is_v4 ? v4->sin_port : v6->sin6_port));
    do {
        if (usrsctp_sendv(peer.sock, bytes, len, NULL, 0, NULL, 0, SCTP_SENDV_NOINFO, 0) != len)
            break;
    } while ((len = hear(peer.sock, bytes, sizeof bytes)) > 0);
    usrsctp_close(peer.sock);
    return NULL;
}

static void serve(struct socket *sock)
{
    if (usrsctp_listen(sock, 16) != 0)
        fail("listen");
    puts("listening");
    for (;;) {
        struct peer *peer = calloc(1, sizeof *peer);
        socklen_t len = sizeof peer->from;
        pthread_t thread;

        if (peer == NULL || (peer->sock = usrsctp_accept(sock, (struct sockaddr *)&peer->from, &len)) == NULL)
            fail("accept");
        if (pthread_create(&thread, NULL, answer, peer) != 0 || pthread_detach(thread) != 0)
            fail("thread");
    }
}

static void exchange(struct socket *sock, size_t count)
{
    static unsigned long sent;
    unsigned char out[MESSAGE_MAX], in[MESSAGE_MAX];
    size_t done = 0;

    while (done < count) {
        size_t len = count - done < sizeof out ? count - done : sizeof out, heard = 0, i;

        for (i = 0; i < len; i++, sent++)
            out[i] = (unsigned char)(sent * 31 + sent / 251);
        say(sock, out, len);
        while (heard < len) {
            ssize_t got = hear(sock, in + heard, len - heard);

            if (got <= 0)
                fail("the echo did not come back");
            heard += (size_t)got;
        }
        if (memcmp(in, out, len) != 0) {
            fprintf(stderr, "the echo came back changed, near byte %lu\n", sent);
            exit(1);
        }
        done += len;
    }
    printf("echoed %zu\n", count);
}

static void end(struct socket *sock, int gracefully)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };
    char byte;

    if (gracefully) {
        if (usrsctp_shutdown(sock, SHUT_WR) != 0)
            fail("shutdown");
        while (hear(sock, &byte, 1) > 0)
            ;
        puts("closed");
    } else if (usrsctp_setsockopt(sock, SOL_SOCKET, SO_LINGER, &now, sizeof now) != 0) {
        fail("linger");
    }
    usrsctp_close(sock);
    if (!gracefully)
        puts("aborted");
}

static void ask(struct socket *sock, const char *server, const char *port)
{
    struct sockaddr_storage at;
    socklen_t len = address_of(server, port, &at);
    char line[128] = "";
    size_t count;

    if (usrsctp_connect(sock, (struct sockaddr *)&at, len) != 0)
        fail("connect");
    if (hear(sock, line, sizeof line - 1) <= 0)
        fail("no greeting");
    fputs(line, stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "send %zu", &count) == 1) {
            exchange(sock, count);
        } else {
            end(sock, strcmp(line, "shutdown\n") == 0);
            return;
        }
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    usrsctp_init(0, NULL, NULL);
    /* Other stacks of this namespace get copies of all packets: what is for another one is not answered. */
    usrsctp_sysctl_set_sctp_blackhole(2);
    if (argc == 5 && strcmp(argv[1], "server") == 0) {
        name = argv[4];
        serve(bound(argv[2], argv[3]));
    } else if (argc == 5 && strcmp(argv[1], "client") == 0) {
        ask(bound(argv[2], "0"), argv[3], argv[4]);
        /* The stack's last packets leave by its own threads. */
        while (usrsctp_finish() != 0)
            usleep(10000);
        return 0;
    }
    fputs("usage: sctp server OWN PORT NAME | sctp client OWN SERVER PORT\n", stderr);
    return 2;
}
