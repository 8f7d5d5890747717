// Attention of one query a row and head to the keys of a cache, compiled at run time by NVRTC: no headers. What is drawn
// token by token asks one query, so that the matrix units have nothing to multiply: it is a matter of reading keys and values
// once, and of one launch. Macros: DIM, the width of a head, 64 or 128; BF16 where numbers are bfloat16, else they are float.
// Sums are in f32.

typedef unsigned short bf16;
typedef unsigned int u32;
typedef long long i64;

// Elements of a head that a lane has.
#define EACH (DIM / 32)
#define WARPS 8
// Keys that a warp reads at once.
#define KEYS 4

#ifdef BF16
typedef bf16 number;
__device__ inline float widen(number x) { return __uint_as_float((u32)x << 16); }
// Round to nearest, ties to even; NaN stays NaN.
__device__ inline number narrow(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (number)((bits >> 16) | 0x40u);
    return (number)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
// Elements from an address that is a multiple of their number of bytes.
__device__ inline void load(const number *from, float *to) {
    for (int i = 0; i < EACH / 2; i++) {
        u32 pair = ((const u32 *)from)[i];
        to[2 * i] = __uint_as_float(pair << 16);
        to[2 * i + 1] = __uint_as_float(pair & 0xffff0000u);
    }
}
#else
typedef float number;
__device__ inline float widen(number x) { return x; }
__device__ inline number narrow(float x) { return x; }
__device__ inline void load(const number *from, float *to) {
    for (int i = 0; i < EACH / 2; i++) {
        float2 pair = ((const float2 *)from)[i];
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}
#endif

__device__ inline float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// blockIdx.x: the head, blockIdx.y: the row. q: a row is q_row numbers after the one before, its heads are side by side;
// out: [rows, heads, DIM]. keys and values: by strides of rows, heads and positions. With `added` a key and a value of each
// row stand in it as the heads in q, the values added_width numbers after the keys: they are written at the last of the
// `count` positions first.
extern "C" __global__ void attend(const number *q, i64 q_row, const number *added, i64 added_width, number *keys,
                                  number *values, i64 row_stride, i64 head_stride, i64 position_stride, number *out,
                                  int count, float scale) {
    __shared__ float query[DIM];
    __shared__ float sums[WARPS][DIM];
    __shared__ float largest[WARPS], weights[WARPS];
    int head = blockIdx.x, heads = gridDim.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    i64 row = blockIdx.y;
    keys += row * row_stride + head * head_stride;
    values += row * row_stride + head * head_stride;
    if (threadIdx.x < DIM) {
        int i = threadIdx.x;
        query[i] = widen(q[row * q_row + head * DIM + i]) * scale;
        if (added) {
            const number *key = added + row * q_row + head * DIM;
            i64 at = (count - 1) * position_stride + i;
            keys[at] = key[i];
            values[at] = key[added_width + i];
        }
    }
    // What was written is seen by the whole block.
    __syncthreads();
    float own[EACH], sum[EACH];
    for (int e = 0; e < EACH; e++) {
        own[e] = query[lane * EACH + e];
        sum[e] = 0.0f;
    }
    float most = -__int_as_float(0x7f800000), weight = 0.0f;
    for (int first = warp * KEYS; first < count; first += WARPS * KEYS) {
        float k[KEYS][EACH], v[KEYS][EACH], score[KEYS];
        for (int j = 0; j < KEYS; j++) {
            // Beyond the last it is read once more, and counts for nothing.
            i64 at = (i64)min(first + j, count - 1) * position_stride + lane * EACH;
            load(keys + at, k[j]);
            load(values + at, v[j]);
        }
        float now = most;
        for (int j = 0; j < KEYS; j++) {
            float dot = 0.0f;
            for (int e = 0; e < EACH; e++) dot += own[e] * k[j][e];
            score[j] = first + j < count ? warp_sum(dot) : -__int_as_float(0x7f800000);
            now = fmaxf(now, score[j]);
        }
        // The first of them is a key, so that `now` is finite.
        float kept = expf(most - now);
        weight *= kept;
        for (int e = 0; e < EACH; e++) sum[e] *= kept;
        for (int j = 0; j < KEYS; j++) {
            float p = expf(score[j] - now);
            weight += p;
            for (int e = 0; e < EACH; e++) sum[e] += p * v[j][e];
        }
        most = now;
    }
    for (int e = 0; e < EACH; e++) sums[warp][lane * EACH + e] = sum[e];
    if (lane == 0) {
        largest[warp] = most;
        weights[warp] = weight;
    }
    __syncthreads();
    if (threadIdx.x < DIM) {
        float of_all = largest[0], total = 0.0f, seen = 0.0f;
        for (int w = 1; w < WARPS; w++) of_all = fmaxf(of_all, largest[w]);
        for (int w = 0; w < WARPS; w++) {
            float share = expf(largest[w] - of_all);
            total += weights[w] * share;
            seen += sums[w][threadIdx.x] * share;
        }
        out[(row * heads + head) * DIM + threadIdx.x] = narrow(seen / total);
    }
}

// Rotates the pairs (i, i + DIM / 2) of the queries' and keys' heads of a joint projection [tokens, 3, heads, DIM] in place;
// cos and sin: [tokens, DIM], cosines twice and sines with their signs.
extern "C" __global__ void rotate(number *qkv, const float *cos, const float *sin, i64 tokens, int heads) {
    i64 count = tokens * 2 * heads * (DIM / 2), step = (i64)gridDim.x * blockDim.x;
    for (i64 item = (i64)blockIdx.x * blockDim.x + threadIdx.x; item < count; item += step) {
        int i = item % (DIM / 2);
        i64 head = item / (DIM / 2);
        i64 token = head / (2 * heads);
        number *at = qkv + (token * 3 * heads + head % (2 * heads)) * DIM;
        const float *c = cos + token * DIM, *s = sin + token * DIM;
        float a = widen(at[i]), b = widen(at[i + DIM / 2]);
        at[i] = narrow(a * c[i] + b * s[i]);
        at[i + DIM / 2] = narrow(b * c[i + DIM / 2] + a * s[i + DIM / 2]);
    }
}
