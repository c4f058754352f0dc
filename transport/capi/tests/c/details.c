/* What each function does at its edges: argv[1] is a file of 1 MiB. */
#include "check.h"

static char memory[8192];

static void transfers(transfer_engine_t engine, const char *path, file_id_t file) {
    struct transfer_status status = {-1, 1};
    segment_id_t segment = openSegment(engine, "details");
    CHECK(segment > LOCAL_SEGMENT);
    EQUAL(openSegment(engine, "details"), segment);
    EQUAL(openSegmentNoCache(engine, "details"), segment);
    EQUAL(closeSegment(engine, segment), 0);
    EQUAL(closeSegment(engine, segment), 0);
    EQUAL(syncSegmentCache(engine), 0);

    /* A batch with nothing in it has nothing left to do, and none of its requests exists. */
    batch_id_t batch = allocateBatchID(engine, 3);
    EQUAL(getBatchTransferStatus(engine, batch, &status), 0);
    EQUAL(status.status, STATUS_COMPLETED);
    EQUAL(status.transferred_bytes, 0);
    EQUAL(nvferry_wait_batch(engine, batch, 0), 0);
    EQUAL(submitTransfer(engine, batch, NULL, 0), 0);
    EQUAL(getTransferStatus(engine, batch, 0, &status), NVFERRY_INVALID_ARGUMENT);
    SAYS("0 were submitted");

    /* The own segment needs no opening. */
    struct transfer_request requests[] = {
        {OPCODE_WRITE, memory + 1, LOCAL_SEGMENT, file, 4097, 3000},
        {OPCODE_READ, memory + 4001, segment, file, 4097, 3000},
    };
    memset(memory + 1, 'a', 3000);
    EQUAL(submitTransfer(engine, batch, &requests[0], 1), 0);
    EQUAL(nvferry_wait_batch(engine, batch, 60000), 0);
    EQUAL(submitTransfer(engine, batch, &requests[1], 1), 0);
    EQUAL(nvferry_wait_batch(engine, batch, UINT64_MAX), 0);
    EQUAL(memcmp(memory + 1, memory + 4001, 3000), 0);
    EQUAL(getBatchTransferStatus(engine, batch, &status), 0);
    EQUAL(status.status, STATUS_COMPLETED);
    EQUAL(status.transferred_bytes, 6000);
    EQUAL(strlen(nvferry_transfer_error(engine, batch, 1)), 0);
    CHECK(nvferry_transfer_error(engine, batch, 2) == NULL);

    /* All or none: there is room for one. */
    EQUAL(submitTransfer(engine, batch, requests, 2), NVFERRY_TOO_MANY_REQUESTS);
    EQUAL(getTransferStatus(engine, batch, 2, &status), NVFERRY_INVALID_ARGUMENT);
    EQUAL(getTransferStatus(engine, batch, 1, NULL), NVFERRY_INVALID_ARGUMENT);
    EQUAL(getBatchTransferStatus(engine, batch, NULL), NVFERRY_INVALID_ARGUMENT);

    /* Requests that cannot be right. */
    struct transfer_request wrong = requests[1];
    wrong.target_offset = FILE_BYTES - 2999;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_INVALID_ARGUMENT);
    wrong.target_offset = UINT64_MAX;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_INVALID_ARGUMENT);
    wrong = requests[1];
    wrong.length = UINT64_MAX;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_ADDRESS_NOT_REGISTERED);
    wrong = requests[1];
    wrong.source = &status;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_ADDRESS_NOT_REGISTERED);
    wrong.source = NULL;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_ADDRESS_NOT_REGISTERED);
    wrong = requests[1];
    wrong.opcode = 2;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_INVALID_ARGUMENT);
    wrong = requests[1];
    wrong.target_id = segment + 1;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_DEVICE_NOT_FOUND);
    wrong = requests[1];
    wrong.file_id = file + 1;
    EQUAL(submitTransfer(engine, batch, &wrong, 1), NVFERRY_DEVICE_NOT_FOUND);
    EQUAL(submitTransfer(engine, batch, NULL, 1), NVFERRY_INVALID_ARGUMENT);
    EQUAL(submitTransfer(engine, batch, requests, SIZE_MAX), NVFERRY_INVALID_ARGUMENT);

    EQUAL(freeBatchID(engine, batch), 0);
    EQUAL(freeBatchID(engine, batch), NVFERRY_INVALID_ARGUMENT);
    SAYS("freed");
    EQUAL(getTransferStatus(engine, batch, 0, &status), NVFERRY_INVALID_ARGUMENT);
    EQUAL(nvferry_wait_batch(engine, batch, 0), NVFERRY_INVALID_ARGUMENT);
    EQUAL(nvferry_cancel_batch(engine, batch), NVFERRY_INVALID_ARGUMENT);
    EQUAL(allocateBatchID(engine, 0), INVALID_BATCH);
    EQUAL(allocateBatchID(engine, ((size_t)1 << 20) + 1), INVALID_BATCH);

    EQUAL(closeSegment(engine, segment), 0);
    EQUAL(removeLocalSegment(engine, "no such"), NVFERRY_DEVICE_NOT_FOUND);
    EQUAL(openSegmentNoCache(engine, "no such"), NVFERRY_DEVICE_NOT_FOUND);
    EQUAL(openSegment(engine, NULL), NVFERRY_INVALID_ARGUMENT);
    EQUAL(unregisterLocalFile(engine, path), 0);
    EQUAL(unregisterLocalFile(engine, path), NVFERRY_DEVICE_NOT_FOUND);
    EQUAL(registerLocalFile(engine, path, FILE_BYTES, NULL), NVFERRY_INVALID_ARGUMENT);
    EQUAL(registerLocalFile(engine, "/no/such/file", 4096, &file), NVFERRY_INVALID_ARGUMENT);
}

