/* SPDX-License-Identifier: MIT
 *
 * Rank 0 does all that is to be done with the folders; the others wait for its word. */
#include "survey/building.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/lock.h"

/* Fills the names; slashes at the end of OUT mean nothing. */
static int name_folders(struct building *building, const char *out, struct error *error)
{
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') length--;
    if (length == 0 || length >= PATH_MAX - 64)
        return error_set(error, STATUS_USAGE, "--out needs the path of the survey to make, not %s",
                         length ? "one this long" : "nothing");
    memcpy(building->out, out, length);
    building->out[length] = 0;
    const char *slash = strrchr(building->out, '/'), *name = slash ? slash + 1 : building->out;
    if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return error_set(error, STATUS_USAGE, "--out %s: give the survey's folder a name", building->out);
    if (strlen(name) >= sizeof building->name - 16)
        return error_set(error, STATUS_USAGE, "--out %s: the name is too long", building->out);
    strcpy(building->name, name);
    snprintf(building->partial, sizeof building->partial, "%s.partial", building->out);
    return STATUS_OK;
}

static int check_free(const char *out, struct error *error)
{
    struct stat status;
    if (stat(out, &status))
        return errno == ENOENT ? STATUS_OK : error_set(error, STATUS_FAILED, "%s: cannot be looked at: %s", out, strerror(errno));
    DIR *folder = S_ISDIR(status.st_mode) ? opendir(out) : NULL;
    bool empty = folder != NULL;
    struct dirent *entry;
    while (empty && (entry = readdir(folder))) empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    if (folder) closedir(folder);
    return empty ? STATUS_OK : error_set(error, STATUS_FAILED, "%s: is there already; remove it or choose another --out", out);
}

/* A survey goes where a link points to, not in the link's place: rename would not follow it. */
static int follow_link(struct building *building, struct error *error)
{
    struct stat status;
    if (lstat(building->out, &status) || !S_ISLNK(status.st_mode)) return STATUS_OK;
    char *target = realpath(building->out, NULL);
    if (!target) return error_set(error, STATUS_FAILED, "%s: is a link to what is not there: %s", building->out, strerror(errno));
    if (strlen(target) >= PATH_MAX - 64)
        error_set(error, STATUS_USAGE, "%s: links to a path that is too long", building->out);
    else
        strcpy(building->out, target);
    free(target);
    snprintf(building->partial, sizeof building->partial, "%s.partial", building->out);
    return error->status;
}

static void lock_path(const struct building *building, char path[PATH_MAX + 64])
{
    snprintf(path, PATH_MAX + 64, "%s-lock", building->partial);
}

/* A file system that has no locks is no reason to fail. */
static int lock(struct building *building, struct error *error)
{
    char path[PATH_MAX + 64];
    bool taken;
    lock_path(building, path);
    building->lock = lock_take(path, &taken);
    if (!taken) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: another run is making this survey; wait for it, stop it, or choose another --out",
                     building->partial);
}

static void unlock(struct building *building)
{
    char path[PATH_MAX + 64];
    lock_path(building, path);
    lock_drop(path, building->lock);
    building->lock = -1;
}

/* What a folder holds of what a build makes. */
struct leftovers {
    int64_t shards, of; /* finished ones, and how many there were to be */
    int64_t others;     /* spills and half a shard */
};

static int count_leftovers(const char *partial, DIR *folder, struct error *error)
{
    struct dirent *entry;
    struct leftovers left = {0};
    while ((entry = readdir(folder))) {
        const char *name = entry->d_name;
        long long shard, of;
        int length = 0;
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        if (sscanf(name, "shard-%lld-of-%lld.h5%n", &shard, &of, &length) == 2 && length && !name[length])
            left.shards++, left.of = of;
        else if (!strncmp(name, "spill-", 6) || !strncmp(name, "shard-", 6))
            left.others++;
        else
            return error_set(error, STATUS_FAILED, "%s: is in the way and holds %s, which no ingest has made; move it away",
                             partial, name);
    }
    if (left.shards && left.shards >= left.of && !left.others)
        return error_set(error, STATUS_FAILED, "%s: is in the way and looks like a whole survey; rename or remove it", partial);
    return STATUS_OK;
}

