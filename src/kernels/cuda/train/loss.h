// The loss of detection: which cells answer for which objects (Feng et al., "TOOD", 2021), and the gradients of the outputs
// by complete IoU (Zheng et al., "Distance-IoU Loss", 2020), distribution focal loss (Li et al., "Generalized Focal Loss",
// 2020) or plain distances, cross-entropy of the classes, and the outputs of a teacher. The same formulas as
// src/train/loss and src/train/distill.rs, in f64 where these are. Cells are counted over all levels of an image.
//
// Arrays of the assignment: 0 boxes in pixels [n][cells][4], f64; 1 labels [n][1 + 5 * objects]: how many, and of each the
// class, centre and size as shares of the image; 2 the cells that objects choose and 3 those that they take, both
// [n][objects * top]; 4 the entry of a cell, [n][cells], counted from 1; 5 the teacher's confidence in a cell,
// [n][cells]; 6 sums [n][2].
#pragma once
#include "tensors.h"

// A cell of an object; of none where `cell` is negative.
typedef struct {
    int cell, object;
    double metric, overlap, score;
} Taken;

typedef struct {
    double x1, y1, x2, y2;
} Corners;

typedef struct {
    int category;
    Corners box;  // pixels
} Object;

#define MOST_TOP 10

INLINE double *boxes_of(char *memory, const Training *p, const int image) {
    return (double *)(memory + p->arrays[0]) + 4ll * p->cells * image;
}
INLINE const float *labels_of(char *memory, const Training *p, const int image) {
    return array_of(memory, p, 1) + (1ll + 5ll * p->objects) * image;
}
INLINE Taken *entries_of(char *memory, const Training *p, const int array, const int image) {
    return (Taken *)(memory + p->arrays[array]) + (long long)p->objects * p->top * image;
}
INLINE int *owners_of(char *memory, const Training *p, const int image) {
    return (int *)(memory + p->arrays[4]) + (long long)p->cells * image;
}

INLINE Object object_of(char *memory, const Training *p, const int image, const int number) {
    const float *l = labels_of(memory, p, image) + 1 + 5 * number;
    const double x = l[1], y = l[2], w = l[3], h = l[4], width = p->width, height = p->height;
    const Object object = {(int)l[0],
                           {(x - w / 2.0) * width, (y - h / 2.0) * height, (x + w / 2.0) * width, (y + h / 2.0) * height}};
    return object;
}

