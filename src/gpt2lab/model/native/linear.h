// Products of rows with weights in every format.
#pragma once

#include <memory>
#include <omp.h>

#include "types.h"
#include "vector.h"

namespace gpt2lab {

inline int up(int n, int to) { return (n + to - 1) / to * to; }

// Rows that a linear map reads: floats, and for some formats bytes with a scale per row (int8) or
// per group (int4).
struct Rows {
    int n, stride, groups;
    std::unique_ptr<float[]> value, scale;
    std::unique_ptr<int8_t[]> byte;
    std::unique_ptr<int32_t[]> total;  // sum of the bytes of a row or group
    Rows(int n, int most)
        : n(n), stride(up(most, GROUP)), groups(stride / GROUP),
          value(new float[size_t(n) * stride]), scale(new float[size_t(n) * groups]),
          byte(new int8_t[size_t(n) * stride]), total(new int32_t[size_t(n) * groups]) {}
    float* operator[](int row) { return &value[size_t(row) * stride]; }
    int8_t* bytes(int row) { return &byte[size_t(row) * stride]; }

    // Make row `row`, of `width` values, ready for map `w`.
    void finish(int row, int width, const Linear& w) {
        std::fill((*this)[row] + width, (*this)[row] + w.k, 0.0f);
        if (w.format == INT8) round(row, 0, w.k);
        if (w.format == INT4)
            for (int g = 0; g < w.k / GROUP; g++) round(row, g, GROUP);
    }

  private:
    void round(int row, int group, int size) {
        const float* x = (*this)[row] + group * GROUP;
        int8_t* q = bytes(row) + group * GROUP;
        vf top = {};
        for (int i = 0; i < size; i += W) {
            vf v = load(x + i, size - i);
            top = larger(top, larger(v, 0.0f - v));
        }
        float most = largest(top), inverse = most > 0 ? 127 / most : 0;
        int32_t total_of = 0;
        for (int i = 0; i < size; i += W) {
            int32_t lane[W];
            store(lane, whole(load(x + i, size - i) * inverse + LIFTED));
            for (int j = 0; j < std::min(W, size - i); j++) {
                q[i + j] = int8_t(lane[j]);
                total_of += lane[j];
            }
        }
        scale[size_t(row) * groups + group] = most / 127;
        total[size_t(row) * groups + group] = total_of;
    }
};

// ---- products of R rows with up to P x 16 outputs from number n0 on, into tile[R][64]

constexpr int TILE = 64;
typedef float Tile[TILE];

// Rows, panels of 16 outputs and rows of float weights whose sums fit the registers.
constexpr bool WIDE = REGISTER == 64;
constexpr int ROWS = 6, PANELS = WIDE ? 4 : 1, COLUMNS = WIDE ? 4 : 1;

template <int R, class T>
void float_tile(const Linear& w, int n0, int count, Rows& x, int row, Tile* tile) {
    // One row reads its weights as one stream; several share what is read, and add up more at once.
    constexpr int C = R == 1 ? 1 : COLUMNS * (R > 3 ? 1 : 2);
    const int whole = w.k / W * W;
    for (int c0 = 0; c0 < count; c0 += C) {
        const T* weight[C];
        for (int c = 0; c < C; c++)
            weight[c] = static_cast<const T*>(w.weight) +
                        size_t(std::min(n0 + c0 + c, w.n - 1)) * w.k;
        vf acc[(R * C + W - 1) / W * W] = {};
        for (int k = 0; k < whole; k += W) {
            vf column[C];
            for (int c = 0; c < C; c++) {
                column[c] = widen(weight[c] + k);
                if (R > 1) __builtin_prefetch(weight[c] + size_t(C) * w.k + k);
            }
            for (int r = 0; r < R; r++) {
                vf a = load(x[row + r] + k);
                for (int c = 0; c < C; c++) acc[r * C + c] += a * column[c];
            }
        }
        for (int i = 0; i < R * C; i += W) {
            float total[W];
            if (R * C == 1) total[0] = sum(acc[0]);
            else store(total, sums(acc + i));
            for (int j = 0; j < W && i + j < R * C; j++)
                tile[(i + j) / C][c0 + (i + j) % C] = total[j];
        }
        for (int k = whole; k < w.k; k++)
            for (int c = 0; c < C; c++)
                for (int r = 0; r < R; r++)
                    tile[r][c0 + c] += x[row + r][k] * to_float(weight[c][k]);
    }
}

template <int R, int P> void int8_tile(const Linear& w, int n0, Rows& x, int row, Tile* tile) {
    const int steps = w.k / 4;
    const uint8_t* weight = static_cast<const uint8_t*>(w.weight) + size_t(n0) * w.k;
    vi acc[R][P] = {};
    for (int k = 0; k < steps; k++) {
        vi column[P];
        for (int p = 0; p < P; p++) column[p] = load<vi>(weight + (size_t(p) * steps + k) * 64);
        for (int r = 0; r < R; r++) {
            int32_t a;
            std::memcpy(&a, x.bytes(row + r) + 4 * k, 4);
            for (int p = 0; p < P; p++) acc[r][p] = dot4_lifted(acc[r][p], column[p], a);
        }
    }
    const float* scale = static_cast<const float*>(w.scale) + n0;
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) {
            size_t at = size_t(row + r) * x.groups;
            vf exact = to_float(acc[r][p] - LIFT * x.total[at]);
            store(tile[r] + W * p, exact * x.scale[at] * load(scale + W * p));
        }
}

