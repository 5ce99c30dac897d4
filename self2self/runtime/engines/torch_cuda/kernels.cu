// Kernels for the operations between two convolutions: bias, activation function, gate, pooling, upsampling,
// concatenation, dropout and reflect padding. Each kernel reads and writes its activations once. `fused.py` compiles
// this file at run time and calls the kernels and convolutions in order.
//
// Activations are [N, H, W, C], the memory order that tensor cores need; padded activations are [N, H + 2, W + 2, C].
// In a kernel that writes padded activations, each thread also writes the copies of its value in the border.
//
// The caller defines T_HALF, T_BFLOAT16, or neither for float; and V, the number of channels for one thread. V divides
// the number of channels of every tensor here except the image, the network's input and the prediction.

#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__
#define INLINE __device__ __forceinline__
#define EXP __expf
#else
// The tests compile this file for the CPU and set the indices themselves.
#include <cmath>
#define KERNEL extern "C"
#define INLINE static inline
#define EXP std::exp
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx;
#endif

#if defined(__CUDACC_RTC__) && defined(T_HALF)
// Bits of a float16. Not every installation has cuda_fp16.h, which defines a type for it.
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

// Aligned, so that a thread reads and writes its V channels in pieces of up to 16 bytes.
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Channels { T at[V]; };
struct alignas(V) Kept { unsigned char at[V]; };

INLINE float leaky(float value) { return value > 0.0f ? value : 0.2f * value; }

INLINE float gated(float feature, float gate) { return leaky(feature) / (1.0f + EXP(-gate)); }

// Index of the first channel of a pixel.
INLINE long long place(long long n, int y, int x, int height, int width, int channels) {
    return ((n * height + y) * width + x) * channels;
}

// Writes to `rows` the rows (or columns) of the padded tensor that contain row `y` of `size`; returns their number.
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

// The result of a gated convolution for V channels of a pixel, from its output without bias.
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

// Grids: x runs over columns and groups of V channels, or over columns only; y over rows; z over passes.

// The network's input, padded: the input mask, the masked image, and zeros up to `padded_channels` channels.
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

// Bias, activation and gate of a gated convolution; the result is padded.
KERNEL void gate_padded(const T* raw, const float* bias, T* padded, int height, int width, int channels) {
    const int groups = channels / V, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    const Channels value = gate_of(raw, bias, place(n, y, x, height, width, 1), c, channels);
    write_padded(padded, value, n, y, x, c, height, width, channels);
}

// Bias, activation and gate, with two results: `whole` without padding, and its 2x2 max-pooling, padded. The grid,
// `height` and `width` are those of the pooled result.
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

// Bias, activation and gate without padding, for the deepest level.
KERNEL void gate_plain(const T* raw, const float* bias, T* whole, int height, int width, int channels) {
    const int groups = channels / V, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= width * groups) return;
    const int x = index / groups, c = index % groups * V, y = blockIdx.y, n = blockIdx.z;
    const long long pixel = place(n, y, x, height, width, 1);
    *reinterpret_cast<Channels*>(whole + pixel * channels + c) = gate_of(raw, bias, pixel, c, channels);
}

// The input of a decoder convolution, padded: `below` and `skip`, concatenated along the channels and masked.
// `below` gets bias and activation if `bias` is not null, and is upsampled by 2x2 if `upsampled` is 1. If `kept` is
// null, nothing is masked.
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

// The prediction, [N, C, H, W]: the last convolution with its bias, without the channels that pad it.
KERNEL void leave(const T* raw, const float* bias, float* prediction, int height, int width, int channels,
                  int raw_channels) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, n = blockIdx.z;
    if (x >= width) return;
    for (int c = 0; c < channels; ++c)
        prediction[((static_cast<long long>(n) * channels + c) * height + y) * width + x] =
            widened(raw[place(n, y, x, height, width, raw_channels) + c]) + bias[c];
}
