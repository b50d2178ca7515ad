// Dense convolutions on tensor cores, in f16, int8 or f32, written once for all.
//
// An implicit product: rows are output pixels, columns output channels, the depth runs over taps and input channels, all
// counted in *chunks* of 16 bytes (8 f16 values, 16 int8 or 4 f32 ones), in which all kinds have the same layout. In f32
// every value is the sum of two with 10 bits of mantissa, each the nearest, which tensor cores multiply. Tensors are
// pixel-major; every tensor begins at a multiple of a chunk, its pitch is one, and its channels are filled up to one
// (weights of what was filled up are zero). A slice of the depth after the other goes to shared memory by asynchronous
// copies while the one before is multiplied.
#include "device.h"
#include "tiles.h"

#ifdef __CUDACC__
SHARED(shared);
#endif

enum { F16, INT8, F32 };  // what is multiplied
// What is written: f16, planes of f32 one after the other, f32 at any address, int8, or f32 in whole chunks.
enum { OUT_F16, OUT_PLANES, OUT_F32, OUT_INT8, OUT_CHUNKS };
enum { POINT, WINDOW, PAIR };  // 1x1; any window of up to 5x5; 1x1 of two tensors

// Positions count bytes from the start of the memory.
typedef struct {
    long long at;  // first byte
    int pitch;     // bytes from one pixel to the next
    int step;      // bytes from one plane to the next, where channels are planes
    int c, h, w;
    int unused;
} Tensor;

// A product with a packed kernel [column][tap][channel]; every column is filled up to a multiple of 16 chunks.
typedef struct {
    long long weights;
    long long bias;            // where sums begin: f32, in int8 i32
    long long scales, shifts;  // in int8: value = scale * sum + shift, each f32
    int k_chunks, k_pitch;     // chunks of a column, bytes from one column to the next
    int columns;               // a multiple of 8
    int act;                   // 0 identity, 1 SiLU, 2 ReLU
} Product;

// What a launch works on. The same layout as `Arguments` of product.rs.
typedef struct {
    Tensor src, dst, other;
    Tensor member;  // of a pair: what lies in the place of some chunks of src, at a side that is 2^shift times smaller
    Product product;
    long long outside;  // int8: 16 bytes that stand for a chunk outside the image
    int others;         // whether `other` is added after the activation
    int kernel, stride, padding, c_chunks;
    // To divide: by c_chunks and by kernel as n * magic >> 20, by dst.w as the high word of n * magic (0: w is 1).
    unsigned c_magic, k_magic, w_magic;
    unsigned pattern;  // of a window: bits 0, kernel, 2 * kernel ..
    int factor, heads, key_chunks, value_chunks, channels;
    float scale;
    // To int8: round(clamp(value * steps, least, most)) + zero.
    float steps, least, most;
    int zero;
    int member_first, member_chunks, shift;
} Arguments;

#define ARGUMENTS const GRID_CONSTANT Arguments p

// n / d for `magic` = 2^20 / d + 1 rounded down, as long as n * d < 2^20.
INLINE int small_divided(const int n, const unsigned magic) { return (int)((unsigned)n * magic >> 20); }
// n / d for `magic` = 2^32 / d rounded up (0 where d is 1), as long as n * d < 2^32.
INLINE int divided(const int n, const unsigned magic) {
    const int quotient = (int)high_product((unsigned)n, magic);
    return magic ? quotient : n;
}

// x / (1 + exp(-x)) as x/2 + x/2 tanh(x/2), with an error of 2^-11 of x.
INLINE float fast_silu(const float x) {
    const float half = 0.5f * x;
    return half + half * approximate_tanh(half);
}
// Activates many values at once: one branch. Unless in f16, to the bit as the CPU does.
INLINE void activate_all(float *v, const int count, const int act, const int kind) {
    if (act == 1)
        UNROLL for (int i = 0; i < count; i++)
            v[i] = kind == F16 ? fast_silu(v[i]) : activated(1, v[i]);
    else if (act == 2)
        UNROLL for (int i = 0; i < count; i++) v[i] = fmaxf(v[i], 0.0f);
}

