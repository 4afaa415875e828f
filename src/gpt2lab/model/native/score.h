// What the model thinks of given tokens: sums over the vocabulary, with no logits kept.
#pragma once

#include <memory>
#include <vector>

#include "linear.h"

namespace gpt2lab {

// Sums over every sixteenth of some logits v, with d = v - top, top their largest: e^d, e^d times d
// and d^2, and of those above the given token's logit e^d and how many there are, of all tokens and
// of allowed ones.
struct Tally {
    vf top, total, first, second, mass, likelier, allowed;
};
constexpr float LOWEST = -1e15f;  // below any logit, and its square is a float32
constexpr int FACTS = 7;          // numbers a token before the likeliest ones (types.h)

struct Choice {
    float logit;
    int32_t id;
    bool operator<(const Choice& other) const {  // likelier ones first
        return logit != other.logit ? logit > other.logit : id < other.id;
    }
};

class Scores {
  public:
    Scores(const Pass& pass, int threads)
        : p_(pass), target_(p_.outputs), tally_(size_t(threads) * p_.outputs),
          best_(size_t(threads) * p_.outputs * p_.best, Choice{LOWEST, 0}) {}

    // Every thread calls this, with the rows that the head multiplies.
    void take(const Linear& head, Rows& x) {
        Share rows(p_.outputs, 1);
        for (int o = rows.begin; o < rows.end; o++) {
            Tile tile;
            const int token = p_.target[o];
            tile_of<1>(head, token / W * W, W, x, o, &tile);
            target_[o] = tile[token % W];
        }
        const size_t mine = size_t(omp_get_thread_num()) * p_.outputs;
        Tally* own = &tally_[mine];
        std::fill(own, own + p_.outputs, Tally{all(LOWEST), {}, {}, {}, {}, {}, {}});
#pragma omp barrier
        products(
            head, x, p_.any_order, [](int, int) {},
            [&](int o, int n, vf v, int count) {
                v = first(count, v, LOWEST);
                if (p_.best) keep(&best_[(mine + o) * p_.best], n, v);
                add(own[o], o, n, v, count);
            });
        for (int o = rows.begin; o < rows.end; o++) finish(o);
    }

  private:
    // Put what is likelier than the last of a list's choices into it.
    void keep(Choice* list, int n, vf v) {
        if (largest(v) <= list[p_.best - 1].logit) return;
        float lane[W];
        store(lane, v);
        for (int i = 0; i < W; i++) {
            int at = p_.best;
            for (; at && lane[i] > list[at - 1].logit; at--)
                if (at < p_.best) list[at] = list[at - 1];
            if (at < p_.best) list[at] = {lane[i], n + i};
        }
    }

    void add(Tally& t, int o, int n, vf v, int count) {
        vf top = larger(t.top, v), down = t.top - top, shrink = exponential(down);
        vf d = v - top, power = exponential(d);
        t.second = (t.second + (2.0f * t.first + t.total * down) * down) * shrink + power * d * d;
        t.first = (t.first + t.total * down) * shrink + power * d;
        t.total = t.total * shrink + power;
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
        t.mass = t.mass * shrink + above * power;
        t.likelier += above;
        t.allowed += above * load(p_.allowed + n, count);
    }

    void finish(int o) {
        double top = LOWEST, total = 0, first = 0, second = 0, mass = 0, likelier = 0, allowed = 0;
        float lane[FACTS][W];
        auto lanes = [&](auto use) {
            for (size_t at = o; at < tally_.size(); at += p_.outputs) {
                const Tally& t = tally_[at];
                const vf part[FACTS] = {t.top,  t.total,    t.first,  t.second,
                                        t.mass, t.likelier, t.allowed};
                for (int i = 0; i < FACTS; i++) store(lane[i], part[i]);
                for (int j = 0; j < W; j++)
                    if (!(lane[0][j] <= LOWEST)) use(j);
            }
        };
        lanes([&](int j) { top = lane[0][j] > top ? lane[0][j] : top; });
        lanes([&](int j) {
            double down = lane[0][j] - top, by = std::exp(down);
            second += by * (lane[3][j] + (2 * lane[2][j] + lane[1][j] * down) * down);
            first += by * (lane[2][j] + lane[1][j] * down);
            total += by * lane[1][j];
            mass += by * lane[4][j];
            likelier += lane[5][j];
            allowed += lane[6][j];
        });
        const double log = std::log(total), mean = first / total;
        float* to = p_.scores + size_t(FACTS + 2 * p_.best) * o;
        to[0] = float(top + log - target_[o]);
        to[1] = float(likelier);
        to[2] = float(allowed);
        to[3] = float(log - mean);
        to[4] = float(std::max(0.0, second / total - mean * mean));
        to[5] = float(mass / total);
        to[6] = float(log);
        choose(o, top + log, to + FACTS);
    }

    // The likeliest of all threads' choices: ids, then nats.
    void choose(int o, double whole, float* to) {
        if (!p_.best) return;
        std::vector<Choice> all;
        for (size_t at = o; at < tally_.size(); at += p_.outputs)
            all.insert(all.end(), &best_[at * p_.best], &best_[at * p_.best] + p_.best);
        std::partial_sort(all.begin(), all.begin() + p_.best, all.end());
        for (int i = 0; i < p_.best; i++) {
            to[i] = float(all[i].id);
            to[p_.best + i] = float(whole - all[i].logit);
        }
    }

    const Pass& p_;
    std::vector<float> target_;
    std::vector<Tally> tally_;
    std::vector<Choice> best_;
};

}  // namespace gpt2lab
