// Attention with its gradient, without the matrix of all weights (Dao et al., "FlashAttention", 2022: the logarithm of
// the sum of exponentials is kept, and weights are computed again).
//
// x is the packed tensor, head after head queries, keys, values; y the output, z the gradient of the packed tensor.
// Positions attend within runs of h * w / areas. A block takes 4 queries (or 4 keys) of a head and 128 channels.
// Arrays: 0 the logarithms [head][pixel], 1 per query the sum of output times gradient [head][pixel].
#pragma once
#include "tensors.h"

typedef struct {
    int head, len, run, block;  // block: of 128 channels
    int packed, first;          // first channel of the head
    long long logs;             // first value of the head and run in arrays 0 and 1
} Heads;

INLINE Heads heads_of(const Training *p, const int blocks) {
    const int len = p->x.h * p->x.w / p->areas, packed = 2 * p->key_dim + p->head_dim, head = (int)blockIdx.y;
    const int run = (int)blockIdx.z / blocks;
    const long long logs = (long long)head * pixels_of(p->x) + (long long)run * len;
    const Heads heads = {head, len, run, (int)blockIdx.z % blocks, packed, head * packed, logs};
    return heads;
}

INLINE float weight_logit(const char *memory, const Training *p, const Heads *h, const int f16, const int query, const int key) {
    float sum = 0.0f;
    const long long from = (long long)h->run * h->len;
    for (int c = 0; c < p->key_dim; c++)
        sum += batch_value(memory, p->x, f16, from + query, h->first + c) *
               batch_value(memory, p->x, f16, from + key, h->first + p->key_dim + c);
    return sum * p->scale;
}

// Output gradient of a query times the values of a key.
INLINE float weight_gradient(const char *memory, const Training *p, const Heads *h, const int f16, const int query, const int key) {
    float sum = 0.0f;
    const long long from = (long long)h->run * h->len;
    for (int c = 0; c < p->head_dim; c++)
        sum += batch_value(memory, p->y, f16, from + query, h->head * p->head_dim + c) *
               batch_value(memory, p->x, f16, from + key, h->first + 2 * p->key_dim + c);
    return sum;
}

INLINE void train_attention(char *memory, const Training *p, const int f16) {
    __shared__ float shared_logits[QUERIES][KEYS];
    const Heads h = heads_of(p, (p->head_dim + KEYS - 1) / KEYS);
    const int t = (int)threadIdx.x, channel = h.block * KEYS + t, first = (int)blockIdx.x * QUERIES;
    const long long from = (long long)h.run * h.len;
    float tops[QUERIES], sums[QUERIES], totals[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        // Queries beyond the last are computed as the last, and not written.
        const int query = first + q < h.len ? first + q : h.len - 1;
        float top = -INFINITY;
        for (int key = t; key < h.len; key += KEYS) top = fmaxf(top, weight_logit(memory, p, &h, f16, query, key));
        shared_logits[q][t] = top;
        sums[q] = totals[q] = 0.0f;
    }
    __syncthreads();
    for (int half = KEYS / 2; half > 0; half /= 2) {
        if (t < half)
#pragma unroll
            for (int q = 0; q < QUERIES; q++) shared_logits[q][t] = fmaxf(shared_logits[q][t], shared_logits[q][t + half]);
        __syncthreads();
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) tops[q] = shared_logits[q][0];
    for (int start = 0; start < h.len; start += KEYS) {
        __syncthreads();
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            const int query = first + q < h.len ? first + q : h.len - 1, key = start + t;
            shared_logits[q][t] = key < h.len ? expf(weight_logit(memory, p, &h, f16, query, key) - tops[q]) : 0.0f;
        }
        __syncthreads();
        const int count = h.len - start < KEYS ? h.len - start : KEYS;
        for (int i = 0; i < count; i++) {
            const float value = channel < p->head_dim
                                    ? batch_value(memory, p->x, f16, from + start + i, h.first + 2 * p->key_dim + channel) : 0.0f;
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                sums[q] += shared_logits[q][i] * value;
                totals[q] += shared_logits[q][i];
            }
        }
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        if (first + q >= h.len) continue;
        if (channel < p->head_dim)
            put(memory, p->y, f16, 0, from + first + q, h.head * p->head_dim + channel, sums[q] / totals[q]);
        if (channel == 0) array_of(memory, p, 0)[h.logs + first + q] = tops[q] + logf(totals[q]);
    }
}
BOTH(KEYS, train_attention)

