// Vectors of sixteen lanes: a register of AVX-512, or pairs of shorter ones, or pairs of pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace gpt2lab {

constexpr int W = 16;

#if defined(__AVX512VNNI__)
constexpr int REGISTER = 64;
#elif defined(__AVX2__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

template <class V> struct Pair { V low, high; };
template <class T, int bytes> struct Native { typedef T type __attribute__((vector_size(bytes))); };
template <class T, int bytes> struct Vector { typedef Pair<typename Vector<T, bytes / 2>::type> type; };
template <class T> struct Vector<T, REGISTER> : Native<T, REGISTER> {};
typedef Vector<float, 64>::type vf;
typedef Vector<int32_t, 64>::type vi;
template <class V> constexpr bool paired = false;
template <class V> constexpr bool paired<Pair<V>> = true;

// f of every register.
template <class F, class V, class... Rest> inline auto each(F f, V a, Rest... rest) {
    if constexpr (paired<V>) {
        auto low = each(f, a.low, rest.low...), high = each(f, a.high, rest.high...);
        return Pair<decltype(low)>{low, high};
    } else {
        return f(a, rest...);
    }
}

#define GPT2LAB_OPERATOR(op)                                                                  \
    template <class V> inline Pair<V> operator op(Pair<V> a, Pair<V> b) {                     \
        return {a.low op b.low, a.high op b.high};                                            \
    }                                                                                         \
    template <class V, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>            \
    inline Pair<V> operator op(Pair<V> a, S b) {                                              \
        return {a.low op b, a.high op b};                                                     \
    }                                                                                         \
    template <class V, class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>            \
    inline Pair<V> operator op(S a, Pair<V> b) {                                              \
        return {a op b.low, a op b.high};                                                     \
    }
GPT2LAB_OPERATOR(+)
GPT2LAB_OPERATOR(-)
GPT2LAB_OPERATOR(*)
GPT2LAB_OPERATOR(/)
GPT2LAB_OPERATOR(&)
GPT2LAB_OPERATOR(^)
GPT2LAB_OPERATOR(<<)
GPT2LAB_OPERATOR(>>)
#undef GPT2LAB_OPERATOR
template <class V> inline Pair<V>& operator+=(Pair<V>& a, Pair<V> b) { return a = a + b; }

