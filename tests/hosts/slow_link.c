/* slow_link: a bad cable between two network interfaces.
 *
 *     slow_link FIRST SECOND DELAY_MS KILOBITS_PER_SECOND LOSS_PER_MILLE SEED
 *
 * Every frame that comes in at one interface goes out at the other, DELAY_MS later, not faster than
 * the rate (0: as fast as it comes), or is lost. What is lost follows from SEED and the number of
 * the frame. Frames are handed on as the kernel gave them, with what it has to say about them
 * (PACKET_VNET_HDR: a checksum still to be filled in, a packet still to be cut), so that no
 * interface has to do without that. (tc's netem can do all this, where the kernel has it.) Runs
 * until it is ended; on SIGTERM it says how many frames it passed on and lost. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_BYTES = 1 << 17, MOST_FRAMES = 4096, BUFFER_BYTES = 8 << 20 };

typedef struct frame {
    double due_s;
    size_t n_bytes;
    char *bytes;
} frame;

/* One way: frames wait in order of arrival, hence of when they are due. */
typedef struct way {
    int in, out;
    double free_s; /* when the last frame taken has gone through at the rate */
    frame waiting[MOST_FRAMES];
    int first, n;
} way;

typedef struct link {
    double delay_s, bits_per_s;
    int loss;
    uint64_t random, n_passed, n_lost;
    way ways[2];
} link_facts;

static volatile sig_atomic_t ended;

static void end(int signal) {
    (void)signal;
    ended = 1;
}

static void die(const char *what) {
    fprintf(stderr, "slow_link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int open_interface(const char *name) {
    int one = 1, buffer = BUFFER_BYTES, s = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (s < 0) die("socket");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    address.sll_ifindex = (int)if_nametoindex(name);
    struct packet_mreq all = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (address.sll_ifindex == 0) die(name);
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    if (setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(s, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) ||
        bind(s, (struct sockaddr *)&address, sizeof address))
        die(name);
    return s;
}

static bool is_lost(link_facts *l) {
    l->random = l->random * 6364136223846793005u + 1442695040888963407u;
    return (int)((l->random >> 33) % 1000) < l->loss;
}

static void take(link_facts *l, way *y) {
    static char bytes[FRAME_BYTES];
    struct sockaddr_ll from;
    socklen_t n_from = sizeof from;
    ssize_t n =
        recvfrom(y->in, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &n_from);
    if (n <= (ssize_t)sizeof(struct virtio_net_hdr) || from.sll_pkttype == PACKET_OUTGOING) return;
    double now = now_s();
    if (is_lost(l) || y->n == MOST_FRAMES) {
        l->n_lost++;
        return;
    }
    double bits = 8.0 * (double)((size_t)n - sizeof(struct virtio_net_hdr));
    y->free_s =
        (y->free_s > now ? y->free_s : now) + (l->bits_per_s > 0 ? bits / l->bits_per_s : 0);
    frame *f = &y->waiting[(y->first + y->n) % MOST_FRAMES];
    *f = (frame){.due_s = y->free_s + l->delay_s, .n_bytes = (size_t)n, .bytes = malloc((size_t)n)};
    if (!f->bytes) die("memory");
    memcpy(f->bytes, bytes, (size_t)n);
    y->n++;
}

static void pass(link_facts *l, way *y) {
    double now = now_s();
    while (y->n > 0 && y->waiting[y->first].due_s <= now) {
        frame *f = &y->waiting[y->first];
        if (send(y->out, f->bytes, f->n_bytes, 0) < 0)
            l->n_lost++;
        else
            l->n_passed++;
        free(f->bytes);
        y->first = (y->first + 1) % MOST_FRAMES;
        y->n--;
    }
}

static void run(link_facts *l) {
    while (!ended) {
        struct pollfd in[2];
        double due = 1e300, now = now_s();
        for (int i = 0; i < 2; i++) {
            way *y = &l->ways[i];
            in[i] = (struct pollfd){.fd = y->in, .events = POLLIN};
            if (y->n > 0 && y->waiting[y->first].due_s < due) due = y->waiting[y->first].due_s;
        }
        double wait = due - now < 0 ? 0 : due - now < 1 ? due - now : 1;
        struct timespec t = {.tv_sec = (time_t)wait,
                             .tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9)};
        if (ppoll(in, 2, &t, NULL) < 0 && errno != EINTR) die("poll");
        for (int i = 0; i < 2; i++) {
            if (in[i].revents) take(l, &l->ways[i]);
            pass(l, &l->ways[i]);
        }
    }
}

int main(int argc, char **argv) {
    static link_facts l;
    if (argc != 7) {
        fprintf(stderr,
                "usage: slow_link FIRST SECOND DELAY_MS KILOBITS_PER_S LOSS_PER_MILLE SEED\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    l.delay_s = atof(argv[3]) * 1e-3;
    l.bits_per_s = atof(argv[4]) * 1e3;
    l.loss = atoi(argv[5]);
    l.random = (uint64_t)atoll(argv[6]);
    l.ways[0].in = l.ways[1].out = open_interface(argv[1]);
    l.ways[1].in = l.ways[0].out = open_interface(argv[2]);
    run(&l);
    printf("%llu frames passed on, %llu lost\n", (unsigned long long)l.n_passed,
           (unsigned long long)l.n_lost);
    return 0;
}
