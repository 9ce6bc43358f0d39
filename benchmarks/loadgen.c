/* A load generator for HTTP/1.1, RESP (Redis) and the memcached text protocol.
 *
 *     cc -O2 -Wall -Wextra -o loadgen benchmarks/loadgen.c -lm
 *     loadgen --port 8080 --operation fill --keys 100000
 *     loadgen --port 8080 --operation get --keys 100000 --connections 64 --seconds 10 --warmup 2
 *
 * One thread and one epoll set, so that every server is measured by the same client. It prints one
 * JSON object. Exit status: 0; 1 where it can't work at all; 2 for wrong arguments; 3 where an
 * answer was wrong or missing.
 *
 * Closed loop (no --rate): each connection sends --pipeline requests in one write, and the next ones
 * when all are answered. Latency runs from the write to the answer. What is answered in the window
 * is counted.
 *
 * Open loop (--rate): request i is due at start + i/rate, on connection i mod --connections, however
 * long answers take. Where its connection waits for --pipeline answers already, it waits in the
 * generator. Latency runs from when it was due, so a server that stalls pays for all that were due
 * meanwhile (no coordinated omission). What was due in the window is counted, however late it is
 * answered. What could not be sent before the window's end is "unsent", and stands in the latencies
 * with the time it had waited. "generator_lag_us" says how late the generator itself sent.
 *
 * Keys are "key:" and zero-padded digits. A value is determined by its key and its length, in every
 * run and protocol. The length is --value-size; with --changing-length each write draws one from half
 * of it to one and a half. Reading operations, mix, cas, cas-conflict and incr need a fill before
 * them, incr one with --integers: it stores a 0 under every key. Lengths are checked in every answer,
 * contents in one of CHECK_EVERY.
 *
 * In cas and incr each connection has keys of its own. A compare-and-set sends the version that the
 * answer before it gave. An incr must answer the integer that follows the one before it. In
 * cas-conflict every request sends another version that its key no longer has, and an answer of HTTP
 * must tell the one that it has.
 *
 * Errors count in all phases, also in warm-up; the other figures are of the window alone, except
 * "requests_outside_window". "rate" counts the answers that came within the window: with an open loop
 * that the server can't follow, some of them are to requests that were due before it. "reconnects"
 * counts closes that the server had announced; any other is an error. "server_cpu_seconds" (of all
 * --server-pid) is null where a process has ended.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
#define CHECK_EVERY 1000        /* one value of so many is compared byte by byte */
#define READ_SIZE (256 * 1024)  /* bytes of one read */
#define MAX_HEAD (64 * 1024)    /* an answer's head that is longer is an error */
#define MAX_ETAG 46
#define MAX_NUMBER 128          /* bytes of a body in which the integer of an incr must stand */
#define DRAIN_NS (5 * SECOND)   /* how long to wait for answers when the window is over */
#define SILENCE_NS (10 * SECOND) /* how long filling and learning wait for an answer */
#define RETRY_NS (SECOND / 100) /* pause before a connection that failed is tried again */
#define POOL_OFFSETS 65536      /* where in the pool of random bytes a value may begin */
#define MAX_PIDS 64
#define MAX_CONNECTIONS 1000000
#define MAX_PIPELINE 4096

enum protocol { HTTP, RESP, MEMCACHED };

enum operation {
    FILL, GET, MISS, PUT, CONDITIONAL_GET, CAS, CAS_CONFLICT, INCR, MIX, CONNECT, OPERATIONS,
};
static const char *const operation_names[OPERATIONS] = {
    "fill", "get", "miss", "put", "conditional-get", "cas", "cas-conflict", "incr", "mix", "connect",
};

/* What one request asks for, and so which answers are right. */
enum kind { READ, READ_ABSENT, WRITE, REVALIDATE, WRITE_IF_MATCH, WRITE_IF_STALE, COUNT_UP, LEARN };

/* Answers' statuses: of HTTP the number itself, of the others these. */
enum {
    ST_OK = 1, ST_VALUE, ST_ABSENT, ST_STORED, ST_NOT_STORED, ST_INTEGER, ST_EXISTS, ST_ERROR, ST_OTHER,
    STATUSES = 1000,
};

enum error { E_CONNECT, E_LOST, E_STATUS, E_LENGTH, E_CONTENT, E_PARSE, E_UNANSWERED, ERRORS };
static const char *const error_names[ERRORS] = {
    "connect", "lost", "status", "length", "content", "parse", "unanswered",
};

static struct {
    enum protocol protocol;
    enum operation operation;
    const char *host, *port, *path, *fixed_path;
    uint64_t connections, pipeline, keys, key_size, value_size, seed, ttl; /* ttl 0: none */
    double seconds, warmup, theta, write_share, rate; /* rate 0: closed loop; theta 0: uniform */
    bool changing_header, changing_length, integers;
    char *headers; /* of --header, each with its line end */
    pid_t pids[MAX_PIDS];
    int pid_count;
} o = {
    .host = "127.0.0.1", .connections = 1, .pipeline = 1, .keys = 10000,
    .key_size = 16, .value_size = 100, .seed = 1, .seconds = 5, .write_share = 0.1, .headers = "",
    .operation = OPERATIONS,
};

_Noreturn static void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

