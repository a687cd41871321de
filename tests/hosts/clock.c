/*
 * Loaded before the C library (LD_PRELOAD): the time of day is CLOCK_OFFSET seconds off. Nothing else is: monotonic
 * clocks, sleeps, the times that the kernel gives to files, and its coarse clock, by which it gives them. (Debian 12's
 * libfaketime 0.9.10 makes each time.sleep() of Python fail with EINVAL: its clock_nanosleep() mixes the two clocks.)
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    const char *offset = getenv("CLOCK_OFFSET");
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && offset && clock == CLOCK_REALTIME)
        now->tv_sec += atol(offset);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    (void)zone;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
