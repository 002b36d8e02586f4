/* Tap on the MoE routers of llama.cpp's graphs: called for every node, it copies the routers' outputs, and switches
 * experts off.
 *
 * It includes no header of llama.cpp or ggml: the offsets of a tensor's fields, the names of the nodes, and the
 * functions that copy bytes from and to a device's memory are passed in by its loader (backends/llama/tap/compiled_tap.py).
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Bytes: prefetch distance from the current node, and size of one prefetch, which is larger than a node. */
enum { AHEAD = 8192, FETCHED = 384, CACHE_LINE = 64 };

enum problem { NONE, BUFFER_FULL, UNEXPECTED_TENSOR, MASKED_SELECTED };

/* Nodes of a layer where experts are switched off. */
enum { MASK_NODES = 2 };

struct tap {
    /* Byte offsets in a tensor. */
    size_t type_at, ne_at, nb_at, op_at, src_at, name_at;
    int32_t type_f32, type_i32, op_get_rows;
    /* Names of nodes, before "-<layer>". The graph stops at the second one only to compute it apart from the next nodes;
     * NULL: no such stop. */
    const char *read_at, *stop_at;
    /* Name of the nodes with the applied weights; NULL: they are not read. */
    const char *applied_at;
    void (*get)(const void *tensor, void *to, size_t offset, size_t size);
    /* Records of 32-bit words: layer, T, E, k, scores [T, E], weights [T, k], ids [T, k]. */
    int32_t *buffer;
    size_t capacity, used;
    /* Records of applied weights: layer, T·k, weights [T, k]. */
    int32_t *applied;
    size_t applied_capacity, applied_used;
    /* Names of the nodes [T, E] whose masked columns are set to minus infinity before the selection; NULL: fewer. */
    const char *masked_at[MASK_NODES];
    void (*set)(void *tensor, const void *from, size_t offset, size_t size);
    /* Masked experts of layer l: masked[mask_starts[l]] up to masked[mask_starts[l + 1]]; NULL: no expert is masked. */
    const int32_t *mask_starts, *masked;
    size_t mask_layers;
    /* Room for the values [T, E] of a node. */
    float *scratch;
    size_t scratch_capacity;
    int32_t problem;
    /* With MASKED_SELECTED. */
    int32_t problem_layer, problem_expert;
    /* 0: the tap is off, and no node is requested. */
    int32_t enabled;
};

static const void *field(const void *tensor, size_t at) { return (const char *)tensor + at; }

static int64_t length(const struct tap *tap, const void *tensor, int axis) {
    return ((const int64_t *)field(tensor, tap->ne_at))[axis];
}

static size_t stride(const struct tap *tap, const void *tensor, int axis) {
    return ((const size_t *)field(tensor, tap->nb_at))[axis];
}

static int32_t number(const void *tensor, size_t at) { return *(const int32_t *)field(tensor, at); }

static int32_t type(const struct tap *tap, const void *tensor) { return number(tensor, tap->type_at); }

/* Layer of a node named `<prefix>-<digits>` with nothing after the digits (reshaped views have longer names); else -1. */
static long layer_of(const char *name, const char *prefix) {
    size_t size = prefix == NULL ? 0 : strlen(prefix);
    if (size == 0 || strncmp(name, prefix, size) != 0 || name[size] != '-') {
        return -1;
    }
    const char *digits = name + size + 1;
    size_t count = strspn(digits, "0123456789");
    return count > 0 && digits[count] == '\0' ? strtol(digits, NULL, 10) : -1;
}

/* Selected ids are a view of a longer ranking: rows are `step` bytes apart, and made contiguous here. */
static void read_ids(const struct tap *tap, const void *ids, int32_t *to, size_t rows, size_t row, size_t step) {
    tap->get(ids, to, 0, (rows - 1) * step + row);
    for (size_t i = 1; i < rows; i++) {
        memmove((char *)to + i * row, (const char *)to + i * step, row);
    }
}

static bool is_plain(const struct tap *tap, const void *tensor, int32_t expected, size_t row) {
    return type(tap, tensor) == expected && stride(tap, tensor, 0) == 4 && stride(tap, tensor, 2) == row;
}

static size_t mask_start(const struct tap *tap, size_t layer) { return (size_t)tap->mask_starts[layer]; }

/* Number of masked experts of a layer, and the first of them. */
static size_t masked_in(const struct tap *tap, long layer, const int32_t **first) {
    if (tap->mask_starts == NULL || (size_t)layer >= tap->mask_layers) {
        return 0;
    }
    size_t start = mask_start(tap, (size_t)layer);
    *first = tap->masked + start;
    return mask_start(tap, (size_t)layer + 1) - start;
}

/* Layer of a node with masked columns, else -1. Without a mask this is one comparison. */
static long mask_layer(const struct tap *tap, const void *node) {
    if (tap->mask_starts == NULL) {
        return -1;
    }
    const int32_t *first;
    for (size_t i = 0; i < MASK_NODES; i++) {
        long layer = layer_of(field(node, tap->name_at), tap->masked_at[i]);
        if (layer >= 0) {
            return masked_in(tap, layer, &first) > 0 ? layer : -1;
        }
    }
    return -1;
}

static void switch_off(struct tap *tap, void *node, long layer) {
    size_t experts = (size_t)length(tap, node, 0), rows = (size_t)length(tap, node, 1);
    const int32_t *columns;
    size_t count = masked_in(tap, layer, &columns);
    if (rows == 0) {
        return;
    }
    if (type(tap, node) != tap->type_f32 || stride(tap, node, 0) != 4 || stride(tap, node, 1) != 4 * experts ||
        length(tap, node, 2) != 1 || length(tap, node, 3) != 1 || rows * experts > tap->scratch_capacity) {
        tap->problem = UNEXPECTED_TENSOR;
        return;
    }
    tap->get(node, tap->scratch, 0, 4 * rows * experts);
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < count; i++) {
            tap->scratch[row * experts + (size_t)columns[i]] = -INFINITY;
        }
    }
    tap->set(node, tap->scratch, 0, 4 * rows * experts);
}