static void *checked(void *memory) {
    if (!memory) fail(1, "out of memory");
    return memory;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* ---- Random numbers, and which keys are asked for ---- */

static uint64_t random_state;

/* A bijection of 64-bit numbers (the finalizer of splitmix64). */
static uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t random_u64(void) { return mixed(random_state += UINT64_C(0x9e3779b97f4a7c15)); }
static double random_unit(void) { return (double)(random_u64() >> 11) * 0x1p-53; }
static uint64_t random_below(uint64_t n) { return (uint64_t)(((__uint128_t)random_u64() * n) >> 64); }

/* Zipf by rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate
 * variates from monotone discrete distributions", ACM TOMACS 6(3), 1996. Exact for any exponent. */
static struct { double from, to, cut; uint64_t n; } zipf;

/* The integral of x^-theta from 1, and its inverse, both accurate where theta is near 1. */
static double zipf_area(double x) {
    double log_x = log(x), t = (1 - o.theta) * log_x;
    return fabs(t) > 1e-9 ? expm1(t) / t * log_x : log_x;
}
static double zipf_inverse(double area) {
    double t = fmax((1 - o.theta) * area, -1);
    return exp(fabs(t) > 1e-9 ? log1p(t) / t * area : area);
}
static double zipf_weight(double x) { return exp(-o.theta * log(x)); }

static void zipf_prepare(uint64_t n) {
    zipf.n = n;
    zipf.from = zipf_area(1.5) - 1;
    zipf.to = zipf_area((double)n + 0.5);
    zipf.cut = 2 - zipf_inverse(zipf_area(2.5) - zipf_weight(2));
}

static uint64_t zipf_rank(void) {
    for (;;) {
        double area = zipf.to + random_unit() * (zipf.from - zipf.to);
        double x = zipf_inverse(area), k = floor(x + 0.5);
        k = fmin(fmax(k, 1), (double)zipf.n);
        if (k - x <= zipf.cut || area >= zipf_area(k + 0.5) - zipf_weight(k)) return (uint64_t)k - 1;
    }
}

/* Ranks are scattered over the keys by k -> k * scatter mod n, which is a permutation. */
static uint64_t choices, scatter;

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void choices_prepare(uint64_t n) {
    choices = n;
    for (scatter = UINT64_C(0x9e3779b97f4a7c15) % n; common_divisor(scatter, n) != 1;) scatter++;
    if (o.theta > 0) zipf_prepare(n);
}

static uint64_t random_choice(void) {
    if (o.theta == 0) return random_below(choices);
    return (uint64_t)((__uint128_t)zipf_rank() * scatter % choices);
}

/* ---- Values ---- */

static unsigned char *pool;

static uint64_t shortest_value(void) { return o.value_size - (o.changing_length ? o.value_size / 2 : 0); }
static uint64_t longest_value(void) { return o.value_size + (o.changing_length ? o.value_size / 2 : 0); }

static void pool_prepare(void) {
    uint64_t size = POOL_OFFSETS + longest_value() + 8;
    pool = checked(malloc(size));
    for (uint64_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word = mixed((i + 1) * UINT64_C(0x9e3779b97f4a7c15));
        memcpy(pool + i, &word, 8);
    }
}

static const unsigned char *value_of(uint64_t key) {
    return o.integers ? (const unsigned char *)"0" : pool + mixed(key) % POOL_OFFSETS;
}

/* ---- Histograms: 128 steps an octave, so at most 0.4 per cent off ---- */

#define STEP_BITS 7
#define STEPS (1 << STEP_BITS)

struct histogram {
    uint64_t counts[64 * STEPS], count, max;
    double sum;
};
static struct histogram latencies, lags;

static void record(struct histogram *h, uint64_t value) {
    unsigned index = (unsigned)value;
    if (value >= STEPS) {
        unsigned shift = 63 - STEP_BITS - (unsigned)__builtin_clzll(value);
        index = ((shift + 1) << STEP_BITS) + ((unsigned)(value >> shift) & (STEPS - 1));
    }
    h->counts[index]++;
    h->count++;
    h->sum += (double)value;
    h->max = larger(h->max, value);
}

static uint64_t middle(unsigned index) {
    if (index < STEPS) return index;
    unsigned shift = (index >> STEP_BITS) - 1;
    uint64_t low = (uint64_t)(STEPS + (index & (STEPS - 1))) << shift;
    return low + ((UINT64_C(1) << shift) >> 1);
}

static double microseconds(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)h->count), seen = 0;
    for (unsigned i = 0; i < 64 * STEPS; i++)
        if (h->counts[i] && (seen += h->counts[i]) >= wanted) return (double)smaller(middle(i), h->max) / 1e3;
    return (double)h->max / 1e3;
}

/* ---- Connections ---- */

struct request {
    uint64_t start; /* where its latency begins */
    uint64_t key;
    uint64_t length; /* of the value that it writes */
    enum kind kind;
};

struct buffer {
    char *data;
    size_t length, room;
};

struct connection {
    int fd;
    enum { CLOSED, CONNECTING, OPEN } state;
    bool wants_out;          /* epoll tells when it's writable */
    uint64_t retry_at;       /* after a failure: when to connect again; else 0 */
    uint64_t free_since;     /* when its last answer came */
    uint64_t turn, backlog;  /* open loop: its next request's number; how many are due */
    struct request *flight;  /* a ring of --pipeline places, oldest first */
    uint32_t first, in_flight;
    struct buffer unsent, rest; /* bytes the kernel hasn't taken; the start of a head */
    /* The answer whose body is arriving: */
    bool in_body, compare, last, wrong, counted;
    int status;
    uint64_t length, arrived, trail_left;
    char number[MAX_NUMBER]; /* the start of a body that holds one */
};

static struct connection *connections;
static struct sockaddr_storage address;
static socklen_t address_length;
static int poller, timer;
static uint64_t in_flight, retrying;

static enum { LEARNING, WARMING, MEASURING, DRAINING } phase;
static uint64_t next_key;                         /* of fill and of learning: all keys in turn */
static uint64_t schedule_start, scheduled, window_start, window_end, drain_end;
static uint64_t last_answer; /* when it came */
static uint64_t requests, outside, answers_in, bytes_in, unsent_count, reconnects, answers_seen, headers_made;
static uint64_t errors, error_counts[ERRORS], statuses[STATUSES];
static char error_examples[3][200];
static int64_t fixed_length = -1;
static char read_buffer[MAX_HEAD + READ_SIZE];
static struct buffer out;

/* Per key, where versions matter. */
struct tag {
    char text[MAX_ETAG];
    uint8_t length;
};
static struct tag *tags;

/* Per key, where each connection has its own: whether a request with it is under way. */
static bool *in_use;
static uint64_t *numbers; /* what the last incr of a key answered, 0 where there was none */

static void note_error(enum error what, const char *format, ...) {
    if (errors < 3) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error_examples[errors], sizeof error_examples[0], format, arguments);
        va_end(arguments);
    }
    errors++;
    error_counts[what]++;
}

static bool closed_loop(void) { return o.rate == 0 || phase == LEARNING; }
static bool key_by_key(void) { return o.operation == FILL || phase == LEARNING; }

static uint64_t due_at(uint64_t number) {
    return schedule_start + (uint64_t)((double)number * (double)SECOND / o.rate);
}

static void append(struct buffer *b, const void *data, size_t length) {
    if (b->length + length > b->room) {
        b->room = (b->length + length) * 2;
        b->data = checked(realloc(b->data, b->room));
    }
    memcpy(b->data + b->length, data, length);
    b->length += length;
}
static void append_text(struct buffer *b, const char *text) { append(b, text, strlen(text)); }
static void append_number(struct buffer *b, uint64_t number) {
    char text[20];
    size_t at = sizeof text;
    do text[--at] = (char)('0' + number % 10);
    while (number /= 10);
    append(b, text + at, sizeof text - at);
}

/* ---- Requests ---- */

static bool parse_number(const char *from, const char *to, uint64_t *number) {
    *number = 0;
    if (from == to || to - from > 18) return false;
    for (; from < to; from++) {
        if (*from < '0' || *from > '9') return false;
        *number = *number * 10 + (uint64_t)(*from - '0');
    }
    return true;
}

static char http_start[3][4096], http_target_end[8192], http_ttl[32];
static char resp_start[3][64], resp_ttl[64], memcached_ttl[32];

enum verb { V_READ, V_WRITE, V_COUNT };
static enum verb verb_of(enum kind kind) {
    if (kind == COUNT_UP) return V_COUNT;
    return kind == WRITE || kind == WRITE_IF_MATCH || kind == WRITE_IF_STALE ? V_WRITE : V_READ;
}

static void print_into(char *to, size_t room, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(to, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room) fail(2, "path, host or headers are too long");
}

static void requests_prepare(void) {
    const char *target = o.fixed_path ? o.fixed_path : o.path;
    static const char *const methods[] = {"GET", "PUT", "POST"};
    static const char *const commands[] = {"*2\r\n$3\r\nGET", "*%d\r\n$3\r\nSET", "*2\r\n$4\r\nINCR"};
    bool six = strchr(o.host, ':') != NULL;
    for (int i = 0; i < 3; i++) {
        char command[32];
        print_into(http_start[i], sizeof http_start[i], "%s %s", methods[i], target);
        print_into(command, sizeof command, commands[i], o.ttl ? 5 : 3);
        print_into(resp_start[i], sizeof resp_start[i], "%s\r\n$%" PRIu64 "\r\n", command, o.key_size);
    }
    print_into(http_target_end, sizeof http_target_end,
               " HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: loadgen/1\r\nAccept: */*\r\n%s",
               six ? "[" : "", o.host, six ? "]" : "", o.port, o.headers);
    char seconds[24];
    print_into(seconds, sizeof seconds, "%" PRIu64, o.ttl);
    print_into(memcached_ttl, sizeof memcached_ttl, " 0 %s ", seconds);
    if (!o.ttl) return;
    print_into(http_ttl, sizeof http_ttl, "?ttl=%s", seconds);
    print_into(resp_ttl, sizeof resp_ttl, "\r\n$2\r\nEX\r\n$%zu\r\n%s", strlen(seconds), seconds);
}