// Array 1, from the output x and its gradient y.
INLINE void train_attention_dots(char *memory, const Training *p, const int f16) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const int pixels = pixels_of(p->x);
    if (index >= (long long)pixels * p->heads) return;
    const int head = (int)(index / pixels), pixel = (int)(index - (long long)head * pixels);
    float sum = 0.0f;
    for (int c = head * p->head_dim; c < (head + 1) * p->head_dim; c++)
        sum += batch_value(memory, p->x, f16, pixel, c) * batch_value(memory, p->y, f16, pixel, c);
    array_of(memory, p, 1)[index] = sum;
}
BOTH(BLOCK, train_attention_dots)

// The gradient of the queries; y is the gradient of the output.
INLINE void train_attention_queries(char *memory, const Training *p, const int f16) {
    __shared__ float parts[QUERIES][KEYS];
    const Heads h = heads_of(p, (p->key_dim + KEYS - 1) / KEYS);
    const int t = (int)threadIdx.x, channel = h.block * KEYS + t, first = (int)blockIdx.x * QUERIES;
    const long long from = (long long)h.run * h.len;
    const float *logs = array_of(memory, p, 0) + h.logs, *dots = array_of(memory, p, 1) + h.logs;
    float sums[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) sums[q] = 0.0f;
    for (int start = 0; start < h.len; start += KEYS) {
        const int key = start + t;
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            const int query = first + q < h.len ? first + q : h.len - 1;
            float part = 0.0f;
            if (key < h.len)
                part = expf(weight_logit(memory, p, &h, f16, query, key) - logs[query]) *
                       (weight_gradient(memory, p, &h, f16, query, key) - dots[query]) * p->scale;
            parts[q][t] = part;
        }
        __syncthreads();
        const int count = h.len - start < KEYS ? h.len - start : KEYS;
        if (channel < p->key_dim)
            for (int i = 0; i < count; i++) {
                const float value = batch_value(memory, p->x, f16, from + start + i, h.first + p->key_dim + channel);
#pragma unroll
                for (int q = 0; q < QUERIES; q++) sums[q] += parts[q][i] * value;
            }
        __syncthreads();
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++)
        if (first + q < h.len && channel < p->key_dim)
            put(memory, p->z, f16, p->add, from + first + q, h.first + channel, sums[q]);
}
BOTH(KEYS, train_attention_queries)

// The gradients of keys and values.
INLINE void train_attention_keys(char *memory, const Training *p, const int f16) {
    __shared__ float parts[QUERIES][KEYS], weights[QUERIES][KEYS];
    const int widest = p->key_dim > p->head_dim ? p->key_dim : p->head_dim;
    const Heads h = heads_of(p, (widest + KEYS - 1) / KEYS);
    const int t = (int)threadIdx.x, channel = h.block * KEYS + t, first = (int)blockIdx.x * QUERIES;
    const long long from = (long long)h.run * h.len;
    const float *logs = array_of(memory, p, 0) + h.logs, *dots = array_of(memory, p, 1) + h.logs;
    float keys[QUERIES], values[QUERIES];
#pragma unroll
    for (int k = 0; k < QUERIES; k++) keys[k] = values[k] = 0.0f;
    for (int start = 0; start < h.len; start += KEYS) {
        const int query = start + t;
#pragma unroll
        for (int k = 0; k < QUERIES; k++) {
            const int key = first + k < h.len ? first + k : h.len - 1;
            float weight = 0.0f, part = 0.0f;
            if (query < h.len) {
                weight = expf(weight_logit(memory, p, &h, f16, query, key) - logs[query]);
                part = weight * (weight_gradient(memory, p, &h, f16, query, key) - dots[query]) * p->scale;
            }
            parts[k][t] = part, weights[k][t] = weight;
        }
        __syncthreads();
        const int count = h.len - start < KEYS ? h.len - start : KEYS;
        for (int i = 0; i < count; i++) {
            const long long pixel = from + start + i;
            const float query_value = channel < p->key_dim ? batch_value(memory, p->x, f16, pixel, h.first + channel) : 0.0f;
            const float gradient =
                channel < p->head_dim ? batch_value(memory, p->y, f16, pixel, h.head * p->head_dim + channel) : 0.0f;
#pragma unroll
            for (int k = 0; k < QUERIES; k++) {
                keys[k] += parts[k][i] * query_value;
                values[k] += weights[k][i] * gradient;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < QUERIES; k++) {
        if (first + k >= h.len) continue;
        const long long pixel = from + first + k;
        if (channel < p->key_dim) put(memory, p->z, f16, p->add, pixel, h.first + p->key_dim + channel, keys[k]);
        if (channel < p->head_dim) put(memory, p->z, f16, p->add, pixel, h.first + 2 * p->key_dim + channel, values[k]);
    }
}
BOTH(KEYS, train_attention_keys)
