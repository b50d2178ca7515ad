// The tiles of products on tensor cores. Each list calls X(..., rows, columns, warps along rows, columns and depth,
// chunks of a slice, stages). Five for windows and five for 1x1 are within 2.3 % of the best of 17 on 8, 16 and 132
// multiprocessors. `tile.rs` lists the same.
#pragma once
// clang-format off
#define PASTE(prefix, a, b, c, d, e, f) prefix##_##a##x##b##_##c##d##e##_c##f
#define NAME(prefix, rows, columns, wm, wn, wk, chunks, stages) PASTE(prefix, rows, columns, wm, wn, wk, chunks)

#define WINDOW_TILES(X, ...) \
    X(__VA_ARGS__, 128,  32, 4, 1, 1, 4, 4) \
    X(__VA_ARGS__, 128,  16, 4, 1, 1, 4, 4) \
    X(__VA_ARGS__,  64,  64, 2, 2, 1, 4, 4) \
    X(__VA_ARGS__,  32,  32, 2, 1, 2, 8, 4) \
    X(__VA_ARGS__,  16,  32, 1, 1, 4, 8, 4)
#define POINT_TILES(X, ...) \
    X(__VA_ARGS__,  64,  80, 4, 1, 1, 4, 4) \
    X(__VA_ARGS__,  64,  64, 2, 2, 1, 8, 3) \
    X(__VA_ARGS__,  64,  64, 2, 2, 1, 4, 4) \
    X(__VA_ARGS__,  64,  32, 4, 1, 1, 8, 4) \
    X(__VA_ARGS__,  16,  32, 1, 1, 4, 8, 4)

// X(kind, out, form, prefix, tile).
#define PRODUCTS(X) \
    WINDOW_TILES(X, F16, OUT_F16, WINDOW, f16_window) \
    POINT_TILES(X, F16, OUT_F16, POINT, f16_point) \
    WINDOW_TILES(X, F16, OUT_PLANES, WINDOW, f16_planes_window) \
    POINT_TILES(X, F16, OUT_PLANES, POINT, f16_planes_point) \
    WINDOW_TILES(X, F32, OUT_CHUNKS, WINDOW, f32_window) \
    POINT_TILES(X, F32, OUT_CHUNKS, POINT, f32_point) \
    POINT_TILES(X, F16, OUT_F16, PAIR, f16_pair) \
    POINT_TILES(X, F32, OUT_CHUNKS, PAIR, f32_pair) \
    WINDOW_TILES(X, F32, OUT_PLANES, WINDOW, f32_planes_window) \
    POINT_TILES(X, F32, OUT_PLANES, POINT, f32_planes_point) \
    WINDOW_TILES(X, INT8, OUT_F32, WINDOW, int8_window) \
    POINT_TILES(X, INT8, OUT_F32, POINT, int8_point) \
    WINDOW_TILES(X, INT8, OUT_INT8, WINDOW, int8_int8_window) \
    POINT_TILES(X, INT8, OUT_INT8, POINT, int8_int8_point)
// clang-format on
