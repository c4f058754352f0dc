/* nvferry: file segments over NVMe fabrics, for host applications in C and C++. All of it is told in docs/c-api.md.
 *
 * Errors: functions that return int or segment_id_t return a negative error number (NVFERRY_*); those that return a
 * pointer return NULL; allocateBatchID returns INVALID_BATCH. nvferry_last_error() has the text, one per thread.
 * Threads: every function may be called from any thread at any time. Strings are not used after the call.
 * Handles: engines and batches are numbers that are never given out twice. One that is stale, foreign or made up gives
 * NVFERRY_INVALID_ARGUMENT. All other pointers must be valid. Sizes and offsets are in bytes.
 * Time: no call waits for ever. Those that talk to others (install, open, register, sync, and their opposites) end
 * within 10 s or a little more.
 */
#ifndef NVFERRY_H
#define NVFERRY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define segment_handle_t int32_t
#define segment_id_t int32_t
#define file_id_t uint32_t
#define batch_id_t uint64_t
#define INVALID_BATCH UINT64_MAX
/* As a request's target_id: the engine's own segment. */
#define LOCAL_SEGMENT (0)

#define OPCODE_READ (0)
#define OPCODE_WRITE (1)

#define STATUS_WAITING (0)
#define STATUS_PENDING (1)
#define STATUS_INVALID (2)
#define STATUS_CANCELED (3)
#define STATUS_COMPLETED (4)
#define STATUS_TIMEOUT (5)
#define STATUS_FAILED (6)

#define NVFERRY_INVALID_ARGUMENT (-1)
#define NVFERRY_TOO_MANY_REQUESTS (-2)
#define NVFERRY_ADDRESS_NOT_REGISTERED (-3)
#define NVFERRY_BATCH_BUSY (-4)
#define NVFERRY_DEVICE_NOT_FOUND (-6)
#define NVFERRY_ADDRESS_OVERLAPPED (-7)
#define NVFERRY_DNS (-101)
#define NVFERRY_SOCKET (-102)
#define NVFERRY_MALFORMED_JSON (-103)
#define NVFERRY_REJECT_HANDSHAKE (-104)
#define NVFERRY_METADATA (-200)
#define NVFERRY_ENDPOINT (-201)
#define NVFERRY_CONTEXT (-202)
#define NVFERRY_NUMA (-300)
#define NVFERRY_CLOCK (-301)
#define NVFERRY_MEMORY (-302)
#define NVFERRY_NOT_IMPLEMENTED (-303)

struct transfer_request {
    int opcode;             /* OPCODE_READ: file to memory; OPCODE_WRITE: memory to file */
    void *source;           /* within registered memory */
    segment_id_t target_id; /* from openSegment, or LOCAL_SEGMENT */
    file_id_t file_id;      /* from the segment's registerLocalFile */
    uint64_t target_offset; /* in the file */
    uint64_t length;
};
typedef struct transfer_request transfer_request_t;

struct transfer_status {
    int status;
    uint64_t transferred_bytes;
};
typedef struct transfer_status transfer_status_t;

struct buffer_entry {
    void *addr;
    size_t length;
};
typedef struct buffer_entry buffer_entry_t;

typedef void *transfer_engine_t;
typedef void *transport_t;

/* The last three arguments are the original's, and not used here: this engine has no port of its own. */
transfer_engine_t createTransferEngine(const char *metadata_conn_string, const char *local_server_name,
                                       const char *ip_or_host_name, uint64_t rpc_port, int auto_discover);
/* Ends the engine: takes its files back, closes its segments, ends what is under way with a status, frees its batches
 * and unregisters its memory. What does not end by itself within timeout_ms is given up.
 * NVFERRY_BATCH_BUSY: the engine has ended, but a device still uses registered memory, which must stay valid; the
 * handle still stands, for this call to be made again. With 0 and every other error the engine is gone and its memory
 * is the caller's; an error says what did not end as it should, such as a segment that could not be withdrawn. */
int nvferry_destroy(transfer_engine_t engine, uint64_t timeout_ms);
/* nvferry_destroy(engine, 30000), without the result. A program that frees registered memory afterwards, and whose
 * devices may stop answering, calls that instead, or asks it afterwards: NVFERRY_INVALID_ARGUMENT says "gone". */
void destroyTransferEngine(transfer_engine_t engine);
/* Writes the server name, under which others open this engine's segment. NVFERRY_INVALID_ARGUMENT: it does not fit. */
int getLocalIpAndPort(transfer_engine_t engine, char *buf_out, size_t buf_len);

