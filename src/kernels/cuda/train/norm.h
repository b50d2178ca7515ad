// Batch normalisation with the statistics of the batch (Ioffe and Szegedy, 2015), its activation, and sums per channel.
//
// A reduction has blocks of 32 channels and `rows` pixels, whose parts one thread a channel joins in their order.
// Arrays: 0 parts, 1 mean and inverse deviation, behind them the number of values of a channel, 2 gamma, 3 beta, 4 and 5
// what is found out, 6 the weight of the batch in running statistics. The statistics may be those of the batches of several
// ranks, joined in the order of these.
#pragma once
#include "tensors.h"

// Joins the sums of the 8 threads of a channel; all of them get it.
INLINE float channel_sum(float *parts, const float own) {
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32;
    __syncthreads();
    parts[row * 32 + lane] = own;
    __syncthreads();
    float sum = 0.0f;
    for (int other = 0; other < 8; other++) sum += parts[other * 32 + lane];
    return sum;
}

typedef struct {
    int channel, first, last;
} Part;

INLINE Part part_of(const Training *p) {
    const int first = (int)blockIdx.y * p->rows, pixels = pixels_of(p->x);
    const Part part = {(int)(blockIdx.x * 32 + threadIdx.x % 32), first, pixels - first < p->rows ? pixels : first + p->rows};
    return part;
}

// Mean, and sum of the squared distances from it, of every part of x.
INLINE void train_moments(char *memory, const Training *p, const int f16) {
    __shared__ float parts[256];
    const Part part = part_of(p);
    const int row = (int)threadIdx.x / 32, inside = part.channel < p->x.c;
    float sum = 0.0f, squares = 0.0f;
    if (inside)
        for (int pixel = part.first + row; pixel < part.last; pixel += 8) sum += batch_value(memory, p->x, f16, pixel, part.channel);
    const float mean = channel_sum(parts, sum) / (float)(part.last - part.first);
    if (inside)
        for (int pixel = part.first + row; pixel < part.last; pixel += 8) {
            const float off = batch_value(memory, p->x, f16, pixel, part.channel) - mean;
            squares += off * off;
        }
    squares = channel_sum(parts, squares);
    if (row > 0 || !inside) return;
    float *to = array_of(memory, p, 0) + 2ll * blockIdx.y * p->x.c + part.channel;
    to[0] = mean, to[p->x.c] = squares;
}
BOTH(BLOCK, train_moments)

// Mean, sum of the squared distances from it, and number of values.
typedef struct {
    double mean, squares, count;
} Moments;

// Joins the moments of further values (Chan et al., 1979).
INLINE Moments with_moments(const Moments m, const double mean, const double squares, const double count) {
    const double off = mean - m.mean, all = m.count + count;
    const Moments joined = {m.mean + off * count / all, m.squares + (squares + off * off * m.count * count / all), all};
    return joined;
}

// The moments of all parts of a channel.
INLINE Moments moments_of_parts(char *memory, const Training *p, const int channel) {
    const int c = p->x.c, pixels = pixels_of(p->x);
    const float *parts = array_of(memory, p, 0) + channel;
    Moments all = {0.0, 0.0, 0.0};
    for (int part = 0; part < p->splits; part++) {
        const double own = pixels - part * p->rows < p->rows ? pixels - part * p->rows : p->rows;
        all = with_moments(all, parts[2ll * part * c], parts[(2ll * part + 1) * c], own);
    }
    return all;
}