// Where chunk `chunk` of row `row` lies in a tile whose rows have `chunks` chunks: mixed so that 8 rows of the same
// chunk, as matrices are loaded, and 8 chunks of a row, as they are copied, lie in different banks.
INLINE int mixed(const int chunks, const int row, const int chunk) {
    const int key = chunks >= 8 ? row & 7 : chunks == 4 ? row >> 1 & 3 : chunks == 2 ? row >> 2 & 1 : 0;
    return row * chunks + (chunk ^ key);
}

// Values: `count` (8, 4 or 2) consecutive channels of a pixel.

INLINE void load_words(unsigned *w, const char *at, const int count) {
    if (count == 8) {
        const uint4 x = *(const uint4 *)at, y = ((const uint4 *)at)[1];
        w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w, w[4] = y.x, w[5] = y.y, w[6] = y.z, w[7] = y.w;
    } else if (count == 4) {
        const uint4 x = *(const uint4 *)at;
        w[0] = x.x, w[1] = x.y, w[2] = x.z, w[3] = x.w;
    } else if (count == 2) {
        const uint2 x = *(const uint2 *)at;
        w[0] = x.x, w[1] = x.y;
    } else
        w[0] = *(const unsigned *)at;
}
INLINE const char *pixel_of(const char *memory, const Tensor *t, const int pixel) {
    return memory + t->at + (long long)pixel * t->pitch;
}
// The other summand, as it lies in memory: f16, f32 in whole chunks, or f32 at any address.
INLINE void load_other(unsigned *w, const char *memory, const Tensor *from, const int out, const int pixel, const int channel,
                       const int count) {
    const char *at = pixel_of(memory, from, pixel);
    if (out == OUT_F16) {
        load_words(w, at + 2 * channel, count / 2);
        return;
    }
    if (out == OUT_CHUNKS) {
        load_words(w, at + 4 * channel, count);
        return;
    }
    UNROLL for (int i = 0; i < count; i++)
        if (channel + i < from->c) w[i] = ((const unsigned *)at)[channel + i];
}
INLINE float value_of(const unsigned *w, const int out, const int i) {
    if (out == OUT_F16) return i % 2 ? high_f16(w[i / 2]) : low_f16(w[i / 2]);
    return as_float(w[i]);
}

// The number that stands for a value in int8, as the CPU's kernels find it.
INLINE int quantized(const Arguments *p, const float value) {
    return round_to_int(fminf(fmaxf(multiply_rounded(value, p->steps), p->least), p->most)) + p->zero;
}

INLINE void store(char *memory, const Arguments *p, const int out, const int pixel, const int channel, const int count,
                  const float *v) {
    char *at = memory + p->dst.at + (long long)pixel * p->dst.pitch;
    if (out == OUT_PLANES) {
        at += (long long)channel * p->dst.step;
        UNROLL for (int i = 0; i < count; i++)
            if (channel + i < p->dst.c) *(float *)(at + (long long)i * p->dst.step) = v[i];
    } else if (out == OUT_F32) {
        UNROLL for (int i = 0; i < count; i++)
            if (channel + i < p->dst.c) ((float *)at)[channel + i] = v[i];
    } else if (out == OUT_CHUNKS) {
        at += 4 * channel;
        UNROLL for (int i = 0; i < count / 4; i++)
            ((uint4 *)at)[i] =
                make_uint4(as_word(v[4 * i]), as_word(v[4 * i + 1]), as_word(v[4 * i + 2]), as_word(v[4 * i + 3]));
        if (count == 2) *(uint2 *)at = make_uint2(as_word(v[0]), as_word(v[1]));
    } else if (out == OUT_INT8) {
        UNROLL for (int i = 0; i < (count + 3) / 4; i++) {
            const unsigned w = pack_int8(quantized(p, v[4 * i]), quantized(p, v[4 * i + 1]),
                                         count > 2 ? quantized(p, v[4 * i + 2]) : 0, count > 2 ? quantized(p, v[4 * i + 3]) : 0);
            if (count == 2)
                *(unsigned short *)(at + channel) = (unsigned short)w;
            else
                *(unsigned *)(at + channel + 4 * i) = w;
        }
    } else {
        at += 2 * channel;
        unsigned w[4];
        UNROLL for (int i = 0; i < count / 2; i++) w[i] = pack_f16(v[2 * i], v[2 * i + 1]);
        if (count == 8)
            *(uint4 *)at = make_uint4(w[0], w[1], w[2], w[3]);
        else if (count == 4)
            *(uint2 *)at = make_uint2(w[0], w[1]);
        else
            *(unsigned *)at = w[0];
    }
}

