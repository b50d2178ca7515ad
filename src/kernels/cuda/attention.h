// softmax(scale * q^T k) applied to the values, in f16 with sums in f32. Channels lie head after head: queries, keys,
// values, each filled up to chunks with zeros.
#include "f16.h"

#define MAX_KEY_CHUNKS 4
#define MAX_VALUE_CHUNKS 8
#define KEY_TILE 32

// For keys of up to 32 channels and values of up to 64, on tensor cores: a block takes 16 queries of a head, each of its 4
// warps every fourth 32 keys, with a running maximum; at the end the warps' shares are added up (Dao et al.,
// "FlashAttention", 2022).
INLINE void copy_keys(const char *memory, const Arguments *p, const int head, const int first, const unsigned at) {
    const int lane = (int)(threadIdx.x % 32u), pixels = p->src.h * p->src.w;
    const int bytes_of_head = 16 * (2 * p->key_chunks + p->value_chunks);
    // 4 chunks of a key and 8 of its values.
    UNROLL for (int i = 0; i < 12; i++) {
        const int n = i * 32 + lane, is_value = i >= 4;
        const int row = is_value ? (n - 128) / 8 : n / 4, chunk = is_value ? n % 8 : n % 4;
        const int inside = first + row < pixels && chunk < (is_value ? p->value_chunks : p->key_chunks);
        const int skipped = is_value ? 2 * p->key_chunks : p->key_chunks;
        const int from = inside ? (first + row) * p->src.pitch + head * bytes_of_head + 16 * (skipped + chunk) : 0;
        const unsigned to = at + 16u * (unsigned)(is_value ? 128 + mixed(8, row, chunk) : mixed(4, row, chunk));
        copy16(to, memory + p->src.at + from, inside ? 16 : 0);
    }
}

