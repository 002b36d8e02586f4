/* Probabilities of a token from its logits, in one call per token in place of several NumPy calls.
 *
 * Simple loops that compilers vectorize. The same in NumPy: backends/llama/prediction.py.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Number of floats summed before adding to a double, so that float stays exact enough on a long vocabulary; a multiple
 * of LANES. */
enum { BLOCK = 256, LANES = 16 };

static void keep_two(float value, float *first, float *second) {
    float lower = value < *first ? value : *first;
    *second = *second < lower ? lower : *second;
    *first = *first < value ? value : *first;
}

static void two_largest(const float *logits, size_t count, float *first, float *second) {
    float best[LANES], next[LANES];
    for (size_t lane = 0; lane < LANES; lane++) {
        best[lane] = next[lane] = -INFINITY;
    }
    size_t at = 0;
    for (; at + LANES <= count; at += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            keep_two(logits[at + lane], &best[lane], &next[lane]);
        }
    }
    *first = *second = -INFINITY;
    for (size_t lane = 0; lane < LANES; lane++) {
        keep_two(best[lane], first, second);
        keep_two(next[lane], first, second);
    }
    for (; at < count; at++) {
        keep_two(logits[at], first, second);
    }
}

/* e^(x - most) for each x <= most, to about 2e-7 relative: 2^whole times a series for the rest. */
static void powers(const float *logits, size_t count, float most, float *to) {
    int32_t whole_parts[BLOCK];
    for (size_t i = 0; i < count; i++) {
        float x = logits[i] - most;
        x = x > -87.0f ? x : -87.0f; /* e^-87 is near the smallest normal float */
        float whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer */
        float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
        float sum = rest * (1.0f / 720) + 1.0f / 120;
        sum = sum * rest + 1.0f / 24;
        sum = sum * rest + 1.0f / 6;
        sum = sum * rest + 0.5f;
        sum = sum * rest + 1.0f;
        to[i] = sum * rest + 1.0f;
        whole_parts[i] = (int32_t)whole;
    }
    for (size_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, &to[i], sizeof bits);
        bits += whole_parts[i] * (1 << 23); /* add to the exponent */
        memcpy(&to[i], &bits, sizeof bits);
    }
}

static double sum_of_powers(const float *logits, size_t count, float most) {
    double total = 0;
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t size = count - at < BLOCK ? count - at : BLOCK;
        float block[BLOCK] = {0}, sums[LANES] = {0};
        powers(logits + at, size, most, block);
        for (size_t i = 0; i < BLOCK; i += LANES) {
            for (size_t lane = 0; lane < LANES; lane++) {
                sums[lane] += block[i + lane];
            }
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            total += sums[lane];
        }
    }
    return total;
}

/* Log-probability of the token; probability of the likeliest token minus the second one's and minus the token's. */
void moe_watch_facts(const float *logits, size_t count, int32_t token, double *facts) {
    float first, second;
    two_largest(logits, count, &first, &second);
    double total = sum_of_powers(logits, count, first);
    double behind = (double)logits[token] - first;
    facts[0] = behind - log(total);
    facts[1] = (1 - exp((double)second - first)) / total;
    facts[2] = (1 - exp(behind)) / total;
}
