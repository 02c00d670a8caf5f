/* SPDX-License-Identifier: MIT
 *
 * Searching: vectors stream out of the file, first those of the queries, then all. */
#include "commands/nearest.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Light curves whose rows are looked up at once, windows read at once, vectors and queries in one product. Products come in
 * multiples of PRODUCT_STEP columns, as GPUs like them. */
enum { CURVES_AT_ONCE = 1 << 12, WINDOWS_AT_ONCE = 1 << 10, VECTORS_AT_ONCE = 1 << 11, COLUMNS_AT_ONCE = 256, PRODUCT_STEP = 8 };

/* Vectors with their lengths. */
struct vectors {
    int64_t count;
    size_t value_room, norm_room, curve_room;
    double *value;  /* count x D */
    double *norm;   /* count */
    int64_t *curve; /* count: whose they are; of the queries' vectors the query instead */
};

struct search {
    struct nearest *n;
    struct embedding_reader *reader;
    struct device *device;
    int D, padded;         /* numbers of a vector; the same in a product */
    double margin;         /* the most that a product's result can be off */
    struct vectors query;  /* the queries' vectors: columns of the products */
    int64_t columns;       /* of the products: the queries' vectors and some filled up */
    float *weight;         /* device memory: padded x columns */
    struct vectors block;  /* up to VECTORS_AT_ONCE of the survey's vectors: rows of the product */
    void *x, *y;           /* device memory: VECTORS_AT_ONCE x padded, x COLUMNS_AT_ONCE */
    float *unit, *product; /* the same on the host */
    int64_t *first_window; /* CURVES_AT_ONCE + 1 */
    int32_t *length;       /* WINDOWS_AT_ONCE */
    float *embedding;      /* WINDOWS_AT_ONCE x D */
    double *sum;           /* D */
};

/* Vectors out of the file ------------------------------------------------------------------------------------------------------
 */

/* Takes a vector of light curve `curve`. */
typedef void vector_sink(struct search *s, int64_t curve, const double *vector);

/* Windows first .. end - 1 of one light curve, which began with `begins` and ends with `ends`. */
static void take_windows(struct search *s, int64_t curve, const float *embedding, const int32_t *length, int64_t count,
                         double *observations, bool ends, vector_sink *sink)
{
    for (int64_t w = 0; w < count; w++) {
        const float *row = embedding + w * s->D;
        double weight = s->n->by == BY_CURVE ? length[w] : 1;
        for (int j = 0; j < s->D; j++) s->sum[j] += weight * (double)row[j];
        *observations += weight;
        if (s->n->by == BY_CURVE && !(ends && w == count - 1)) continue;
        for (int j = 0; j < s->D; j++) s->sum[j] /= *observations;
        sink(s, curve, s->sum);
        memset(s->sum, 0, (size_t)s->D * sizeof *s->sum);
        *observations = 0;
    }
}

/* All vectors of light curves first .. first + count - 1, at most CURVES_AT_ONCE. */
static int stream_curves(struct search *s, int64_t first, int64_t count, vector_sink *sink, struct error *error)
{
    const int64_t *row = s->first_window;
    double observations = 0;
    if (embedding_reader_first_windows(s->reader, first, count, s->first_window, error)) return error->status;
    memset(s->sum, 0, (size_t)s->D * sizeof *s->sum);
    for (int64_t begin = row[0], end, c = 0; begin < row[count]; begin = end) {
        end = row[count] - begin > WINDOWS_AT_ONCE ? begin + WINDOWS_AT_ONCE : row[count];
        if (embedding_reader_lengths(s->reader, begin, end - begin, s->length, error) ||
            embedding_reader_embeddings(s->reader, begin, end - begin, s->embedding, error))
            return error->status;
        for (int64_t from = begin, to; from < end; from = to) {
            while (row[c + 1] <= from) c++;
            to = row[c + 1] < end ? row[c + 1] : end;
            take_windows(s, first + c, s->embedding + (from - begin) * s->D, s->length + (from - begin), to - from, &observations,
                         to == row[c + 1], sink);
        }
    }
    return STATUS_OK;
}