// What normalises a channel, from its moments; the running statistics, arrays 4 and 5, move toward these.
INLINE void take_moments(char *memory, const Training *p, const int channel, const Moments m) {
    float *stats = array_of(memory, p, 1) + channel;
    stats[0] = (float)m.mean, stats[p->x.c] = (float)(1.0 / sqrt(m.squares / m.count + (double)p->eps));
    if (channel == 0) stats[2 * p->x.c] = (float)m.count;
    const float momentum = *array_of(memory, p, 6);
    float *running_mean = array_of(memory, p, 4) + channel, *running_variance = array_of(memory, p, 5) + channel;
    *running_mean = *running_mean * (1.0f - momentum) + (float)m.mean * momentum;
    // The running variance is the unbiased one.
    const double unbiased = m.squares / (m.count > 2.0 ? m.count - 1.0 : 1.0);
    *running_variance = *running_variance * (1.0f - momentum) + (float)unbiased * momentum;
}

// Joins the moments of all parts.
KERNEL(BLOCK) train_moments_joined(TRAINING) {
    const int channel = (int)(blockIdx.x * BLOCK + threadIdx.x);
    if (channel < p.x.c) take_moments(memory, &p, channel, moments_of_parts(memory, &p, channel));
}

// The same for other ranks: to array 1 mean and sum of squared distances, and behind them the number of images.
KERNEL(BLOCK) train_moments_own(TRAINING) {
    const int channel = (int)(blockIdx.x * BLOCK + threadIdx.x), c = p.x.c;
    if (channel >= c) return;
    const Moments own = moments_of_parts(memory, &p, channel);
    float *to = array_of(memory, &p, 1) + channel;
    to[0] = (float)own.mean, to[c] = (float)own.squares;
    if (channel == 0) to[2 * c] = (float)p.x.n;
}

// Joins what the kernel before has found on `splits` ranks: array 0.
KERNEL(BLOCK) train_moments_of_all(TRAINING) {
    const int channel = (int)(blockIdx.x * BLOCK + threadIdx.x), c = p.x.c;
    if (channel >= c) return;
    Moments all = {0.0, 0.0, 0.0};
    for (int rank = 0; rank < p.splits; rank++) {
        const float *own = array_of(memory, &p, 0) + (2ll * c + 1) * rank;
        all = with_moments(all, own[channel], own[c + channel], (double)own[2 * c] * p.x.h * p.x.w);
    }
    take_moments(memory, &p, channel, all);
}

// Mean and inverse deviation from the running statistics.
KERNEL(BLOCK) train_moments_given(TRAINING) {
    const int channel = (int)(blockIdx.x * BLOCK + threadIdx.x);
    if (channel >= p.x.c) return;
    float *stats = array_of(memory, &p, 1) + channel;
    stats[0] = array_of(memory, &p, 4)[channel];
    stats[p.x.c] = 1.0f / sqrtf(array_of(memory, &p, 5)[channel] + p.eps);
}

// y = act(gamma * (x - mean) / deviation + beta).
INLINE void train_norm(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    const float *stats = array_of(memory, p, 1) + channel;
    const float normal = (batch_value(memory, p->x, f16, pixel, channel) - stats[0]) * stats[p->x.c];
    const float value = array_of(memory, p, 2)[channel] * normal + array_of(memory, p, 3)[channel];
    put(memory, p->y, f16, 0, pixel, channel, activated(p->act, value));
}
BOTH(BLOCK, train_norm)

// Of every part the sum of the gradient behind the activation, and of its product with the normalised value; x is what
// was normalised, y the gradient of the output.
INLINE void train_norm_sums(char *memory, const Training *p, const int f16) {
    __shared__ float parts[256];
    const Part part = part_of(p);
    const int inside = part.channel < p->x.c, row = (int)threadIdx.x / 32, channel = inside ? part.channel : 0;
    const float mean = array_of(memory, p, 1)[channel], inverse = array_of(memory, p, 1)[p->x.c + channel];
    const float gamma = array_of(memory, p, 2)[channel], beta = array_of(memory, p, 3)[channel];
    float sum = 0.0f, products = 0.0f;
    if (inside)
        for (int pixel = part.first + row; pixel < part.last; pixel += 8) {
            const float normal = (batch_value(memory, p->x, f16, pixel, channel) - mean) * inverse;
            const float g = batch_value(memory, p->y, f16, pixel, channel) * slope(p->act, gamma * normal + beta);
            sum += g, products += g * normal;
        }
    sum = channel_sum(parts, sum);
    products = channel_sum(parts, products);
    if (row > 0 || !inside) return;
    float *to = array_of(memory, p, 0) + 2ll * blockIdx.y * p->x.c + channel;
    to[0] = sum, to[p->x.c] = products;
}
BOTH(BLOCK, train_norm_sums)

