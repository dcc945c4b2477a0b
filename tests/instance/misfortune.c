/* LD_PRELOAD: a failing disk and a jumping clock, for one process and its children.

   While DISK exists, what the C library does to a path below STATE fails with EIO; where DISK says "sync", only fsync(2)
   does, as of a disk that takes all and keeps nothing. CLOCK holds the seconds by which the wall clock is wrong.
   (libfaketime would do for the clock, but its clock_nanosleep gives EINVAL where the monotonic clock is left alone.)

   cc -shared -fPIC -o misfortune.so misfortune.c -ldl */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STATE "/var/lib/ec2ssh-agent"
#define DISK "/run/misfortune.disk"
#define CLOCK "/run/misfortune.clock"

/* What a file says, cut to `size`; -1 where there is none. */
static int said(const char *path, char *to, int size) {
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), length;
    if (file < 0)
        return -1;
    length = syscall(SYS_read, file, to, size - 1);
    syscall(SYS_close, file);
    to[length > 0 ? length : 0] = 0;
    return length;
}

static int broken(int sync) {
    char word[8];
    return said(DISK, word, sizeof word) >= 0 && (sync || word[0] != 's');
}

static int fails(const char *path) {
    if (!path || strncmp(path, STATE, strlen(STATE)) || !broken(0))
        return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t bits = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        return fails(path) ? -1 : REAL(name)(path, flags, bits);                                                       \
    }
#define ONE(name, type, second)                                                                                        \
    int name(const char *path, type second) { return fails(path) ? -1 : REAL(name)(path, second); }
#define PATH(name)                                                                                                     \
    int name(const char *path) { return fails(path) ? -1 : REAL(name)(path); }

OPEN(open)
OPEN(open64)
ONE(mkdir, mode_t, bits)
ONE(chmod, mode_t, bits)
PATH(unlink)
PATH(rmdir)

int stat64(const char *path, struct stat64 *to) { return fails(path) ? -1 : REAL(stat64)(path, to); }
int lstat64(const char *path, struct stat64 *to) { return fails(path) ? -1 : REAL(lstat64)(path, to); }
int rename(const char *from, const char *to) { return fails(to) ? -1 : REAL(rename)(from, to); }
DIR *opendir(const char *path) { return fails(path) ? NULL : REAL(opendir)(path); }

int fsync(int descriptor) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) < 0 || strncmp(path, STATE, strlen(STATE)) || !broken(1))
        return REAL(fsync)(descriptor);
    errno = EIO;
    return -1;
}

int clock_gettime(clockid_t clock, struct timespec *to) {
    char text[32];
    int kept = errno, result = REAL(clock_gettime)(clock, to);
    if (!result && clock == CLOCK_REALTIME && said(CLOCK, text, sizeof text) > 0)
        to->tv_sec += atol(text);
    errno = result ? errno : kept;
    return result;
}
