/* SPDX-License-Identifier: MIT
 *
 * Light curves that the user names by their ids: ID,ID,.. or @FILE with an id a line. */
#ifndef ASTROMER_COMMANDS_ID_LIST_H
#define ASTROMER_COMMANDS_ID_LIST_H

#include "comm/comm.h"

struct id_list {
    int count;
    char **id;      /* in the order given, each once; owned, as all here */
    int64_t *place; /* index of the light curve in the survey; -1: not found so far */
    int64_t *found; /* how often it was found */
    int *order;     /* the list's places by id */
};

/* `option` (--ids) names the words in messages. An id that is named twice counts once. Not collective. id_list_release is fine
 * after a failure and on a zeroed struct. */
int id_list_read(struct id_list *list, const char *option, const char *words, struct error *error);
void id_list_release(struct id_list *list);

/* Where in the list an id stands; -1: nowhere. */
int id_list_find(const struct id_list *list, const char *id);
/* Notes those of the list among light curves first .. first + count - 1 of the survey. Each rank shows it its own. */
void id_list_note(struct id_list *list, const char *const *ids, int64_t count, int64_t first);
/* When all ranks have shown theirs: all know all places. Collective. */
void id_list_share(struct id_list *list, struct comm *comm);
/* The first of the list that is not in the survey; NULL: all are. The same on all ranks after id_list_share. */
const char *id_list_missing(const struct id_list *list);

/* For naming the nearest id to one that is missing: the nearer one of `nearest` (what came out so far, or NULL) and of ids. What
 * is returned is one of these pointers, or NULL when none is near. */
const char *id_nearest(const char *id, const char *nearest, const char *const *ids, int64_t count);
/* Sets the error for a missing id, `nearest` and `example` (an id that is there; used when none is near) being what this rank
 * knows, NULL for nothing. Collective; returns STATUS_USAGE on all ranks. */
int id_missing(const struct id_list *list, const char *option, const char *where, const char *nearest, const char *example,
               struct comm *comm, struct error *error);
/* STATUS_FAILED where an id of the list was found more than once. Not collective, after id_list_share. */
int id_list_check_once(const struct id_list *list, const char *where, struct error *error);

#endif
