/* Many threads at once: on one engine, on one batch, on engines of their own, and on an engine that another destroys.
 * argv[1] is a file of 1 MiB, argv[2] how many rounds each thread makes. */
#include "check.h"
#include <pthread.h>
#include <sched.h>

#define THREADS 6
#define BLOCK 3001

static unsigned rounds = 25;
static transfer_engine_t engine;
static segment_id_t segment;
static file_id_t file;
static batch_id_t shared_batch;
static unsigned char memory[THREADS][2][BLOCK];

/* Writes and reads its own part of the file, in batches of its own; and one request in each round in a common batch. */
static void *work(void *argument) {
    size_t me = (size_t)argument;
    for (unsigned round = 0; round < rounds; round++) {
        struct transfer_status status;
        struct transfer_request there = {OPCODE_WRITE, memory[me][0], segment, file, me * 65536 + round, BLOCK};
        struct transfer_request back = {OPCODE_READ, memory[me][1], segment, file, me * 65536 + round, BLOCK};
        memset(memory[me][0], (int)(me * 31 + round), BLOCK);
        batch_id_t batch = allocateBatchID(engine, 1);
        EQUAL(submitTransfer(engine, batch, &there, 1), 0);
        EQUAL(nvferry_wait_batch(engine, batch, 60000), 0);
        EQUAL(freeBatchID(engine, batch), 0);
        batch = allocateBatchID(engine, 1);
        EQUAL(submitTransfer(engine, batch, &back, 1), 0);
        do {
            sched_yield();
            EQUAL(getTransferStatus(engine, batch, 0, &status), 0);
        } while (status.status == STATUS_PENDING || status.status == STATUS_WAITING);
        EQUAL(status.status, STATUS_COMPLETED);
        EQUAL(memcmp(memory[me][0], memory[me][1], BLOCK), 0);
        EQUAL(freeBatchID(engine, batch), 0);

        EQUAL(submitTransfer(engine, shared_batch, &back, 1), 0);
        EQUAL(nvferry_wait_batch(engine, shared_batch, 60000), 0);

        /* Errors' texts stay with their thread. */
        EQUAL(freeBatchID(engine, 2 * me), NVFERRY_INVALID_ARGUMENT);
        char mine[32];
        snprintf(mine, sizeof mine, "batch %zu ", 2 * me);
        SAYS(mine);
    }
    return NULL;
}

/* Makes an engine of its own, uses the same segment through it, and destroys it. */
static void *come_and_go(void *argument) {
    char name[32];
    snprintf(name, sizeof name, "guest-%zu", (size_t)argument);
    for (int round = 0; round < 3; round++) {
        unsigned char *own = malloc(BLOCK);
        transfer_engine_t guest = new_engine(name);
        CHECK(installTransport(guest, "nvmeof_generic", NULL) != NULL);
        segment_id_t there = openSegment(guest, "threads");
        CHECK(there > 0);
        EQUAL(registerLocalMemory(guest, own, BLOCK, NULL, 1), 0);
        batch_id_t batch = allocateBatchID(guest, 1);
        struct transfer_request read = {OPCODE_READ, own, there, file, 900000, BLOCK};
        EQUAL(submitTransfer(guest, batch, &read, 1), 0);
        /* With the request still under way, most likely; then the memory is the caller's again. */
        EQUAL(nvferry_destroy(guest, 60000), 0);
        free(own);
    }
    return NULL;
}

/* Goes on until the engine is gone: each call works, or says what is wrong. */
static void *until_it_is_gone(void *argument) {
    size_t me = (size_t)argument;
    struct transfer_request read = {OPCODE_READ, memory[me][1], segment, file, me * 65536, BLOCK};
    for (;;) {
        batch_id_t batch = allocateBatchID(engine, 1);
        if (batch == INVALID_BATCH) return NULL;
        int submitted = submitTransfer(engine, batch, &read, 1);
        if (submitted == 0) {
            int waited = nvferry_wait_batch(engine, batch, 60000);
            CHECK(waited == 0 || waited == NVFERRY_ENDPOINT || waited == NVFERRY_INVALID_ARGUMENT);
        } else {
            CHECK(submitted == NVFERRY_INVALID_ARGUMENT || submitted == NVFERRY_CONTEXT ||
                  submitted == NVFERRY_DEVICE_NOT_FOUND || submitted == NVFERRY_ADDRESS_NOT_REGISTERED);
        }
        int freed = freeBatchID(engine, batch);
        CHECK(freed == 0 || freed == NVFERRY_INVALID_ARGUMENT);
    }
}

static pthread_t threads[2 * THREADS];

static void start(size_t first, void *(*what)(void *)) {
    for (size_t i = 0; i < THREADS; i++) EQUAL(pthread_create(&threads[first + i], NULL, what, (void *)i), 0);
}

static void join(size_t count) {
    for (size_t i = 0; i < count; i++) EQUAL(pthread_join(threads[i], NULL), 0);
}

int main(int argc, char **argv) {
    CHECK(argc >= 2);
    if (argc > 2) rounds = (unsigned)atoi(argv[2]);
    engine = offering_engine("threads", argv[1], &file);
    segment = openSegment(engine, "threads");
    CHECK(segment > 0);
    EQUAL(registerLocalMemory(engine, memory, sizeof memory, NULL, 1), 0);
    shared_batch = allocateBatchID(engine, THREADS * rounds);

    start(0, work);
    start(THREADS, come_and_go);
    join(2 * THREADS);
    struct transfer_status status;
    EQUAL(getBatchTransferStatus(engine, shared_batch, &status), 0);
    EQUAL(status.status, STATUS_COMPLETED);
    EQUAL(status.transferred_bytes, (uint64_t)THREADS * rounds * BLOCK);

    start(0, until_it_is_gone);
    EQUAL(nvferry_destroy(engine, 60000), 0);
    join(THREADS);
    printf("all is well\n");
    return 0;
}
