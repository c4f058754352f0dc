/* What the test programs share: an engine that offers argv[1] and opens its own segment. */
#include <nvferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES (1 << 20)

/* Of the values that are printed, the second is what was meant. */
#define EQUAL(is, meant) \
    do { \
        long long is_ = (long long)(is), meant_ = (long long)(meant); \
        if (is_ != meant_) { \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld: %s\n", __FILE__, __LINE__, #is, is_, meant_, \
                    nvferry_last_error()); \
            exit(1); \
        } \
    } while (0)
#define CHECK(what) EQUAL(!!(what), 1)
/* Whether the last error's text has this in it. */
#define SAYS(what) CHECK(strstr(nvferry_last_error(), what) != NULL)

static inline transfer_engine_t new_engine(const char *name) {
    transfer_engine_t engine = createTransferEngine("memory:c-test", name, "127.0.0.1", 0, 0);
    CHECK(engine != NULL);
    return engine;
}

/* Offers the file. */
static inline transfer_engine_t offering_engine(const char *name, const char *path, file_id_t *file) {
    char trid[] = "trtype=tcp traddr=127.0.0.1 trsvcid=0";
    void *args[] = {trid};
    transfer_engine_t engine = new_engine(name);
    CHECK(installTransport(engine, "nvmeof_generic", args) != NULL);
    EQUAL(registerLocalFile(engine, path, FILE_BYTES, file), 0);
    return engine;
}