static void append_key(const struct request *r) {
    char text[256];
    uint64_t number = r->key;
    memcpy(text, r->kind == READ_ABSENT ? "mis:" : "key:", 4);
    for (uint64_t i = o.key_size; i-- > 4; number /= 10) text[i] = (char)('0' + number % 10);
    append(&out, text, o.key_size);
}

static void append_tag(const char *name, const struct tag *tag) {
    append_text(&out, name);
    append(&out, tag->text, tag->length);
    append(&out, "\r\n", 2);
}

/* Another version for each request, which the key had before, or at least has not now. */
static uint64_t stale_version(const struct tag *tag) {
    uint64_t now, quote = o.protocol == HTTP;
    if (tag->length < 3 * quote || !parse_number(tag->text + quote, tag->text + tag->length - quote, &now))
        fail(1, "the ETag %.*s is no version", tag->length, tag->text);
    return now < 2 ? now + 1 : now - 1 - random_below(smaller(now - 1, 1000000));
}

static void append_stale_tag(const struct tag *tag) {
    append_text(&out, "If-Match: \"");
    append_number(&out, stale_version(tag));
    append_text(&out, "\"\r\n");
}

static void append_changing_headers(void) {
    char lines[160];
    uint64_t made = 4 * headers_made++ + o.seed, words[4];
    for (uint64_t i = 0; i < 4; i++) words[i] = mixed(made + i);
    int length = snprintf(lines, sizeof lines,
                          "X-Request-Id: %016" PRIx64 "\r\ntraceparent: 00-%016" PRIx64 "%016" PRIx64
                          "-%016" PRIx64 "-01\r\n",
                          words[0], words[1], words[2], words[3]);
    append(&out, lines, (size_t)length);
}

static void append_http(const struct request *r) {
    enum verb verb = verb_of(r->kind);
    append_text(&out, http_start[verb]);
    if (!o.fixed_path) append_key(r);
    if (verb == V_WRITE) append_text(&out, http_ttl);
    append_text(&out, http_target_end);
    if (o.changing_header) append_changing_headers();
    if (r->kind == REVALIDATE) append_tag("If-None-Match: ", &tags[r->key]);
    if (r->kind == WRITE_IF_MATCH) append_tag("If-Match: ", &tags[r->key]);
    if (r->kind == WRITE_IF_STALE) append_stale_tag(&tags[r->key]);
    if (verb != V_READ) {
        append_text(&out, "Content-Length: ");
        append_number(&out, r->length);
        append(&out, "\r\n", 2);
    }
    append(&out, "\r\n", 2);
    if (verb == V_WRITE) append(&out, value_of(r->key), r->length);
}

static void append_resp(const struct request *r) {
    enum verb verb = verb_of(r->kind);
    append_text(&out, resp_start[verb]);
    append_key(r);
    if (verb == V_WRITE) {
        append_text(&out, "\r\n$");
        append_number(&out, r->length);
        append(&out, "\r\n", 2);
        append(&out, value_of(r->key), r->length);
        append_text(&out, resp_ttl);
    }
    append(&out, "\r\n", 2);
}

/* With the meta commands, since of the others none answers the version that a write gave. */
static void append_memcached_versioned(const struct request *r) {
    append_text(&out, r->kind == LEARN ? "mg " : "ms ");
    append_key(r);
    if (r->kind == LEARN) {
        append_text(&out, " v c\r\n");
        return;
    }
    const struct tag *tag = &tags[r->key];
    append(&out, " ", 1);
    append_number(&out, r->length);
    append_text(&out, " C");
    if (r->kind == WRITE_IF_MATCH) append(&out, tag->text, tag->length);
    else append_number(&out, stale_version(tag));
    append_text(&out, " c\r\n");
    append(&out, value_of(r->key), r->length);
    append(&out, "\r\n", 2);
}

static void append_memcached(const struct request *r) {
    static const char *const commands[] = {"get ", "set ", "incr "};
    enum verb verb = verb_of(r->kind);
    if (r->kind == LEARN || r->kind == WRITE_IF_MATCH || r->kind == WRITE_IF_STALE) {
        append_memcached_versioned(r);
        return;
    }
    append_text(&out, commands[verb]);
    append_key(r);
    if (verb == V_COUNT) append_text(&out, " 1");
    if (verb == V_WRITE) {
        append_text(&out, memcached_ttl);
        append_number(&out, r->length);
        append(&out, "\r\n", 2);
        append(&out, value_of(r->key), r->length);
    }
    append(&out, "\r\n", 2);
}

static void append_request(const struct request *r) {
    if (o.protocol == HTTP) append_http(r);
    else if (o.protocol == RESP) append_resp(r);
    else append_memcached(r);
}

static enum kind kind_of_next(void) {
    switch (o.operation) {
    case FILL: case PUT: return WRITE;
    case MISS: return READ_ABSENT;
    case CONDITIONAL_GET: return REVALIDATE;
    case CAS: return WRITE_IF_MATCH;
    case CAS_CONFLICT: return WRITE_IF_STALE;
    case INCR: return COUNT_UP;
    case MIX: return random_unit() < o.write_share ? WRITE : READ;
    default: return READ;
    }
}

/* Each connection has keys of its own, and none has two requests under way: so no version that
 * is sent can be out of date. There are at least --pipeline keys a connection. */
static uint64_t own_key(const struct connection *c) {
    uint64_t choice = random_choice(), mine = (uint64_t)(c - connections);
    while (in_use[choice * o.connections + mine]) choice = (choice + 1) % choices;
    in_use[choice * o.connections + mine] = true;
    return choice * o.connections + mine;
}

static bool has_own_key(enum kind kind) { return kind == WRITE_IF_MATCH || kind == COUNT_UP; }

static uint64_t length_of_next(enum kind kind) {
    if (verb_of(kind) != V_WRITE) return 0;
    uint64_t shortest = shortest_value();
    return o.changing_length ? shortest + random_below(longest_value() - shortest + 1) : shortest;
}

/* Make the next request of a connection; false where there's none at this moment. */
static bool next_request(struct connection *c, struct request *r) {
    if (phase == DRAINING) return false;
    if (key_by_key()) {
        if (next_key == o.keys) return false;
        r->key = next_key++;
        r->kind = phase == LEARNING ? LEARN : WRITE;
        r->length = length_of_next(r->kind);
        return true;
    }
    if (!closed_loop()) {
        if (!c->backlog) return false;
        c->backlog--;
        r->start = due_at(c->turn);
        c->turn += o.connections;
    }
    r->kind = kind_of_next();
    r->key = has_own_key(r->kind) ? own_key(c) : random_choice();
    r->length = length_of_next(r->kind);
    return true;
}

/* ---- Sending ---- */

static void watch(struct connection *c, int how, bool out_too) {
    struct epoll_event event = {.events = EPOLLIN | (out_too ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, how, c->fd, &event)) fail(1, "epoll_ctl: %s", strerror(errno));
    c->wants_out = out_too;
}

