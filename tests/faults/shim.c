/* Counts a process's calls to the file system below one folder, and lets the k-th of them fail or be the last.
 *
 * Loaded with LD_PRELOAD; does nothing until shim_arm is called. Only calls through libc's symbols are seen, which is
 * how Python and its libraries read and write.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, TORN, FAIL, SHORT };
enum { READS = 1, WRITES = 2 };

static char folder[4096];
static size_t length;
static long at, seen;
static int mode, code, kinds, journal = -1, armed;
static __thread int inside;

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = dlsym(RTLD_NEXT, #name)

void shim_arm(const char *prefix, long number, int what, int error, int which, const char *log) {
  REAL(open);
  strncpy(folder, prefix, sizeof folder - 1);
  length = strlen(folder);
  at = number, mode = what, code = error, kinds = which, seen = 0;
  journal = *log ? real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
  armed = 1;
}

long shim_seen(void) { return seen; }

static void name_of(int fd, const char *path, char *out, size_t room) {
  /* the path of a call relative to fd, or of fd itself where path is NULL */
  char link[64];
  ssize_t n = 0;
  if (path && (*path == '/' || fd == AT_FDCWD)) {
    if (*path != '/' && getcwd(out, room)) n = strlen(out), out[n++] = '/';
    snprintf(out + n, room - n, "%s", path);
    return;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  n = readlink(link, out, room - 1);
  if (n < 0) n = 0;
  out[n] = 0;
  if (path) snprintf(out + n, room - n, "/%s", path);
}

/* Whether this call is the one; what it does instead is up to the caller. A kill happens here. */
static int hit(int kind, const char *call, int fd, const char *path) {
  REAL(write);
  char name[4096], line[4400];
  if (!armed || inside || !(kinds & kind)) return 0;
  inside = 1;
  name_of(fd, path, name, sizeof name);
  int mine = !strncmp(name, folder, length);
  if (mine) {
    long number = __sync_add_and_fetch(&seen, 1);
    if (journal >= 0) {
      int n = snprintf(line, sizeof line, "%ld %s %s\n", number, call, name + length);
      if (real(journal, line, n) < 0) journal = -1;
    }
    mine = number == at;
    if (mine && (mode == KILL || (mode == TORN && strcmp(call, "write")))) kill(getpid(), SIGKILL);
  }
  inside = 0;
  return mine;
}

#define REFUSED(kind, call, fd, path) \
  if (hit(kind, call, fd, path) && mode == FAIL) { errno = code; return -1; }

#define MODE(flags) \
  mode_t permission = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); permission = va_arg(rest, int); va_end(rest); }
#define WANTS(flags) (((flags) & O_ACCMODE) == O_RDONLY && !((flags) & O_CREAT) ? READS : WRITES)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); MODE(flags); REFUSED(WANTS(flags), WANTS(flags) == READS ? "open" : "create", AT_FDCWD, path); \
    return real(path, flags, permission); }
#define OPENAT(name) \
  int name(int fd, const char *path, int flags, ...) { \
    REAL(name); MODE(flags); REFUSED(WANTS(flags), WANTS(flags) == READS ? "open" : "create", fd, path); \
    return real(fd, path, flags, permission); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

/* a write that is torn has put half of its bytes on disk when the process dies; a short one says so and goes on */
#define WRITE(name, arguments, call, half) \
  ssize_t name arguments { \
    REAL(name); \
    if (hit(WRITES, "write", fd, NULL)) { \
      if (mode == TORN) { half; fsync(fd); kill(getpid(), SIGKILL); } \
      if (mode == SHORT && count > 1) return half; \
      if (mode == FAIL) { errno = code; return -1; } \
    } \
    return call; }
WRITE(write, (int fd, const void *data, size_t count), real(fd, data, count), real(fd, data, count / 2))
WRITE(pwrite, (int fd, const void *data, size_t count, off_t where), real(fd, data, count, where), real(fd, data, count / 2, where))
WRITE(pwrite64, (int fd, const void *data, size_t count, off64_t where), real(fd, data, count, where), real(fd, data, count / 2, where))

#define READ(name, arguments, call, half) \
  ssize_t name arguments { \
    REAL(name); \
    if (hit(READS, "read", fd, NULL)) { \
      if (mode == SHORT && count > 1) return half; \
      if (mode == FAIL) { errno = code; return -1; } \
    } \
    return call; }
READ(read, (int fd, void *data, size_t count), real(fd, data, count), real(fd, data, count / 2))
READ(pread, (int fd, void *data, size_t count, off_t where), real(fd, data, count, where), real(fd, data, count / 2, where))
READ(pread64, (int fd, void *data, size_t count, off64_t where), real(fd, data, count, where), real(fd, data, count / 2, where))

#define PLAIN(name, arguments, call, what, fd, path) \
  int name arguments { REAL(name); REFUSED(WRITES, what, fd, path); return call; }
PLAIN(fsync, (int fd), real(fd), "fsync", fd, NULL)
PLAIN(fdatasync, (int fd), real(fd), "fsync", fd, NULL)
PLAIN(ftruncate, (int fd, off_t n), real(fd, n), "truncate", fd, NULL)
PLAIN(ftruncate64, (int fd, off64_t n), real(fd, n), "truncate", fd, NULL)
PLAIN(rename, (const char *from, const char *to), real(from, to), "rename", AT_FDCWD, to)
PLAIN(renameat, (int a, const char *from, int b, const char *to), real(a, from, b, to), "rename", b, to)
PLAIN(link, (const char *from, const char *to), real(from, to), "link", AT_FDCWD, to)
PLAIN(linkat, (int a, const char *from, int b, const char *to, int flags), real(a, from, b, to, flags), "link", b, to)
PLAIN(unlink, (const char *path), real(path), "unlink", AT_FDCWD, path)
PLAIN(unlinkat, (int fd, const char *path, int flags), real(fd, path, flags), "unlink", fd, path)
PLAIN(mkdir, (const char *path, mode_t m), real(path, m), "mkdir", AT_FDCWD, path)
PLAIN(mkdirat, (int fd, const char *path, mode_t m), real(fd, path, m), "mkdir", fd, path)
PLAIN(rmdir, (const char *path), real(path), "rmdir", AT_FDCWD, path)