static double dot(const double *a, const double *b, int D)
{
    double sum = 0;
    for (int j = 0; j < D; j++) sum += a[j] * b[j];
    return sum;
}

/* Appends a vector, unless it has no direction. */
static bool append(struct search *s, struct vectors *to, int64_t curve, const double *vector)
{
    double norm = sqrt(dot(vector, vector, s->D));
    size_t needed = (size_t)to->count + 1;
    if (!(norm > 0)) return false;
    memory_grow((void **)&to->value, &to->value_room, needed * (size_t)s->D, sizeof *to->value, "vectors");
    memory_grow((void **)&to->norm, &to->norm_room, needed, sizeof *to->norm, "vectors");
    memory_grow((void **)&to->curve, &to->curve_room, needed, sizeof *to->curve, "vectors");
    memcpy(to->value + to->count * s->D, vector, (size_t)s->D * sizeof *vector);
    to->norm[to->count] = norm;
    to->curve[to->count++] = curve;
    return true;
}

static void vectors_release(struct vectors *vectors)
{
    memory_free(vectors->value);
    memory_free(vectors->norm);
    memory_free(vectors->curve);
}

/* The queries ------------------------------------------------------------------------------------------------------------------
 */

static void take_query(struct search *s, int64_t curve, const double *vector)
{
    append(s, &s->query, curve, vector);
}

static int read_queries(struct search *s, struct error *error)
{
    for (int q = 0; q < s->n->queries; q++) {
        int64_t before = s->query.count;
        if (stream_curves(s, s->n->query[q], 1, take_query, error)) return error->status;
        if (s->query.count == before)
            return error_set(error, STATUS_FAILED, "%s: light curve %lld, which is asked for, has %s", s->reader->path,
                             (long long)s->n->query[q],
                             s->first_window[0] == s->first_window[1] ? "no window there"
                                                                      : "only zeros, which have no direction");
        for (int64_t i = before; i < s->query.count; i++) s->query.curve[i] = q;
    }
    return STATUS_OK;
}

/* The queries' unit vectors as columns on the device. */
static int upload_queries(struct search *s, struct error *error)
{
    const struct device_operations *o = s->device->operations;
    s->columns = (s->query.count + PRODUCT_STEP - 1) / PRODUCT_STEP * PRODUCT_STEP;
    size_t count = (size_t)(s->padded * s->columns);
    if (o->allocate(s->device, (void **)&s->weight, count * sizeof *s->weight, "the queries", error)) return error->status;
    float *weight = memory_zeroed(count, sizeof *weight, "the queries");
    for (int64_t i = 0; i < s->query.count; i++)
        for (int j = 0; j < s->D; j++) weight[j * s->columns + i] = (float)(s->query.value[i * s->D + j] / s->query.norm[i]);
    o->upload(s->device, s->weight, weight, count * sizeof *weight);
    o->wait(s->device);
    o->use_parameters(s->device, s->weight, (int64_t)count);
    memory_free(weight);
    return STATUS_OK;
}

/* The neighbours so far --------------------------------------------------------------------------------------------------------
 */

static bool nearer(struct neighbour a, struct neighbour b)
{
    return a.cosine != b.cosine ? a.cosine > b.cosine : a.curve < b.curve;
}

/* Puts a candidate where it belongs. A light curve stands once in a list, as near as it ever was: one that fell off the end
 * comes back only when it is nearer than the last, which is then right. */
static void insert(struct nearest *n, int q, struct neighbour candidate)
{
    struct neighbour *list = n->neighbour + (int64_t)q * n->k;
    int count = n->found[q], at = 0;
    if (count == n->k && !nearer(candidate, list[count - 1])) return;
    while (at < count && list[at].curve != candidate.curve) at++;
    if (at < count) {
        if (!nearer(candidate, list[at])) return;
    } else if (count < n->k) {
        n->found[q]++;
    } else {
        at = count - 1;
    }
    for (; at > 0 && nearer(candidate, list[at - 1]); at--) list[at] = list[at - 1];
    list[at] = candidate;
}