static void drop(struct connection *c) {
    if (c->state == CLOSED) return;
    close(c->fd);
    c->state = CLOSED;
    c->in_body = false;
    c->unsent.length = c->rest.length = 0;
}

static void retry(struct connection *c, uint64_t at) {
    retrying += !c->retry_at;
    c->retry_at = at;
}

static void forget_oldest(struct connection *c) {
    const struct request *r = &c->flight[c->first];
    if (has_own_key(r->kind)) in_use[r->key] = false;
    c->first = (c->first + 1) % (uint32_t)o.pipeline;
    c->in_flight--;
    in_flight--;
}

/* End a connection that can't go on. Each request that it still owed an answer is an error. */
static void give_up(struct connection *c, enum error what, const char *why) {
    uint32_t owed = c->in_flight;
    /* Nothing but the last key ends these phases. */
    if (what == E_CONNECT && key_by_key()) fail(1, "cannot connect any more: %s", why);
    for (uint32_t i = 0; i < owed; i++) {
        note_error(what, "%s, with %u answers owed", why, owed);
        forget_oldest(c);
    }
    if (!owed) note_error(what, "%s, with no answer owed", why);
    drop(c);
    c->free_since = now_ns();
    retry(c, c->free_since + RETRY_NS);
}

static void flush(struct connection *c) {
    size_t done = 0;
    while (done < c->unsent.length) {
        ssize_t sent = send(c->fd, c->unsent.data + done, c->unsent.length - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) {
            give_up(c, E_LOST, strerror(errno));
            return;
        }
        done += (size_t)sent;
    }
    c->unsent.length -= done;
    if (c->unsent.length) memmove(c->unsent.data, c->unsent.data + done, c->unsent.length);
    if (c->wants_out != (c->unsent.length > 0)) watch(c, EPOLL_CTL_MOD, c->unsent.length > 0);
}

static void start_latencies(struct connection *c, uint32_t from) {
    uint64_t now = now_ns();
    for (uint32_t i = from; i < c->in_flight; i++) {
        struct request *r = &c->flight[(c->first + i) % o.pipeline];
        if (closed_loop()) r->start = now;
        else if (phase == MEASURING) record(&lags, now - smaller(now, larger(r->start, c->free_since)));
    }
}

/* Make as many requests as may be under way now, as one batch in `out`. */
static void make_batch(struct connection *c) {
    uint32_t before = c->in_flight;
    out.length = 0;
    while (c->in_flight < o.pipeline) {
        struct request *r = &c->flight[(c->first + c->in_flight) % o.pipeline];
        if (!next_request(c, r)) break;
        append_request(r);
        c->in_flight++;
        in_flight++;
    }
    start_latencies(c, before);
}

static void open_connection(struct connection *c) {
    c->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail(1, "socket: %s", strerror(errno));
    int yes = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    c->state = CONNECTING;
}

static void begin_connect(struct connection *c) {
    if (connect(c->fd, (struct sockaddr *)&address, address_length) && errno != EINPROGRESS) {
        give_up(c, E_CONNECT, strerror(errno));
        return;
    }
    watch(c, EPOLL_CTL_ADD, true);
}

/* Operation connect: the latency includes the connect. */
static void connect_and_request(struct connection *c) {
    make_batch(c);
    if (!out.length) return;
    open_connection(c);
    append(&c->unsent, out.data, out.length);
    begin_connect(c);
}

