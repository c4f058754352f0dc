/* Each function of the header at its type, and where each field lies: what an application's binary depends on. Whoever
 * changes a line here breaks programs that were built before, and must give the library another soname. */
#include <nvferry.h>

#ifdef __cplusplus
#define PIN(what) static_assert(what, #what)
#else
#define PIN(what) _Static_assert(what, #what)
#endif

PIN(sizeof(struct transfer_request) == 40);
PIN(offsetof(struct transfer_request, opcode) == 0 && sizeof(int) == 4);
PIN(offsetof(struct transfer_request, source) == 8);
PIN(offsetof(struct transfer_request, target_id) == 16);
PIN(offsetof(struct transfer_request, file_id) == 20);
PIN(offsetof(struct transfer_request, target_offset) == 24);
PIN(offsetof(struct transfer_request, length) == 32);
PIN(sizeof(struct transfer_status) == 16);
PIN(offsetof(struct transfer_status, status) == 0);
PIN(offsetof(struct transfer_status, transferred_bytes) == 8);
PIN(sizeof(struct buffer_entry) == 16);
PIN(offsetof(struct buffer_entry, addr) == 0);
PIN(offsetof(struct buffer_entry, length) == 8);

PIN(LOCAL_SEGMENT == 0 && OPCODE_READ == 0 && OPCODE_WRITE == 1 && INVALID_BATCH == UINT64_MAX);
PIN(STATUS_WAITING == 0 && STATUS_PENDING == 1 && STATUS_INVALID == 2 && STATUS_CANCELED == 3);
PIN(STATUS_COMPLETED == 4 && STATUS_TIMEOUT == 5 && STATUS_FAILED == 6);
PIN(NVFERRY_INVALID_ARGUMENT == -1 && NVFERRY_TOO_MANY_REQUESTS == -2 && NVFERRY_ADDRESS_NOT_REGISTERED == -3);
PIN(NVFERRY_BATCH_BUSY == -4 && NVFERRY_DEVICE_NOT_FOUND == -6 && NVFERRY_ADDRESS_OVERLAPPED == -7);
PIN(NVFERRY_DNS == -101 && NVFERRY_SOCKET == -102 && NVFERRY_MALFORMED_JSON == -103);
PIN(NVFERRY_REJECT_HANDSHAKE == -104 && NVFERRY_METADATA == -200 && NVFERRY_ENDPOINT == -201);
PIN(NVFERRY_CONTEXT == -202 && NVFERRY_NUMA == -300 && NVFERRY_CLOCK == -301 && NVFERRY_MEMORY == -302);
PIN(NVFERRY_NOT_IMPLEMENTED == -303);

/* The basic types, not the header's names for them: those could change together with the functions. */
typedef void *handle;
struct {
    handle (*create)(const char *, const char *, const char *, uint64_t, int);
    int (*destroy)(handle, uint64_t);
    void (*destroy_void)(handle);
    int (*name)(handle, char *, size_t);
    handle (*install)(handle, const char *, void **);
    int (*with_text[3])(handle, const char *);
    int32_t (*open[2])(handle, const char *);
    int (*close)(handle, int32_t);
    int (*sync)(handle);
    int (*register_memory)(handle, void *, size_t, const char *, int);
    int (*unregister_memory)(handle, void *);
    int (*register_list)(handle, struct buffer_entry *, size_t, const char *);
    int (*unregister_list)(handle, void **, size_t);
    int (*register_file)(handle, const char *, size_t, uint32_t *);
    uint64_t (*allocate)(handle, size_t);
    int (*submit)(handle, uint64_t, struct transfer_request *, size_t);
    int (*status)(handle, uint64_t, size_t, struct transfer_status *);
    int (*batch_status)(handle, uint64_t, struct transfer_status *);
    int (*of_batch[2])(handle, uint64_t);
    int (*with_time[2])(handle, uint64_t, uint64_t);
    const char *(*why)(handle, uint64_t, size_t);
    const char *(*plain[2])(void);
} functions = {
    createTransferEngine,
    nvferry_destroy,
    destroyTransferEngine,
    getLocalIpAndPort,
    installTransport,
    {uninstallTransport, removeLocalSegment, unregisterLocalFile},
    {openSegment, openSegmentNoCache},
    closeSegment,
    syncSegmentCache,
    registerLocalMemory,
    unregisterLocalMemory,
    registerLocalMemoryBatch,
    unregisterLocalMemoryBatch,
    registerLocalFile,
    allocateBatchID,
    submitTransfer,
    getTransferStatus,
    getBatchTransferStatus,
    {freeBatchID, nvferry_cancel_batch},
    {nvferry_wait_batch, nvferry_set_batch_timeout},
    nvferry_transfer_error,
    {nvferry_last_error, nvferry_version},
};

int main(void) { return functions.plain[0]()[0] != 0; }