INLINE float logistic(const float x) {
    const float e = expf(-fabsf(x));
    return x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

// Complete IoU of two boxes; where `slopes` is given its gradient by the corners of the first, in which the weight of the
// aspect ratio is a constant.
INLINE double complete_iou(const Corners a, const Corners b, double *slopes) {
    const double eps = 1e-7, aw = a.x2 - a.x1, ah = a.y2 - a.y1 + eps, bw = b.x2 - b.x1, bh = b.y2 - b.y1 + eps;
    const double iw = fmin(a.x2, b.x2) - fmax(a.x1, b.x1), ih = fmin(a.y2, b.y2) - fmax(a.y1, b.y1);
    const double wide = fmax(iw, 0.0), high = fmax(ih, 0.0), inter = wide * high;
    const double all = aw * ah + bw * bh - inter + eps, iou = inter / all;
    const double cw = fmax(a.x2, b.x2) - fmin(a.x1, b.x1), ch = fmax(a.y2, b.y2) - fmin(a.y1, b.y1);
    const double diagonal = cw * cw + ch * ch + eps;
    const double dx = b.x1 + b.x2 - a.x1 - a.x2, dy = b.y1 + b.y2 - a.y1 - a.y2, distance = (dx * dx + dy * dy) / 4.0;
    const double k = 4.0 / (3.14159265358979323846 * 3.14159265358979323846), turn = atan(bw / bh) - atan(aw / ah);
    const double v = k * turn * turn, alpha = v / (v - iou + 1.0 + eps);
    if (slopes) {
        const double gw = iw > 0.0 ? high : 0.0, gh = ih > 0.0 ? wide : 0.0;
        const double d_inter[4] = {a.x1 > b.x1 ? -gw : 0.0, a.y1 > b.y1 ? -gh : 0.0, a.x2 < b.x2 ? gw : 0.0, a.y2 < b.y2 ? gh : 0.0};
        const double d_area[4] = {-ah, -aw, ah, aw};
        const double d_diagonal[4] = {a.x1 < b.x1 ? -2.0 * cw : 0.0, a.y1 < b.y1 ? -2.0 * ch : 0.0, a.x2 > b.x2 ? 2.0 * cw : 0.0,
                                      a.y2 > b.y2 ? 2.0 * ch : 0.0};
        const double d_distance[4] = {-dx / 2.0, -dy / 2.0, -dx / 2.0, -dy / 2.0};
        const double bend = 2.0 * k * turn / (aw * aw + ah * ah);
        const double d_v[4] = {bend * ah, -bend * aw, -bend * ah, bend * aw};
        for (int i = 0; i < 4; i++)
            slopes[i] = d_inter[i] / all - inter / (all * all) * (d_area[i] - d_inter[i]) -
                        (d_distance[i] / diagonal - distance / (diagonal * diagonal) * d_diagonal[i]) - alpha * d_v[i];
    }
    return iou - distance / diagonal - alpha * v;
}

// The distribution of a side over its bins, at a temperature: greatest logit, sum of the exponentials less that, mean.
typedef struct {
    double top, sum, mean;
} Side;

INLINE double bin_logit(const char *memory, const Batch t, const int f16, const int pixel, const int bin, const double temperature) {
    return (double)batch_value(memory, t, f16, pixel, bin) / temperature;
}

INLINE Side side_of(const char *memory, const Training *p, const Batch t, const int f16, const int pixel, const int side,
                    const double temperature) {
    Side s = {-INFINITY, 0.0, 0.0};
    const int first = side * p->bins;
    if (p->bins == 1) {
        s.mean = batch_value(memory, t, f16, pixel, first);
        return s;
    }
    for (int bin = 0; bin < p->bins; bin++) s.top = fmax(s.top, bin_logit(memory, t, f16, pixel, first + bin, temperature));
    for (int bin = 0; bin < p->bins; bin++) {
        const double e = exp(bin_logit(memory, t, f16, pixel, first + bin, temperature) - s.top);
        s.sum += e, s.mean += bin * e;
    }
    s.mean /= s.sum;
    return s;
}

INLINE double share_of_bin(const char *memory, const Batch t, const int f16, const int pixel, const int channel, const Side *s,
                           const double temperature) {
    return exp(bin_logit(memory, t, f16, pixel, channel, temperature) - s->top) / s->sum;
}

// The cell of a thread, of one level: `image`, `cell` among all, and the pixel of the tensors.
INLINE int own_cell(const Training *p, const long long index, int *image, int *cell, int *pixel) {
    const int area = p->x.h * p->x.w;
    if (index >= (long long)p->x.n * area) return 0;
    *pixel = (int)index;
    *image = *pixel / area;
    *cell = p->first + *pixel - *image * area;
    return 1;
}

// The boxes that the cells of a level predict; x are the box outputs. Nobody owns a cell yet.
INLINE void train_boxes(char *memory, const Training *p, const int f16) {
    int image, cell, pixel;
    if (!own_cell(p, (long long)blockIdx.x * BLOCK + threadIdx.x, &image, &cell, &pixel)) return;
    const double stride = (double)(p->height / p->x.h);
    const int at = pixel % (p->x.h * p->x.w);
    const double x = at % p->x.w + 0.5, y = at / p->x.w + 0.5;
    double *box = boxes_of(memory, p, image) + 4ll * cell;
    box[0] = (x - side_of(memory, p, p->x, f16, pixel, 0, 1.0).mean) * stride;
    box[1] = (y - side_of(memory, p, p->x, f16, pixel, 1, 1.0).mean) * stride;
    box[2] = (x + side_of(memory, p, p->x, f16, pixel, 2, 1.0).mean) * stride;
    box[3] = (y + side_of(memory, p, p->x, f16, pixel, 3, 1.0).mean) * stride;
    owners_of(memory, p, image)[cell] = 0;
}
BOTH(BLOCK, train_boxes)

// The greatest class probability of the cells of a level; x are class logits.
INLINE void train_confidence(char *memory, const Training *p, const int f16) {
    int image, cell, pixel;
    if (!own_cell(p, (long long)blockIdx.x * BLOCK + threadIdx.x, &image, &cell, &pixel)) return;
    float most = -INFINITY;
    for (int category = 0; category < p->x.c; category++) most = fmaxf(most, batch_value(memory, p->x, f16, pixel, category));
    array_of(memory, p, 5)[(long long)p->cells * image + cell] = logistic(most);
}
BOTH(BLOCK, train_confidence)

// Whether the centre of a cell lies inside an object, which counts as at least 16 pixels wide and high.
INLINE int is_inside(const Object *object, const double x, const double y) {
    const Corners b = object->box;
    const double across = fmax(b.x2 - b.x1, 16.0) / 2.0 - fabs(x - (b.x1 + b.x2) / 2.0);
    const double down = fmax(b.y2 - b.y1, 16.0) / 2.0 - fabs(y - (b.y1 + b.y2) / 2.0);
    return fmin(across, down) > 1e-9;
}

// The level of a cell: its class logits, and the first cell. Levels are x, y and z, as many as there are.
INLINE Batch level_of(const Training *p, const int cell, int *first) {
    *first = 0;
    if (cell < p->x.h * p->x.w) return p->x;
    *first = p->x.h * p->x.w;
    if (cell < *first + p->y.h * p->y.w) return p->y;
    *first += p->y.h * p->y.w;
    return p->z;
}

// How well the prediction of a cell fits an object.
INLINE Taken fit_of(char *memory, const Training *p, const int f16, const int image, const int number, const Object *object,
                    const int cell) {
    int first;
    const Batch level = level_of(p, cell, &first);
    const double *box = boxes_of(memory, p, image) + 4ll * cell;
    const Corners found = {box[0], box[1], box[2], box[3]};
    const double overlap = fmax(complete_iou(found, object->box, 0), 0.0), square = overlap * overlap;
    const float score = logistic(batch_value(memory, level, f16, image * level.h * level.w + cell - first, object->category));
    const Taken fit = {cell, number, sqrt((double)score) * (square * square * square), overlap, 0.0};
    return fit;
}

// Of equal ones the first cell is better.
INLINE int is_better(const double metric, const int cell, const double than, const int than_cell) {
    return metric > than || (metric == than && cell < than_cell);
}

// A block for every object of an image: the `top` cells inside that fit best, where they fit at all.
INLINE void train_choose(char *memory, const Training *p, const int f16) {
    __shared__ double metrics[128];
    __shared__ int cells[128];
    const int t = (int)threadIdx.x, image = (int)blockIdx.x / p->objects, number = (int)blockIdx.x - image * p->objects;
    Taken *entries = entries_of(memory, p, 2, image) + (long long)number * p->top;
    if (number >= (int)labels_of(memory, p, image)[0]) {
        if (t < p->top) entries[t].cell = -1;
        return;
    }
    const Object object = object_of(memory, p, image, number);
    const Corners b = object.box;
    const double reach_x = fmax(b.x2 - b.x1, 16.0) / 2.0, reach_y = fmax(b.y2 - b.y1, 16.0) / 2.0;
    const double middle_x = (b.x1 + b.x2) / 2.0, middle_y = (b.y1 + b.y2) / 2.0;
    // This thread's best, in their order.
    Taken best[MOST_TOP];
    int found = 0, first = 0;
    while (first < p->cells) {
        int begin;
        const Batch level = level_of(p, first, &begin);
        const double stride = (double)(p->height / level.h);
        // Rows and columns whose centres may be inside; the exact test follows.
        const int top = (int)fmin(fmax(floor((middle_y - reach_y) / stride) - 1.0, 0.0), (double)level.h);
        const int bottom = (int)fmin(fmax(floor((middle_y + reach_y) / stride) + 2.0, 0.0), (double)level.h);
        const int left = (int)fmin(fmax(floor((middle_x - reach_x) / stride) - 1.0, 0.0), (double)level.w);
        const int right = (int)fmin(fmax(floor((middle_x + reach_x) / stride) + 2.0, 0.0), (double)level.w);
        const int wide = right - left, count = wide > 0 && bottom > top ? wide * (bottom - top) : 0;
        for (int i = t; i < count; i += 128) {
            const int row = top + i / wide, column = left + i % wide;
            if (!is_inside(&object, (column + 0.5) * stride, (row + 0.5) * stride)) continue;
            const Taken fit = fit_of(memory, p, f16, image, number, &object, first + row * level.w + column);
            if (!(fit.metric > 0.0)) continue;
            int at = found < p->top ? found : p->top;
            while (at > 0 && is_better(fit.metric, fit.cell, best[at - 1].metric, best[at - 1].cell)) {
                if (at < p->top) best[at] = best[at - 1];
                at--;
            }
            if (at < p->top) best[at] = fit;
            if (found < p->top) found++;
        }
        first += level.h * level.w;
    }
    int next = 0;
    for (int rank = 0; rank < p->top; rank++) {
        metrics[t] = next < found ? best[next].metric : 0.0;
        cells[t] = next < found ? best[next].cell : p->cells;
        __syncthreads();
        for (int half = 64; half > 0; half /= 2) {
            if (t < half && is_better(metrics[t + half], cells[t + half], metrics[t], cells[t]))
                metrics[t] = metrics[t + half], cells[t] = cells[t + half];
            __syncthreads();
        }
        if (next < found && best[next].cell == cells[0]) entries[rank] = best[next++];
        if (t == 0 && cells[0] == p->cells) entries[rank].cell = -1;
        __syncthreads();
    }
}
BOTH(128, train_choose)

// A thread for every chosen cell: where several objects chose it, the first of them gives it to the object that it
// overlaps most, be it one of them or not.
INLINE void train_settle(char *memory, const Training *p, const int f16) {
    const long long index = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const int room = p->objects * p->top;
    if (index >= (long long)room * p->x.n) return;
    const int image = (int)(index / room), own = (int)(index - (long long)image * room);
    const int objects = (int)labels_of(memory, p, image)[0];
    const Taken *chosen = entries_of(memory, p, 2, image);
    Taken taken = chosen[own];
    int first = 1, choices = 0;
    if (taken.cell >= 0)
        for (int other = 0; other < objects * p->top; other++)
            if (chosen[other].cell == taken.cell) {
                choices++;
                if (other < own) first = 0;
            }
    if (!first) taken.cell = -1;
    if (taken.cell >= 0 && choices > 1) {
        int begin, found = 0;
        const int cell = taken.cell;
        const Batch level = level_of(p, cell, &begin);
        const double stride = (double)(p->height / level.h);
        const double x = ((cell - begin) % level.w + 0.5) * stride, y = ((cell - begin) / level.w + 0.5) * stride;
        for (int number = 0; number < objects; number++) {
            const Object object = object_of(memory, p, image, number);
            if (!is_inside(&object, x, y)) continue;
            const Taken fit = fit_of(memory, p, f16, image, number, &object, cell);
            if (!found || fit.overlap > taken.overlap) taken = fit, found = 1;
        }
    }
    entries_of(memory, p, 3, image)[own] = taken;
}
BOTH(BLOCK, train_settle)

// A thread for every object: it keeps its best cell, or all, and these get their scores: the best one the object's best
// overlap, the others their share of the metric.
KERNEL(BLOCK) train_keep(TRAINING) {
    const int index = (int)(blockIdx.x * BLOCK + threadIdx.x);
    if (index >= p.objects * p.x.n) return;
    const int image = index / p.objects, number = index - image * p.objects, objects = (int)labels_of(memory, &p, image)[0];
    if (number >= objects) return;
    Taken *taken = entries_of(memory, &p, 3, image);
    double metric = 0.0, overlap = 0.0;
    int best = -1;
    for (int i = 0; i < objects * p.top; i++)
        if (taken[i].cell >= 0 && taken[i].object == number) {
            metric = fmax(metric, taken[i].metric), overlap = fmax(overlap, taken[i].overlap);
            if (best < 0 || is_better(taken[i].metric, taken[i].cell, taken[best].metric, taken[best].cell)) best = i;
        }
    if (best < 0) return;
    if (p.keep) metric = taken[best].metric, overlap = taken[best].overlap;
    int *owners = owners_of(memory, &p, image);
    for (int i = 0; i < objects * p.top; i++)
        if (taken[i].cell >= 0 && taken[i].object == number && (!p.keep || i == best)) {
            taken[i].score = taken[i].metric * overlap / (metric + 1e-9);
            owners[taken[i].cell] = i + 1;
        }
}

INLINE double block_sum(double *parts, const double own) {
    const int t = (int)threadIdx.x;
    parts[t] = own;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (t < half) parts[t] += parts[t + half];
        __syncthreads();
    }
    const double sum = parts[0];
    __syncthreads();
    return sum;
}