static void send_batch(struct connection *c) {
    make_batch(c);
    if (!out.length) return;
    ssize_t sent = send(c->fd, out.data, out.length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        give_up(c, E_LOST, strerror(errno));
        return;
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    if (done < out.length) {
        append(&c->unsent, out.data + done, out.length - done);
        watch(c, EPOLL_CTL_MOD, true);
    }
}

static void go_on(struct connection *c) {
    if (c->state == CLOSED && o.operation == CONNECT && !c->retry_at) connect_and_request(c);
    if (c->state != OPEN || c->unsent.length) return;
    if (c->in_flight && (closed_loop() || c->in_flight == o.pipeline)) return;
    send_batch(c);
}

/* ---- Answers ---- */

struct answer {
    int status;
    uint64_t length;
    const char *trail, *tag; /* what follows the value; the ETag */
    size_t tag_length;
    uint64_t number; /* of an incr, where it stands in the head */
    bool last; /* the server closes after it */
};

static const char *trail_of(const struct connection *c) {
    static const char *const trails[] = {"", "\r\n", "\r\nEND\r\n"};
    return trails[o.protocol] + strlen(trails[o.protocol]) - c->trail_left;
}

static bool parse_header(struct answer *a, const char *line, const char *end, bool *sized) {
    const char *colon = memchr(line, ':', (size_t)(end - line));
    if (!colon) return false;
    size_t name = (size_t)(colon - line);
    const char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
    size_t size = (size_t)(end - value);
    if (name == 14 && !strncasecmp(line, "content-length", 14))
        return *sized = parse_number(value, end, &a->length);
    if (name == 17 && !strncasecmp(line, "transfer-encoding", 17)) return false;
    if (name == 10 && !strncasecmp(line, "connection", 10))
        a->last |= size == 5 && !strncasecmp(value, "close", 5);
    if (name == 4 && !strncasecmp(line, "etag", 4)) {
        a->tag = value;
        a->tag_length = size;
    }
    return true;
}

/* The parsers return the head's length, 0 where it isn't complete, -1 where it can't be read. */

static long parse_http(struct answer *a, const char *text, size_t length) {
    const char *end = memmem(text, length, "\r\n\r\n", 4), *line;
    uint64_t status;
    bool sized = false;
    if (!end) return length > MAX_HEAD ? -1 : 0;
    if (end - text < 12 || memcmp(text, "HTTP/1.", 7)) return -1;
    if (!parse_number(text + 9, text + 12, &status)) return -1;
    a->status = (int)status;
    for (line = memmem(text, (size_t)(end + 2 - text), "\r\n", 2) + 2; line < end;) {
        const char *line_end = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (!parse_header(a, line, line_end, &sized)) return -1;
        line = line_end + 2;
    }
    if (status == 204 || status == 304) a->length = 0;
    else if (!sized && status >= 200) return -1;
    return end + 4 - text;
}

static long parse_resp(struct answer *a, const char *text, size_t length) {
    const char *end = memmem(text, length, "\r\n", 2);
    if (!end) return length > MAX_HEAD ? -1 : 0;
    switch (*text) {
    case '+': a->status = end - text == 3 && !memcmp(text, "+OK", 3) ? ST_OK : ST_OTHER; break;
    case '-': a->status = ST_ERROR; break;
    case ':':
        a->status = ST_INTEGER;
        if (!parse_number(text + 1, end, &a->number)) return -1;
        break;
    case '_': a->status = ST_ABSENT; break;
    case '$':
        a->status = ST_ABSENT;
        if (end - text == 3 && !memcmp(text, "$-1", 3)) break;
        a->status = ST_VALUE;
        a->trail = "\r\n";
        if (!parse_number(text + 1, end, &a->length)) return -1;
        break;
    default: return -1;
    }
    return end + 2 - text;
}

static bool starts(const char *text, const char *end, const char *with) {
    size_t length = strlen(with);
    return (size_t)(end - text) >= length && !memcmp(text, with, length);
}

/* The version that a meta command answers is the word that begins with c. */
static void find_version(struct answer *a, const char *text, const char *end) {
    const char *word = memmem(text, (size_t)(end - text), " c", 2);
    if (!word) return;
    const char *word_end = memchr(word + 2, ' ', (size_t)(end - word - 2));
    a->tag = word + 2;
    a->tag_length = (size_t)((word_end ? word_end : end) - a->tag);
}

static long parse_memcached(struct answer *a, const char *text, size_t length) {
    const char *end = memmem(text, length, "\r\n", 2);
    if (!end) return length > MAX_HEAD ? -1 : 0;
    if (starts(text, end, "VALUE ")) {
        const char *size = end;
        while (size[-1] != ' ') size--;
        a->status = ST_VALUE;
        a->trail = "\r\nEND\r\n";
        if (!parse_number(size, end, &a->length)) return -1;
    }
    else if (starts(text, end, "VA ")) {
        const char *size = memchr(text + 3, ' ', (size_t)(end - text - 3));
        a->status = ST_VALUE;
        a->trail = "\r\n";
        if (!size || !parse_number(text + 3, size, &a->length)) return -1;
        find_version(a, text, end);
    }
    else if (starts(text, end, "HD")) {
        a->status = ST_STORED;
        find_version(a, text, end);
    }
    else if (starts(text, end, "EX")) a->status = ST_EXISTS;
    else if (starts(text, end, "STORED")) a->status = ST_STORED;
    else if (starts(text, end, "EN") || starts(text, end, "NF")) a->status = ST_ABSENT;
    else if (starts(text, end, "NOT_FOUND")) a->status = ST_ABSENT;
    else if (starts(text, end, "NOT_STORED")) a->status = ST_NOT_STORED;
    else if (starts(text, end, "ERROR")) a->status = ST_ERROR;
    else if (starts(text, end, "CLIENT_ERROR")) a->status = ST_ERROR;
    else if (starts(text, end, "SERVER_ERROR")) a->status = ST_ERROR;
    else if (parse_number(text, end, &a->number)) a->status = ST_INTEGER;
    else return -1;
    return end + 2 - text;
}

static long parse_head(struct answer *a, const char *text, size_t length) {
    if (o.protocol == HTTP) return parse_http(a, text, length);
    return o.protocol == RESP ? parse_resp(a, text, length) : parse_memcached(a, text, length);
}

static const char *status_name(int status) {
    static const char *const names[] = {
        "", "OK", "value", "absent", "STORED", "NOT_STORED", "integer", "exists", "error", "other",
    };
    static char number[16];
    if (o.protocol != HTTP) return names[status];
    snprintf(number, sizeof number, "%d", status);
    return number;
}

static bool is_right(enum kind kind, int status) {
    if (o.protocol != HTTP) {
        if (kind == WRITE) return status == (o.protocol == RESP ? ST_OK : ST_STORED);
        if (kind == COUNT_UP) return status == ST_INTEGER;
        if (kind == WRITE_IF_MATCH) return status == ST_STORED;
        if (kind == WRITE_IF_STALE) return status == ST_EXISTS;
        return status == (kind == READ_ABSENT ? ST_ABSENT : ST_VALUE);
    }
    switch (kind) {
    case READ: case LEARN: case COUNT_UP: return status == 200;
    case READ_ABSENT: return status == 404;
    case WRITE: return status == 201 || status == 204;
    case REVALIDATE: return status == 304;
    case WRITE_IF_MATCH: return status == 204;
    case WRITE_IF_STALE: return status == 412;
    }
    return false;
}

static void keep_tag(const struct request *r, const struct answer *a) {
    if (!tags || (r->kind != LEARN && r->kind != WRITE_IF_MATCH) || !a->tag) return;
    if (a->tag_length > MAX_ETAG) fail(1, "an ETag of %zu bytes is longer than %d", a->tag_length, MAX_ETAG);
    memcpy(tags[r->key].text, a->tag, a->tag_length);
    tags[r->key].length = (uint8_t)a->tag_length;
}

static bool length_is_right(uint64_t length) {
    if (!o.fixed_path) return length >= shortest_value() && length <= longest_value();
    if (fixed_length < 0) fixed_length = (int64_t)length;
    return length == (uint64_t)fixed_length;
}

static bool is_tag(const struct tag *tag, const struct answer *a) {
    return tag->length == a->tag_length && !memcmp(tag->text, a->tag, a->tag_length);
}

/* Each incr of a key must give the integer after the one that the last incr of it gave. */
static void expect_next(struct connection *c, uint64_t number) {
    uint64_t key = c->flight[c->first].key, last = numbers[key];
    if (!number || (last && number != last + 1)) {
        note_error(E_CONTENT, "%" PRIu64 " after %" PRIu64 " under key %" PRIu64, number, last, key);
        c->wrong = true;
    }
    numbers[key] = number;
}

/* Take the integer out of a body that has arrived. */
static void count_body(struct connection *c) {
    static const char name[] = "\"value\":";
    size_t length = smaller(c->arrived, MAX_NUMBER);
    const char *from = memmem(c->number, length, name, sizeof name - 1), *end = c->number + length;
    if (from) from += sizeof name - 1;
    while (from && from < end && *from == ' ') from++;
    const char *to = from;
    while (to && to < end && *to >= '0' && *to <= '9') to++;
    uint64_t number;
    if (from && parse_number(from, to, &number)) expect_next(c, number);
    else note_error(E_CONTENT, "no integer in an answer to incr");
}

static void examine(struct connection *c, const struct answer *a, const char *text, size_t length) {
    const struct request *r = &c->flight[c->first];
    bool value = r->kind == READ || r->kind == LEARN;
    c->status = a->status;
    c->wrong = true;
    if (!is_right(r->kind, a->status)) {
        const char *end = memmem(text, length, "\r\n", 2);
        note_error(E_STATUS, "%.*s", (int)smaller((uint64_t)(end - text), 150), text);
    }
    else if (value && !length_is_right(a->length))
        note_error(E_LENGTH, "a value of %" PRIu64 " bytes", a->length);
    else if (tags && (r->kind == LEARN || r->kind == WRITE_IF_MATCH) && !a->tag_length)
        note_error(E_PARSE, "no ETag in an answer with %d", a->status);
    else if (o.protocol == HTTP && r->kind == WRITE_IF_STALE && !is_tag(&tags[r->key], a))
        note_error(E_CONTENT, "not the version of key %" PRIu64 " in an answer with 412", r->key);
    else c->wrong = false;
    c->counted = r->kind == COUNT_UP && !c->wrong;
    if (c->counted && o.protocol != HTTP) expect_next(c, a->number);
    keep_tag(r, a);
    c->compare = value && !c->wrong && !o.fixed_path && answers_seen++ % CHECK_EVERY == 0;
    c->last = a->last;
    c->length = a->length;
    c->arrived = 0;
    c->trail_left = strlen(a->trail);
}

static bool is_measured(const struct request *r) {
    if (o.rate > 0) return phase >= MEASURING && r->start >= window_start;
    return phase == MEASURING;
}

static void count_answer(struct connection *c, uint64_t now) {
    const struct request *r = &c->flight[c->first];
    if (c->counted && o.protocol == HTTP) count_body(c);
    if (phase == MEASURING) answers_in++;
    if (is_measured(r)) {
        requests++;
        statuses[c->status]++;
        record(&latencies, now - smaller(now, r->start));
    }
    else outside++;
    forget_oldest(c);
    c->in_body = false;
    c->free_since = last_answer = now;
}

/* Take what belongs to the body that is arriving; return how much that was, -1 where it's broken. */
static long take_body(struct connection *c, const char *text, size_t length) {
    size_t part = smaller(length, c->length - c->arrived);
    if (c->compare && memcmp(text, value_of(c->flight[c->first].key) + c->arrived, part)) {
        note_error(E_CONTENT, "another value than was stored under key %" PRIu64, c->flight[c->first].key);
        c->compare = false;
    }
    if (c->counted && c->arrived < MAX_NUMBER)
        memcpy(c->number + c->arrived, text, smaller(part, MAX_NUMBER - c->arrived));
    c->arrived += part;
    size_t trail = smaller(length - part, c->trail_left);
    if (memcmp(text + part, trail_of(c), trail)) return -1;
    c->trail_left -= trail;
    return (long)(part + trail);
}

/* Take the next answer's head; return its length, 0 where more must arrive, -1 where it's broken. */
static long take_head(struct connection *c, const char *text, size_t length) {
    struct answer a = {.trail = ""};
    long used = parse_head(&a, text, length);
    bool interim = o.protocol == HTTP && a.status < 200; /* 100 Continue and its kin */
    if (used <= 0 || interim) return used;
    if (!c->in_flight) return -1; /* nobody asked */
    examine(c, &a, text, length);
    c->in_body = true;
    return used;
}

/* Connect anew, once the server has announced with an answer that it closes. */
static void follow_close(struct connection *c) {
    if (c->in_flight) give_up(c, E_LOST, "the server said that it closes");
    else drop(c);
    reconnects++;
    retry(c, now_ns());
}

/* Take the answers in `text`. Returns false where the connection has ended. */
static bool take(struct connection *c, const char *text, size_t length, uint64_t now) {
    while (length) {
        long used = c->in_body ? take_body(c, text, length) : take_head(c, text, length);
        if (used < 0) {
            give_up(c, E_PARSE, "an answer that can't be read, or that nobody asked for");
            return false;
        }
        if (!used) {
            append(&c->rest, text, length);
            return true;
        }
        text += used, length -= (size_t)used;
        if (!c->in_body || c->arrived < c->length || c->trail_left) continue;
        count_answer(c, now);
        if (c->last && o.operation != CONNECT) {
            follow_close(c);
            return false;
        }
    }
    return true;
}

static void receive(struct connection *c) {
    size_t kept = c->rest.length;
    if (kept) memcpy(read_buffer, c->rest.data, kept);
    ssize_t got = recv(c->fd, read_buffer + kept, READ_SIZE, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        give_up(c, E_LOST, got ? strerror(errno) : "closed by the server");
        return;
    }
    if (phase == MEASURING) bytes_in += (uint64_t)got;
    c->rest.length = 0;
    bool open = take(c, read_buffer, kept + (size_t)got, now_ns());
    if (open && o.operation == CONNECT && !c->in_flight) drop(c);
    go_on(c);
}

static void handle(struct connection *c, uint32_t events) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) { /* a reset comes after the kernel had completed it: the server dropped it */
            give_up(c, error == ECONNRESET ? E_LOST : E_CONNECT, strerror(error));
            return;
        }
        if (!(events & EPOLLOUT)) return;
        c->state = OPEN;
        if (o.operation != CONNECT) c->free_since = now_ns();
        flush(c);
        go_on(c);
    }
    else if (events & EPOLLOUT) {
        flush(c);
        go_on(c);
    }
    if (c->state == OPEN && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) receive(c);
}