/* A folder that is there already must be what a stopped build has left. */
static int check_partial(const char *partial, struct error *error)
{
    DIR *folder = opendir(partial);
    if (!folder) return error->status; /* is not there, or remove_partial says what is */
    count_leftovers(partial, folder, error);
    closedir(folder);
    return error->status;
}

/* Removes the folder with what a build makes in it. */
static int remove_partial(const char *partial, struct error *error)
{
    char path[PATH_MAX + 512];
    DIR *folder = opendir(partial);
    if (!folder) {
        if (errno == ENOENT) return STATUS_OK;
        return error_set(error, STATUS_FAILED, "%s: is in the way and cannot be removed: %s", partial, strerror(errno));
    }
    struct dirent *entry;
    while ((entry = readdir(folder))) {
        if (strncmp(entry->d_name, "spill-", 6) && strncmp(entry->d_name, "shard-", 6)) continue;
        snprintf(path, sizeof path, "%s/%s", partial, entry->d_name);
        unlink(path);
    }
    closedir(folder);
    if (rmdir(partial))
        return error_set(error, STATUS_FAILED, "%s: is in the way and cannot be removed: %s", partial, strerror(errno));
    return STATUS_OK;
}

/* Makes the folders above OUT that are missing. */
static int make_parents(struct building *building, struct error *error)
{
    char path[PATH_MAX];
    strcpy(path, building->out);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (!mkdir(path, 0777))
            building->made_parents++;
        else if (errno != EEXIST)
            return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", path, strerror(errno));
        *slash = '/';
    }
    return STATUS_OK;
}

static void remove_parents(struct building *building)
{
    char path[PATH_MAX], *slash;
    strcpy(path, building->out);
    for (; building->made_parents && (slash = strrchr(path, '/')); building->made_parents--) {
        while (slash > path && slash[-1] == '/') slash--;
        *slash = 0;
        if (rmdir(path)) return;
    }
}

/* From here to the end the lock says that the folders are this build's. */
static int make_folders(struct building *building, struct error *error)
{
    if (follow_link(building, error) || make_parents(building, error) || lock(building, error)) return error->status;
    if (check_free(building->out, error) || check_partial(building->partial, error) || remove_partial(building->partial, error))
        return error->status;
    if (mkdir(building->partial, 0777))
        error_set(error, STATUS_FAILED, "%s: cannot be made: %s", building->partial, strerror(errno));
    return error->status;
}

int building_begin(struct building *building, const char *out, struct comm *comm, struct error *error)
{
    *building = (struct building){.lock = -1};
    if (!name_folders(building, out, error) && comm_rank(comm) == 0 && make_folders(building, error)) {
        unlock(building);
        remove_parents(building);
    }
    if (comm_agree(comm, error)) return error->status;
    comm_broadcast(comm, building->partial, sizeof building->partial, 0);
    return STATUS_OK;
}

/* So that the names in a folder are on the disk too; not every file system can. */
static void flush_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

/* OUT.partial becomes OUT, which may be an empty folder. */
static int give_name(const struct building *building, struct error *error)
{
    flush_folder(building->partial);
    if (rename(building->partial, building->out))
        return error_set(error, STATUS_FAILED, "%s: cannot be renamed to %s: %s; the survey is whole, rename it",
                         building->partial, building->out, strerror(errno));
    char parent[PATH_MAX];
    strcpy(parent, building->out);
    char *slash = strrchr(parent, '/');
    if (slash) slash[slash == parent] = 0;
    flush_folder(slash ? parent : ".");
    return STATUS_OK;
}

int building_end(struct building *building, struct comm *comm, struct error *error)
{
    comm_agree(comm, error);
    if (comm_rank(comm) == 0) {
        struct error ignored = {0};
        bool failed = error->status;
        if (failed)
            remove_partial(building->partial, &ignored);
        else
            give_name(building, error);
        unlock(building);
        if (failed) remove_parents(building);
    }
    return comm_agree(comm, error);
}
