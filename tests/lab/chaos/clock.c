/* A wall clock and a boot of one's own, for a process that is started with this in LD_PRELOAD.
 *
 * FLEETMEND_CHAOS_CLOCK names a file of eight bytes: microseconds that are added to CLOCK_REALTIME, read anew at
 * each call, so that the clock jumps while the process runs. FLEETMEND_CHAOS_BOOT names a file that is opened in the
 * place of the kernel's boot id. The boot and monotonic clocks are left alone, as a clock that is set leaves them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset_us;
static const char *boot;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FLEETMEND_CHAOS_CLOCK");
    boot = getenv("FLEETMEND_CHAOS_BOOT");
    if (!path)
        return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        offset_us = map;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (failed || !offset_us || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t us = *offset_us + now->tv_nsec / 1000;
    int64_t seconds = us / 1000000, rest = us % 1000000;
    if (rest < 0) {
        rest += 1000000;
        seconds -= 1;
    }
    now->tv_sec += seconds;
    now->tv_nsec = rest * 1000 + now->tv_nsec % 1000;
    return 0;
}

static int opened(const char *path, int flags, mode_t mode) {
    if (boot && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        path = boot;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return opened(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return opened(path, flags, mode);
}
