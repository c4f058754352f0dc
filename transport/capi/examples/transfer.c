/* Offers a file, opens it by its segment's name, writes and reads through NVMe/TCP, then makes mistakes on purpose.
 *
 *     cc transfer.c -lnvferry && ./a.out FILE     FILE: at least 65536 bytes; it is overwritten
 */
#include <nvferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
#define LAYOUT(what) static_assert(what, #what)
#else
#define LAYOUT(what) _Static_assert(what, #what)
#endif
LAYOUT(sizeof(struct transfer_request) == 40);
LAYOUT(offsetof(struct transfer_request, opcode) == 0);
LAYOUT(offsetof(struct transfer_request, source) == 8);
LAYOUT(offsetof(struct transfer_request, target_id) == 16);
LAYOUT(offsetof(struct transfer_request, file_id) == 20);
LAYOUT(offsetof(struct transfer_request, target_offset) == 24);
LAYOUT(offsetof(struct transfer_request, length) == 32);
LAYOUT(sizeof(struct transfer_status) == 16 && offsetof(struct transfer_status, transferred_bytes) == 8);
LAYOUT(sizeof(struct buffer_entry) == 16 && offsetof(struct buffer_entry, length) == 8);

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, nvferry_last_error()); \
            exit(1); \
        } \
    } while (0)

int main(int argc, char **argv) {
    static char memory[65536];
    char trid[] = "trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid=0";
    void *args[] = {trid};
    file_id_t file = 0;
    CHECK(argc == 2);

    transfer_engine_t engine = createTransferEngine("memory:c-example", "127.0.0.1:8081", "127.0.0.1", 8081, 0);
    CHECK(engine != NULL);
    CHECK(installTransport(engine, "nvmeof_generic", args) != NULL);
    CHECK(registerLocalFile(engine, argv[1], 65536, &file) == 0);
    transfer_engine_t host = createTransferEngine("memory:c-example", "127.0.0.1:8082", "127.0.0.1", 8082, 0);
    CHECK(host != NULL);
    CHECK(installTransport(host, "nvmeof_generic", NULL) != NULL);
    segment_id_t segment = openSegment(host, "127.0.0.1:8081");
    CHECK(segment >= 0);
    CHECK(registerLocalMemory(host, memory, sizeof memory, "cpu:0", 1) == 0);

    for (size_t i = 0; i < 30000; i++) memory[i] = (char)(i * 7 + i / 256);
    batch_id_t batch = allocateBatchID(host, 2);
    CHECK(batch != INVALID_BATCH);
    struct transfer_request there = {OPCODE_WRITE, memory, segment, file, 1003, 30000};
    struct transfer_request back = {OPCODE_READ, memory + 30001, segment, file, 1003, 30000};
    CHECK(submitTransfer(host, batch, &there, 1) == 0);
    CHECK(nvferry_wait_batch(host, batch, 20000) == 0);
    CHECK(submitTransfer(host, batch, &back, 1) == 0);
    struct transfer_status status;
    do {
        CHECK(getTransferStatus(host, batch, 1, &status) == 0);
    } while (status.status == STATUS_WAITING || status.status == STATUS_PENDING);
    CHECK(status.status == STATUS_COMPLETED && status.transferred_bytes == 30000);
    CHECK(memcmp(memory, memory + 30001, 30000) == 0);
    CHECK(getBatchTransferStatus(host, batch, &status) == 0);
    CHECK(status.status == STATUS_COMPLETED && status.transferred_bytes == 60000);

    /* Mistakes: each is a number and a text, and nothing else. */
    CHECK(submitTransfer(host, batch, &back, 1) == NVFERRY_TOO_MANY_REQUESTS);
    CHECK(freeBatchID(engine, batch) == NVFERRY_INVALID_ARGUMENT);
    CHECK(freeBatchID(host, batch) == 0);
    CHECK(freeBatchID(host, batch) == NVFERRY_INVALID_ARGUMENT);
    CHECK(getTransferStatus(host, batch, 0, &status) == NVFERRY_INVALID_ARGUMENT);
    CHECK(strstr(nvferry_last_error(), "freed") != NULL);
    batch = allocateBatchID(host, 1);
    back.target_offset = 65536;
    CHECK(submitTransfer(host, batch, &back, 1) == NVFERRY_INVALID_ARGUMENT);
    back.target_offset = 0;
    back.source = &status;
    CHECK(submitTransfer(host, batch, &back, 1) == NVFERRY_ADDRESS_NOT_REGISTERED);
    back.opcode = 2;
    CHECK(submitTransfer(host, batch, &back, 1) == NVFERRY_INVALID_ARGUMENT);
    CHECK(submitTransfer(host, batch, NULL, 1) == NVFERRY_INVALID_ARGUMENT);
    CHECK(openSegment(host, NULL) == NVFERRY_INVALID_ARGUMENT);
    CHECK(openSegment(&status, "x") == NVFERRY_INVALID_ARGUMENT);
    CHECK(allocateBatchID(NULL, 1) == INVALID_BATCH);
    CHECK(installTransport(engine, "no such", NULL) == NULL);
    CHECK(registerLocalMemory(host, memory + 5, 5, "", 1) == NVFERRY_ADDRESS_OVERLAPPED);

    CHECK(unregisterLocalMemory(host, memory) == 0);
    CHECK(unregisterLocalMemory(host, memory) == NVFERRY_ADDRESS_NOT_REGISTERED);
    CHECK(closeSegment(host, segment) == 0);
    destroyTransferEngine(host);
    destroyTransferEngine(host);
    CHECK(allocateBatchID(host, 1) == INVALID_BATCH);
    CHECK(freeBatchID(host, batch) == NVFERRY_INVALID_ARGUMENT);
    CHECK(unregisterLocalFile(engine, argv[1]) == 0);
    destroyTransferEngine(engine);
    printf("nvferry %s: all is well\n", nvferry_version());
    return 0;
}