/* A masked expert among selected ids is a problem; without a mask this is one comparison. */
static void check_selected(struct tap *tap, const int32_t *ids, size_t count, long layer) {
    const int32_t *masked;
    size_t off = masked_in(tap, layer, &masked);
    for (size_t i = 0; off > 0 && i < count; i++) {
        for (size_t j = 0; j < off; j++) {
            if (ids[i] == masked[j]) {
                tap->problem = MASKED_SELECTED;
                tap->problem_layer = (int32_t)layer, tap->problem_expert = ids[i];
                return;
            }
        }
    }
}

static void record(struct tap *tap, const void *node, long layer) {
    const void *const *sources = field(node, tap->src_at);
    const void *scores = sources[0], *ids = sources[1];
    size_t k = (size_t)length(tap, node, 1), rows = (size_t)length(tap, node, 2);
    size_t experts = (size_t)length(tap, scores, 1);
    if (rows == 0) {
        return;
    }
    size_t step = stride(tap, ids, 1);
    if (!is_plain(tap, node, tap->type_f32, 4 * k) || !is_plain(tap, scores, tap->type_f32, 4 * experts) ||
        type(tap, ids) != tap->type_i32 || stride(tap, ids, 0) != 4 || step < 4 * k) {
        tap->problem = UNEXPECTED_TENSOR;
        return;
    }
    size_t before_ids = 4 + rows * (experts + k);
    size_t needed = before_ids + (rows - 1) * step / 4 + k;
    if (tap->used + needed > tap->capacity) {
        tap->problem = BUFFER_FULL;
        return;
    }
    int32_t *to = tap->buffer + tap->used;
    to[0] = (int32_t)layer, to[1] = (int32_t)rows, to[2] = (int32_t)experts, to[3] = (int32_t)k;
    tap->get(scores, to + 4, 0, 4 * rows * experts);
    tap->get(node, to + 4 + rows * experts, 0, 4 * rows * k);
    read_ids(tap, ids, to + before_ids, rows, 4 * k, step);
    check_selected(tap, to + before_ids, rows * k, layer);
    if (tap->problem == NONE) {
        tap->used += before_ids + rows * k;
    }
}

/* Applied weights [T, k], contiguous; some models keep a third axis of length 1. */
static void record_applied(struct tap *tap, const void *node, long layer) {
    size_t row = (size_t)length(tap, node, 0), size = 4 * row * (size_t)length(tap, node, 1);
    size_t count = size / 4 * (size_t)length(tap, node, 2);
    if (count == 0) {
        return;
    }
    if (type(tap, node) != tap->type_f32 || stride(tap, node, 0) != 4 || stride(tap, node, 1) != 4 * row ||
        stride(tap, node, 2) != size) {
        tap->problem = UNEXPECTED_TENSOR;
        return;
    }
    if (tap->applied_used + 2 + count > tap->applied_capacity) {
        tap->problem = BUFFER_FULL;
        return;
    }
    int32_t *to = tap->applied + tap->applied_used;
    to[0] = (int32_t)layer, to[1] = (int32_t)count;
    tap->get(node, to + 2, 0, 4 * count);
    tap->applied_used += 2 + count;
}

/* Layer of a node to read, else -1. The operation is compared first, because reading the name costs a cache miss. */
static long read_layer(const struct tap *tap, const void *node) {
    return number(node, tap->op_at) == tap->op_get_rows ? layer_of(field(node, tap->name_at), tap->read_at) : -1;
}

/* Prefetch later nodes into the cache: nodes are stored about in the order in which they are visited, and the last pass
 * has evicted them from the cache. A prefetch beyond the last node is harmless.
 */
static void fetch_ahead(const void *node) {
#ifdef __GNUC__
    for (size_t at = 0; at < FETCHED; at += CACHE_LINE) {
        __builtin_prefetch((const void *)((uintptr_t)node + AHEAD + at));
    }
#else
    (void)node;
#endif
}

static bool is_wanted(const struct tap *tap, const void *node) {
    fetch_ahead(node);
    const char *name = field(node, tap->name_at);
    return read_layer(tap, node) >= 0 || layer_of(name, tap->stop_at) >= 0 || layer_of(name, tap->applied_at) >= 0 ||
           mask_layer(tap, node) >= 0;
}

/* A mask holds with the tap off, too. */
static bool call_while_off(struct tap *tap, void *node, bool ask) {
    long masked = mask_layer(tap, node);
    if (masked >= 0 && !ask) {
        switch_off(tap, node, masked);
    }
    return masked >= 0 || !ask;
}

bool moe_watch_tap(void *node, bool ask, struct tap *tap) {
    if (!tap->enabled) {
        return call_while_off(tap, node, ask);
    }
    if (ask) {
        return is_wanted(tap, node);
    }
    long masked = mask_layer(tap, node);
    if (masked >= 0 && tap->problem == NONE) {
        switch_off(tap, node, masked);
    }
    long layer = read_layer(tap, node), applied = layer_of(field(node, tap->name_at), tap->applied_at);
    if (layer >= 0 && tap->problem == NONE) {
        record(tap, node, layer);
    } else if (applied >= 0 && tap->problem == NONE) {
        record_applied(tap, node, applied);
    }
    return true;
}
