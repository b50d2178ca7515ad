// The kernels in f16 that are no products on tensor cores: mostly 8 channels (a chunk) of a pixel a thread, so that
// neighbours read and write neighbouring chunks. Tensors are those of product.h, with channels filled up to chunks.
#include "product.h"

INLINE uint4 load_chunk(const char *memory, const Tensor *t, const int pixel, const int chunk) {
    return *(const uint4 *)(pixel_of(memory, t, pixel) + 16 * chunk);
}
INLINE void store_chunk(char *memory, const Tensor *t, const int pixel, const int chunk, const float *v) {
    *(uint4 *)(memory + t->at + (long long)pixel * t->pitch + 16 * chunk) =
        make_uint4(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7]));
}
INLINE void values_of(float *v, const uint4 w) {
    v[0] = low_f16(w.x), v[1] = high_f16(w.x), v[2] = low_f16(w.y), v[3] = high_f16(w.y);
    v[4] = low_f16(w.z), v[5] = high_f16(w.z), v[6] = low_f16(w.w), v[7] = high_f16(w.w);
}
// The chunk of the output that this thread computes; false where there is none.
INLINE int chunk_of_thread(const Arguments *p, int *pixel, int *chunk) {
    const unsigned index = blockIdx.x * 128u + threadIdx.x;
    *pixel = (int)(index / (unsigned)p->c_chunks);
    *chunk = (int)(index % (unsigned)p->c_chunks);
    return *pixel < p->dst.h * p->dst.w;
}
// Activates, adds the other summand, and stores.
INLINE void finish_chunk(char *memory, const Arguments *p, const int pixel, const int chunk, float *v) {
    activate_all(v, 8, p->product.act, F16);
    if (p->others) {
        float other[8];
        values_of(other, load_chunk(memory, &p->other, pixel, chunk));
        UNROLL for (int e = 0; e < 8; e++) v[e] += other[e];
    }
    store_chunk(memory, &p->dst, pixel, chunk, v);
}