// A block for every image: the sum of the scores, and of the teacher's confidences where there is a teacher.
KERNEL(BLOCK) train_image_sums(TRAINING) {
    __shared__ double parts[BLOCK];
    const int t = (int)threadIdx.x, image = (int)blockIdx.x;
    const int *owners = owners_of(memory, &p, image);
    const Taken *taken = entries_of(memory, &p, 3, image);
    double scores = 0.0, confidences = 0.0;
    for (int cell = t; cell < p.cells; cell += BLOCK) {
        if (owners[cell]) scores += taken[owners[cell] - 1].score;
        if (p.taught) confidences += array_of(memory, &p, 5)[(long long)p.cells * image + cell];
    }
    scores = block_sum(parts, scores);
    confidences = block_sum(parts, confidences);
    if (t == 0) {
        float *sums = array_of(memory, &p, 6) + 2 * image;
        sums[0] = (float)scores, sums[1] = (float)confidences;
    }
}

// Of the gradients: arrays 0 to 5 as above; 6 the factors of the terms; 7 parts of the terms, f64. `scale` is the
// temperature, `eps` the least confidence in which boxes are taught.
enum { F_BOX, F_CLASS, F_DISTANCE, F_TAUGHT_CLASS, F_TAUGHT_BOX, F_LOSS_SCALE };

