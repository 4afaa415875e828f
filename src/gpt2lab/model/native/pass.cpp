// GPT-2 on a CPU: one call computes one pass over tokens of any number of sequences.
//
// Every row is computed by the same operations in the same order whatever rows stand beside it, so
// a sequence's values do not depend on its company, bit for bit; unless the caller lets that go.
//
// Names: N tokens of this pass, D model width, H heads, K head width, F MLP width.

#include "attention.h"
#include "score.h"

namespace gpt2lab {
namespace {

void normalise(const Norm& norm, const float* x, int width, float* y) {
    vf total = {}, squares = {};
    for (int i = 0; i < width; i += W) total += load(x + i, width - i);
    vf mean = all(sum(total) / width);
    for (int i = 0; i < width; i += W) {
        vf d = first(width - i, load(x + i, width - i) - mean, 0);
        squares += d * d;
    }
    vf rate = all(1 / std::sqrt(sum(squares) / width + 1e-5f));
    for (int i = 0; i < width; i += W) {
        int count = width - i;
        vf v = (load(x + i, count) - mean) * rate;
        store(y + i, v * load(norm.gain + i, count) + load(norm.bias + i, count), count);
    }
}

// The embedding of one token; the table is the head's weight, in any format.
void embed(const Linear& w, int id, int width, float* y) {
    const int panel = id / W, lane = id % W;
    const auto* byte = static_cast<const uint8_t*>(w.weight);
    const auto* scale = static_cast<const float*>(w.scale);
    for (int i = 0; i < width; i++) {
        if (w.format == FLOAT32) {
            y[i] = static_cast<const float*>(w.weight)[size_t(id) * w.k + i];
        } else if (w.format == BFLOAT16) {
            y[i] = to_float(static_cast<const uint16_t*>(w.weight)[size_t(id) * w.k + i]);
        } else if (w.format == INT4) {
            int both = byte[((size_t(panel) * (w.k / 8) + i / 8) * W + lane) * 4 + i % 4];
            uint16_t by = static_cast<const uint16_t*>(
                w.scale)[(size_t(panel) * (w.k / GROUP) + i / GROUP) * W + lane];
            y[i] = ((i % 8 < 4 ? both & 15 : both >> 4) - 8) * to_float(by);
        } else {
            int q = byte[((size_t(panel) * (w.k / 4) + i / 4) * W + lane) * 4 + i % 4];
            y[i] = (q - 128) * scale[id];
        }
    }
}

}  // namespace
}  // namespace gpt2lab

using namespace gpt2lab;

extern "C" void gpt2lab_pass(const Model* model, const Cache* cache, const Pass* pass,
                             int32_t threads) {
    const Model& m = *model;
    const Pass& p = *pass;
    const int N = p.tokens, D = m.width, F = 4 * D, K = D / m.heads;
    Rows x(N, D), norm(N, D), qkv(N, 3 * D), mixed(N, D), inner(N, F), out(p.outputs, D);
    Scores scores(p, threads);
    auto add = [](vf v, vf old) { return old + v; };
    auto set = [](vf v, vf) { return v; };

#pragma omp parallel num_threads(threads)
    {
        Share rows(N, 1);
        std::unique_ptr<float[]> scratch(new float[size_t(QUERIES) * up(m.context + QUERIES, W)]);
        // A single row is made ready by every thread for itself, which is sooner done than waiting.
        const bool alone = N == 1;
        Rows own(alone, F);
        for (int n = rows.begin; n < rows.end; n++) {
            embed(m.wte, p.id[n], D, x[n]);
            for (int i = 0; i < D; i++) x[n][i] += m.wpe[size_t(p.position[n]) * D + i];
        }
#pragma omp barrier
        // The residual stream, normalised, as map `w` reads it.
        auto entering = [&](const Norm& ln, const Linear& w) -> Rows& {
            Rows& to = alone ? own : norm;
            for (int n = alone ? 0 : rows.begin; n < (alone ? 1 : rows.end); n++) {
                normalise(ln, x[n], D, to[n]);
                to.finish(n, D, w);
            }
            if (!alone) {
#pragma omp barrier
            }
            return to;
        };
        // Rows that all threads wrote, as map `w` reads them.
        auto ready = [&](Rows& y, int width, const Linear& w) -> Rows& {
            if (alone) {
                std::memcpy(own[0], y[0], width * sizeof(float));
                own.finish(0, width, w);
                return own;
            }
            for (int n = rows.begin; n < rows.end; n++) y.finish(n, width, w);
#pragma omp barrier
            return y;
        };
        for (int layer = 0; layer < m.layers; layer++) {
            const Block& b = m.blocks[layer];
            linear(b.c_attn, entering(b.ln_1, b.c_attn), qkv[0], qkv.stride, p.any_order, set);
            for (int n = rows.begin; n < rows.end; n++)
                for (int h = 0; h < m.heads; h++)
                    Head(*cache, m, layer, p.slot[n], h)
                        .put(p.position[n], qkv[n] + D + h * K, qkv[n] + 2 * D + h * K);
#pragma omp barrier
            const bool last = layer == m.layers - 1;
            if (last && !p.outputs) break;
            attend(m, *cache, p, layer, qkv, mixed, scratch.get());
            if (last && p.outputs < N) {  // what follows is for those tokens alone
#pragma omp single
                {
                    for (int o = 0; o < p.outputs; o++) {
                        std::memmove(x[o], x[p.out[o]], D * sizeof(float));
                        std::memmove(mixed[o], mixed[p.out[o]], D * sizeof(float));
                    }
                    x.n = mixed.n = norm.n = inner.n = p.outputs;
                }
                rows = Share(p.outputs, 1);
            }
            linear(b.attn_proj, ready(mixed, D, b.attn_proj), x[0], x.stride, p.any_order, add);
            Rows& into = entering(b.ln_2, b.c_fc);
            if (m.erf)
                linear(b.c_fc, into, inner[0], inner.stride, p.any_order,
                       [](vf v, vf) { return gelu_erf(v); });
            else
                linear(b.c_fc, into, inner[0], inner.stride, p.any_order,
                       [](vf v, vf) { return gelu_tanh(v); });
            linear(b.mlp_proj, ready(inner, F, b.mlp_proj), x[0], x.stride, p.any_order, add);
        }
        Share outputs(p.outputs, 1);
        for (int o = outputs.begin; o < outputs.end; o++) {
            normalise(m.ln_f, x[o], D, out[o]);
            out.finish(o, D, m.wte);
        }
#pragma omp barrier
        if (p.outputs && p.logits) linear(m.wte, out, p.logits, m.vocabulary, p.any_order, set);
        else if (p.outputs) scores.take(m.wte, out);
    }
}

// One linear map by itself: y [n][w.n] = x [n][width] w^T + bias.
extern "C" void gpt2lab_linear(const Linear* w, int32_t n, int32_t width, const float* x, float* y,
                               int32_t threads) {
    Rows rows(n, w->k);
#pragma omp parallel num_threads(threads)
    {
        Share share(n, 1);
        for (int r = share.begin; r < share.end; r++) {
            std::memcpy(rows[r], x + size_t(r) * width, width * sizeof(float));
            rows.finish(r, width, *w);
        }
#pragma omp barrier
        linear(*w, rows, y, w->n, false, [](vf v, vf) { return v; });
    }
}