// ---------------------------------------------------------------------------------------------------------------------
// The first layer: 3x3, stride 2, padding 1, of an image of three planes of f32 or bytes, whose sides must be
// multiples of 4. A block computes 8 x 32 pixels of 16 channels; the part of the image that it needs lies in shared
// memory as pixels of 4 f16 values, of which the last is zero. A row of the matrix is then 4 pixels that lie one after
// the other, at a multiple of 16 bytes, since the stride is 2: it can be loaded as it lies. The fourth pixel has zero
// weights. Depth: 3 rows of 16. Weights: [columns, filled up to 16][3][4 pixels][4].
#define STEM_ROWS 17
#define STEM_COLUMNS 74  // one unused, then 72 from x = 2 * left - 4 on, then one unused: windows begin at even places
// Four values of f32; of bytes their 255th parts. The product is not always the quotient that from_bytes computes, but it
// is in f16, for every byte.
INLINE uint4 stem_pixels(const char *at, const int of_bytes, const int pixel) {
    if (!of_bytes) return *(const uint4 *)(at + 4 * pixel);
    const unsigned bytes = *(const unsigned *)(at + pixel);
    unsigned v[4];
    UNROLL for (int i = 0; i < 4; i++) v[i] = as_word(multiply_rounded((float)(bytes >> 8 * i & 255), 1.0f / 255.0f));
    return make_uint4(v[0], v[1], v[2], v[3]);
}
INLINE void stem(char *memory, const Arguments *p, const int of_bytes) {
    const unsigned base = shared_address(shared);
    const int lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u), g = lane / 4, q = lane % 4;
    const int left = (int)blockIdx.x * 32, top = (int)blockIdx.y * 8, first_column = (int)blockIdx.z * 16;
    // Four pixels at a time; all loads first.
    enum { ROUNDS = (STEM_ROWS * 18 + 127) / 128 };
    uint4 raw[ROUNDS][3];
    UNROLL for (int round = 0; round < ROUNDS; round++) {
        const int i = round * 128 + (int)threadIdx.x, row = i / 18, y = 2 * top - 1 + row, x = 2 * left - 4 + 4 * (i - row * 18);
        UNROLL for (int c = 0; c < 3; c++) {
            raw[round][c] = make_uint4(0, 0, 0, 0);
            if (i < STEM_ROWS * 18 && (unsigned)y < (unsigned)p->src.h && (unsigned)x < (unsigned)p->src.w)
                raw[round][c] = stem_pixels(memory + p->src.at + (long long)c * p->src.step, of_bytes, y * p->src.w + x);
        }
    }
    UNROLL for (int round = 0; round < ROUNDS; round++) {
        const int i = round * 128 + (int)threadIdx.x, row = i / 18, column = 4 * (i - row * 18);
        if (i >= STEM_ROWS * 18) continue;
        uint2 *to = (uint2 *)shared + row * STEM_COLUMNS + 1 + column;
        const uint4 r = raw[round][0], g = raw[round][1], b = raw[round][2];
        to[0] = make_uint2(pack_f16(as_float(r.x), as_float(g.x)), pack_f16(as_float(b.x), 0.0f));
        to[1] = make_uint2(pack_f16(as_float(r.y), as_float(g.y)), pack_f16(as_float(b.y), 0.0f));
        to[2] = make_uint2(pack_f16(as_float(r.z), as_float(g.z)), pack_f16(as_float(b.z), 0.0f));
        to[3] = make_uint2(pack_f16(as_float(r.w), as_float(g.w)), pack_f16(as_float(b.w), 0.0f));
    }
    // b: column g of tile j, values 2q and 2q + 1, and those 8 further.
    unsigned b[3][2][2];
    UNROLL for (int s = 0; s < 3; s++) UNROLL for (int j = 0; j < 2; j++) UNROLL for (int k = 0; k < 2; k++) {
        const int column = first_column + g / 2 * 4 + 2 * j + g % 2;
        b[s][j][k] = *(const unsigned *)(memory + p->product.weights + column * 96 + s * 32 + k * 16 + q * 4);
    }
    unsigned bias[4];
    load_words(bias, memory + p->product.bias + 4 * (first_column + 4 * q), 4);
    BARRIER();
    UNROLL for (int i = 0; i < 4; i++) {
        const int row = 2 * warp + i / 2, column = i % 2 * 16;
        unsigned sums[2][4];
        UNROLL for (int e = 0; e < 4; e++) sums[0][e] = bias[e % 2], sums[1][e] = bias[2 + e % 2];
        UNROLL for (int s = 0; s < 3; s++) {
            unsigned a[4];
            const int at = (2 * row + s) * STEM_COLUMNS + 4 + 2 * (column + lane % 16) + lane / 16 * 2;
            load_matrices4(a, base + 8u * (unsigned)at);
            multiply_f16(sums[0], a, b[s][0]);
            multiply_f16(sums[1], a, b[s][1]);
        }
        float v[8] = {as_float(sums[0][0]), as_float(sums[0][1]), as_float(sums[1][0]), as_float(sums[1][1]),
                      as_float(sums[0][2]), as_float(sums[0][3]), as_float(sums[1][2]), as_float(sums[1][3])};
        activate_all(v, 8, p->product.act, F16);
        UNROLL for (int half = 0; half < 2; half++) {
            const int x = left + column + 8 * half + g, y = top + row, channel = first_column + 4 * q;
            if (x >= p->dst.w || y >= p->dst.h || channel >= p->product.columns) continue;
            if (p->others) {
                unsigned other[2];
                load_words(other, pixel_of(memory, &p->other, y * p->dst.w + x) + 2 * channel, 2);
                UNROLL for (int e = 0; e < 4; e++) v[4 * half + e] += value_of(other, OUT_F16, e);
            }
            store(memory, p, OUT_F16, y * p->dst.w + x, channel, 4, v + 4 * half);
        }
    }
}
KERNEL(128) f16_stem(char *memory, ARGUMENTS) { stem(memory, &p, 0); }
KERNEL(128) f16_stem_bytes(char *memory, ARGUMENTS) { stem(memory, &p, 1); }

// The bytes of an image's planes as values 0 to 1, with the bits of the CPU's: four of them a thread, `channels` in all.
KERNEL(128) from_bytes(char *memory, ARGUMENTS) {
    const int first = 4 * (int)(blockIdx.x * 128u + threadIdx.x), left = p.channels - first;
    if (left <= 0) return;
    const unsigned bytes = *(const unsigned *)(memory + p.src.at + first);
    unsigned v[4];
    UNROLL for (int i = 0; i < 4; i++) v[i] = as_word(divide_rounded((float)(bytes >> 8 * i & 255), 255.0f));
    unsigned *to = (unsigned *)(memory + p.dst.at) + first;
    if (left >= 4)
        *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
    else
        UNROLL for (int i = 0; i < 3; i++)
            if (i < left) to[i] = v[i];
}