// Cross-entropy of a logit against a target.
INLINE float cross_entropy(const float x, const float target) { return fmaxf(x, 0.0f) - x * target + log1pf(expf(-fabsf(x))); }

// The gradient z of the class logits x of a level; y are the teacher's. Parts: both terms of every block.
INLINE void train_class_loss(char *memory, const Training *p, const int f16) {
    __shared__ double parts[BLOCK];
    const float *factors = array_of(memory, p, 6);
    const long long len = (long long)pixels_of(p->x) * p->x.c;
    double own_term = 0.0, taught_term = 0.0;
    for (long long index = (long long)blockIdx.x * BLOCK + threadIdx.x; index < len; index += (long long)p->splits * BLOCK) {
        int image, cell, pixel;
        own_cell(p, index / p->x.c, &image, &cell, &pixel);
        const int category = (int)(index - (long long)pixel * p->x.c), owner = owners_of(memory, p, image)[cell];
        const float x = batch_value(memory, p->x, f16, pixel, category), probability = logistic(x);
        double target = 0.0;
        if (owner) {
            const Taken *taken = entries_of(memory, p, 3, image) + owner - 1;
            if ((int)labels_of(memory, p, image)[1 + 5 * taken->object] == category) target = taken->score;
        }
        own_term += (double)cross_entropy(x, 0.0f) - target * (double)x;
        double slope = (double)factors[F_CLASS] * ((double)probability - target);
        if (p->taught) {
            const float y = batch_value(memory, p->y, f16, pixel, category), taught = logistic(y);
            taught_term += (double)cross_entropy(x, taught) - (double)cross_entropy(y, taught);
            slope += (double)factors[F_TAUGHT_CLASS] * ((double)probability - (double)taught);
        }
        put(memory, p->z, f16, p->add, pixel, category, (float)slope * factors[F_LOSS_SCALE]);
    }
    own_term = block_sum(parts, own_term);
    taught_term = block_sum(parts, taught_term);
    if (threadIdx.x > 0) return;
    double *to = (double *)(memory + p->arrays[7]) + 2 * blockIdx.x;
    to[0] = own_term, to[1] = taught_term;
}
BOTH(BLOCK, train_class_loss)

