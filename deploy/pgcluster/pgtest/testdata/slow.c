// Preloaded into PostgreSQL: fsync and fdatasync take so many microseconds longer as the file SLOW_DISK says, if it is there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_disk(void) {
	const char *path = getenv("SLOW_DISK");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (!f)
		return;
	long us = 0;
	if (fscanf(f, "%ld", &us) == 1 && us > 0)
		usleep((useconds_t)us);
	fclose(f);
}

int fsync(int fd) {
	wait_for_disk();
	return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
	wait_for_disk();
	return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