template <int R, int P> void int8_weight_tile(const Linear& w, int n0, Rows& x, int row, Tile* tile) {
    const int steps = w.k / 4;
    const uint8_t* weight = static_cast<const uint8_t*>(w.weight) + size_t(n0) * w.k;
    vf acc[R][P] = {};
    for (int k = 0; k < steps; k++)
        for (int p = 0; p < P; p++) {
            vi four = load<vi>(weight + (size_t(p) * steps + k) * 64);
            for (int j = 0; j < 4; j++) {
                vf column = to_float((four >> (8 * j) & 255) - 128);
                for (int r = 0; r < R; r++) acc[r][p] += x[row + r][4 * k + j] * column;
            }
        }
    const float* scale = static_cast<const float*>(w.scale) + n0;
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) store(tile[r] + W * p, acc[r][p] * load(scale + W * p));
}

template <int R, int P> void int4_tile(const Linear& w, int n0, Rows& x, int row, Tile* tile) {
    const int steps = w.k / 8, groups = w.k / GROUP;
    const uint8_t* weight = static_cast<const uint8_t*>(w.weight) + size_t(n0) * w.k / 2;
    const uint16_t* scale = static_cast<const uint16_t*>(w.scale) + size_t(n0) * groups;
    vf y[R][P] = {};
    for (int g = 0; g < groups; g++) {
        vi acc[R][P] = {};
        for (int k = g * GROUP / 8; k < (g + 1) * GROUP / 8; k++) {
            vi low[P], high[P];
            for (int p = 0; p < P; p++) {
                vi both = load<vi>(weight + (size_t(p) * steps + k) * 64);
                low[p] = both & 0x0f0f0f0f;
                high[p] = both >> 4 & 0x0f0f0f0f;
            }
            for (int r = 0; r < R; r++) {
                int32_t a[2];
                std::memcpy(a, x.bytes(row + r) + 8 * k, 8);
                for (int p = 0; p < P; p++)
                    acc[r][p] = dot4(dot4(acc[r][p], low[p], a[0]), high[p], a[1]);
            }
        }
        for (int p = 0; p < P; p++) {
            vf by = widen(scale + (size_t(p) * groups + g) * W);
            for (int r = 0; r < R; r++) {
                size_t at = size_t(row + r) * x.groups + g;
                y[r][p] += to_float(acc[r][p] - 8 * x.total[at]) * x.scale[at] * by;
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) store(tile[r] + W * p, y[r][p]);
}

template <int R> void tile_of(const Linear& w, int n0, int count, Rows& x, int row, Tile* tile) {
    auto panels = [&](int wide, auto many, auto one) {
        for (int n = 0; n < count;) {
            Tile* to = reinterpret_cast<Tile*>(&tile[0][n]);
            bool fits = n + wide <= count;
            fits ? many(w, n0 + n, x, row, to) : one(w, n0 + n, x, row, to);
            n += fits ? wide : W;
        }
    };
    constexpr int P = PANELS, Q = R == 1 ? P : (P + 1) / 2;
    switch (w.format) {
        case FLOAT32: return float_tile<R, float>(w, n0, count, x, row, tile);
        case BFLOAT16: return float_tile<R, uint16_t>(w, n0, count, x, row, tile);
        case INT8: return panels(P * W, int8_tile<R, P>, int8_tile<R, 1>);
        case INT8_WEIGHT: return panels(P * W, int8_weight_tile<R, P>, int8_weight_tile<R, 1>);
        case INT4: return panels(Q * W, int4_tile<R, Q>, int4_tile<R, 1>);
    }
}

template <int R>
void tile_of(int rows, const Linear& w, int n0, int count, Rows& x, int row, Tile* tile) {
    if (rows == R) return tile_of<R>(w, n0, count, x, row, tile);
    if constexpr (R > 1) tile_of<R - 1>(rows, w, n0, count, x, row, tile);
}

// Share of [0, n) for this thread, in whole units.
struct Share {
    int begin, end;
    Share(int n, int unit) {
        int units = (n + unit - 1) / unit, threads = omp_get_num_threads();
        int t = omp_get_thread_num();
        begin = std::min(n, units * t / threads * unit);
        end = std::min(n, units * (t + 1) / threads * unit);
    }
};

// ---- many rows of float formats, with weights turned so that nothing is summed across a register:
// quicker than tiles from some sixty rows on, but sums are added in another order.

constexpr int MANY = 64, MANY_ROWS = WIDE ? 8 : 6, MANY_PANELS = WIDE ? 3 : 1;

// The weights of `count` outputs from number n0 on, side by side: to[k][MANY_PANELS * W].
template <class T> void turn(const Linear& w, int n0, int count, float* to) {
    constexpr int width = MANY_PANELS * W;
    for (int n = 0; n < width; n++) {
        const T* from = static_cast<const T*>(w.weight) + size_t(n0 + std::min(n, count - 1)) * w.k;
        for (int k = 0; k < w.k; k++) to[size_t(k) * width + n] = to_float(from[k]);
    }
}

template <int R> void turned_tile(const float* panel, int width, Rows& x, int row, Tile* tile) {
    constexpr int P = MANY_PANELS;
    vf acc[R][P] = {};
    const float* from[R];
    for (int r = 0; r < R; r++) from[r] = x[row + r];
    for (int k = 0; k < width; k++) {
        vf column[P];
        for (int p = 0; p < P; p++) column[p] = load(panel + (size_t(k) * P + p) * W);
        for (int r = 0; r < R; r++) {
            vf a = all(from[r][k]);
            for (int p = 0; p < P; p++) acc[r][p] += a * column[p];
        }
    }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) store(tile[r] + W * p, acc[r][p]);
}

template <int R> void turned_tile(int rows, const float* panel, int width, Rows& x, int row, Tile* tile) {
    if (rows == R) return turned_tile<R>(panel, width, x, row, tile);
    if constexpr (R > 1) turned_tile<R - 1>(rows, panel, width, x, row, tile);
}

// Products of all rows with all outputs, bias included: use(row, n, v, count) is given those with
// outputs n to n + count of one row, after soon(row, n). Outputs are shared by threads.
// any_order: whether sums may be added in whatever order is quickest for this number of rows.
template <class Soon, class Use>
void products(const Linear& w, Rows& x, bool any_order, Soon soon, Use use) {
    Share share(w.n, W);
    const bool turned = any_order && x.n >= MANY && (w.format == FLOAT32 || w.format == BFLOAT16);
    const int wide = turned ? MANY_PANELS * W : TILE, high = turned ? MANY_ROWS : ROWS;
    std::unique_ptr<float[]> panel(turned ? new float[size_t(w.k) * wide] : nullptr);
    for (int n0 = share.begin; n0 < share.end; n0 += wide) {
        int count = std::min(wide, share.end - n0);
        if (turned && w.format == FLOAT32) turn<float>(w, n0, count, panel.get());
        else if (turned) turn<uint16_t>(w, n0, count, panel.get());
        for (int row = 0; row < x.n;) {
            Tile tile[std::max(ROWS, MANY_ROWS)];
            int rows = std::min(high, x.n - row);
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < count; i += W) soon(row + r, n0 + i);
            if (turned) turned_tile<MANY_ROWS>(rows, panel.get(), w.k, x, row, tile);
            else tile_of<ROWS>(rows, w, n0, count, x, row, tile);
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < count; i += W) {
                    vf v = load(tile[r] + i);
                    if (w.bias) v += load(w.bias + n0 + i, count - i);
                    use(row + r, n0 + i, v, count - i);
                }
            row += rows;
        }
    }
#pragma omp barrier
}

// y[row][0..n) (stride `stride`) becomes finish(x w^T + bias, y).
template <class Finish>
void linear(const Linear& w, Rows& x, float* y, size_t stride, bool any_order, Finish finish) {
    products(
        w, x, any_order,
        [&](int row, int n) { __builtin_prefetch(y + stride * row + n, 1); },
        [&](int row, int n, vf v, int count) {
            float* to = y + stride * row + n;
            store(to, finish(v, load(to, count)), count);
        });
}

}  // namespace gpt2lab