static void memories(transfer_engine_t engine) {
    buffer_entry_t two[] = {{memory, 4096}, {memory + 4096, 4096}}, overlapping[] = {{memory, 10}, {memory + 9, 10}};
    void *addresses[] = {memory, &engine, memory + 4096};
    EQUAL(registerLocalMemoryBatch(engine, overlapping, 2, "cpu:0"), NVFERRY_ADDRESS_OVERLAPPED);
    EQUAL(registerLocalMemoryBatch(engine, two, 2, "cpu:0"), 0);
    EQUAL(registerLocalMemory(engine, memory + 5, 5, NULL, 1), NVFERRY_ADDRESS_OVERLAPPED);
    EQUAL(unregisterLocalMemoryBatch(engine, addresses, 3), NVFERRY_ADDRESS_NOT_REGISTERED);
    /* The others of that list are unregistered. */
    EQUAL(unregisterLocalMemory(engine, memory + 4096), NVFERRY_ADDRESS_NOT_REGISTERED);
    EQUAL(registerLocalMemory(engine, NULL, 5, NULL, 1), NVFERRY_INVALID_ARGUMENT);
    EQUAL(registerLocalMemory(engine, memory, 0, NULL, 1), NVFERRY_INVALID_ARGUMENT);
    EQUAL(registerLocalMemory(engine, memory, SIZE_MAX, NULL, 1), NVFERRY_INVALID_ARGUMENT);
    EQUAL(registerLocalMemoryBatch(engine, NULL, 1, NULL), NVFERRY_INVALID_ARGUMENT);
    EQUAL(registerLocalMemoryBatch(engine, NULL, 0, NULL), 0);
    EQUAL(registerLocalMemory(engine, memory, sizeof memory, NULL, 1), 0);
}

int main(int argc, char **argv) {
    file_id_t file = 0;
    char name[8], port[8] = "99999";
    EQUAL(argc, 2);
    EQUAL(strlen(nvferry_last_error()), 0);
    CHECK(createTransferEngine(NULL, "x", "", 0, 0) == NULL);
    CHECK(createTransferEngine("memory:c-test", "\xff", "", 0, 0) == NULL);
    SAYS("UTF-8");
    CHECK(createTransferEngine("gopher://x", "x", "", 0, 0) == NULL);

    transfer_engine_t engine = offering_engine("details", argv[1], &file);
    EQUAL(getLocalIpAndPort(engine, name, sizeof name), 0);
    EQUAL(strcmp(name, "details"), 0);
    EQUAL(getLocalIpAndPort(engine, port, 7), NVFERRY_INVALID_ARGUMENT);
    EQUAL(strcmp(port, "99999"), 0);
    EQUAL(getLocalIpAndPort(engine, NULL, 7), NVFERRY_INVALID_ARGUMENT);
    CHECK(installTransport(engine, "nvmeof_generic", NULL) == NULL);
    SAYS("installed already");
    CHECK(installTransport(engine, "rdma", NULL) == NULL);
    EQUAL(uninstallTransport(engine, "rdma"), NVFERRY_DEVICE_NOT_FOUND);

    memories(engine);
    transfers(engine, argv[1], file);
    EQUAL(uninstallTransport(engine, "nvmeof_generic"), 0);

    /* Handles that are none. */
    EQUAL(closeSegment(NULL, 1), NVFERRY_INVALID_ARGUMENT);
    EQUAL(syncSegmentCache((transfer_engine_t)&engine), NVFERRY_INVALID_ARGUMENT);
    batch_id_t batch = allocateBatchID(engine, 1);
    destroyTransferEngine(engine);
    EQUAL(nvferry_destroy(engine, 0), NVFERRY_INVALID_ARGUMENT);
    destroyTransferEngine(engine);
    EQUAL(freeBatchID(engine, batch), NVFERRY_INVALID_ARGUMENT);
    EQUAL(allocateBatchID(engine, 1), INVALID_BATCH);
    SAYS("destroyed");
    printf("all is well\n");
    return 0;
}
