// What the model thinks of given tokens: sums over the vocabulary, with no logits kept.
#pragma once

#include <memory>
#include <vector>

#include "linear.h"

namespace gpt2lab {

// Sums over every sixteenth of some logits v: their largest, e^(v - top), that times v, and how
// many are above the given token's, of all and of allowed tokens.
struct Tally {
    vf top, total, weighted, likelier, allowed;
};
constexpr float LOWEST = -1e30f;

class Scores {
  public:
    Scores(const Pass& pass, int threads)
        : p_(pass), target_(p_.outputs), tally_(size_t(threads) * p_.outputs) {}

    // Every thread calls this, with the rows that the head multiplies.
    void take(const Linear& head, Rows& x) {
        Share rows(p_.outputs, 1);
        for (int o = rows.begin; o < rows.end; o++) {
            Tile tile;
            const int token = p_.target[o];
            tile_of<1>(head, token / W * W, W, x, o, &tile);
            target_[o] = tile[token % W];
        }
        Tally* own = &tally_[size_t(omp_get_thread_num()) * p_.outputs];
        std::fill(own, own + p_.outputs, Tally{all(LOWEST), {}, {}, {}, {}});
#pragma omp barrier
        products(
            head, x, p_.any_order, [](int, int) {},
            [&](int o, int n, vf v, int count) { add(own[o], o, n, first(count, v, LOWEST), count); });
        for (int o = rows.begin; o < rows.end; o++) finish(o);
    }

  private:
    void add(Tally& t, int o, int n, vf v, int count) {
        vf top = larger(t.top, v), shrink = exponential(t.top - top), power = exponential(v - top);
        t.total = t.total * shrink + power;
        t.weighted = t.weighted * shrink + power * v;
        t.top = top;
        const int own = p_.target[o] - n;  // its own logit may round otherwise here
        if (own >= 0 && own < W) {
            float lane[W];
            store(lane, v);
            lane[own] = LOWEST;
            v = load(lane);
        }
        vf above = each(
            [](auto a, auto b) {
                decltype(a) zero = {};
                return a > b ? zero + 1.0f : zero;
            },
            v, all(target_[o]));
        t.likelier += above;
        t.allowed += above * load(p_.allowed + n, count);
    }

    void finish(int o) {
        double top = LOWEST, total = 0, weighted = 0, likelier = 0, allowed = 0;
        float lane[5][W];
        auto lanes = [&](auto use) {
            for (size_t at = o; at < tally_.size(); at += p_.outputs) {
                const Tally& t = tally_[at];
                const vf part[5] = {t.top, t.total, t.weighted, t.likelier, t.allowed};
                for (int i = 0; i < 5; i++) store(lane[i], part[i]);
                for (int j = 0; j < W; j++)
                    if (!(lane[0][j] <= LOWEST)) use(j);
            }
        };
        lanes([&](int j) { top = lane[0][j] > top ? lane[0][j] : top; });
        lanes([&](int j) {
            double by = std::exp(lane[0][j] - top);
            total += by * lane[1][j];
            weighted += by * lane[2][j];
            likelier += lane[3][j];
            allowed += lane[4][j];
        });
        const double whole = top + std::log(total);
        float* to = p_.scores + size_t(4) * o;
        to[0] = float(whole - target_[o]);
        to[1] = float(likelier);
        to[2] = float(allowed);
        to[3] = float(whole - weighted / total);
    }

    const Pass& p_;
    std::vector<float> target_;
    std::vector<Tally> tally_;
};

}  // namespace gpt2lab