// The order of columns. A warp's columns are taken in groups of up to 4 tiles of 8. After the multiplications lane
// (g, t) holds columns 2t and 2t + 1 of every tile; row s of the tile of weights holds the column which makes what a lane
// holds of a group consecutive channels, so that results go to memory 16 bytes at a time without another exchange.
INLINE int column_of(const int tiles, const int s) {
    const int within = s % (8 * tiles), group = within / 32, r = within % 32;
    const int size = tiles - 4 * group < 4 ? tiles - 4 * group : 4;
    return s - within + 32 * group + r % 8 / 2 * 2 * size + r / 8 * 2 + r % 2;
}

#define MOST_I 4   // tiles of 16 rows of a warp
#define MOST_J 10  // tiles of 8 columns
typedef unsigned Sums[MOST_I][MOST_J][4];

// Sums begin with the biases (those of one of the warps that share a sum, the others' with zero).
INLINE void begin_sums(Sums sums, const char *memory, const Product *q, const int mt, const int nt, const int first_column,
                       const int with_bias) {
    const int lane = (int)(threadIdx.x % 32u);
    UNROLL for (int group = 0; group < (nt + 3) / 4; group++) {
        const int size = nt - 4 * group < 4 ? nt - 4 * group : 4, column = first_column + 32 * group + lane % 4 * 2 * size;
        unsigned bias[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (with_bias && column < q->columns) load_words(bias, memory + q->bias + 4 * (long long)column, 2 * size);
        UNROLL for (int i = 0; i < mt; i++) UNROLL for (int j = 0; j < size; j++) UNROLL for (int e = 0; e < 4; e++)
            sums[i][4 * group + j][e] = bias[2 * j + e % 2];
    }
}

// An f32 value, larger by `more` of it, as the sum of two that tensor cores multiply; what is missing is 2^-23 of it at
// most.
INLINE void split(const unsigned word, const float more, unsigned *large, unsigned *small) {
    *large = nearest_tf32(word);
    const float left = as_float(word) - as_float(*large);
    *small = nearest_tf32(as_word(more > 0.0f ? fmaf(more, as_float(word), left) : left));
}
// What the sum of a step loses on average, as a share of it: 0.6 of the 2^-24 that half a bit of an f32 value is at most.
#define LOST 0x1.4p-25f
// sums += x y in f32: the product of the small parts does not count. Tensor cores cut off what they add up (emulate.h says
// how), which would make all sums too small. So the sum of a step begins at zero, with the small parts, and is added by an
// operation that rounds (Ootomo & Yokota, "Recovering single precision accuracy from tensor cores while surpassing the
// FP32 theoretical peak performance", 2022); what it loses on average, the first factor has more.
INLINE void multiply_f32(Sums sums, const int mt, const int nt, unsigned x[MOST_I][4], unsigned y[MOST_J][2]) {
    unsigned large[MOST_J][2], small[MOST_J][2];
    UNROLL for (int j = 0; j < nt; j++) UNROLL for (int e = 0; e < 2; e++) split(y[j][e], 0.0f, &large[j][e], &small[j][e]);
    UNROLL for (int i = 0; i < mt; i++) {
        unsigned most[4], rest[4];
        UNROLL for (int e = 0; e < 4; e++) split(x[i][e], LOST, &most[e], &rest[e]);
        unsigned step[MOST_J][4];
        UNROLL for (int j = 0; j < nt; j++) UNROLL for (int e = 0; e < 4; e++) step[j][e] = 0;
        UNROLL for (int j = 0; j < nt; j++) multiply_tf32(step[j], rest, large[j]);
        UNROLL for (int j = 0; j < nt; j++) multiply_tf32(step[j], most, small[j]);
        UNROLL for (int j = 0; j < nt; j++) multiply_tf32(step[j], most, large[j]);
        UNROLL for (int j = 0; j < nt; j++) UNROLL for (int e = 0; e < 4; e++)
            sums[i][j][e] = as_word(as_float(sums[i][j][e]) + as_float(step[j][e]));
    }
}

// sums += a b, of matrices in shared memory: `a` and `b` are where this lane loads the first of them, the next are 16 rows
// further, `apart` bytes.
INLINE void multiply(Sums sums, const int kind, const int mt, const int nt, const unsigned a, const unsigned b,
                     const unsigned apart) {
    unsigned x[MOST_I][4], y[MOST_J][2];
    UNROLL for (int i = 0; i < mt; i++) load_matrices4(x[i], a + apart * (unsigned)i);
    UNROLL for (int j = 0; j + 1 < nt; j += 2) {
        unsigned both[4];
        load_matrices4(both, b + apart * (unsigned)(j / 2));
        y[j][0] = both[0], y[j][1] = both[1], y[j + 1][0] = both[2], y[j + 1][1] = both[3];
    }
    if (nt % 2) load_matrices2(y[nt - 1], b + apart * (unsigned)(nt / 2));
    if (kind == F32) {
        multiply_f32(sums, mt, nt, x, y);
        return;
    }
    UNROLL for (int i = 0; i < mt; i++) UNROLL for (int j = 0; j < nt; j++) {
        if (kind == INT8)
            multiply_int8(sums[i][j], x[i], y[j]);
        else
            multiply_f16(sums[i][j], x[i], y[j]);
    }
}

// Any convolution, gathered: rows of the matrix are copied to shared memory chunk by chunk, where the window says, a slice
// of `chunks` chunks of the depth after the other. Every thread copies always the same chunk of a slice, for several rows.
// Few instructions matter here: on a small GPU they are what a convolution waits for. What is planned before the loop is
// kept from the compiler (`keep`), which would otherwise plan again in every round to save registers.
#define MOST_ROWS 16

// Copies a chunk of the input; outside the image zeros, or in int8 what stands for zero.
INLINE void copy_input(const char *memory, const Arguments *p, const int kind, const unsigned to, const char *from,
                       const unsigned inside) {
    if (kind == INT8)
        copy16(to, inside ? from : memory + p->outside, 16);
    else
        copy16(to, from, inside ? 16 : 0);
}

INLINE void gather(const char *memory, const Arguments *p, const int kind, const int form, const int rows, const int columns,
                   const int wm, const int wn, const int wk, const int chunks, const int stages, const int first_row,
                   const int first_column, Sums sums) {
    const unsigned base = shared_address(shared);
    const int threads = 32 * wm * wn * wk, mt = rows / wm / 16, nt = columns / wn / 8;
    const int lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u);
    const int warp_m = warp % wm, warp_n = wn > 1 ? warp / wm % wn : 0, warp_k = wk > 1 ? warp / (wm * wn) : 0;
    const unsigned stage_bytes = 16u * (unsigned)((rows + columns) * chunks), b_begins = 16u * (unsigned)(rows * chunks);
    const int apart = threads / chunks;
    const int own_chunk = (int)(threadIdx.x % (unsigned)chunks), own_row = (int)(threadIdx.x / (unsigned)chunks);
    const int a_count = (rows + apart - 1) / apart, b_count = (columns + apart - 1) / apart;

    // Where rows lie, and which taps of their windows are inside.
    unsigned at[MOST_ROWS], member_at[MOST_ROWS], inside[MOST_ROWS], column_at[MOST_ROWS], column_bytes[MOST_ROWS];
    UNROLL for (int i = 0; i < a_count; i++) {
        const int row = own_row + i * apart, last = p->dst.h * p->dst.w - 1;
        inside[i] = (rows % apart == 0 || row < rows) && first_row + row <= last ? ~0u : 0u;
        const int pixel = first_row + row < last ? first_row + row : last;
        at[i] = (unsigned)(pixel * p->src.pitch);
        if (form == PAIR) {
            const int y = divided(pixel, p->w_magic), x = pixel - y * p->dst.w;
            member_at[i] = (unsigned)(((y >> p->shift) * p->member.w + (x >> p->shift)) * p->member.pitch);
        } else if (form == WINDOW || p->stride > 1) {
            const int y = divided(pixel, p->w_magic), x = pixel - y * p->dst.w;
            at[i] = (unsigned)((y * p->src.w + x) * p->stride * p->src.pitch);
            if (form == WINDOW) {
                const int top = y * p->stride - p->padding, left = x * p->stride - p->padding, k = p->kernel;
                const int y0 = top < 0 ? -top : 0, y1 = p->src.h - top < k ? p->src.h - top : k;
                const int x0 = left < 0 ? -left : 0, x1 = p->src.w - left < k ? p->src.w - left : k;
                const unsigned across = (1u << x1) - (1u << x0), down = p->pattern & ((1u << y1 * k) - (1u << y0 * k));
                inside[i] &= across * down;
            }
        }
        if (form != WINDOW && !inside[i]) at[i] = member_at[i] = 0;
        keep(&at[i]), keep(&inside[i]);
        if (form == PAIR) keep(&member_at[i]);
    }
    UNROLL for (int i = 0; i < b_count; i++) {
        const int s = own_row + i * apart, column = first_column + column_of(nt, s);
        const int there = (columns % apart == 0 || s < columns) && column < p->product.columns;
        column_at[i] = there ? (unsigned)(column * p->product.k_pitch) : 0u;
        column_bytes[i] = there ? 16u : 0u;
        keep(&column_at[i]), keep(&column_bytes[i]);
    }
    unsigned a_to = base + 16u * (unsigned)mixed(chunks, own_row, own_chunk);
    keep(&a_to);
    const unsigned b_to = a_to + b_begins;

    // Where a lane loads matrices, in the first step of the first stage; for other steps 32 times the step is mixed in.
    unsigned a_at = base + 16u * (unsigned)mixed(chunks, warp_m * mt * 16 + lane % 16, lane / 16);
    unsigned b_at = base + b_begins + 16u * (unsigned)mixed(chunks, warp_n * nt * 8 + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    keep(&a_at), keep(&b_at);
    begin_sums(sums, memory, &p->product, mt, nt, first_column + warp_n * nt * 8, warp_k == 0);

    const int slices = (p->product.k_chunks + chunks - 1) / chunks;
    const char *src = memory + p->src.at, *weights = memory + p->product.weights + 16 * own_chunk;
    const unsigned after = (unsigned)stages * stage_bytes;
    unsigned into = 0, from = 0;
    int chunk = own_chunk;
    ROLLED for (int slice = 1 - stages; slice < slices; slice++) {
        if (slice >= 0) {
            copies_wait(stages - 2);
            BARRIER();
        }
        if (slice + stages - 1 < slices) {
            const int deep = chunk < p->product.k_chunks;
            if (form == WINDOW) {
                const int tap = small_divided(chunk, p->c_magic), down = small_divided(tap, p->k_magic);
                const int moved = (down - p->padding) * p->src.w + tap - down * p->kernel - p->padding;
                const char *here = src + moved * p->src.pitch + 16 * (chunk - tap * p->c_chunks);
                const unsigned bit = deep ? 1u << tap : 0u;
                UNROLL for (int i = 0; i < a_count; i++)
                    if (rows % apart == 0 || own_row + i * apart < rows)
                        copy_input(memory, p, kind, a_to + into + 16u * (unsigned)(i * apart * chunks), here + at[i], inside[i] & bit);
            } else {
                const int within = chunk - p->member_first;
                const int is_member = form == PAIR && (unsigned)within < (unsigned)p->member_chunks;
                const char *here = is_member ? memory + p->member.at + 16 * within : src + 16 * chunk;
                const unsigned bytes_ = deep ? 16u : 0u;
                UNROLL for (int i = 0; i < a_count; i++)
                    if (rows % apart == 0 || own_row + i * apart < rows)
                        copy16(a_to + into + 16u * (unsigned)(i * apart * chunks), here + (is_member ? member_at[i] : at[i]),
                               (int)(inside[i] & bytes_));
            }
            UNROLL for (int i = 0; i < b_count; i++)
                if (columns % apart == 0 || own_row + i * apart < columns)
                    copy16(b_to + into + 16u * (unsigned)(i * apart * chunks), weights + column_at[i], (int)column_bytes[i]);
            weights += 16 * chunks;
            chunk += chunks;
            into += stage_bytes;
            if (into == after) into = 0;
        }
        copies_end();
        if (slice < 0) continue;
        const int steps = chunks / 2 / wk;
#define STEP(s)                                                                                                    \
    do {                                                                                                           \
        const unsigned mix = 32u * (unsigned)(warp_k * steps + (s));                                               \
        multiply(sums, kind, mt, nt, (from + a_at) ^ mix, (from + b_at) ^ mix, 256u * (unsigned)chunks);           \
    } while (0)
        // A step in f32 takes so many registers that there are none for the next.
        if (kind == F32)
            ROLLED for (int s = 0; s < steps; s++) STEP(s);
        else
            UNROLL for (int s = 0; s < steps; s++) STEP(s);
#undef STEP
        from += stage_bytes;
        if (from == after) from = 0;
    }
}

// The end of a convolution: dst = act(sums) + other. With wk > 1 warps hold sums of the same tile, which are added up in
// shared memory first. A unit is what a lane holds of a row and a group of columns: unit (i * groups + group) * 2 + half.
// With wk > 1, where all groups are alike, warps take turns; otherwise everything is known when this is compiled.
#define MOST_UNITS 12
INLINE void finish_tile(char *memory, const Arguments *p, const int kind, const int out, const int rows, const int columns,
                        const int wm, const int wn, const int wk, const int first_row, const int first_column, Sums sums) {
    const int mt = rows / wm / 16, nt = columns / wn / 8, groups = (nt + 3) / 4, quads = nt > 2 ? 2 : 1;
    const int lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u);
    const int warp_m = warp % wm, warp_n = wn > 1 ? warp / wm % wn : 0, warp_k = wk > 1 ? warp / (wm * wn) : 0;
    const int units = mt * groups * 2, place = (warp_m * wn + warp_n) * units, all = wm * wn * units;
    const int mine = (units + wk - 1) / wk;
    unsigned own[MOST_UNITS][8];
    if (wk == 1)
        UNROLL for (int u = 0; u < units; u++) UNROLL for (int e = 0; e < 8; e++)
            own[u][e] = 4 * (u / 2 % groups) + e / 2 < nt ? sums[u / 2 / groups][4 * (u / 2 % groups) + e / 2][u % 2 * 2 + e % 2] : 0;
    else {
        uint4 *exchange = (uint4 *)shared;
        copies_wait(0);
        BARRIER();
        UNROLL for (int u = 0; u < units; u++) {
            const int half = u % 2, group = u / 2 % groups, i = u / 2 / groups;
            unsigned w[8];
            UNROLL for (int e = 0; e < 8; e++)
                w[e] = 4 * group + e / 2 < nt ? sums[i][4 * group + e / 2][2 * half + e % 2] : 0;
            uint4 *at = exchange + ((warp_k * all + place + u) * 2) * 32 + lane;
            at[0] = make_uint4(w[0], w[1], w[2], w[3]);
            if (nt > 2) at[32] = make_uint4(w[4], w[5], w[6], w[7]);
        }
        BARRIER();
        UNROLL for (int n = 0; n < mine; n++) {
            const int u = n * wk + warp_k;
            UNROLL for (int e = 0; e < 8; e++) own[n][e] = 0;
            if (units % wk && u >= units) continue;
            UNROLL for (int k = 0; k < wk; k++) UNROLL for (int q = 0; q < quads; q++) {
                const uint4 x = exchange[((k * all + place + u) * 2 + q) * 32 + lane];
                const unsigned y[4] = {x.x, x.y, x.z, x.w};
                UNROLL for (int e = 0; e < 4; e++)
                    own[n][4 * q + e] = kind == INT8 ? own[n][4 * q + e] + y[e] : as_word(as_float(own[n][4 * q + e]) + as_float(y[e]));
            }
        }
    }
    // What a lane holds now: for each of its units SIZE channels of a pixel, which is below 0 where there is none. SIZE must
    // be known when this is compiled: kept in an array, it would send `v` to local memory.
#define SIZE(n) (wk > 1 ? (nt > 4 ? 8 : 2 * nt) : nt - 4 * ((n) / 2 % groups) < 4 ? 2 * (nt - 4 * ((n) / 2 % groups)) : 8)
    const int row = first_row + warp_m * mt * 16 + lane / 4, column = first_column + warp_n * nt * 8;
    int pixel[MOST_UNITS], channel[MOST_UNITS];
    UNROLL for (int n = 0; n < mine; n++) {
        const int u = n * wk + warp_k;
        channel[n] = column + 32 * (u / 2 % groups) + lane % 4 * SIZE(n);
        pixel[n] = row + 16 * (u / 2 / groups) + 8 * (u % 2);
        if (pixel[n] >= p->dst.h * p->dst.w || channel[n] >= p->product.columns || (units % wk && u >= units)) pixel[n] = -1;
    }
    // All loads before they are needed, one branch for all.
    unsigned other[MOST_UNITS][8];
    float v[MOST_UNITS * 8];
    if (out != OUT_PLANES && p->others)
        UNROLL for (int n = 0; n < mine; n++) {
            UNROLL for (int e = 0; e < 8; e++) other[n][e] = 0;
            if (pixel[n] >= 0) load_other(other[n], memory, &p->other, out, pixel[n], channel[n], SIZE(n));
        }
    UNROLL for (int n = 0; n < mine; n++) {
        unsigned scales[8], shifts[8];
        if (kind == INT8) {
            UNROLL for (int e = 0; e < 8; e++) scales[e] = shifts[e] = 0;
            if (pixel[n] >= 0) {
                load_words(scales, memory + p->product.scales + 4 * (long long)channel[n], SIZE(n));
                load_words(shifts, memory + p->product.shifts + 4 * (long long)channel[n], SIZE(n));
            }
        }
        UNROLL for (int e = 0; e < 8; e++) {
            const float scaled = kind == INT8 && e < SIZE(n) ? multiply_rounded((float)(int)own[n][e], as_float(scales[e])) : 0.0f;
            v[8 * n + e] = e >= SIZE(n) ? 0.0f : kind == INT8 ? add_rounded(scaled, as_float(shifts[e])) : as_float(own[n][e]);
        }
    }
    activate_all(v, 8 * mine, p->product.act, kind);
    if (out != OUT_PLANES && p->others)
        UNROLL for (int n = 0; n < mine; n++) UNROLL for (int e = 0; e < SIZE(n); e++) v[8 * n + e] += value_of(other[n], out, e);
    UNROLL for (int n = 0; n < mine; n++)
        if (pixel[n] >= 0) store(memory, p, out, pixel[n], channel[n], SIZE(n), v + 8 * n);
#undef SIZE
}

