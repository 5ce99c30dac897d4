// What lies between the convolutions of a pass: bias, activation, gate, pooling, upsampling, concatenation, dropout
// and reflect padding, each in one reading and one writing. `fused.py` compiles this at run time and says which
// convolution lies between which two kernels.
//
// Activations are [N, H, W, C], the order in which tensor cores take them, and padded ones [N, H + 2, W + 2, C].
// Where a kernel writes a padded one, a thread also writes the copies of its value in the border.
//
// Defined by the caller: T_HALF or T_BFLOAT16, or neither for float; V, the channels of a thread, which divides the
// channels of every tensor here but those of the image.

#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__
#define INLINE __device__ __forceinline__
#define EXP __expf
#else
// Tests compile it for the CPU, with indices of their own.
#include <cmath>
#define KERNEL extern "C"
#define INLINE static inline
#define EXP std::exp
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx;
#endif

#if defined(__CUDACC_RTC__) && defined(T_HALF)
// The type of cuda_fp16.h, without that file, which not every installation has.
typedef unsigned short T;
INLINE float widened(T bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
INLINE T narrowed(float value) {
    T bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#elif defined(__CUDACC_RTC__) && defined(T_BFLOAT16)
typedef unsigned short T;
INLINE float widened(T bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
INLINE T narrowed(float value) {
    T bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#else
#ifdef T_HALF
typedef _Float16 T;
#else
typedef float T;
#endif
INLINE float widened(T value) { return static_cast<float>(value); }
INLINE T narrowed(float value) { return static_cast<T>(value); }
#endif

// Read and written in pieces of up to 16 bytes.
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Channels { T at[V]; };
struct alignas(V) Kept { unsigned char at[V]; };

INLINE float leaky(float value) { return value > 0.0f ? value : 0.2f * value; }

INLINE float gated(float feature, float gate) { return leaky(feature) / (1.0f + EXP(-gate)); }

INLINE long long place(long long n, int y, int x, int height, int width, int channels) {
    return ((n * height + y) * width + x) * channels;
}

// Rows (or columns) of a padded tensor that hold row `y` of `size`; how many of the three.
INLINE int copies(int y, int size, int* rows) {
    int count = 0;
    rows[count++] = y + 1;
    if (y == 1) rows[count++] = 0;
    if (y == size - 2) rows[count++] = size + 1;
    return count;
}

INLINE void write_padded(T* padded, const Channels& value, int n, int y, int x, int c, int height, int width,
                         int channels) {
    int rows[3], columns[3];
    const int row_count = copies(y, height, rows), column_count = copies(x, width, columns);
    for (int i = 0; i < row_count; ++i)
        for (int j = 0; j < column_count; ++j)
            *reinterpret_cast<Channels*>(
                padded + place(n, rows[i], columns[j], height + 2, width + 2, channels) + c) = value;
}

INLINE Channels gate_of(const T* raw, const float* bias, long long pixel, int c, int channels) {
    const T* row = raw + pixel * 2 * channels;
    const Channels feature = *reinterpret_cast<const Channels*>(row + c);
    const Channels gate = *reinterpret_cast<const Channels*>(row + channels + c);
    Channels result;
#pragma unroll
    for (int i = 0; i < V; ++i)
        result.at[i] =
            narrowed(gated(widened(feature.at[i]) + bias[c + i], widened(gate.at[i]) + bias[channels + c + i]));
    return result;
}

// Grids: x over (column, group of channels) or columns, y over rows, z over passes.

// The network's input: which values are kept, and these values; zeros up to `padded_channels`.
KERNEL void enter(const float* image, const unsigned char* kept, T* padded, int height, int width, int channels,
                  int padded_channels) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, n = blockIdx.z;
    if (x >= width) return;
    int rows[3], columns[3];
    const int row_count = copies(y, height, rows), column_count = copies(x, width, columns);
    for (int c = 0; c < padded_channels; ++c) {
        float value = 0.0f;
        if (c < 2 * channels) {
            const int colour = c < channels ? c : c - channels;
            value = kept[place(n, y, x, height, width, channels) + colour];
            if (c >= channels) value *= image[(static_cast<long long>(colour) * height + y) * width + x];
        }
        for (int i = 0; i < row_count; ++i)
            for (int j = 0; j < column_count; ++j)
                padded[place(n, rows[i], columns[j], height + 2, width + 2, padded_channels) + c] = narrowed(value);
    }
}

// A gated convolution's second half, padded.
KERNEL void gate_padded(const T* raw, const float* bias, T* padded, int height, int width, int channels) {
    const int groups = channels / V, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    const Channels value = gate_of(raw, bias, place(n, y, x, height, width, 1), c, channels);
    write_padded(padded, value, n, y, x, c, height, width, channels);
}

// The same as it is, and the largest of each 2x2 of it, padded. Rows and columns are those of the latter.
KERNEL void gate_pooled(const T* raw, const float* bias, T* whole, T* padded, int height, int width, int channels) {
    const int groups = channels / V, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    Channels largest;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        const long long pixel = place(n, 2 * y + part / 2, 2 * x + part % 2, 2 * height, 2 * width, 1);
        const Channels value = gate_of(raw, bias, pixel, c, channels);
        *reinterpret_cast<Channels*>(whole + pixel * channels + c) = value;
#pragma unroll
        for (int i = 0; i < V; ++i)
            if (part == 0 || widened(value.at[i]) > widened(largest.at[i])) largest.at[i] = value.at[i];
    }
    write_padded(padded, largest, n, y, x, c, height, width, channels);
}

// The same as it is, for the deepest level.
KERNEL void gate_plain(const T* raw, const float* bias, T* whole, int height, int width, int channels) {
    const int groups = channels / V, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    const long long pixel = place(n, y, x, height, width, 1);
    *reinterpret_cast<Channels*>(whole + pixel * channels + c) = gate_of(raw, bias, pixel, c, channels);
}

// A decoder convolution's input, padded: `below`, with bias and activation if it has a bias, and each of its pixels
// 2x2 times if `upsampled`; then `skip`; and what of both the mask keeps. Without a mask all is kept.
KERNEL void join(const T* below, const float* bias, const T* skip, const unsigned char* kept, T* padded, int height,
                 int width, int below_channels, int skip_channels, int upsampled) {
    const int channels = below_channels + skip_channels, groups = channels / V;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    Channels value;
    if (c < below_channels) {
        const long long source = place(n, y >> upsampled, x >> upsampled, height >> upsampled, width >> upsampled,
                                       below_channels);
        value = *reinterpret_cast<const Channels*>(below + source + c);
        if (bias) {
#pragma unroll
            for (int i = 0; i < V; ++i) value.at[i] = narrowed(leaky(widened(value.at[i]) + bias[c + i]));
        }
    } else {
        value = *reinterpret_cast<const Channels*>(
            skip + place(n, y, x, height, width, skip_channels) + c - below_channels);
    }
    if (kept) {
        const Kept keep = *reinterpret_cast<const Kept*>(kept + place(n, y, x, height, width, channels) + c);
#pragma unroll
        for (int i = 0; i < V; ++i)
            if (!keep.at[i]) value.at[i] = T(0);
    }
    write_padded(padded, value, n, y, x, c, height, width, channels);
}

// The prediction: the last convolution with its bias, without the channels that only fill it up, as [N, C, H, W].
KERNEL void leave(const T* raw, const float* bias, float* prediction, int height, int width, int channels,
                  int raw_channels) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, n = blockIdx.z;
    if (x >= width) return;
    for (int c = 0; c < channels; ++c)
        prediction[((static_cast<long long>(n) * channels + c) * height + y) * width + x] =
            widened(raw[place(n, y, x, height, width, raw_channels) + c]) + bias[c];
}