// A run of up to 8 channels of an image, plane after plane in f32, as a chunk; what is missing of it is zero.
KERNEL(128) f16_import(char *memory, ARGUMENTS) {
    const int pixel = (int)(blockIdx.x * 128u + threadIdx.x), chunk = (int)blockIdx.y;
    if (pixel >= p.dst.h * p.dst.w) return;
    float v[8];
    UNROLL for (int e = 0; e < 8; e++) {
        const int c = 8 * chunk + e;
        v[e] = c < p.channels ? *(const float *)(memory + p.src.at + (long long)c * p.src.step + 4LL * pixel) : 0.0f;
    }
    store_chunk(memory, &p.dst, pixel, chunk, v);
}

// The opposite: a run of channels to planes of f32.
KERNEL(128) f16_export(char *memory, ARGUMENTS) {
    const int pixel = (int)(blockIdx.x * 128u + threadIdx.x), chunk = (int)blockIdx.y;
    if (pixel >= p.dst.h * p.dst.w) return;
    float v[8];
    values_of(v, load_chunk(memory, &p.src, pixel, chunk));
    UNROLL for (int e = 0; e < 8; e++) {
        const int c = 8 * chunk + e;
        if (c < p.channels) *(float *)(memory + p.dst.at + (long long)c * p.dst.step + 4LL * pixel) = v[e];
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Any window, one chunk of channels a thread: for what the products do not take. Weights as theirs. Writes f16, or
// planes where dst.step says so.
KERNEL_OF(128, 6) f16_direct(char *memory, ARGUMENTS) {
    const int pixel = (int)(blockIdx.x * 128u + threadIdx.x), first = (int)blockIdx.y * 8;
    if (pixel >= p.dst.h * p.dst.w) return;
    const int top = pixel / p.dst.w * p.stride - p.padding, left = pixel % p.dst.w * p.stride - p.padding;
    float v[8];
    UNROLL for (int e = 0; e < 8; e++) v[e] = ((const float *)(memory + p.product.bias))[first + e];
    for (int down = 0; down < p.kernel; down++)
        for (int right = 0; right < p.kernel; right++) {
            const int y = top + down, x = left + right;
            if ((unsigned)y >= (unsigned)p.src.h || (unsigned)x >= (unsigned)p.src.w) continue;
            for (int chunk = 0; chunk < p.c_chunks; chunk++) {
                float a[8], w[8];
                values_of(a, load_chunk(memory, &p.src, y * p.src.w + x, chunk));
                UNROLL for (int e = 0; e < 8; e++) {
                    const char *column = memory + p.product.weights + (long long)(first + e) * p.product.k_pitch;
                    values_of(w, ((const uint4 *)column)[(down * p.kernel + right) * p.c_chunks + chunk]);
                    UNROLL for (int k = 0; k < 8; k++) v[e] += a[k] * w[k];
                }
            }
        }
    if (p.dst.step == 2) {
        finish_chunk(memory, &p, pixel, first / 8, v);
        return;
    }
    activate_all(v, 8, p.product.act, F16);
    store(memory, &p, OUT_PLANES, pixel, first, 8, v);
}

// The chunk of src that a chunk of a depthwise convolution reads: with heads that of the values of a packed input of
// attention.
INLINE int chunk_of_src(const Arguments *p, const int chunk) {
    if (!p->heads) return chunk;
    const int head = chunk / p->value_chunks;
    return chunk + 2 * (head + 1) * p->key_chunks;
}

// Depthwise, 3x3, padding 1: `along` pixels of a row a thread; blockIdx.y is the row. Weights are [tap][c]. The three
// products of a row are added up in f16, the rows in f32.
INLINE void depthwise3(char *memory, const Arguments *p, const int stride, const int along) {
    const unsigned index = blockIdx.x * 128u + threadIdx.x;
    const int chunk = (int)(index % (unsigned)p->c_chunks), x = (int)(index / (unsigned)p->c_chunks) * along, y = (int)blockIdx.y;
    if (x >= p->dst.w) return;
    const int from = chunk_of_src(p, chunk);
    float v[2][8];
    unsigned bias[8];
    load_words(bias, memory + p->product.bias + 32 * chunk, 8);
    UNROLL for (int i = 0; i < along; i++) UNROLL for (int e = 0; e < 8; e++) v[i][e] = as_float(bias[e]);
    const uint4 *weights = (const uint4 *)(memory + p->product.weights) + chunk;
    UNROLL for (int down = 0; down < 3; down++) {
        const int row = y * stride - 1 + down;
        if ((unsigned)row >= (unsigned)p->src.h) continue;
        uint4 w[3], s[4];
        UNROLL for (int k = 0; k < 3; k++) w[k] = weights[(down * 3 + k) * p->c_chunks];
        UNROLL for (int k = 0; k < (along - 1) * stride + 3; k++) {
            const int column = x * stride - 1 + k;
            s[k] = make_uint4(0, 0, 0, 0);
            if ((unsigned)column < (unsigned)p->src.w) s[k] = load_chunk(memory, &p->src, row * p->src.w + column, from);
        }
        UNROLL for (int i = 0; i < along; i++) {
            unsigned sum[4] = {0, 0, 0, 0};
            UNROLL for (int k = 0; k < 3; k++) {
                const uint4 a = s[i * stride + k];
                sum[0] = fma_f16x2(a.x, w[k].x, sum[0]), sum[1] = fma_f16x2(a.y, w[k].y, sum[1]);
                sum[2] = fma_f16x2(a.z, w[k].z, sum[2]), sum[3] = fma_f16x2(a.w, w[k].w, sum[3]);
            }
            UNROLL for (int e = 0; e < 4; e++) v[i][2 * e] += low_f16(sum[e]), v[i][2 * e + 1] += high_f16(sum[e]);
        }
    }
    UNROLL for (int i = 0; i < along; i++)
        if (x + i < p->dst.w) finish_chunk(memory, p, y * p->dst.w + x + i, chunk, v[i]);
}
KERNEL(128) f16_depthwise3(char *memory, ARGUMENTS) { depthwise3(memory, &p, 1, 2); }
KERNEL(128) f16_depthwise3_stride2(char *memory, ARGUMENTS) { depthwise3(memory, &p, 2, 1); }

// Depthwise, any window, sums in f32.
KERNEL(128) f16_depthwise(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    const int top = pixel / p.dst.w * p.stride - p.padding, left = pixel % p.dst.w * p.stride - p.padding;
    const int from = chunk_of_src(&p, chunk);
    float v[8], a[8], w[8];
    UNROLL for (int e = 0; e < 8; e++) v[e] = ((const float *)(memory + p.product.bias))[8 * chunk + e];
    for (int down = 0; down < p.kernel; down++)
        for (int right = 0; right < p.kernel; right++) {
            const int y = top + down, x = left + right;
            if ((unsigned)y >= (unsigned)p.src.h || (unsigned)x >= (unsigned)p.src.w) continue;
            values_of(a, load_chunk(memory, &p.src, y * p.src.w + x, from));
            values_of(w, ((const uint4 *)(memory + p.product.weights))[(down * p.kernel + right) * p.c_chunks + chunk]);
            UNROLL for (int e = 0; e < 8; e++) v[e] += a[e] * w[e];
        }
    finish_chunk(memory, &p, pixel, chunk, v);
}

// ---------------------------------------------------------------------------------------------------------------------
// Moves and sums.

// Upsamples by an integer factor, repeating the nearest pixel; by 1 a copy.
KERNEL(128) f16_upsample(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    const int y = pixel / p.dst.w / p.factor, x = pixel % p.dst.w / p.factor;
    *(uint4 *)(memory + p.dst.at + (long long)pixel * p.dst.pitch + 16 * chunk) = load_chunk(memory, &p.src, y * p.src.w + x, chunk);
}

// Pixel shuffle: every pixel of src holds a square of factor x factor pixels, row after row in its channels.
KERNEL(128) f16_pixel_shuffle(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    const int y = pixel / p.dst.w, x = pixel % p.dst.w, tap = y % p.factor * p.factor + x % p.factor;
    const int from = y / p.factor * p.src.w + x / p.factor;
    *(uint4 *)(memory + p.dst.at + (long long)pixel * p.dst.pitch + 16 * chunk) =
        load_chunk(memory, &p.src, from, tap * p.c_chunks + chunk);
}

// Maximum over windows; pixels outside the image do not count.
KERNEL(128) f16_max_pool(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    const int y = pixel / p.dst.w * p.stride - p.padding, x = pixel % p.dst.w * p.stride - p.padding;
    const unsigned lowest = 0xfc00fc00u;
    uint4 best = make_uint4(lowest, lowest, lowest, lowest);
    for (int i = y > 0 ? y : 0; i < y + p.kernel && i < p.src.h; i++)
        for (int j = x > 0 ? x : 0; j < x + p.kernel && j < p.src.w; j++) {
            const uint4 a = load_chunk(memory, &p.src, i * p.src.w + j, chunk);
            best = make_uint4(max_f16x2(best.x, a.x), max_f16x2(best.y, a.y), max_f16x2(best.z, a.z), max_f16x2(best.w, a.w));
        }
    *(uint4 *)(memory + p.dst.at + (long long)pixel * p.dst.pitch + 16 * chunk) = best;
}

// Three maxima of 5x5 windows at stride 1, of which each takes the one before: windows of 5, 9 and 13 around a pixel. The
// second and the third lie `outside` bytes further each. A block takes POOL_ROWS rows and a chunk of channels: first
// maxima along rows, then along columns.
#define POOL_ROWS 5
INLINE unsigned larger_of(const int kind, const unsigned a, const unsigned b) {
    return kind == F16 ? max_f16x2(a, b) : as_word(fmaxf(as_float(a), as_float(b)));
}
INLINE uint4 larger(const int kind, const uint4 a, const uint4 b) {
    return make_uint4(larger_of(kind, a.x, b.x), larger_of(kind, a.y, b.y), larger_of(kind, a.z, b.z), larger_of(kind, a.w, b.w));
}
INLINE void pools(char *memory, const Arguments *p, const int kind) {
    const int w = p->src.w, h = p->src.h, top = (int)blockIdx.x * POOL_ROWS, chunk = (int)blockIdx.y;
    const int rows = POOL_ROWS + 12, wide = w + 12, x0 = (int)(threadIdx.x % 32u), y0 = (int)(threadIdx.x / 32u);
    const unsigned least = kind == F16 ? 0xfc00fc00u : 0xff800000u;
    // The input with 6 pixels more on all sides, then for each window [rows][w].
    uint4 *input = (uint4 *)shared, *along = input + rows * wide;
    for (int y = y0; y < rows; y += 4)
        for (int x = x0; x < wide; x += 32) {
            const int row = top - 6 + y, column = x - 6;
            const int inside = (unsigned)row < (unsigned)h && (unsigned)column < (unsigned)w;
            input[y * wide + x] =
                inside ? load_chunk(memory, &p->src, row * w + column, chunk) : make_uint4(least, least, least, least);
        }
    BARRIER();
    for (int y = y0; y < rows; y += 4)
        for (int x = x0; x < w; x += 32) {
            const uint4 *from = input + y * wide + x + 6;
            uint4 best = from[0];
            UNROLL for (int d = 1; d <= 6; d++) {
                best = larger(kind, best, larger(kind, from[-d], from[d]));
                if (d % 2 == 0) along[((d / 2 - 1) * rows + y) * w + x] = best;
            }
        }
    BARRIER();
    for (int i = y0; i < POOL_ROWS * 3; i += 4) {
        const int which = i / POOL_ROWS, y = i - which * POOL_ROWS;
        if (top + y >= h) continue;
        for (int x = x0; x < w; x += 32) {
            const uint4 *from = along + (which * rows + y + 6) * w + x;
            uint4 best = from[0];
            for (int d = 1; d <= 2 * (which + 1); d++) best = larger(kind, best, larger(kind, from[-d * w], from[d * w]));
            char *to = memory + p->dst.at + which * p->outside + (long long)((top + y) * w + x) * p->dst.pitch;
            *(uint4 *)(to + 16 * chunk) = best;
        }
    }
}
KERNEL(128) f16_pools(char *memory, ARGUMENTS) { pools(memory, &p, F16); }
KERNEL(128) f32_pools(char *memory, ARGUMENTS) { pools(memory, &p, F32); }

// dst = act(src) + other.
KERNEL(128) f16_elementwise(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    float v[8];
    values_of(v, load_chunk(memory, &p.src, pixel, chunk));
    finish_chunk(memory, &p, pixel, chunk, v);
}

// Mean over all pixels: a block for a chunk, its threads add up every 128th pixel.
KERNEL(128) f16_average(char *memory, ARGUMENTS) {
    __shared__ float parts[128][8];
    const int t = (int)threadIdx.x, chunk = (int)blockIdx.x, pixels = p.src.h * p.src.w;
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int pixel = t; pixel < pixels; pixel += 128) {
        float a[8];
        values_of(a, load_chunk(memory, &p.src, pixel, chunk));
        UNROLL for (int e = 0; e < 8; e++) v[e] += a[e];
    }
    UNROLL for (int e = 0; e < 8; e++) parts[t][e] = v[e];
    for (int half = 64; half > 0; half /= 2) {
        BARRIER();
        if (t < half)
            UNROLL for (int e = 0; e < 8; e++) parts[t][e] += parts[t + half][e];
    }
    if (t > 0) return;
    UNROLL for (int e = 0; e < 8; e++) v[e] = parts[0][e] / (float)pixels;
    store_chunk(memory, &p.dst, 0, chunk, v);
}

// The input of a product in int8: f32 values at any address to numbers, 16 channels a thread, the last filled up.
KERNEL(128) int8_quantize(char *memory, ARGUMENTS) {
    int pixel, chunk;
    if (!chunk_of_thread(&p, &pixel, &chunk)) return;
    const float *from = (const float *)pixel_of(memory, &p.src, pixel);
    unsigned w[4];
    UNROLL for (int i = 0; i < 4; i++) {
        int numbers[4];
        UNROLL for (int e = 0; e < 4; e++) {
            const int c = 16 * chunk + 4 * i + e;
            numbers[e] = c < p.src.c ? quantized(&p, from[c]) : 0;
        }
        w[i] = pack_int8(numbers[0], numbers[1], numbers[2], numbers[3]);
    }
    *(uint4 *)(memory + p.dst.at + (long long)pixel * p.dst.pitch + 16 * chunk) = make_uint4(w[0], w[1], w[2], w[3]);
}

// Any window in int8, 8 columns of a pixel a thread: for what the products do not take. Weights as theirs. Writes f32, or
// numbers where dst.step says so.
KERNEL(128) int8_direct(char *memory, ARGUMENTS) {
    const int pixel = (int)(blockIdx.x * 128u + threadIdx.x), first = (int)blockIdx.y * 8;
    if (pixel >= p.dst.h * p.dst.w) return;
    const int top = pixel / p.dst.w * p.stride - p.padding, left = pixel % p.dst.w * p.stride - p.padding;
    int sums[8];
    UNROLL for (int e = 0; e < 8; e++) sums[e] = ((const int *)(memory + p.product.bias))[first + e];
    for (int tap = 0; tap < p.kernel * p.kernel; tap++) {
        const int y = top + tap / p.kernel, x = left + tap % p.kernel;
        const int inside = (unsigned)y < (unsigned)p.src.h && (unsigned)x < (unsigned)p.src.w;
        for (int chunk = 0; chunk < p.c_chunks; chunk++) {
            const uint4 a = inside ? load_chunk(memory, &p.src, y * p.src.w + x, chunk) : *(const uint4 *)(memory + p.outside);
            UNROLL for (int e = 0; e < 8; e++) {
                const char *column = memory + p.product.weights + (long long)(first + e) * p.product.k_pitch;
                const uint4 b = ((const uint4 *)column)[tap * p.c_chunks + chunk];
                sums[e] = add_products_int8(a.x, b.x, add_products_int8(a.y, b.y, sums[e]));
                sums[e] = add_products_int8(a.z, b.z, add_products_int8(a.w, b.w, sums[e]));
            }
        }
    }
    float v[8];
    UNROLL for (int e = 0; e < 8; e++) {
        const float scale = ((const float *)(memory + p.product.scales))[first + e];
        const float shift = ((const float *)(memory + p.product.shifts))[first + e];
        v[e] = add_rounded(multiply_rounded((float)sums[e], scale), shift);
    }
    activate_all(v, 8, p.product.act, INT8);
    if (p.others) {
        unsigned other[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        load_other(other, memory, &p.other, OUT_F32, pixel, first, 8);
        UNROLL for (int e = 0; e < 8; e++) v[e] += as_float(other[e]);
    }
    if (p.dst.step == 1)
        store(memory, &p, OUT_INT8, pixel, first, 8, v);
    else
        store(memory, &p, OUT_F32, pixel, first, 8, v);
}