/* One product's results. What is less near than the last of a full list by more than the margin is out. */
static void take_products(struct search *s, int64_t first_column, int64_t columns, int64_t stride)
{
    struct nearest *n = s->n;
    for (int64_t i = 0; i < s->block.count; i++)
        for (int64_t j = 0; j < columns; j++) {
            int64_t column = first_column + j, curve = s->block.curve[i];
            int q = (int)s->query.curve[column];
            const struct neighbour *last = n->neighbour + (int64_t)q * n->k + n->k - 1;
            bool far = n->found[q] == n->k && (double)s->product[i * stride + j] + s->margin < last->cosine;
            if (far || curve == n->query[q]) continue;
            double cosine =
                dot(s->block.value + i * s->D, s->query.value + column * s->D, s->D) / (s->block.norm[i] * s->query.norm[column]);
            insert(n, q, (struct neighbour){cosine > 1 ? 1 : cosine < -1 ? -1 : cosine, curve});
        }
}

/* The survey -------------------------------------------------------------------------------------------------------------------
 */

/* Multiplies the block with all queries. */
static void search_block(struct search *s)
{
    const struct device_operations *o = s->device->operations;
    if (s->block.count == 0) return;
    for (int64_t i = 0; i < s->block.count; i++)
        for (int j = 0; j < s->D; j++) s->unit[i * s->padded + j] = (float)(s->block.value[i * s->D + j] / s->block.norm[i]);
    device_upload_activations(s->device, s->x, s->unit, s->block.count * s->padded);
    for (int64_t first = 0; first < s->columns; first += COLUMNS_AT_ONCE) {
        int64_t columns = s->columns - first < COLUMNS_AT_ONCE ? s->columns - first : COLUMNS_AT_ONCE;
        o->linear_forward(s->device, &(struct linear){.T = s->block.count,
                                                      .in = s->padded,
                                                      .out = (int)columns,
                                                      .x = s->x,
                                                      .x_stride = s->padded,
                                                      .weight = s->weight + first,
                                                      .weight_stride = s->columns,
                                                      .y = s->y,
                                                      .y_stride = columns});
        device_download_activations(s->device, s->product, s->y, s->block.count * columns);
        take_products(s, first, s->query.count - first < columns ? s->query.count - first : columns, columns);
    }
    s->block.count = 0;
}

static void take_vector(struct search *s, int64_t curve, const double *vector)
{
    if (!append(s, &s->block, curve, vector)) s->n->without_direction++;
    if (s->block.count == VECTORS_AT_ONCE) search_block(s);
}

/* This rank's light curves: an equal part of them, in their order. */
static int search_part(struct search *s, int rank, int ranks, void (*show)(void *, int64_t, int64_t), void *context,
                       struct error *error)
{
    int64_t curves = s->reader->curves, begin = curves / ranks * rank + curves % ranks * rank / ranks;
    int64_t end = curves / ranks * (rank + 1) + curves % ranks * (rank + 1) / ranks;
    for (int64_t first = begin, count; first < end; first += count) {
        count = end - first < CURVES_AT_ONCE ? end - first : CURVES_AT_ONCE;
        if (stream_curves(s, first, count, take_vector, error)) return error->status;
        for (int64_t c = 0; c < count; c++) s->n->compared += s->first_window[c + 1] > s->first_window[c];
        if (show) show(context, first + count - begin, end - begin);
    }
    search_block(s);
    return STATUS_OK;
}

