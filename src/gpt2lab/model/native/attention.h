// Attention of new tokens over the cache.
#pragma once

#include "linear.h"

namespace gpt2lab {

// Keys and values of one layer, slot and head.
struct Head {
    float *key, *value;  // [capacity/16][K][16], [capacity][K]
    int width;
    Head(const Cache& c, const Model& m, int layer, int slot, int head) : width(m.width / m.heads) {
        size_t at = ((size_t(layer) * c.slots + slot) * m.heads + head) * c.capacity * width;
        key = c.keys + at;
        value = c.values + at;
    }
    void put(int position, const float* k, const float* v) {
        float* to = key + size_t(position / W) * W * width + position % W;
        for (int i = 0; i < width; i++) to[size_t(i) * W] = k[i];
        std::memcpy(value + size_t(position) * width, v, width * sizeof(float));
    }
};

// y[r] = attention of R queries at positions `position`, position + 1, ... of one sequence.
template <int R>
void attend(const Head& head, int position, const float* const* q, float* const* y, float* scratch) {
    const int K = head.width, blocks = (position + R - 1) / W + 1;
    const float rate = 1 / std::sqrt(float(K));
    const size_t stride = size_t(blocks) * W;
    vf top[R];
    for (int r = 0; r < R; r++) top[r] = all(-INFINITY);
    constexpr int P = PANELS;  // blocks of keys, or vectors of values, at a time
    for (int b0 = 0; b0 < blocks; b0 += P) {
        vf s[R][P] = {};
        for (int i = 0; i < K; i++)
            for (int b = 0; b < P; b++) {
                vf key = load(head.key + (size_t(std::min(b0 + b, blocks - 1)) * K + i) * W);
                for (int r = 0; r < R; r++) s[r][b] += q[r][i] * key;
            }
        for (int b = 0; b < P && b0 + b < blocks; b++)
            for (int r = 0; r < R; r++) {
                vf v = first(position + r + 1 - (b0 + b) * W, s[r][b] * rate, -INFINITY);
                top[r] = larger(top[r], v);
                store(scratch + r * stride + size_t(b0 + b) * W, v);
            }
    }
    float inverse[R];
    for (int r = 0; r < R; r++) {
        vf most = all(largest(top[r])), total = {};
        for (size_t i = 0; i < stride; i += W) {
            vf p = exponential(load(scratch + r * stride + i) - most);
            total += p;
            store(scratch + r * stride + i, p);
        }
        inverse[r] = 1 / sum(total);
    }
    for (int i = 0; i < K; i += P * W) {
        vf acc[R][P] = {};
        const int parts = std::min(P, (K - i + W - 1) / W);
        auto add = [&](int limit, auto whole) {
            for (int s = 0; s < limit; s++) {
                const float* value = head.value + size_t(s) * K + i;
                for (int c = 0; c < (whole ? P : parts); c++) {
                    vf v = whole ? load(value + c * W) : load(value + c * W, K - i - c * W);
                    for (int r = 0; r < R; r++) acc[r][c] += scratch[r * stride + s] * v;
                }
            }
        };
        int keys = position + R;
        if (K - i >= P * W) add(keys, std::true_type{});
        else add(keys, std::false_type{});
        for (int r = 0; r < R; r++)
            for (int c = 0; c < parts; c++)
                store(y[r] + i + c * W, acc[r][c] * inverse[r], K - i - c * W);
    }
}

// Queries of one sequence that share their keys' reading.
constexpr int QUERIES = 6;

template <int R>
void attend(int queries, const Head& head, int position, const float* const* q, float* const* y,
            float* scratch) {
    if (queries == R) return attend<R>(head, position, q, y, scratch);
    if constexpr (R > 1) attend<R - 1>(queries, head, position, q, y, scratch);
}

void attend(const Model& m, const Cache& cache, const Pass& p, int layer, Rows& qkv, Rows& out,
            float* scratch) {
    const int K = m.width / m.heads;
    int task = 0;
    for (int n = 0; n < p.tokens;) {
        int queries = 1;
        while (queries < QUERIES && n + queries < p.tokens && p.slot[n + queries] == p.slot[n])
            queries++;
        for (int h = 0; h < m.heads; h++, task++) {
            if (task % omp_get_num_threads() != omp_get_thread_num()) continue;
            const float* q[QUERIES];
            float* y[QUERIES];
            for (int r = 0; r < queries; r++) {
                q[r] = qkv[n + r] + h * K;
                y[r] = out[n + r] + h * K;
            }
            Head head(cache, m, layer, p.slot[n], h);
            attend<QUERIES>(queries, head, p.position[n], q, y, scratch);
        }
        n += queries;
    }
#pragma omp barrier
}

}  // namespace gpt2lab