/* ---- The window, and what is read at its ends ---- */

static double cpu_start, cpu_used, server_start, server_used;
static bool cpu_by_ticks, servers_ended;

static double own_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double cpu_from_stat(pid_t pid) {
    char path[64], text[1024], *fields;
    unsigned long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[length] = 0;
    fields = strrchr(text, ')');
    const char *form = ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu";
    if (!fields || sscanf(fields, form, &user, &system) != 2) {
        servers_ended = true;
        return 0;
    }
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* The clock of a process counts its threads, those that ended included, in nanoseconds. */
static double cpu_from_clock(pid_t pid) {
    clockid_t id;
    struct timespec t;
    if (clock_getcpuclockid(pid, &id) || clock_gettime(id, &t)) {
        servers_ended = true;
        return 0;
    }
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double servers_cpu(void) {
    double sum = 0;
    for (int i = 0; i < o.pid_count; i++)
        sum += cpu_by_ticks ? cpu_from_stat(o.pids[i]) : cpu_from_clock(o.pids[i]);
    return sum;
}

/* Not every kernel lets a process read the clock of another user's. */
static void choose_cpu_source(void) {
    servers_cpu();
    cpu_by_ticks = servers_ended;
    servers_ended = false;
    servers_cpu();
    if (servers_ended) fail(1, "cannot read the CPU time of the processes given");
}

static void begin_window(uint64_t at) {
    fputs("measuring\n", stderr);
    server_start = servers_cpu();
    cpu_start = own_cpu();
    phase = MEASURING;
    window_start = at ? at : now_ns();
}

static void end_window(uint64_t now) {
    window_end = now;
    cpu_used = own_cpu() - cpu_start;
    server_used = servers_cpu() - server_start;
    fputs("measured\n", stderr);
    phase = DRAINING;
    drain_end = now + DRAIN_NS;
}

static void enqueue_due(uint64_t now) {
    while (phase != DRAINING && due_at(scheduled) <= now) {
        struct connection *c = &connections[scheduled++ % o.connections];
        c->backlog++;
        go_on(c);
    }
}

/* What was due and could not be sent: that it waited so long at least must show. */
static void record_unsent(uint64_t now) {
    for (struct connection *c = connections; c < connections + o.connections; c++)
        for (; c->backlog; c->backlog--, c->turn += o.connections) {
            unsent_count++;
            record(&latencies, now - smaller(now, due_at(c->turn)));
        }
}

static uint64_t planned_start(void) { return schedule_start + (uint64_t)(o.warmup * (double)SECOND); }
static uint64_t planned_end(void) { return planned_start() + (uint64_t)(o.seconds * (double)SECOND); }

static void advance(uint64_t now) {
    if (phase == WARMING && now >= planned_start()) begin_window(o.rate > 0 ? planned_start() : 0);
    if (phase != MEASURING || o.operation == FILL || now < planned_end()) return;
    if (o.rate > 0) enqueue_due(planned_end() - 1);
    end_window(now);
    if (o.rate > 0) record_unsent(now);
}

static bool finished(uint64_t now) {
    if (key_by_key() && phase != DRAINING) return next_key == o.keys && !in_flight;
    return phase == DRAINING && (!in_flight || now >= drain_end);
}

/* Milliseconds that epoll may wait; what is due sooner comes by the timer. */
static int patience(void) { return retrying || phase == DRAINING ? 5 : 20; }

static void arm(uint64_t at) {
    struct itimerspec when = {.it_value = {(time_t)(at / SECOND), (long)(at % SECOND)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) fail(1, "timerfd: %s", strerror(errno));
}

/* What happens next by the clock, 0 where nothing does. */
static uint64_t next_moment(void) {
    if (key_by_key() || phase == DRAINING) return 0;
    uint64_t next = phase == WARMING ? planned_start() : planned_end();
    return o.rate > 0 ? smaller(next, due_at(scheduled)) : next;
}

static void arm_for_next(void) {
    static uint64_t armed;
    uint64_t next = next_moment();
    if (next && next != armed) arm(armed = next);
}

static void retry_closed(uint64_t now) {
    for (struct connection *c = connections; c < connections + o.connections; c++)
        if (c->state == CLOSED && c->retry_at && c->retry_at <= now) {
            c->retry_at = 0;
            retrying--;
            if (o.operation == CONNECT) go_on(c);
            else if (phase != DRAINING) {
                open_connection(c);
                begin_connect(c);
            }
        }
}

static void work_until_finished(void) {
    struct epoll_event events[512];
    for (uint64_t now = now_ns(); !finished(now); now = now_ns()) {
        if (key_by_key() && now > last_answer + SILENCE_NS)
            fail(1, "no answer for %d s", (int)(SILENCE_NS / SECOND));
        if (phase != LEARNING) advance(now);
        if (!closed_loop()) enqueue_due(now);
        if (retrying) retry_closed(now);
        arm_for_next();
        int count = epoll_wait(poller, events, 512, patience());
        if (count < 0 && errno != EINTR) fail(1, "epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr) handle(events[i].data.ptr, events[i].events);
    }
}

static void everybody_goes_on(void) {
    for (struct connection *c = connections; c < connections + o.connections; c++) go_on(c);
}

/* ---- The whole run ---- */

static void resolve(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(o.host, o.port, &hints, &found);
    if (error) fail(1, "%s: %s", o.host, gai_strerror(error));
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_length = found->ai_addrlen;
    freeaddrinfo(found);
}

static void allow_files(void) {
    struct rlimit limit;
    uint64_t wanted = o.connections + 32;
    if (getrlimit(RLIMIT_NOFILE, &limit)) fail(1, "getrlimit: %s", strerror(errno));
    if (limit.rlim_cur >= wanted) return;
    limit.rlim_cur = smaller(wanted, limit.rlim_max);
    if (limit.rlim_cur < wanted || setrlimit(RLIMIT_NOFILE, &limit))
        fail(1, "%" PRIu64 " open files are needed: raise the limit (ulimit -n)", wanted);
}

static void connect_all(void) {
    connections = checked(calloc(o.connections, sizeof *connections));
    for (uint64_t i = 0; i < o.connections; i++) {
        struct connection *c = &connections[i];
        c->turn = i;
        c->flight = checked(calloc(o.pipeline, sizeof *c->flight));
        if (o.operation == CONNECT) continue;
        open_connection(c);
        begin_connect(c);
    }
    if (o.operation == CONNECT) return;
    for (uint64_t opened = 0, deadline = now_ns() + DRAIN_NS; opened < o.connections;) {
        struct epoll_event events[512];
        int count = epoll_wait(poller, events, 512, 100);
        if (now_ns() > deadline) fail(1, "cannot connect to %s port %s in time", o.host, o.port);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) continue;
            int error = 0;
            socklen_t length = sizeof error;
            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
            if (error) fail(1, "cannot connect to %s port %s: %s", o.host, o.port, strerror(error));
            c->state = OPEN;
            watch(c, EPOLL_CTL_MOD, false);
            opened++;
        }
    }
}

static void prepare(void) {
    allow_files();
    resolve();
    random_state = mixed(o.seed);
    pool_prepare();
    requests_prepare();
    bool own_keys = o.operation == CAS || o.operation == INCR;
    choices_prepare(own_keys ? o.keys / o.connections : o.keys);
    if (own_keys) in_use = checked(calloc(o.keys, sizeof *in_use));
    if (o.operation == INCR) numbers = checked(calloc(o.keys, sizeof *numbers));
    if (o.operation == CAS || o.operation == CAS_CONFLICT || o.operation == CONDITIONAL_GET)
        tags = checked(calloc(o.keys, sizeof *tags));
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event))
        fail(1, "epoll: %s", strerror(errno));
    choose_cpu_source();
    connect_all();
}