/* proto: "nvmeof_generic". args[0]: "trtype=tcp adrfam=ipv4 traddr=... trsvcid=...". NULL args: offers no files.
 * What it returns only says that it went well. */
transport_t installTransport(transfer_engine_t engine, const char *proto, void **args);
int uninstallTransport(transfer_engine_t engine, const char *proto);

/* Ids are from 1 up. Opening a segment again gives the same id, and wants one closeSegment more. */
segment_id_t openSegment(transfer_engine_t engine, const char *segment_name);
/* The same, and what is known of the segment is fetched anew even if it is open already. */
segment_id_t openSegmentNoCache(transfer_engine_t engine, const char *segment_name);
int closeSegment(transfer_engine_t engine, segment_id_t segment_id);
/* The engine's own name: withdraws its segment. Another: closes it whatever its users. */
int removeLocalSegment(transfer_engine_t engine, const char *segment_name);
int syncSegmentCache(transfer_engine_t engine);

/* The memory must stay valid until it was unregistered with 0, or its engine destroyed. NVFERRY_BATCH_BUSY: a
 * transfer still uses it, even one that has timed out or was canceled; try again later. location and
 * remote_accessible are the original's, and not used here. Registering a list: all or none. Unregistering a list: all
 * are tried, the first error is returned. */
int registerLocalMemory(transfer_engine_t engine, void *addr, size_t length, const char *location,
                        int remote_accessible);
int unregisterLocalMemory(transfer_engine_t engine, void *addr);
int registerLocalMemoryBatch(transfer_engine_t engine, buffer_entry_t *buffer_list, size_t buffer_len,
                             const char *location);
int unregisterLocalMemoryBatch(transfer_engine_t engine, void **addr_list, size_t addr_len);

/* Offers the first size bytes of a file or block device; others may overwrite them from here on. */
int registerLocalFile(transfer_engine_t engine, const char *path, size_t size, file_id_t *id);
int unregisterLocalFile(transfer_engine_t engine, const char *path);

/* A batch has room for batch_size requests, 1 to 2^20. */
batch_id_t allocateBatchID(transfer_engine_t engine, size_t batch_size);
/* How long after their submission the requests submitted from now on must have ended; 0: 30 s, as at first. */
int nvferry_set_batch_timeout(transfer_engine_t engine, batch_id_t batch_id, uint64_t timeout_ms);
/* All or none is taken. Each request ends by itself by the batch's timeout, with a status; it is numbered from 0 in the
 * order of submission (its task_id). When as much is under way in the engine as may be, this waits. */
int submitTransfer(transfer_engine_t engine, batch_id_t batch_id, struct transfer_request *entries, size_t count);
int getTransferStatus(transfer_engine_t engine, batch_id_t batch_id, size_t task_id, struct transfer_status *status);
/* STATUS_PENDING while any request is under way; then STATUS_COMPLETED, or the state of the first that failed. A batch
 * with no requests is completed. */
int getBatchTransferStatus(transfer_engine_t engine, batch_id_t batch_id, struct transfer_status *status);
/* NVFERRY_BATCH_BUSY while requests are under way or another thread's call uses the batch. Of a submitTransfer at the
 * same time and this, one is refused: it with NVFERRY_INVALID_ARGUMENT, or this. */
int freeBatchID(transfer_engine_t engine, batch_id_t batch_id);

/* 0: all completed. NVFERRY_BATCH_BUSY: timeout_ms has passed first, and the requests go on. NVFERRY_ENDPOINT: all
 * ended, some failed. */
int nvferry_wait_batch(transfer_engine_t engine, batch_id_t batch_id, uint64_t timeout_ms);
/* Ends all requests under way as STATUS_CANCELED, at once. */
int nvferry_cancel_batch(transfer_engine_t engine, batch_id_t batch_id);
/* Why a request did not complete: operation, file, offset, target and cause. "" for one that completed or is under way.
 * The text stays valid as nvferry_last_error()'s does, and takes its place. */
const char *nvferry_transfer_error(transfer_engine_t engine, batch_id_t batch_id, size_t task_id);
/* This thread's last error; never NULL. Valid until the thread's next call that fails. */
const char *nvferry_last_error(void);
const char *nvferry_version(void);

#ifdef __cplusplus
}
#endif

#endif
