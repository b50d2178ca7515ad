// What a detection reads of the outputs of a network: those of the cells that have a class above a threshold, one after
// the other in a table. Outputs are planes of f32, of all levels; cells are counted through the levels.
#include "device.h"

#define MAX_LEVELS 8
// Columns of the table at most.
#define MAX_CHOSEN 512
// Rows of the table that a block takes.
#define TAKEN_ROWS 8

// First bytes of the planes of a level's outputs, its first cell, and its cells. The same layout as in cells.rs.
typedef struct {
    long long boxes, classes, extra;
    int first, area;
} CellLevel;
typedef struct {
    CellLevel levels[MAX_LEVELS];
    long long least;  // byte of the threshold
    long long found;  // bits of the cells that pass it, in words
    long long table;  // how many pass; their numbers, [most]; their values, [rows][most]
    int count, cells, most;
    int boxes, classes, extra;  // planes of each output of a level
} CellArguments;
#define CELLS const GRID_CONSTANT CellArguments p

// The level of a cell.
INLINE const CellLevel *cell_level(const CellArguments *p, const int cell) {
    int level = 0;
    for (int i = 1; i < p->count; i++)
        if (cell >= p->levels[i].first) level = i;
    return p->levels + level;
}

// The bits of the cells whose best class is above the threshold: 32 cells a block, each warp every fourth class. What is
// no number counts as no class, as on the CPU.
KERNEL(128) find_cells(char *memory, CELLS) {
    __shared__ float parts[4][32];
    const int lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u), cell = (int)blockIdx.x * 32 + lane;
    float best = as_float(0xff7fffffu);
    if (cell < p.cells) {
        const CellLevel *level = cell_level(&p, cell);
        const float *from = (const float *)(memory + level->classes) + (cell - level->first);
        const long long area = level->area;
        UNROLL for (int c = warp; c < p.classes; c += 4) best = fmaxf(best, from[c * area]);
    }
    parts[warp][lane] = best;
    BARRIER();
    if (warp > 0) return;
    for (int i = 1; i < 4; i++) best = fmaxf(best, parts[i][lane]);
    unsigned word = cell < p.cells && best > *(const float *)(memory + p.least) ? 1u << lane : 0;
    for (int mask = 1; mask < 32; mask *= 2) word |= as_word(exchange_with(as_float(word), mask));
    if (lane == 0) ((unsigned *)(memory + p.found))[blockIdx.x] = word;
}

// The table of the cells that were found, in ascending order. Every block counts them all, and takes some rows. Where
// there are more than columns, only their number is written.
KERNEL(128) take_cells(char *memory, CELLS) {
    __shared__ int sums[2][128];
    __shared__ int chosen[MAX_CHOSEN];
    const unsigned *found = (const unsigned *)(memory + p.found);
    unsigned *table = (unsigned *)(memory + p.table);
    const int t = (int)threadIdx.x, lane = (int)(threadIdx.x % 32u), warp = (int)(threadIdx.x / 32u);
    // A run of words a thread.
    const int words = (p.cells + 31) / 32, each = (words + 127) / 128, first = t * each;
    const int end = first + each < words ? first + each : words;
    int own = 0;
    for (int i = first; i < end; i++) own += count_bits(found[i]);
    // Those of all threads up to each: after every step of so many more.
    int now = 0;
    sums[0][t] = own;
    BARRIER();
    for (int step = 1; step < 128; step *= 2) {
        sums[1 - now][t] = sums[now][t] + (t >= step ? sums[now][t - step] : 0);
        now = 1 - now;
        BARRIER();
    }
    const int all = sums[now][127];
    if (blockIdx.x == 0 && t == 0) table[0] = (unsigned)all;
    if (all > p.most) return;
    int at = sums[now][t] - own;
    for (int i = first; i < end; i++)
        for (unsigned word = found[i]; word; word &= word - 1) chosen[at++] = 32 * i + count_bits(~word & (word - 1));
    BARRIER();
    if (blockIdx.x == 0)
        for (int column = t; column < all; column += 128) table[1 + column] = (unsigned)chosen[column];
    const int rows = p.boxes + p.classes + p.extra, top = (int)blockIdx.x * TAKEN_ROWS;
    for (int row = top + warp; row < top + TAKEN_ROWS && row < rows; row += 4)
        for (int column = lane; column < all; column += 32) {
            const CellLevel *level = cell_level(&p, chosen[column]);
            const int in_classes = row - p.boxes, in_extra = in_classes - p.classes;
            const long long planes = in_classes < 0 ? level->boxes : in_extra < 0 ? level->classes : level->extra;
            const long long plane = in_classes < 0 ? row : in_extra < 0 ? in_classes : in_extra;
            const unsigned *from = (const unsigned *)(memory + planes) + plane * level->area;
            table[1 + p.most + row * p.most + column] = from[chosen[column] - level->first];
        }
}
