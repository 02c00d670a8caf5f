/* SPDX-License-Identifier: MIT
 *
 * Lists of ids: looked up by binary search, since a survey has many more ids than the list. */
#include "commands/id_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "survey/reader.h"

enum { IDS_MOST = 1 << 20, IDS_TOGETHER = 1 << 12, ID_SHOWN_BYTES = 256 };

/* Reading ----------------------------------------------------------------------------------------------------------------------
 */

struct growing {
    char **id;
    size_t count, capacity;
};

static int add(struct growing *ids, const char *start, size_t length, const char *option, struct error *error)
{
    while (length > 0 && (*start == ' ' || *start == '\t')) start++, length--;
    while (length > 0 && (start[length - 1] == ' ' || start[length - 1] == '\t')) length--;
    if (length == 0) return STATUS_OK;
    if (ids->count == IDS_MOST) return error_set(error, STATUS_USAGE, "%s: names more than %d light curves", option, IDS_MOST);
    if (memchr(start, 0, length)) return error_set(error, STATUS_USAGE, "%s: an id with a NUL byte", option);
    memory_grow((void **)&ids->id, &ids->capacity, ids->count + 1, sizeof *ids->id, "ids");
    char *id = memory_new(length + 1, 1, "an id");
    memcpy(id, start, length);
    id[length] = 0;
    ids->id[ids->count++] = id;
    return STATUS_OK;
}

static int read_words(struct growing *ids, const char *option, const char *words, struct error *error)
{
    for (bool more = true; more && !error->status;) {
        size_t length = strcspn(words, ",");
        add(ids, words, length, option, error);
        more = words[length] != 0;
        words += length + more;
    }
    return error->status;
}

static int read_file(struct growing *ids, const char *option, const char *path, struct error *error)
{
    struct reader reader = {0};
    struct text line;
    if (!reader_open(&reader, path, error))
        while (!reader_line(&reader, &line, error) && line.start && !add(ids, line.start, line.length, option, error)) continue;
    reader_close(&reader);
    return error->status;
}

/* An id and where it stands, for sorting. */
struct entry {
    char *id;
    int place;
};

static int compare(const void *one, const void *other)
{
    const struct entry *a = one, *b = other;
    int order = strcmp(a->id, b->id);
    return order ? order : a->place < b->place ? -1 : a->place > b->place;
}

/* Of equal ids the first stays; the others are freed and become NULL. */
static void drop_copies(struct growing *ids, struct entry *entry)
{
    for (size_t i = 0, kept = 0; i < ids->count; i++) {
        if (i == 0 || strcmp(entry[kept].id, entry[i].id) != 0) {
            kept = i;
            continue;
        }
        ids->id[entry[i].place] = NULL;
        memory_free(entry[i].id);
        entry[i].id = NULL;
    }
}

static void fill(struct id_list *list, struct growing *ids)
{
    size_t count = ids->count;
    struct entry *entry = memory_new(count, sizeof *entry, "ids");
    int *place = memory_new(count, sizeof *place, "ids"); /* in the list, of each that was read */
    for (size_t i = 0; i < count; i++) entry[i] = (struct entry){ids->id[i], (int)i};
    qsort(entry, count, sizeof *entry, compare);
    drop_copies(ids, entry);
    list->id = memory_new(count, sizeof *list->id, "ids");
    for (size_t i = 0; i < count; i++) {
        place[i] = list->count;
        if (ids->id[i]) list->id[list->count++] = ids->id[i];
    }
    list->order = memory_new(count, sizeof *list->order, "ids");
    for (size_t i = 0, ordered = 0; i < count; i++)
        if (entry[i].id) list->order[ordered++] = place[entry[i].place];
    list->place = memory_new(count, sizeof *list->place, "ids");
    list->found = memory_zeroed(count, sizeof *list->found, "ids");
    for (int i = 0; i < list->count; i++) list->place[i] = -1;
    memory_free(place);
    memory_free(entry);
}

int id_list_read(struct id_list *list, const char *option, const char *words, struct error *error)
{
    struct growing ids = {0};
    *list = (struct id_list){0};
    if (words[0] == '@')
        read_file(&ids, option, words + 1, error);
    else
        read_words(&ids, option, words, error);
    if (!error->status && ids.count == 0) error_set(error, STATUS_USAGE, "%s: '%s' names no light curve", option, words);
    fill(list, &ids);
    memory_free(ids.id);
    return error->status;
}