// What the label of a cell asks of its box.
typedef struct {
    double score, slopes[4], wanted[4], overlap;
} Wanted;

INLINE Wanted wanted_of(char *memory, const Training *p, const int image, const int cell, const double stride, const double x,
                        const double y) {
    const Taken *taken = entries_of(memory, p, 3, image) + owners_of(memory, p, image)[cell] - 1;
    const Corners b = object_of(memory, p, image, taken->object).box;
    const double *box = boxes_of(memory, p, image) + 4ll * cell;
    const Corners found = {box[0] / stride, box[1] / stride, box[2] / stride, box[3] / stride};
    const Corners target = {b.x1 / stride, b.y1 / stride, b.x2 / stride, b.y2 / stride};
    Wanted w;
    w.score = taken->score;
    w.overlap = complete_iou(found, target, w.slopes);
    w.wanted[0] = x - target.x1, w.wanted[1] = y - target.y1, w.wanted[2] = target.x2 - x, w.wanted[3] = target.y2 - y;
    return w;
}

// One side of one cell: writes the gradients of its bins, and adds to the terms of distances and of the teacher.
INLINE void side_loss(char *memory, const Training *p, const int f16, const int pixel, const int side, const Wanted *w,
                      const double confidence, double *distances, double *taught) {
    const float *factors = array_of(memory, p, 6);
    const int first = side * p->bins, bins = p->bins;
    const double stride = (double)(p->height / p->x.h), temperature = p->scale;
    const Side s = side_of(memory, p, p->x, f16, pixel, side, 1.0);
    // Left and top distances move their corner the other way.
    const double d_mean = (side < 2 ? 1.0 : -1.0) * (double)factors[F_BOX] * w->score * w->slopes[side];
    const double d_distance = (double)factors[F_DISTANCE] * w->score;
    const double weight = confidence / 4.0;
    if (bins == 1) {
        const double share = stride / (double)(side % 2 ? p->height : p->width) / 4.0, off = s.mean - w->wanted[side];
        double slope = d_mean + (off == 0.0 ? 0.0 : d_distance * share * (off > 0.0 ? 1.0 : -1.0));
        *distances += w->score * fabs(off) * share;
        if (confidence > 0.0) {
            const double apart = s.mean - (double)batch_value(memory, p->y, f16, pixel, first);
            const double near = fmin(fmax(apart, -1.0), 1.0);
            *taught += weight * near * (apart - near / 2.0);
            slope += (double)factors[F_TAUGHT_BOX] * weight * near;
        }
        put(memory, p->z, f16, p->add, pixel, first, (float)slope * factors[F_LOSS_SCALE]);
        return;
    }
    Side soft = s, soft_taught = s;
    if (confidence > 0.0) {
        soft = side_of(memory, p, p->x, f16, pixel, side, temperature);
        soft_taught = side_of(memory, p, p->y, f16, pixel, side, temperature);
    }
    const double target = fmin(fmax(w->wanted[side], 0.0), fmax(bins - 1.0 - 0.01, 0.0));
    const int low = (int)target;
    for (int bin = 0; bin < bins; bin++) {
        double slope = 0.0;
        if (w->score > 0.0) {
            const double part = share_of_bin(memory, p->x, f16, pixel, first + bin, &s, 1.0);
            const double share = bin == low ? 1.0 - (target - low) : bin == low + 1 ? target - low : 0.0;
            if (share > 0.0) *distances -= w->score * share * log(fmax(part, 2.2250738585072014e-308)) / 4.0;
            slope = d_mean * part * (bin - s.mean) + d_distance * (part - share) / 4.0;
        }
        if (confidence > 0.0) {
            const double part = share_of_bin(memory, p->x, f16, pixel, first + bin, &soft, temperature);
            const double wanted = share_of_bin(memory, p->y, f16, pixel, first + bin, &soft_taught, temperature);
            if (wanted > 0.0)
                *taught += weight * temperature * temperature * wanted * (log(wanted) - log(fmax(part, 2.2250738585072014e-308)));
            slope += (double)factors[F_TAUGHT_BOX] * weight * temperature * (part - wanted);
        }
        put(memory, p->z, f16, p->add, pixel, first + bin, (float)slope * factors[F_LOSS_SCALE]);
    }
}

