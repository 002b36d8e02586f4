/* Observation of routers whose scores are read, computed without the GIL.
 *
 * The same in NumPy, and for all other gates: routing/router/observe.py. Unusual rows are left to it.
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Number of rows to prefetch ahead; bytes. */
enum { AHEAD = 2, CACHE_LINE = 64 };

struct format {
    /* Expected headers of the rows of a token's layers [L, scores_at]. */
    const int32_t *headers;
    size_t layers;
    /* Words in a row; the scores [E] begin at `scores_at`, the selected ids [k] at `ids_at`. */
    size_t width, scores_at, ids_at, experts, chosen;
    /* Weights are divided by their sum, and multiplied by `scale`. */
    int32_t renormalised;
    double scale;
    /* The sum that weights are divided by is max(sum, smallest_sum) + added_to_sum. */
    double smallest_sum, added_to_sum;
    /* Units of the recorded integers. */
    double weight_unit, entropy_unit, margin_unit;
    /* In place of a probability of 0. */
    double smallest;
};

struct recorded {
    int64_t *experts, *weights, *entropy, *margin;
};

static bool to_steps(double value, double unit, int64_t *to) {
    double steps = rint(value / unit);
    *to = (int64_t)steps;
    return isfinite(steps) && steps >= 0;
}

static double sum(const float *scores, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) {
        total += scores[i];
    }
    return total;
}

static bool spread(const struct format *format, const float *scores, double total, int64_t *entropy, int64_t *margin) {
    double first = -INFINITY, second = -INFINITY, uncertain = 0;
    for (size_t i = 0; i < format->experts; i++) {
        double share = scores[i] / total;
        uncertain -= share * log(share > format->smallest ? share : format->smallest);
        second = share > first ? first : share > second ? share : second;
        first = share > first ? share : first;
    }
    return to_steps(uncertain / log((double)format->experts), format->entropy_unit, entropy) &&
           to_steps(first - second, format->margin_unit, margin);
}

/* Selected ids by probability, highest first, ties by id. */
static bool sort(const struct format *format, const float *scores, double total, const int32_t *ids, int64_t *to) {
    for (size_t i = 0; i < format->chosen; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= format->experts) {
            return false;
        }
        double share = scores[ids[i]] / total;
        size_t place = i;
        for (; place > 0; place--) {
            double before = scores[to[place - 1]] / total;
            if (before > share || (before == share && to[place - 1] < ids[i])) {
                break;
            }
            to[place] = to[place - 1];
        }
        to[place] = ids[i];
    }
    return true;
}

static bool weigh(const struct format *format, const float *scores, const int64_t *ids, int64_t *to) {
    double total = 0;
    for (size_t i = 0; i < format->chosen; i++) {
        total += scores[ids[i]];
    }
    total = (total < format->smallest_sum ? format->smallest_sum : total) + format->added_to_sum;
    bool known = true;
    for (size_t i = 0; i < format->chosen; i++) {
        double weight = format->scale * (format->renormalised ? scores[ids[i]] / total : scores[ids[i]]);
        known = to_steps(weight, format->weight_unit, &to[i]) && known;
    }
    return known;
}

static bool observe(const struct format *format, const int32_t *row, const int32_t *header, struct recorded to) {
    if (memcmp(row, header, format->scores_at * sizeof *row) != 0) {
        return false;
    }
    const float *scores = (const float *)(const void *)(row + format->scores_at);
    double total = sum(scores, format->experts);
    return sort(format, scores, total, row + format->ids_at, to.experts) &&
           weigh(format, scores, to.experts, to.weights) && spread(format, scores, total, to.entropy, to.margin);
}

/* Prefetch a row: another core wrote it, and it is in that core's cache. */
static void fetch(const int32_t *row, size_t width) {
#ifdef __GNUC__
    for (size_t at = 0; at < width; at += CACHE_LINE / sizeof *row) {
        __builtin_prefetch(row + at);
    }
#else
    (void)row, (void)width;
#endif
}

/* Observe the rows of all tokens; false if a header is unexpected, a value is not finite or negative, or an expert id is
 * out of range. */
bool moe_watch_observe(const int32_t *rows, size_t tokens, const struct format *format, const struct recorded *to) {
    size_t count = tokens * format->layers, k = format->chosen;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            fetch(rows + (i + AHEAD) * format->width, format->width);
        }
        struct recorded place = {to->experts + i * k, to->weights + i * k, to->entropy + i, to->margin + i};
        const int32_t *header = format->headers + i % format->layers * format->scores_at;
        if (!observe(format, rows + i * format->width, header, place)) {
            return false;
        }
    }
    return true;
}