// From memory, from any place in it.
template <class V> inline V load(const void* p) {
    if constexpr (paired<V>) {
        typedef decltype(V::low) Half;
        return {load<Half>(p), load<Half>(static_cast<const char*>(p) + sizeof(Half))};
    } else {
        V v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
}
template <class V> inline void store(void* p, V v) {
    if constexpr (paired<V>) {
        store(p, v.low);
        store(static_cast<char*>(p) + sizeof v.low, v.high);
    } else {
        std::memcpy(p, &v, sizeof v);
    }
}
inline vf load(const float* p) { return load<vf>(p); }
// The first `count` lanes; the others are 0, or left as they are in memory.
inline vf load(const float* p, int count) {
    if (count >= W) return load(p);
    float some[W] = {};
    std::memcpy(some, p, count * sizeof(float));
    return load(some);
}
inline void store(float* p, vf v, int count) {
    if (count >= W) return store(p, v);
    float whole[W];
    store(whole, v);
    std::memcpy(p, whole, count * sizeof(float));
}
inline vf all(float x) {
    return each([x](auto zero) { return x - zero; }, vf{});
}
// The first `count` lanes of v, then x.
inline vf first(int count, vf v, float x) {
    if (count >= W) return v;
    float lane[W];
    store(lane, v);
    for (int i = std::max(0, count); i < W; i++) lane[i] = x;
    return load(lane);
}
// bfloat16 is the upper half of a float32.
template <class V> inline V widened(const uint16_t* p) {
    if constexpr (paired<V>) {
        typedef decltype(V::low) Half;
        return {widened<Half>(p), widened<Half>(p + sizeof(Half) / 4)};
    } else {
        auto half = load<typename Native<uint16_t, sizeof(V) / 2>::type>(p);
        typedef typename Native<uint32_t, sizeof(V)>::type Bits;
        return (V)(__builtin_convertvector(half, Bits) << 16);
    }
}
inline float to_float(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline float to_float(float x) { return x; }
inline vf widen(const uint16_t* p) { return widened<vf>(p); }
inline vf widen(const float* p) { return load(p); }

inline vf to_float(vi v) {
    return each(
        [](auto a) {
            typedef typename Native<float, sizeof a>::type Floats;
            return __builtin_convertvector(a, Floats);
        },
        v);
}
inline vi bits(vf v) {
    return each([](auto a) { return (typename Native<int32_t, sizeof a>::type)a; }, v);
}
inline vf from_bits(vi v) {
    return each([](auto a) { return (typename Native<float, sizeof a>::type)a; }, v);
}
inline vf larger(vf a, vf b) {
    return each([](auto x, auto y) { return x > y ? x : y; }, a, b);
}
inline vf smaller(vf a, vf b) {
    return each([](auto x, auto y) { return x < y ? x : y; }, a, b);
}

// Groups of 2H lanes of x and y become H wide, first halves added to second, and alternate.
template <int H, class V, int... L> inline V fold(V x, V y, std::integer_sequence<int, L...>) {
    constexpr int N = sizeof...(L);
#if defined(__clang__)
    return __builtin_shufflevector(x, y, (L / H % 2 * N + L / (2 * H) * 2 * H + L % H)...) +
           __builtin_shufflevector(x, y, (L / H % 2 * N + L / (2 * H) * 2 * H + L % H + H)...);
#else
    typedef typename Native<int32_t, sizeof(V)>::type Places;
    const Places from = {(L / H % 2 * N + L / (2 * H) * 2 * H + L % H)...};
    return __builtin_shuffle(x, y, from) + __builtin_shuffle(x, y, from + H);
#endif
}
template <int H, class V> inline V fold(V x, V y) {
    if constexpr (!paired<V>)
        return fold<H>(x, y, std::make_integer_sequence<int, sizeof(V) / 4>());
    else if constexpr (2 * H * sizeof(float) == sizeof(V))
        return {x.low + x.high, y.low + y.high};
    else
        return {fold<H>(x.low, y.low), fold<H>(x.high, y.high)};
}
template <int H> inline void fold(vf* v) {
    for (int i = 0; i < H; i++) v[i] = fold<H>(v[i], v[i + H]);
}
// Lane i becomes the sum of v[i]; v is overwritten.
inline vf sums(vf* v) {
    fold<8>(v);
    fold<4>(v);
    fold<2>(v);
    fold<1>(v);
    return v[0];
}
// The same sum of one vector, by the same additions.
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

// Adding 1.5 * 2^23 rounds a float to a whole number, which is then in its lowest bits.
constexpr float LIFTED = 12582912.0f;
inline vi whole(vf lifted) { return bits(lifted) - bits(all(LIFTED)); }

// e^x to two units in the last place; 0 below -87.
inline vf exponential(vf x) {
    vf inside = smaller(larger(x, all(-87.0f)), all(88.0f));
    vf n = inside * 1.44269504f + LIFTED;
    vi power = whole(n) << 23;
    n = n - LIFTED;
    vf r = inside - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vf y = from_bits(bits(p) + power);
    return each([](auto x, auto y) { return x < -87.0f ? y - y : y; }, x, y);
}
inline vf gelu_tanh(vf x) {
    vf u = 1.5957691216f * (x + 0.044715f * x * x * x);  // 2 sqrt(2 / pi) (...)
    return x / (1.0f + exponential(0.0f - u));
}
inline vf gelu_erf(vf x) {
    float each[W];
    store(each, x);
    for (float& v : each) v = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
    return load(each);
}

// Sums of four products of neighbouring bytes, added to acc's lanes: the weights w of lane i with
// the same signed bytes a. dot4 takes weights from 0 to 127, and up to 255 where LIFTS; signed4,
// elsewhere, those from -127 to 127.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool LIFTS = true;
typedef Native<int32_t, REGISTER>::type Words;
inline Words dot4(Words acc, Words w, int32_t a) {
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(a));
#else
    return (Words)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, _mm256_set1_epi32(a));
#endif
}
#elif defined(__AVX2__)
constexpr bool LIFTS = false;
typedef Native<int32_t, 32>::type Words;
inline Words dot4(Words acc, __m256i w, __m256i a) {
    __m256i pairs = _mm256_maddubs_epi16(w, a);
    return acc + (Words)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
inline Words dot4(Words acc, Words w, int32_t a) {
    return dot4(acc, (__m256i)w, _mm256_set1_epi32(a));
}
inline Words signed4(Words acc, Words w, int32_t a) {
    // Two products fit 16 bits as the first factor is within 127; its signs go to the second.
    __m256i q = (__m256i)w;
    return dot4(acc, _mm256_abs_epi8(q), _mm256_sign_epi8(_mm256_set1_epi32(a), q));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr bool LIFTS = false;
typedef Native<int32_t, 16>::type Words;
inline Words dot4(Words acc, Words w, int32_t a) {
    return (Words)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)vdupq_n_s32(a));
}
inline Words signed4(Words acc, Words w, int32_t a) { return dot4(acc, w, a); }
#else
constexpr bool LIFTS = true;
typedef Native<int32_t, REGISTER>::type Words;
inline Words dot4(Words acc, Words w, int32_t a) {
    for (int j = 0; j < 4; j++) acc += (w >> (8 * j) & 255) * int32_t(int8_t(a >> (8 * j)));
    return acc;
}
#endif
template <class V> inline Pair<V> dot4(Pair<V> acc, Pair<V> w, int32_t a) {
    return {dot4(acc.low, w.low, a), dot4(acc.high, w.high, a)};
}

// The same for weights stored as whole numbers plus 128. The result is LIFT times the sum of a's
// bytes above that of the numbers themselves.
constexpr int LIFT = LIFTS ? 128 : 0;
template <class V> inline V dot4_lifted(V acc, V w, int32_t a) {
    if constexpr (LIFTS) return dot4(acc, w, a);
    else if constexpr (paired<V>)
        return {dot4_lifted(acc.low, w.low, a), dot4_lifted(acc.high, w.high, a)};
    else return signed4(acc, w ^ int32_t(0x80808080), a);
}

}  // namespace gpt2lab