// The gradient z of the box outputs x of a level; y are the teacher's. Parts: overlaps, distances and the teacher's term
// of every block.
INLINE void train_box_loss(char *memory, const Training *p, const int f16) {
    __shared__ double parts[BLOCK];
    double overlaps = 0.0, distances = 0.0, taught = 0.0;
    int image, cell, pixel;
    if (own_cell(p, (long long)blockIdx.x * BLOCK + threadIdx.x, &image, &cell, &pixel)) {
        const int at = pixel % (p->x.h * p->x.w);
        const double x = at % p->x.w + 0.5, y = at / p->x.w + 0.5;
        Wanted w = {0.0, {0.0, 0.0, 0.0, 0.0}, {0.0, 0.0, 0.0, 0.0}, 0.0};
        if (owners_of(memory, p, image)[cell]) {
            w = wanted_of(memory, p, image, cell, (double)(p->height / p->x.h), x, y);
            overlaps = w.score * (1.0 - w.overlap);
        }
        const float known = p->taught ? array_of(memory, p, 5)[(long long)p->cells * image + cell] : 0.0f;
        const double confidence = known >= p->eps ? (double)known : 0.0;
        for (int side = 0; side < 4; side++) side_loss(memory, p, f16, pixel, side, &w, confidence, &distances, &taught);
    }
    overlaps = block_sum(parts, overlaps);
    distances = block_sum(parts, distances);
    taught = block_sum(parts, taught);
    if (threadIdx.x > 0) return;
    double *to = (double *)(memory + p->arrays[7]) + 3 * blockIdx.x;
    to[0] = overlaps, to[1] = distances, to[2] = taught;
}
BOTH(BLOCK, train_box_loss)

// The sums of `factor` columns of `splits` parts: array 0, f64, to array 1.
KERNEL(BLOCK) train_terms(TRAINING) {
    __shared__ double parts[BLOCK];
    const double *from = (const double *)(memory + p.arrays[0]);
    for (int which = 0; which < p.factor; which++) {
        double sum = 0.0;
        for (int part = (int)threadIdx.x; part < p.splits; part += BLOCK) sum += from[(long long)part * p.factor + which];
        sum = block_sum(parts, sum);
        if (threadIdx.x == 0) array_of(memory, &p, 1)[which] = (float)sum;
    }
}