static void learn(void) {
    phase = LEARNING;
    everybody_goes_on();
    work_until_finished();
}

static void work(void) {
    last_answer = now_ns();
    if (tags) learn();
    schedule_start = now_ns();
    if (o.operation == FILL) begin_window(0);
    else {
        phase = WARMING;
        advance(schedule_start);
    }
    if (closed_loop()) everybody_goes_on();
    work_until_finished();
    if (o.operation == FILL) end_window(now_ns());
    for (struct connection *c = connections; c < connections + o.connections; c++)
        for (; c->in_flight; forget_oldest(c)) {
            const struct request *r = &c->flight[c->first];
            if (o.rate > 0 && r->start >= window_start) record(&latencies, now_ns() - r->start);
            note_error(E_UNANSWERED, "not answered within %d s after the end", (int)(DRAIN_NS / SECOND));
        }
}

/* ---- Output ---- */

static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') printf("\\%c", byte);
        else if (byte < 32 || byte > 126) printf("\\u%04x", byte);
        else putchar(byte);
    }
    putchar('"');
}

static void print_counts(const char *name, int kinds, const uint64_t *counts, const char *(*name_of)(int)) {
    const char *comma = "";
    printf(", \"%s\": {", name);
    for (int i = 0; i < kinds; i++)
        if (counts[i]) {
            printf("%s\"%s\": %" PRIu64, comma, name_of(i), counts[i]);
            comma = ", ";
        }
    putchar('}');
}

static const char *error_name(int error) { return error_names[error]; }

static void print_errors(void) {
    printf(", \"errors\": %" PRIu64, errors);
    print_counts("error_kinds", ERRORS, error_counts, error_name);
    printf(", \"error_examples\": [");
    for (uint64_t i = 0; i < errors && i < 3; i++) {
        if (i) printf(", ");
        print_text(error_examples[i]);
    }
    putchar(']');
}

static void print_percentile(const struct histogram *h, const char *name, double share) {
    printf("\"%s\": %.1f, ", name, microseconds(h, share));
}

static void print_histogram(const char *name, const struct histogram *h) {
    printf(", \"%s\": ", name);
    if (!h->count) {
        printf("null");
        return;
    }
    putchar('{');
    print_percentile(h, "p50", 0.5);
    print_percentile(h, "p90", 0.9);
    print_percentile(h, "p99", 0.99);
    print_percentile(h, "p99.9", 0.999);
    printf("\"max\": %.1f, \"mean\": %.1f}", (double)h->max / 1e3, h->sum / (double)h->count / 1e3);
}

static void print_report(void) {
    static const char *const protocols[] = {"http", "resp", "memcached"};
    double seconds = (double)(window_end - window_start) / (double)SECOND;
    printf("{\"protocol\": \"%s\"", protocols[o.protocol]);
    printf(", \"operation\": \"%s\"", operation_names[o.operation]);
    printf(", \"connections\": %" PRIu64 ", \"pipeline\": %" PRIu64, o.connections, o.pipeline);
    printf(", \"seconds\": %.6f, \"requests\": %" PRIu64 ", \"requests_outside_window\": %" PRIu64, seconds,
           requests, outside);
    print_errors();
    print_counts("statuses", STATUSES, statuses, status_name);
    printf(", \"bytes_in\": %" PRIu64 ", \"reconnects\": %" PRIu64 ", \"rate\": %.1f", bytes_in, reconnects,
           (double)answers_in / seconds);
    if (o.rate > 0) printf(", \"intended_rate\": %.1f, \"unsent\": %" PRIu64, o.rate, unsent_count);
    else printf(", \"intended_rate\": null, \"unsent\": 0");
    print_histogram("latency_us", &latencies);
    print_histogram("generator_lag_us", &lags);
    printf(", \"generator_cpu_seconds\": %.6f", cpu_used);
    if (o.pid_count && !servers_ended)
        printf(", \"server_cpu_seconds\": %.6f, \"server_cpu_source\": \"%s\"", server_used,
               cpu_by_ticks ? "clock ticks of /proc/PID/stat" : "CPU-time clock of the process");
    else printf(", \"server_cpu_seconds\": null, \"server_cpu_source\": null");
    printf(", \"started_at_ns\": %" PRIu64 ", \"ended_at_ns\": %" PRIu64 "}\n", window_start, window_end);
}