/* All ranks' neighbours become one list each. Collective. */
static void merge(struct nearest *n, struct comm *comm)
{
    int ranks = comm_size(comm), rank = comm_rank(comm);
    struct neighbour *all = memory_new((size_t)ranks * (size_t)n->k, sizeof *all, "neighbours");
    for (int q = 0; q < n->queries; q++) {
        struct neighbour *list = n->neighbour + (int64_t)q * n->k;
        for (int i = n->found[q]; i < n->k; i++) list[i] = (struct neighbour){.curve = -1};
        comm_gather(comm, list, n->k * (int)sizeof *list, all);
        for (int i = 0; i < ranks * n->k; i++)
            if (i / n->k != rank && all[i].curve >= 0) insert(n, q, all[i]);
    }
    memory_free(all);
    int64_t sums[] = {n->compared, n->without_direction};
    comm_sum_int64(comm, sums, 2);
    n->compared = sums[0], n->without_direction = sums[1];
}

/* The most that a product of two unit vectors can be off: both rounded to the precision of products, and the result; sums and
 * unit vectors in float32, the sum in any order (twice the bound, for units that cut off instead of rounding). */
static double margin_of(int precision, int D)
{
    double rounding = precision == PRECISION_BF16 ? 0x1p-8 : precision == PRECISION_TF32 ? 0x1p-11 : 0;
    return 4 * rounding + (D + 8) * 0x1p-23;
}

static int allocate(struct search *s, struct error *error)
{
    const struct device_operations *o = s->device->operations;
    size_t D = (size_t)s->D, rows = VECTORS_AT_ONCE, activation = s->device->activation_bytes;
    s->first_window = memory_new(CURVES_AT_ONCE + 1, sizeof *s->first_window, "rows");
    s->length = memory_new(WINDOWS_AT_ONCE, sizeof *s->length, "windows");
    s->embedding = memory_new(WINDOWS_AT_ONCE * D, sizeof *s->embedding, "windows");
    s->sum = memory_new(D, sizeof *s->sum, "a vector");
    s->unit = memory_zeroed(rows * (size_t)s->padded, sizeof *s->unit, "vectors");
    s->product = memory_new(rows * COLUMNS_AT_ONCE, sizeof *s->product, "products");
    if (o->allocate(s->device, &s->x, rows * (size_t)s->padded * activation, "vectors", error)) return error->status;
    return o->allocate(s->device, &s->y, rows * COLUMNS_AT_ONCE * activation, "products", error);
}

static void search_release(struct search *s)
{
    void *device[] = {s->weight, s->x, s->y}, *host[] = {s->unit, s->product, s->first_window, s->length, s->embedding, s->sum};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i]) s->device->operations->release(s->device, device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) memory_free(host[i]);
    vectors_release(&s->query);
    vectors_release(&s->block);
}

int nearest_find(struct nearest *n, struct embedding_reader *reader, struct device *device, int precision, struct comm *comm,
                 void (*show)(void *context, int64_t done, int64_t total), void *context, struct error *error)
{
    struct search s = {.n = n, .reader = reader, .device = device, .D = reader->width};
    if (n->k > reader->curves) n->k = (int)reader->curves;
    n->neighbour = memory_new((size_t)n->queries * (size_t)n->k, sizeof *n->neighbour, "neighbours");
    n->found = memory_zeroed((size_t)n->queries, sizeof *n->found, "neighbours");
    s.padded = (s.D + PRODUCT_STEP - 1) / PRODUCT_STEP * PRODUCT_STEP;
    s.margin = margin_of(precision, s.D);
    if (!allocate(&s, error) && !read_queries(&s, error)) upload_queries(&s, error);
    if (!comm_agree(comm, error)) {
        search_part(&s, comm_rank(comm), comm_size(comm), show, context, error);
        if (!comm_agree(comm, error)) merge(n, comm);
    }
    search_release(&s);
    return error->status;
}

void nearest_release(struct nearest *nearest)
{
    memory_free(nearest->neighbour);
    memory_free(nearest->found);
    nearest->neighbour = NULL, nearest->found = NULL;
}