void id_list_release(struct id_list *list)
{
    for (int i = 0; i < list->count; i++) memory_free(list->id[i]);
    memory_free(list->id);
    memory_free(list->place);
    memory_free(list->found);
    memory_free(list->order);
    *list = (struct id_list){0};
}

/* Finding ----------------------------------------------------------------------------------------------------------------------
 */

int id_list_find(const struct id_list *list, const char *id)
{
    int low = 0, high = list->count;
    while (low < high) {
        int middle = (low + high) / 2, order = strcmp(list->id[list->order[middle]], id);
        if (order == 0) return list->order[middle];
        *(order < 0 ? &low : &high) = order < 0 ? middle + 1 : middle;
    }
    return -1;
}

void id_list_note(struct id_list *list, const char *const *ids, int64_t count, int64_t first)
{
    for (int64_t i = 0; i < count; i++) {
        int at = id_list_find(list, ids[i]);
        if (at < 0) continue;
        if (list->found[at]++ == 0) list->place[at] = first + i;
    }
}

void id_list_share(struct id_list *list, struct comm *comm)
{
    comm_max_int64(comm, list->place, list->count);
    comm_sum_int64(comm, list->found, list->count);
}

const char *id_list_missing(const struct id_list *list)
{
    for (int i = 0; i < list->count; i++)
        if (list->found[i] == 0) return list->id[i];
    return NULL;
}

int id_list_check_once(const struct id_list *list, const char *where, struct error *error)
{
    char name[SHOWN_TEXT];
    for (int i = 0; i < list->count; i++)
        if (list->found[i] > 1)
            return error_set(error, STATUS_FAILED, "%s: has %lld light curves with the id %s", where, (long long)list->found[i],
                             shown(list->id[i], name));
    return error->status;
}

const char *id_nearest(const char *id, const char *nearest, const char *const *ids, int64_t count)
{
    const char *words[IDS_TOGETHER + 1];
    for (int64_t first = 0; first < count; first += IDS_TOGETHER) {
        int words_count = 0;
        if (nearest) words[words_count++] = nearest;
        for (int64_t i = first; i < count && i < first + IDS_TOGETHER; i++) words[words_count++] = ids[i];
        nearest = nearest_word(id, words, words_count);
    }
    return nearest;
}

/* What each rank knows, to all of them: the texts of all ranks, ID_SHOWN_BYTES apart; "" for nothing. */
static char *gather_texts(const char *text, struct comm *comm)
{
    char own[ID_SHOWN_BYTES] = "";
    char *all = memory_zeroed((size_t)comm_size(comm), ID_SHOWN_BYTES, "ids");
    if (text && strlen(text) < sizeof own) memcpy(own, text, strlen(text));
    comm_gather(comm, own, sizeof own, all);
    return all;
}

int id_missing(const struct id_list *list, const char *option, const char *where, const char *nearest, const char *example,
               struct comm *comm, struct error *error)
{
    char name[SHOWN_TEXT], other[SHOWN_TEXT], more[48] = "";
    const char *id = id_list_missing(list), *best = NULL, *any = NULL;
    char *near = gather_texts(nearest, comm), *examples = gather_texts(example, comm);
    int missing = 0;
    for (int i = 0; i < list->count; i++) missing += list->found[i] == 0;
    for (int r = 0; r < comm_size(comm); r++) {
        const char *word = near + (size_t)r * ID_SHOWN_BYTES, *there = examples + (size_t)r * ID_SHOWN_BYTES;
        if (*word) best = id_nearest(id, best, &word, 1);
        if (*there && !any) any = there;
    }
    if (missing > 1) snprintf(more, sizeof more, " (nor %d more of the list)", missing - 1);
    shown(id, name);
    if (best)
        error_set(error, STATUS_USAGE, "%s: %s has no light curve '%s'%s, did you mean %s?", option, where, name, more,
                  shown(best, other));
    else
        error_set(error, STATUS_USAGE, "%s: %s has no light curve '%s'%s; its ids look like %s", option, where, name, more,
                  any ? shown(any, other) : "nothing");
    memory_free(near);
    memory_free(examples);
    return error->status;
}
