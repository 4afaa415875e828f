// Vectors of sixteen lanes, which the compiler splits where registers are shorter.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gpt2lab {

constexpr int W = 16;
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

template <class V, class T> inline V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline vf load(const float* p) { return load<vf>(p); }
inline vf load(const float* p, int count) {
    if (count >= W) return load(p);
    vf v = {};
    std::memcpy(&v, p, count * sizeof(float));
    return v;
}
inline void store(float* p, vf v, int count = W) {
    std::memcpy(p, &v, std::min(count, W) * sizeof(float));
}
inline vf to_float(vi v) { return __builtin_convertvector(v, vf); }
inline vf all(float x) { return x - vf{}; }

inline float sum(vf v) {
    float s[W];
    store(s, v);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}
inline float largest(vf v) {
    float s[W];
    store(s, v);
    for (int i = 1; i < W; i++) s[0] = std::max(s[0], s[i]);
    return s[0];
}
inline vf larger(vf a, vf b) { return a > b ? a : b; }
inline vf smaller(vf a, vf b) { return a < b ? a : b; }

// e^x to two units in the last place; 0 below -87.
inline vf exponential(vf x) {
    vf inside = smaller(larger(x, all(-87.0f)), all(88.0f));
    vf n = inside * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to a whole number
    vi bits = (vi)n - (vi)all(12582912.0f);
    n -= 12582912.0f;
    vf r = inside - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vf y = (vf)((vi)p + (bits << 23));
    return x < all(-87.0f) ? vf{} : y;
}
inline vf gelu_tanh(vf x) {
    vf u = 1.5957691216f * (x + 0.044715f * x * x * x);  // 2 sqrt(2 / pi) (...)
    return x / (1.0f + exponential(-u));
}
inline vf gelu_erf(vf x) {
    for (int i = 0; i < W; i++) x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
    return x;
}

// acc[i] += sum of four products of unsigned w[4i..] and signed bytes a.
#if defined(__AVX512VNNI__)
inline vi dot4(vi acc, vi w, int32_t a) {
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(a));
}
#elif defined(__AVX2__)
inline __m256i dot4(__m256i acc, __m256i w, __m256i a) {
    // A byte pair's products fit 16 bits only if both are within 127, so weights become signed.
    w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    // 128 times the sum of the activations, as if weights had been unsigned.
    __m256i lift = _mm256_maddubs_epi16(_mm256_set1_epi8(1), a);
    __m256i ones = _mm256_set1_epi16(1);
    acc = _mm256_add_epi32(acc, _mm256_slli_epi32(_mm256_madd_epi16(lift, ones), 7));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones));
}
inline vi dot4(vi acc, vi w, int32_t a) {
    __m256i half[2], by[2], all = _mm256_set1_epi32(a);
    std::memcpy(half, &acc, 64);
    std::memcpy(by, &w, 64);
    for (int i = 0; i < 2; i++) half[i] = dot4(half[i], by[i], all);
    std::memcpy(&acc, half, 64);
    return acc;
}
#else
inline vi dot4(vi acc, vi w, int32_t a) {
    uint8_t wb[4 * W];
    int8_t ab[4];
    std::memcpy(wb, &w, sizeof wb);
    std::memcpy(ab, &a, sizeof ab);
    for (int i = 0; i < W; i++)
        for (int j = 0; j < 4; j++) acc[i] += wb[4 * i + j] * ab[j];
    return acc;
}
#endif

}  // namespace gpt2lab