KERNEL(128) f16_attention(char *memory, ARGUMENTS) {
    const int t = (int)threadIdx.x, lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u), g = lane / 4, q = lane % 4;
    const int head = (int)blockIdx.y, first = (int)blockIdx.x * 16, pixels = p.src.h * p.src.w;
    const unsigned stage_bytes = KEY_TILE * (64 + 128), own = shared_address(shared) + (unsigned)warp * 2 * stage_bytes;
    const int blocks = (pixels + KEY_TILE - 1) / KEY_TILE;

    // Queries beyond the last are computed as the last, and not written.
    unsigned query[2][4];
    UNROLL for (int s = 0; s < 2; s++) UNROLL for (int r = 0; r < 4; r++) {
        const int row = first + g + r % 2 * 8, pixel = row < pixels ? row : pixels - 1;
        const int chunk = 2 * s + r / 2;
        const char *at = pixel_of(memory, &p.src, pixel) + head * 16 * (2 * p.key_chunks + p.value_chunks) + 16 * chunk + q * 4;
        query[s][r] = chunk < p.key_chunks ? *(const unsigned *)at : 0;
    }
    float sums[8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    UNROLL for (int j = 0; j < 8; j++) UNROLL for (int e = 0; e < 4; e++) sums[j][e] = 0.0f;
    const float scale = p.scale * 1.44269504f;

    if (warp < blocks) copy_keys(memory, &p, head, warp * KEY_TILE, own);
    copies_end();
    int stage = 0;
    for (int block = warp; block < blocks; block += 4) {
        if (block + 4 < blocks) copy_keys(memory, &p, head, (block + 4) * KEY_TILE, own + (unsigned)(1 - stage) * stage_bytes);
        copies_end();
        copies_wait(1);
        WARP_BARRIER();
        const unsigned keys = own + (unsigned)stage * stage_bytes, values = keys + KEY_TILE * 64;
        float logits[4][4];
        UNROLL for (int j = 0; j < 4; j += 2) {
            unsigned c[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
            UNROLL for (int s = 0; s < 2; s++) {
                unsigned b[4];
                load_matrices4(b, keys + 16u * (unsigned)mixed(4, 8 * j + lane % 8 + lane / 16 * 8, 2 * s + lane / 8 % 2));
                multiply_f16(c[0], query[s], b);
                multiply_f16(c[1], query[s], b + 2);
            }
            UNROLL for (int k = 0; k < 2; k++) UNROLL for (int e = 0; e < 4; e++) {
                const int key = block * KEY_TILE + 8 * (j + k) + 2 * q + e % 2;
                logits[j + k][e] = key < pixels ? as_float(c[k][e]) * scale : -INFINITY;
            }
        }
        float factor[2];
        UNROLL for (int half = 0; half < 2; half++) {
            float best = top[half];
            UNROLL for (int j = 0; j < 4; j++) best = fmaxf(best, fmaxf(logits[j][2 * half], logits[j][2 * half + 1]));
            best = fmaxf(best, exchange_with(best, 1));
            best = fmaxf(best, exchange_with(best, 2));
            factor[half] = approximate_exp2(top[half] - best);
            top[half] = best;
            float sum = 0.0f;
            UNROLL for (int j = 0; j < 4; j++) UNROLL for (int e = 0; e < 2; e++) {
                const float x = approximate_exp2(logits[j][2 * half + e] - best);
                logits[j][2 * half + e] = x;
                sum += x;
            }
            total[half] = total[half] * factor[half] + sum;
        }
        UNROLL for (int j = 0; j < 8; j++) UNROLL for (int e = 0; e < 4; e++) sums[j][e] *= factor[e / 2];
        UNROLL for (int s = 0; s < 2; s++) {
            const unsigned a[4] = {pack_f16(logits[2 * s][0], logits[2 * s][1]), pack_f16(logits[2 * s][2], logits[2 * s][3]),
                                   pack_f16(logits[2 * s + 1][0], logits[2 * s + 1][1]),
                                   pack_f16(logits[2 * s + 1][2], logits[2 * s + 1][3])};
            UNROLL for (int j = 0; j < 8; j += 2) {
                unsigned b[4];
                load_matrices4_transposed(b, values + 16u * (unsigned)mixed(8, 16 * s + lane % 16, j + lane / 16));
                UNROLL for (int k = 0; k < 2; k++) {
                    unsigned c[4];
                    UNROLL for (int e = 0; e < 4; e++) c[e] = as_word(sums[j + k][e]);
                    multiply_f16(c, a, b + 2 * k);
                    UNROLL for (int e = 0; e < 4; e++) sums[j + k][e] = as_float(c[e]);
                }
            }
        }
        WARP_BARRIER();
        stage = 1 - stage;
    }
    UNROLL for (int half = 0; half < 2; half++) {
        total[half] += exchange_with(total[half], 1);
        total[half] += exchange_with(total[half], 2);
    }
    copies_wait(0);
    BARRIER();
    // [warp][row]: maximum, total; [warp][row][64 + 4] sums.
    float *tops = (float *)shared, *totals = tops + 64, *parts = totals + 64;
    UNROLL for (int half = 0; half < 2; half++) {
        const int row = warp * 16 + g + 8 * half;
        if (q == 0) tops[row] = top[half], totals[row] = total[half];
        UNROLL for (int j = 0; j < 8; j++) {
            parts[row * 68 + 8 * j + 2 * q] = sums[j][2 * half];
            parts[row * 68 + 8 * j + 2 * q + 1] = sums[j][2 * half + 1];
        }
    }
    BARRIER();
    const int row = t / 8, channel = t % 8 * 8, pixel = first + row;
    if (pixel >= pixels) return;
    float best = tops[row], all = 0.0f, v[8];
    UNROLL for (int k = 1; k < 4; k++) best = fmaxf(best, tops[16 * k + row]);
    UNROLL for (int e = 0; e < 8; e++) v[e] = 0.0f;
    UNROLL for (int k = 0; k < 4; k++) {
        const float factor = approximate_exp2(tops[16 * k + row] - best);
        all += factor * totals[16 * k + row];
        UNROLL for (int e = 0; e < 8; e++) v[e] += factor * parts[(16 * k + row) * 68 + channel + e];
    }
    UNROLL for (int e = 0; e < 8; e++) v[e] /= all;
    if (channel < 8 * p.value_chunks) store_chunk(memory, &p.dst, pixel, head * p.value_chunks + channel / 8, v);
}

// Of any size: a block takes 4 queries of a head and 128 channels of its values: it finds the largest logit of every
// query, then goes through the keys, 128 at a time.
INLINE float f16_logit(const char *memory, const Arguments *p, const int head, const int query, const int key) {
    const int first = head * (2 * p->key_chunks + p->value_chunks);
    float sum = 0.0f, a[8], b[8];
    for (int chunk = 0; chunk < p->key_chunks; chunk++) {
        values_of(a, load_chunk(memory, &p->src, query, first + chunk));
        values_of(b, load_chunk(memory, &p->src, key, first + p->key_chunks + chunk));
        UNROLL for (int e = 0; e < 8; e++) sum += a[e] * b[e];
    }
    return sum * p->scale;
}

KERNEL_OF(128, 6) f16_attention_any(char *memory, ARGUMENTS) {
    __shared__ float weights[4][128];
    const int t = (int)threadIdx.x, pixels = p.src.h * p.src.w, head = (int)blockIdx.y, first = (int)blockIdx.x * 4;
    const int channel = (int)blockIdx.z * 128 + t, inside = channel < 8 * p.value_chunks;
    const int from = 8 * (head * (2 * p.key_chunks + p.value_chunks) + 2 * p.key_chunks) + channel;
    float tops[4], sums[4], totals[4];
    UNROLL for (int q = 0; q < 4; q++) {
        // Queries beyond the last are computed as the last, and not written.
        const int query = first + q < pixels ? first + q : pixels - 1;
        float top = -INFINITY;
        for (int key = t; key < pixels; key += 128) top = fmaxf(top, f16_logit(memory, &p, head, query, key));
        weights[q][t] = top;
        sums[q] = totals[q] = 0.0f;
    }
    BARRIER();
    for (int half = 64; half > 0; half /= 2) {
        if (t < half)
            UNROLL for (int q = 0; q < 4; q++) weights[q][t] = fmaxf(weights[q][t], weights[q][t + half]);
        BARRIER();
    }
    UNROLL for (int q = 0; q < 4; q++) tops[q] = weights[q][0];
    for (int start = 0; start < pixels; start += 128) {
        BARRIER();
        UNROLL for (int q = 0; q < 4; q++) {
            const int query = first + q < pixels ? first + q : pixels - 1, key = start + t;
            weights[q][t] = key < pixels ? expf(f16_logit(memory, &p, head, query, key) - tops[q]) : 0.0f;
        }
        BARRIER();
        const int count = pixels - start < 128 ? pixels - start : 128;
        for (int i = 0; i < count; i++) {
            const char *at = pixel_of(memory, &p.src, start + i) + 2 * from;
            const float value = inside ? low_f16(*(const unsigned short *)at) : 0.0f;
            UNROLL for (int q = 0; q < 4; q++) {
                sums[q] += weights[q][i] * value;
                totals[q] += weights[q][i];
            }
        }
    }
    if (!inside) return;
    UNROLL for (int q = 0; q < 4; q++) {
        const unsigned short word = (unsigned short)pack_f16(sums[q] / totals[q], 0.0f);
        if (first + q < pixels)
            ((unsigned short *)(memory + p.dst.at + (long long)(first + q) * p.dst.pitch))[head * 8 * p.value_chunks + channel] = word;
    }
}