/* ---- Arguments ---- */

static uint64_t whole(const char *name, const char *text, uint64_t least, uint64_t most) {
    uint64_t number;
    if (!parse_number(text, text + strlen(text), &number) || number < least || number > most)
        fail(2, "--%s takes a whole number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", name, least, most,
             text);
    return number;
}

static double real(const char *name, const char *text, double least, double most) {
    char *end;
    double number = strtod(text, &end);
    if (!*text || *end || !(number >= least && number <= most))
        fail(2, "--%s takes a number from %g to %g, not \"%s\"", name, least, most, text);
    return number;
}

static int one_of(const char *name, const char *text, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (!strcmp(text, names[i])) return i;
    fprintf(stderr, "loadgen: --%s takes one of", name);
    for (int i = 0; i < count; i++) fprintf(stderr, " %s", names[i]);
    fail(2, "--%s can't be \"%s\"", name, text);
}

static double exponent(const char *text) {
    if (!strcmp(text, "uniform")) return 0;
    if (strncmp(text, "zipf:", 5)) fail(2, "--distribution takes uniform or zipf:THETA, not \"%s\"", text);
    return real("distribution zipf:", text + 5, 0.01, 1.99);
}

static void add_header(const char *line) {
    if (!strchr(line, ':') || strpbrk(line, "\r\n"))
        fail(2, "--header takes \"Name: value\", not \"%s\"", line);
    char *all = checked(malloc(strlen(o.headers) + strlen(line) + 3));
    sprintf(all, "%s%s\r\n", o.headers, line);
    o.headers = all;
}

enum flag {
    F_PROTOCOL, F_HOST, F_PORT, F_CONNECTIONS, F_PIPELINE, F_SECONDS, F_WARMUP, F_OPERATION, F_KEYS,
    F_DISTRIBUTION, F_KEY_SIZE, F_VALUE_SIZE, F_WRITE_SHARE, F_SEED, F_RATE, F_PATH, F_FIXED_PATH, F_HEADER,
    F_SERVER_PID, F_TTL, F_CHANGING_HEADER, F_CHANGING_LENGTH, F_INTEGERS, FLAGS,
};
static const char *const option_names[] = {
    "protocol", "host", "port", "connections", "pipeline", "seconds", "warmup", "operation", "keys",
    "distribution", "key-size", "value-size", "write-share", "seed", "rate", "path", "fixed-path", "header",
    "server-pid", "ttl", "changing-header", "changing-length", "integers",
};

static void set_option(enum flag option, const char *text) {
    static const char *const protocols[] = {"http", "resp", "memcached"};
    const char *name = option_names[option];
    switch (option) {
    case F_PROTOCOL: o.protocol = (enum protocol)one_of(name, text, protocols, 3); break;
    case F_HOST: o.host = text; break;
    case F_PORT: whole(name, text, 1, 65535); o.port = text; break;
    case F_CONNECTIONS: o.connections = whole(name, text, 1, MAX_CONNECTIONS); break;
    case F_PIPELINE: o.pipeline = whole(name, text, 1, MAX_PIPELINE); break;
    case F_SECONDS: o.seconds = real(name, text, 0.001, 86400); break;
    case F_WARMUP: o.warmup = real(name, text, 0, 86400); break;
    case F_OPERATION: o.operation = (enum operation)one_of(name, text, operation_names, OPERATIONS); break;
    case F_KEYS: o.keys = whole(name, text, 1, 1000000000); break;
    case F_DISTRIBUTION: o.theta = exponent(text); break;
    case F_KEY_SIZE: o.key_size = whole(name, text, 5, 250); break;
    case F_VALUE_SIZE: o.value_size = whole(name, text, 0, 1 << 30); break;
    case F_WRITE_SHARE: o.write_share = real(name, text, 0, 1); break;
    case F_SEED: o.seed = whole(name, text, 0, UINT64_MAX); break;
    case F_RATE: o.rate = real(name, text, 0.001, 1e8); break;
    case F_PATH: o.path = text; break;
    case F_FIXED_PATH: o.fixed_path = text; break;
    case F_HEADER: add_header(text); break;
    case F_SERVER_PID:
        if (o.pid_count == MAX_PIDS) fail(2, "at most %d --server-pid", MAX_PIDS);
        o.pids[o.pid_count++] = (pid_t)whole(name, text, 1, INT32_MAX);
        break;
    case F_TTL: o.ttl = whole(name, text, 1, 2592000); break; /* memcached takes more for a date */
    case F_CHANGING_HEADER: o.changing_header = true; break;
    case F_CHANGING_LENGTH: o.changing_length = true; break;
    case F_INTEGERS: o.integers = true; break;
    case FLAGS: break;
    }
}

static void check_arguments(void) {
    uint64_t digits = 1, biggest = 9;
    for (; biggest < o.keys - 1; biggest = biggest * 10 + 9) digits++;
    if (!o.port) fail(2, "--port is missing");
    if (o.operation == OPERATIONS) fail(2, "--operation is missing");
    if (o.key_size < digits + 4)
        fail(2, "--key-size must be %" PRIu64 " or more for so many keys", digits + 4);
    bool versioned = o.operation == CAS || o.operation == CAS_CONFLICT;
    bool http_only = o.operation == CONDITIONAL_GET || o.operation == CONNECT || o.fixed_path ||
                     o.changing_header || *o.headers;
    if (o.protocol != HTTP && http_only) fail(2, "that needs --protocol http");
    if (o.protocol == RESP && versioned) fail(2, "that needs --protocol http or memcached");
    if (o.operation == FILL && o.rate > 0) fail(2, "fill takes no --rate");
    const char *name = operation_names[o.operation];
    if (o.fixed_path && (o.operation == CAS || o.operation == CAS_CONFLICT || o.operation == INCR))
        fail(2, "%s takes no --fixed-path", name);
    if ((o.operation == CAS || o.operation == INCR) && o.keys / o.connections < o.pipeline)
        fail(2, "%s needs at least as many --keys as requests can be under way", name);
    if (o.integers && o.operation != FILL) fail(2, "only fill takes --integers");
    if (o.integers && o.changing_length) fail(2, "--integers have one length");
    if (o.integers) o.value_size = 1;
    if (!o.path) o.path = o.operation == INCR ? "/v1/incr/bench/" : "/v1/kv/bench/";
    if (o.operation == CONNECT && o.pipeline != 1) fail(2, "connect takes no --pipeline");
}

static void parse_arguments(int count, char **arguments) {
    struct option options[FLAGS + 1] = {0};
    for (int i = 0; i < FLAGS; i++)
        options[i] = (struct option){option_names[i], i < F_CHANGING_HEADER, NULL, i};
    for (int which; (which = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (which == '?') exit(2);
        set_option((enum flag)which, optarg);
    }
    if (optind < count) fail(2, "what is \"%s\"?", arguments[optind]);
    check_arguments();
}

int main(int count, char **arguments) {
    parse_arguments(count, arguments);
    prepare();
    work();
    print_report();
    return errors ? 3 : 0;
}
