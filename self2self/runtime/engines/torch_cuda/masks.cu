// Dropout masks of consecutive passes, from the counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel
// random numbers: as easy as 1, 2, 3"). An element's random number depends only on seed, pass, mask and its place in
// memory.

#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__
#define INLINE __device__ __forceinline__
#else
// The tests compile this file for the CPU and set the indices themselves.
#define KERNEL extern "C"
#define INLINE static inline
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx;
#endif

// Mask elements of one draw: one random byte each.
#define DRAWN 16

struct Words { unsigned at[4]; };

INLINE Words philox(Words counter, unsigned key_low, unsigned key_high) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long first = 0xD2511F53ull * counter.at[0], second = 0xCD9E8D57ull * counter.at[2];
        counter = {{static_cast<unsigned>(second >> 32) ^ counter.at[1] ^ key_low, static_cast<unsigned>(second),
                    static_cast<unsigned>(first >> 32) ^ counter.at[3] ^ key_high, static_cast<unsigned>(first)}};
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    return counter;
}

struct alignas(DRAWN) Drawn { unsigned char at[DRAWN]; };

// Draws one mask for all passes of a batch; an element is kept if its random byte is below `keep_count`. The grid's x
// runs over the draws of a pass, y over passes. A pass has `draws` complete draws and `rest` further elements.
KERNEL void draw(unsigned char* kept, int draws, int rest, int keep_count, int key_low, int key_high, int mask,
                 int first_pass) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    const int count = index < draws ? DRAWN : index == draws ? rest : 0;
    if (count == 0) return;
    const unsigned pass = blockIdx.y;
    const Words words = philox({{static_cast<unsigned>(index), static_cast<unsigned>(mask), first_pass + pass, 0u}},
                               key_low, key_high);
    Drawn drawn;
#pragma unroll
    for (int i = 0; i < DRAWN; ++i)
        drawn.at[i] = (words.at[i / 4] >> (i % 4 * 8) & 0xFFu) < static_cast<unsigned>(keep_count);
    unsigned char* target = kept + pass * (static_cast<long long>(draws) * DRAWN + rest) + index * 1ll * DRAWN;
    if (rest == 0) {
        *reinterpret_cast<Drawn*>(target) = drawn;
        return;
    }
    for (int i = 0; i < count; ++i) target[i] = drawn.at[i];
}