INLINE void multiply_tile(char *memory, const Arguments *p, const int kind, const int out, const int form, const int rows,
                 const int columns, const int wm, const int wn, const int wk, const int chunks, const int stages) {
    const int first_row = (int)blockIdx.x * rows, first_column = (int)blockIdx.y * columns;
    Sums sums;
    gather(memory, p, kind, form, rows, columns, wm, wn, wk, chunks, stages, first_row, first_column, sums);
    finish_tile(memory, p, kind, out, rows, columns, wm, wn, wk, first_row, first_column, sums);
}

// Threads that a multiprocessor holds at the same time, at least: as many as leave each the registers that it needs.
#define RESIDENT(kind, form, columns, chunks)                                                    \
    ((kind) == F32 || (form) == PAIR ? ((columns) == 80 ? 384 : 512)                                         \
     : (kind) == INT8 ? ((columns) == 80 ? 384 : 640)                                        \
                    : (columns) == 80 || ((columns) == 64 && (chunks) == 8) ? 640 : 768)
#define PRODUCT(kind, out, form, name, rows, columns, wm, wn, wk, chunks, stages)                           \
    KERNEL_OF(32 * (wm) * (wn) * (wk), RESIDENT(kind, form, columns, chunks) / (32 * (wm) * (wn) * (wk)))         \
    name(char *memory, ARGUMENTS) {                                                                         \
        multiply_tile(memory, &p, kind, out, form, rows, columns, wm, wn, wk, chunks, stages);              \
    }
#define EACH_PRODUCT(kind, out, form, prefix, ...) PRODUCT(kind, out, form, NAME(prefix, __VA_ARGS__), __VA_ARGS__)
PRODUCTS(EACH_PRODUCT)
