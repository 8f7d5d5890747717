// Fused kernels of a transformer block in bf16, compiled at run time by NVRTC: no headers, no templates. Sums are in
// f32. WIDTH, the width of the residual stream, is a macro so that loops unroll.

typedef unsigned short bf16;
typedef unsigned int u32;
typedef long long i64;

__device__ inline float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ inline float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline float widen(bf16 x) { return __uint_as_float((u32)x << 16); }

// Round to nearest, ties to even; NaN stays NaN.
__device__ inline u32 narrow(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ inline u32 pack(float a, float b) { return narrow(a) | (narrow(b) << 16); }

__device__ inline float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// Pairs of elements that a lane of a warp has of a row.
#define PAIRS (WIDTH / 64)
#define WARPS 4

// y = x / sqrt(mean(x^2) + eps) * w; a warp a row. x, y: [rows, WIDTH]; w: [WIDTH]; scale: [rows].
extern "C" __global__ void rms_norm_forward(const u32 *x, const float *w, u32 *y, float *scale, i64 rows, float eps) {
    int lane = threadIdx.x % 32;
    i64 step = (i64)gridDim.x * WARPS;
    for (i64 row = (i64)blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += step) {
        const u32 *from = x + row * (WIDTH / 2);
        u32 values[PAIRS];
        float sum = 0.0f;
        for (int i = 0; i < PAIRS; i++) {
            values[i] = from[i * 32 + lane];
            sum += low(values[i]) * low(values[i]) + high(values[i]) * high(values[i]);
        }
        float r = rsqrtf(warp_sum(sum) / WIDTH + eps);
        if (lane == 0) scale[row] = r;
        for (int i = 0; i < PAIRS; i++) {
            int at = i * 32 + lane;
            y[row * (WIDTH / 2) + at] = pack(low(values[i]) * r * w[2 * at], high(values[i]) * r * w[2 * at + 1]);
        }
    }
}

// The gradients of x, and of w added to dw (which starts at 0).
extern "C" __global__ void rms_norm_backward(const u32 *dy, const u32 *x, const float *w, const float *scale, u32 *dx,
                                             float *dw, i64 rows) {
    __shared__ float sums[WIDTH];
    for (int i = threadIdx.x; i < WIDTH; i += blockDim.x) sums[i] = 0.0f;
    __syncthreads();
    int lane = threadIdx.x % 32;
    float of_low[PAIRS], of_high[PAIRS];
    for (int i = 0; i < PAIRS; i++) of_low[i] = of_high[i] = 0.0f;
    i64 step = (i64)gridDim.x * WARPS;
    for (i64 row = (i64)blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += step) {
        float r = scale[row];
        u32 xs[PAIRS], gs[PAIRS];
        float dot = 0.0f;
        for (int i = 0; i < PAIRS; i++) {
            int at = i * 32 + lane;
            xs[i] = x[row * (WIDTH / 2) + at];
            gs[i] = dy[row * (WIDTH / 2) + at];
            float a = low(gs[i]) * low(xs[i]), b = high(gs[i]) * high(xs[i]);
            of_low[i] += a * r;
            of_high[i] += b * r;
            dot += a * w[2 * at] + b * w[2 * at + 1];
        }
        float c = warp_sum(dot) * r * r * r / WIDTH;
        for (int i = 0; i < PAIRS; i++) {
            int at = i * 32 + lane;
            dx[row * (WIDTH / 2) + at] = pack(low(gs[i]) * w[2 * at] * r - low(xs[i]) * c,
                                              high(gs[i]) * w[2 * at + 1] * r - high(xs[i]) * c);
        }
    }
    for (int i = 0; i < PAIRS; i++) {
        atomicAdd(&sums[2 * (i * 32 + lane)], of_low[i]);
        atomicAdd(&sums[2 * (i * 32 + lane) + 1], of_high[i]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WIDTH; i += blockDim.x) atomicAdd(&dw[i], sums[i]);
}

// Heads of 64: the queries (blockIdx.y = 0) and keys (1) of a joint projection, each normalised, then the pairs
// (i, i + 32) rotated. A warp has a head; a lane has a pair.
// qkv: [tokens, 3, heads, 64]; out: [2][tokens, heads, 64]; w: [2][64]; cos, sin: [2][tokens, 32].
extern "C" __global__ void rotated_heads_forward(const bf16 *qkv, const float *wq, const float *wk, const float *cos_q,
                                                 const float *sin_q, const float *cos_k, const float *sin_k, bf16 *q,
                                                 bf16 *k, i64 tokens, int heads, float eps) {
    int lane = threadIdx.x % 32, which = blockIdx.y;
    const float *w = which ? wk : wq, *cosines = which ? cos_k : cos_q, *sines = which ? sin_k : sin_q;
    bf16 *out = which ? k : q;
    float w0 = w[lane], w1 = w[lane + 32];
    i64 items = tokens * heads, step = (i64)gridDim.x * WARPS;
    for (i64 item = (i64)blockIdx.x * WARPS + threadIdx.x / 32; item < items; item += step) {
        i64 token = item / heads;
        const bf16 *from = qkv + ((token * 3 + which) * heads + item % heads) * 64;
        float a = widen(from[lane]), b = widen(from[lane + 32]);
        float r = rsqrtf(warp_sum(a * a + b * b) / 64 + eps);
        a *= r * w0;
        b *= r * w1;
        float c = cosines[token * 32 + lane], s = sines[token * 32 + lane];
        out[item * 64 + lane] = (bf16)narrow(a * c - b * s);
        out[item * 64 + lane + 32] = (bf16)narrow(a * s + b * c);
    }
}

// The gradients of the queries and keys of qkv (dqkv has its shape; the values' part is left alone), and of the
// weights, added to dw ([2, 64], which starts at 0).
extern "C" __global__ void rotated_heads_backward(const bf16 *dq, const bf16 *dk, const bf16 *qkv, const float *wq,
                                                  const float *wk, const float *cos_q, const float *sin_q,
                                                  const float *cos_k, const float *sin_k, bf16 *dqkv, float *dw,
                                                  i64 tokens, int heads, float eps) {
    __shared__ float sums[64];
    for (int i = threadIdx.x; i < 64; i += blockDim.x) sums[i] = 0.0f;
    __syncthreads();
    int lane = threadIdx.x % 32, which = blockIdx.y;
    const float *w = which ? wk : wq, *cosines = which ? cos_k : cos_q, *sines = which ? sin_k : sin_q;
    const bf16 *gradient = which ? dk : dq;
    float w0 = w[lane], w1 = w[lane + 32], of_w0 = 0.0f, of_w1 = 0.0f;
    i64 items = tokens * heads, step = (i64)gridDim.x * WARPS;
    for (i64 item = (i64)blockIdx.x * WARPS + threadIdx.x / 32; item < items; item += step) {
        i64 token = item / heads;
        i64 at = ((token * 3 + which) * heads + item % heads) * 64;
        float a = widen(qkv[at + lane]), b = widen(qkv[at + lane + 32]);
        float r = rsqrtf(warp_sum(a * a + b * b) / 64 + eps);
        float c = cosines[token * 32 + lane], s = sines[token * 32 + lane];
        float g0 = widen(gradient[item * 64 + lane]), g1 = widen(gradient[item * 64 + lane + 32]);
        // Rotated back.
        float da = g0 * c + g1 * s, db = g1 * c - g0 * s;
        of_w0 += da * a * r;
        of_w1 += db * b * r;
        da *= w0;
        db *= w1;
        float dot = warp_sum(da * a + db * b) * r * r * r / 64;
        dqkv[at + lane] = (bf16)narrow(da * r - a * dot);
        dqkv[at + lane + 32] = (bf16)narrow(db * r - b * dot);
    }
    atomicAdd(&sums[lane], of_w0);
    atomicAdd(&sums[lane + 32], of_w1);
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += blockDim.x) atomicAdd(&dw[which * 64 + i], sums[i]);
}

// y = silu(a) * b, with a the first half of a row of x and b the second. x: [rows, 2 * hidden]; y: [rows, hidden];
// half: hidden / 2, the pairs of a row of y.
extern "C" __global__ void swiglu_forward(const u32 *x, u32 *y, i64 rows, int half) {
    i64 count = rows * half, step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        i64 row = i / half;
        const u32 *from = x + row * 2 * half + (i - row * half);
        u32 a = from[0], b = from[half];
        float a0 = low(a), a1 = high(a);
        y[i] = pack(a0 / (1.0f + __expf(-a0)) * low(b), a1 / (1.0f + __expf(-a1)) * high(b));
    }
}

__device__ inline void swiglu_gradient(float dy, float a, float b, float *da, float *db) {
    float sigmoid = 1.0f / (1.0f + __expf(-a));
    *db = dy * a * sigmoid;
    *da = dy * b * sigmoid * (1.0f + a * (1.0f - sigmoid));
}

extern "C" __global__ void swiglu_backward(const u32 *dy, const u32 *x, u32 *dx, i64 rows, int half) {
    i64 count = rows * half, step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        i64 row = i / half, at = row * 2 * half + (i - row * half);
        u32 a = x[at], b = x[at + half], g = dy[i];
        float da0, db0, da1, db1;
        swiglu_gradient(low(g), low(a), low(b), &da0, &db0);
        swiglu_gradient(high(g), high(a), high(b), &da1, &db1);
        dx[at] = pack(da0, da1);
        dx[at + half] = pack(db0, db1);
    }
}