// Of every part the sum of x, or of its squares.
INLINE void sums_of_parts(char *memory, const Training *p, const int f16, const int squares) {
    __shared__ float parts[256];
    const Part part = part_of(p);
    const int inside = part.channel < p->x.c, row = (int)threadIdx.x / 32;
    float sum = 0.0f;
    if (inside)
        for (int pixel = part.first + row; pixel < part.last; pixel += 8) {
            const float value = batch_value(memory, p->x, f16, pixel, part.channel);
            sum += squares ? value * value : value;
        }
    sum = channel_sum(parts, sum);
    if (row == 0 && inside) array_of(memory, p, 0)[(long long)blockIdx.y * p->x.c + part.channel] = sum;
}

INLINE void train_sums(char *memory, const Training *p, const int f16) { sums_of_parts(memory, p, f16, 0); }
BOTH(BLOCK, train_sums)

// Joins `factor` sums of every part, leaves them in place of the first part, and writes them to arrays 4 and 5, or adds
// them, as the bits of `add` say. Parts may be the sums of several ranks.
KERNEL(BLOCK) train_sums_joined(TRAINING) {
    const int channel = (int)(blockIdx.x * BLOCK + threadIdx.x);
    if (channel >= p.x.c) return;
    for (int which = 0; which < p.factor; which++) {
        float *parts = array_of(memory, &p, 0) + (long long)which * p.x.c + channel;
        double sum = 0.0;
        for (int part = 0; part < p.splits; part++) sum += parts[(long long)part * p.factor * p.x.c];
        parts[0] = (float)sum;
        float *to = array_of(memory, &p, 4 + which) + channel;
        *to = p.add >> which & 1 ? *to + (float)sum : (float)sum;
    }
}

// The gradient z of what was normalised, from the gradient y of the output; z may be y.
INLINE void train_norm_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    const float *stats = array_of(memory, p, 1) + channel;
    const float gamma = array_of(memory, p, 2)[channel], beta = array_of(memory, p, 3)[channel];
    const float normal = (batch_value(memory, p->x, f16, pixel, channel) - stats[0]) * stats[p->x.c];
    float g = batch_value(memory, p->y, f16, pixel, channel) * slope(p->act, gamma * normal + beta);
    // Statistics of the batch depend on what was normalised; given ones do not, and there are no sums.
    if (!p->given) {
        const float *sums = array_of(memory, p, 0) + channel;
        g -= (sums[0] + normal * sums[p->x.c]) / array_of(memory, p, 1)[2 * p->x.c];
    }
    put(memory, p->z, f16, 0, pixel, channel, gamma * stats[p->x.c] * g);
}
BOTH(BLOCK, train_norm_backward)

INLINE void train_activate(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    put(memory, p->y, f16, 0, pixel, channel, activated(p->act, batch_value(memory, p->x, f16, pixel, channel)));
}
BOTH(BLOCK, train_activate)

// The gradient z of the input x of an activation, from the gradient y of its output; z may be y.
INLINE void train_activate_backward(char *memory, const Training *p, const int f16) {
    int pixel, channel;
    if (!own_value(p->x, &pixel, &channel)) return;
    const float g = batch_value(memory, p->y, f16, pixel, channel) * slope(p->act, batch_value(memory, p->x, f16, pixel, channel));
    put(memory, p->z, f16, p->add, pixel, channel, g);
}
BOTH(BLOCK, train_activate_backward)
