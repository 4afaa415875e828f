// What Python hands over: the same fields in the same order as in call.py.
#pragma once

#include <cstdint>

namespace gpt2lab {

enum Format : int32_t { FLOAT32, BFLOAT16, INT8, INT8_WEIGHT, INT4 };
constexpr int GROUP = 32;  // weights of an int4 row that share a scale

// A linear map. float32, bfloat16: weight [n][k]. int8: [n/16][k/4][16][4], plus 128, with a scale
// per row. int4: [n/16][k/8][16][4], plus 8, low halves of the bytes before high ones, with a
// bfloat16 scale [n/16][k/32][16] per group. k counts padding with zeros to a multiple of 4 or 32.
struct Linear {
    int32_t n, k, format;
    const void* weight;
    const void* scale;
    const float* bias;
};
struct Norm {
    const float *gain, *bias;
};
struct Block {
    Norm ln_1, ln_2;
    Linear c_attn, attn_proj, c_fc, mlp_proj;
};
struct Model {
    int32_t layers, heads, width, context, vocabulary, erf;
    Linear wte;
    const float* wpe;
    Norm ln_f;
    const Block* blocks;
};
// keys [layers][slots][heads][capacity/16][K][16], values [layers][slots][heads][capacity][K].
struct Cache {
    int32_t slots, capacity;
    float *keys, *values;
};
// Tokens of a sequence stand together, in order. out: the tokens whose logits are wanted, in
// order. any_order: whether sums may be added in an order that depends on the number of tokens.
struct Pass {
    int32_t tokens, outputs, any_order;
    const int32_t *id, *slot, *position, *out;
    float* logits;  // [outputs][vocabulary], or null if scores of targets are wanted instead
    const int32_t* target;  // [outputs]
    const float* allowed;   // [vocabulary], 1 or 0
    int32_t best;           // how many of the likeliest tokens are wanted
    // [outputs][7 + 2 best]: nats, rank, rank among allowed tokens, entropy, variance of the nats,
    // probability of likelier tokens, nats of the likeliest; then the likeliest tokens' ids, and
    // their nats.
    float* scores;
};

}  // namespace gpt2lab
