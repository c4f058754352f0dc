/* Offers a file, opens it by its segment's name as another node would, and writes and reads it over NVMe/TCP.
 *
 *     cc transfer.c $(pkg-config --cflags --libs nvferry) -o transfer && ./transfer FILE
 *
 * FILE has at least 65536 bytes, and is overwritten. The two engines would be two programs on two machines; then the
 * metadata service is not "memory:NAME", which is this process's own, but http://HOST:PORT/metadata.
 */
#include <nvferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, nvferry_last_error()); \
            exit(1); \
        } \
    } while (0)

int main(int argc, char **argv) {
    static char memory[65536];
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }

    /* The storage node. Port 0 is any that is free. */
    char trid[] = "trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid=0";
    void *args[] = {trid};
    file_id_t file = 0;
    transfer_engine_t storage = createTransferEngine("memory:c-example", "storage-1", "127.0.0.1", 0, 0);
    CHECK(storage != NULL);
    CHECK(installTransport(storage, "nvmeof_generic", args) != NULL);
    CHECK(registerLocalFile(storage, argv[1], 65536, &file) == 0);

    /* Another node, which offers nothing. */
    transfer_engine_t host = createTransferEngine("memory:c-example", "host-1", "127.0.0.1", 0, 0);
    CHECK(host != NULL);
    CHECK(installTransport(host, "nvmeof_generic", NULL) != NULL);
    segment_id_t segment = openSegment(host, "storage-1");
    CHECK(segment >= 0);
    CHECK(registerLocalMemory(host, memory, sizeof memory, "cpu:0", 1) == 0);

    /* Any address, offset and length will do. */
    for (size_t i = 0; i < 30000; i++) memory[i] = (char)(i * 7 + i / 256);
    struct transfer_request there = {OPCODE_WRITE, memory, segment, file, 1003, 30000};
    struct transfer_request back = {OPCODE_READ, memory + 30001, segment, file, 1003, 30000};
    batch_id_t batch = allocateBatchID(host, 2);
    CHECK(batch != INVALID_BATCH);
    CHECK(nvferry_set_batch_timeout(host, batch, 20000) == 0);

    /* Waiting for the whole batch ... */
    CHECK(submitTransfer(host, batch, &there, 1) == 0);
    CHECK(nvferry_wait_batch(host, batch, 30000) == 0);

    /* ... or asking for one request, by its number in the batch. */
    struct transfer_status status;
    CHECK(submitTransfer(host, batch, &back, 1) == 0);
    do {
        CHECK(getTransferStatus(host, batch, 1, &status) == 0);
    } while (status.status == STATUS_WAITING || status.status == STATUS_PENDING);
    if (status.status != STATUS_COMPLETED) {
        fprintf(stderr, "%s\n", nvferry_transfer_error(host, batch, 1));
        return 1;
    }
    CHECK(status.transferred_bytes == 30000);
    CHECK(memcmp(memory, memory + 30001, 30000) == 0);
    CHECK(freeBatchID(host, batch) == 0);

    CHECK(unregisterLocalMemory(host, memory) == 0);
    CHECK(closeSegment(host, segment) == 0);
    CHECK(nvferry_destroy(host, 10000) == 0);
    CHECK(unregisterLocalFile(storage, argv[1]) == 0);
    CHECK(nvferry_destroy(storage, 10000) == 0);
    printf("nvferry %s: all is well\n", nvferry_version());
    return 0;
}
